"""What a training leaves on disk: a folder a run, with its settings beside the model."""

import hashlib
import json
from pathlib import Path

from connection_utils.bert import ConnectionBert
from connection_utils.config import TrainingConfig, deciding
from connection_utils.ground.paths import runs_folder, shown
from connection_utils.ground.whole_files import is_sealed, write_whole
from connection_utils.training import History
from connection_utils.use.model_card import model_card


def run_settings(model_dir: str | Path, data: str | Path, pooling: str, max_length: int,
                 config: TrainingConfig) -> dict[str, object]:
    """All that decides a run, as training.json records it."""
    return {"base_model": shown(model_dir), "data": shown(data), "pooling": pooling,
            "max_length": max_length, "config": deciding(config)}


def run_folder(settings: dict) -> Path:
    """Where the model of a run with these settings goes: other settings, other folder.

    The name tells the main ones, and ends in six digits of a hash of them all.
    """
    c = settings["config"]
    mark = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:6]
    return runs_folder() / (
        f"{Path(settings['base_model']).name}-{Path(settings['data']).stem}-"
        f"{settings['pooling']}-{c['loss']}-lr{c['learning_rate']:g}-bs{c['batch_size']}"
        f"-ep{c['epochs']}-seed{c['seed']}-{mark}")


def save_run(folder: str | Path, model: ConnectionBert, history: History, settings: dict,
             **facts: object) -> None:
    """Save the model, and beside it ``training.json``: settings, `facts` and history.

    From these facts comes ``README.md``, its model card.
    """
    record = json.dumps(
        {**settings, **facts, "evaluations": history.evaluations}, indent=2) + "\n"
    model.save(folder, {"training.json": record, "README.md": model_card(
        Path(folder).resolve().name, json.loads(record))})


def write_model_card(folder: str | Path) -> None:
    """Write a run's ``README.md`` again, with the threshold that ``threshold.json`` holds.

    FileNotFoundError if `folder` holds no run; FileExistsError if the card there is not as
    it was written here: then it is a person's work, and stays.
    """
    record = read_run(folder)
    card, threshold = (Path(folder) / name for name in ("README.md", "threshold.json"))
    if card.exists() and not is_sealed(card):
        raise FileExistsError(
            f"{shown(card)} was written or changed by somebody, so it was not replaced. Give "
            "it another name, call write_model_card again, and carry over what you need.")
    known = json.loads(threshold.read_text(encoding="utf-8")) if threshold.exists() else None
    with write_whole(card) as scratch:
        scratch.write_text(model_card(Path(folder).resolve().name, record, known),
                           encoding="utf-8")


def read_run(folder: str | Path, expected: dict | None = None) -> dict:
    """What `save_run` wrote beside the model, checked against the settings `expected`.

    FileNotFoundError if there is no such run, ValueError if it was trained otherwise;
    both say how to make the right one.
    """
    path = Path(folder) / "training.json"
    remedy = ("Run notebook 03 with the same parameters, or python -m "
              "connection_utils finetune (see --help).")
    if not path.is_file():
        raise FileNotFoundError(f"{shown(path)} not found: no model was trained with these "
                                f"settings. {remedy}")
    record = json.loads(path.read_text(encoding="utf-8"))
    other = [f"{name} is {record.get(name)!r}, expected {value!r}"
             for name, value in (expected or {}).items() if record.get(name) != value]
    if other:
        raise ValueError(f"{shown(path)}: trained with other settings: {'; '.join(other)}. "
                         f"{remedy}")
    return record
