"""What a training leaves on disk: a folder a run, with its settings beside the model."""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from tempfile import gettempdir
from uuid import uuid4

from safetensors import SafetensorError

from connection_utils.bert import ConnectionBert
from connection_utils.config import TrainingConfig, deciding
from connection_utils.ground.paths import runs_folder, shown
from connection_utils.ground.whole_files import put_back, write_whole
from connection_utils.training import History
from connection_utils.use.model_card import model_card


def run_settings(model_dir: str | Path, data: str | Path, pooling: str, max_length: int,
                 config: TrainingConfig) -> dict[str, object]:
    """All that decides a run, as training.json records it."""
    return {"base_model": shown(model_dir), "data": shown(data), "pooling": pooling,
            "max_length": max_length, "config": deciding(config)}


def run_folder(settings: dict) -> Path:
    """Where the model of a run with these settings goes: other settings, other folder.

    The name has the main ones, and ends in six digits of a hash of them all. Names of a model
    or file that are longer than 60 bytes are cut, so that the whole fits a file system.
    """
    def short(name: str) -> str:
        return os.fsencode(name)[:60].decode(errors="ignore")

    c = settings["config"]
    mark = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:6]
    return runs_folder() / (
        f"{short(Path(settings['base_model']).name)}-{short(Path(settings['data']).stem)}-"
        f"{settings['pooling']}-{c['loss']}-lr{c['learning_rate']:g}-bs{c['batch_size']}"
        f"-ep{c['epochs']}-seed{c['seed']}-{mark}")


def save_run(folder: str | Path, model: ConnectionBert, history: History, settings: dict,
             **facts: object) -> None:
    """Save the model, and beside it ``training.json``: settings, `facts` and history.

    From these comes ``README.md``, its model card. A card that somebody changed is kept, and
    reported, as it describes the earlier training.

    If the model cannot be saved there, it is saved below ``runs/`` or in the folder for
    temporary files, and an OSError has the reason and the place.
    """
    record = json.dumps(
        {**settings, **facts, "evaluations": history.evaluations}, indent=2) + "\n"
    beside = {"training.json": record}
    try:
        put_back(folder)
        if _card_is_changed(folder):
            print(f"{shown(Path(folder) / 'README.md')} was changed since it was written, so "
                  "it was kept. It may describe an earlier training.")
        else:
            beside["README.md"] = model_card(Path(folder).resolve().name, json.loads(record))
        model.save(folder, beside)
    except (OSError, SafetensorError) as error:              # the latter for a full disk, too
        kept = "Nor could it be saved anywhere else"
        for place in (runs_folder() / "not_saved", Path(gettempdir())):
            elsewhere = place / f"{Path(folder).resolve().name[:40]}-{uuid4().hex[:8]}"
            with suppress(OSError, SafetensorError):
                model.save(elsewhere, beside)
                kept = f"It was saved to {shown(elsewhere)} instead"
                break
        raise OSError(f"The model could not be saved to {shown(folder)}: {error}. {kept}."
                      ) from None


def write_model_card(folder: str | Path, threshold: dict | None = None) -> None:
    """Write a run's ``README.md`` again, with its threshold.

    `threshold` is saved in ``threshold.json``; without it, the card shows the one that is
    there, if any. FileNotFoundError if `folder` holds no run; FileExistsError if the card is
    not what the run's records make, as somebody's words in it would be lost.
    """
    read_run(folder)
    changed = _card_is_changed(folder)
    card, kept = (Path(folder) / name for name in ("README.md", "threshold.json"))
    if threshold is not None:
        kept.write_text(json.dumps(threshold, indent=2) + "\n", encoding="utf-8")
    if changed:
        raise FileExistsError(
            f"{shown(card)} is not what training.json and threshold.json make: somebody "
            "changed it or renamed the folder, or an earlier version of this module wrote it. "
            "It was not replaced. Remove it or give it another name, and call "
            "write_model_card again.")
    with write_whole(card) as scratch:
        scratch.write_text(_cards(folder)[-1], encoding="utf-8")


def _cards(folder: str | Path) -> list[str]:
    """The cards that the records in `folder` make: one without threshold, one with it."""
    name, record = Path(folder).resolve().name, read_run(folder)
    kept = Path(folder) / "threshold.json"
    threshold = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else None
    return [model_card(name, record), model_card(name, record, threshold)]


def _card_is_changed(folder: str | Path) -> bool:
    """Whether `folder` has a card that is not exactly what its records make."""
    card = Path(folder) / "README.md"
    try:
        return card.exists() and card.read_text(encoding="utf-8") not in _cards(folder)
    except Exception:              # whatever broken records raise: they did not make it
        return True


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
