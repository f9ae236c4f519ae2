"""Helpers of the tutorial series. Files beside this one are the lesson; README.md has a map.

Every public name is imported from here. The file behind a name is imported when the name
is first used, so that ``import connection_utils`` itself costs nothing.
"""

import os
from importlib import import_module

# Set before transformers is imported: nothing here ever talks to a model hub.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")   # or forks of it warn

_HOME = {
    # the lesson, in the order of notebooks 01 to 04
    "prepare_notebook": "plots",
    "ConnectionBert": "bert",
    "pad_batch": "encoding",
    "ConnectionDataset": "dataset",
    "LengthBucketedBatches": "dataset",
    "collate_connections": "dataset",
    "connection_loader": "dataset",
    "cosine_mse": "losses",
    "cosent": "losses",
    "multiple_negatives_ranking": "losses",
    "LOSSES": "losses",
    "TrainingConfig": "config",
    "RECIPES": "config",
    "train": "training",
    "build_optimizer": "training",
    "build_schedule": "training",
    "History": "training",
    "spearman": "evaluation",
    "pearson": "evaluation",
    "ConstantPredictionError": "evaluation",
    "bootstrap_interval": "evaluation",
    "gain_interval": "evaluation",
    "choose_threshold": "evaluation",
    "judge_threshold": "evaluation",
    "check_collapse": "evaluation",
    "mean_reciprocal_rank": "evaluation",
    "plots": "plots",                               # the whole file
    # folders
    "progress": "ground.progress_bar",
    "quick_check": "ground.paths",
    "runs_folder": "ground.paths",
    "check_model_dir": "model_folder.check",
    "ModelFolderError": "model_folder.files",
    "load_tokenizer": "model_folder.files",
    "read_connections": "pair_files.reading",
    "read_splits": "pair_files.reading",
    "ConnectionDataError": "pair_files.faults",
    "find_leaks": "pair_files.splitting",
    "drop_leaks": "pair_files.splitting",
    "split_connections": "pair_files.splitting",
    "remove_checkpoints": "long_runs.checkpoint",
    "processes": "long_runs.processes",             # the whole file
    "documentation_pairs": "workshop.documentation",
    "gpu_numbers": "workshop.gpu_results",
    "gpu_sentence": "workshop.gpu_results",
    "save_run": "use.runs",
    "read_run": "use.runs",
    "run_folder": "use.runs",
    "run_settings": "use.runs",
    "write_model_card": "use.runs",
    "open_connections": "use.arrow",
    "ConnectionScorer": "use.scorer",
    "score_file": "use.file_scoring",
    "OnnxBert": "use.onnx_bert",
    "draw_text_path": "panels.diagrams",
    "draw_siamese": "panels.diagrams",
    "TrainingPanel": "panels.training_panel",
    "ThresholdPanel": "panels.threshold_panel",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    file = import_module(f"{__name__}.{_HOME[name]}")
    return file if name in ("plots", "processes") else getattr(file, name)


def __dir__() -> list[str]:
    return __all__
