"""What a GPU does, as `benchmarks/on_a_gpu.py` measured it; the only place that says so."""

import json
from pathlib import Path

from connection_utils.ground.paths import ROOT

RESULT = ROOT / "benchmarks" / "results" / "on_a_gpu.json"


def gpu_numbers(path: Path = RESULT) -> dict[str, str | float]:
    """Notebook 03's training and the encoding of texts on a GPU; empty if not measured yet.

    Also empty if one of the parts that it takes them from failed.

    ``gpu`` (its name), ``precision``, ``train_seconds``, ``train_pairs_per_s`` and
    ``test_spearman`` (× 100): at the precision that `train` chooses on that GPU, bfloat16 if
    the GPU has it. ``texts_per_s``: `encode` in fp32, at the faster of two batch sizes.
    """
    if not path.exists():
        return {}
    record = json.loads(path.read_text(encoding="utf-8"))
    parts = record["parts"]
    if any("failed" in parts.get(name, {"failed": ""})
           for name in ("gpu", "train_post", "encode")):
        return {}
    precision = "bfloat16" if "bfloat16" in parts["train_post"] else "fp32"
    trained, encoded = parts["train_post"][precision], parts["encode"]["fp32"]
    return {"gpu": parts["gpu"]["name"], "precision": precision,
            "train_seconds": trained["train_seconds"],
            "train_pairs_per_s": trained["train_pairs_per_s"],
            "test_spearman": trained["test_spearman"],
            "texts_per_s": max(each["texts_per_s"] for each in encoded.values())}


def gpu_sentence(path: Path = RESULT) -> str:
    """`gpu_numbers` in one sentence, for notebooks and README alike."""
    n = gpu_numbers(path)
    if not n:
        return "On a GPU: not measured yet (benchmarks/on_a_gpu.py does it)."
    return (f"On one {n['gpu']}, the training of notebook 03 takes {n['train_seconds']:.0f} s in "
            f"{n['precision']} (test Spearman × 100: {n['test_spearman']:.2f}), and encoding "
            f"runs at {n['texts_per_s']:,.0f} texts per second.")
