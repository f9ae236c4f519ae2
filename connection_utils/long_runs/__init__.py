"""Trainings that are killed, go wrong, or run in several processes."""
