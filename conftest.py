"""Pytest's settings for tests and notebooks alike."""

import os

# Bars off, outputs under runs/check/. Kernels inherit it.
os.environ["CONNECTION_CHECK"] = "1"
