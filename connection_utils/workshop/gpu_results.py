"""What `benchmarks/on_a_gpu.py` measured on a GPU, if somebody has run it."""

import json
from pathlib import Path

from connection_utils.ground.paths import ROOT

RESULT = ROOT / "benchmarks" / "results" / "on_a_gpu.json"


def gpu_numbers(path: Path = RESULT) -> dict[str, str | float]:
    """Notebook 03's training and the encoding of texts on a GPU; empty if not measured.

    ``gpu`` (its name), ``precision``, ``train_seconds``, ``train_pairs_per_s``,
    ``test_spearman`` (× 100), ``texts_per_s`` (`encode` in fp32), and all of them in one
    ``sentence``.
    """
    return json.loads(path.read_text(encoding="utf-8"))["summary"] if path.exists() else {}


def gpu_sentence(path: Path = RESULT) -> str:
    """`gpu_numbers` in one sentence, for notebooks and README alike."""
    return str(gpu_numbers(path).get(
        "sentence", "On a GPU: not measured yet (benchmarks/on_a_gpu.py does it)."))
