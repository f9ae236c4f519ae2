"""Helpers of the tutorial series: each file is one subject, and imports run one way.

What users need can be imported from here. The files behind the names are imported when
a name is first used, so that ``import connection_utils`` itself costs nothing.
"""

import os
from importlib import import_module

# Set before transformers is imported: nothing here ever talks to a model hub.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")   # or forks of it warn

_HOME = {
    "prepare_notebook": "workspace",
    "progress": "workspace",
    "quick_check": "workspace",
    "check_model_dir": "doctor",
    "ModelFolderError": "model_files",
    "load_tokenizer": "model_files",
    "ConnectionBert": "bert",
    "OnnxBert": "onnx_bert",
    "find_leaks": "splitting",
    "drop_leaks": "splitting",
    "split_connections": "splitting",
    "read_connections": "reading",
    "read_splits": "reading",
    "ConnectionDataError": "faults",
    "documentation_pairs": "documentation",
    "open_connections": "arrow",
    "ConnectionDataset": "dataset",
    "LengthBucketedBatches": "dataset",
    "collate_connections": "dataset",
    "connection_loader": "dataset",
    "spearman": "evaluation",
    "pearson": "evaluation",
    "bootstrap_interval": "evaluation",
    "gain_interval": "evaluation",
    "choose_threshold": "evaluation",
    "judge_threshold": "evaluation",
    "check_collapse": "evaluation",
    "mean_reciprocal_rank": "evaluation",
    "cosine_mse": "losses",
    "cosent": "losses",
    "multiple_negatives_ranking": "losses",
    "LOSSES": "losses",
    "TrainingConfig": "config",
    "RECIPES": "config",
    "History": "history",
    "remove_checkpoints": "checkpoint",
    "train": "training",
    "save_run": "runs",
    "read_run": "runs",
    "run_folder": "runs",
    "run_settings": "runs",
    "write_model_card": "runs",
    "gpu_numbers": "gpu",
    "gpu_sentence": "gpu",
    "ConnectionScorer": "scorer",
    "score_file": "score",
    "TrainingPanel": "training_panel",
    "ThresholdPanel": "threshold_panel",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
