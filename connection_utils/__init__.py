"""Helpers of the tutorial series. Files beside this one are the lesson; README.md has a map.

Every public name is imported from here. The file behind a name is imported when the name
is first used, so that ``import connection_utils`` itself costs nothing.
"""

import os
from importlib import import_module

# Set before transformers is imported: nothing here ever talks to a model hub.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")   # or forks of it warn

_FILES = {
    # the lesson, in the order of notebooks 01 to 04
    "encoding": "pad_batch TextEncoder",
    "bert": "ConnectionBert",
    "dataset": "ConnectionDataset LengthBucketedBatches collate_connections connection_loader",
    "losses": "cosine_mse cosent multiple_negatives_ranking LOSSES",
    "evaluation": "spearman ConstantPredictionError bootstrap_interval gain_interval "
                  "choose_threshold judge_threshold check_collapse mean_reciprocal_rank",
    "config": "TrainingConfig RECIPES",
    "training": "train build_optimizer build_schedule History",
    "plots": "prepare_notebook plots",
    # folders
    "ground.paths": "quick_check runs_folder",
    "ground.progress_bar": "progress",
    "model_folder.check": "check_model_dir",
    "model_folder.files": "ModelFolderError load_tokenizer",
    "pair_files.reading": "read_connections read_splits",
    "pair_files.faults": "ConnectionDataError",
    "pair_files.splitting": "find_leaks drop_leaks split_connections",
    "long_runs.checkpoint": "remove_checkpoints",
    "long_runs.processes": "processes",
    "workshop.documentation": "documentation_pairs",
    "workshop.gpu_results": "gpu_numbers gpu_sentence",
    "use.runs": "save_run read_run run_folder run_settings write_model_card",
    "use.scorer": "ConnectionScorer",
    "use.file_scoring": "score_file",
    "use.onnx_bert": "OnnxBert",
    "panels.diagrams": "draw_text_path draw_siamese",
    "panels.training_panel": "TrainingPanel draw_run",
    "panels.threshold_panel": "ThresholdPanel",
}
_HOME = {name: file for file, names in _FILES.items() for name in names.split()}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    file = import_module(f"{__name__}.{_HOME[name]}")
    return file if name in ("plots", "processes") else getattr(file, name)   # whole files


def __dir__() -> list[str]:
    return __all__
