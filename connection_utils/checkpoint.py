"""Checkpoints: a training that was killed goes on where it stood, bit for bit.

A checkpoint is one file with all that decides the next step. It comes into being by a
rename, and its name ends in the hash of its content (``step-00000120-0123456789abcdef.pt``).
So whenever the process is killed, what bears such a name is whole; and a file that was
damaged later is known by its name.
"""

import hashlib
import os
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch

from connection_utils import processes
from connection_utils.averaging import AveragedWeights
from connection_utils.bert import ConnectionBert
from connection_utils.config import TrainingConfig, deciding
from connection_utils.dataset import ConnectionDataset
from connection_utils.files import clear_leftovers, sha256_of, write_whole
from connection_utils.history import History
from connection_utils.workspace import as_path, shown

KEPT = 2                       # the newest, and the one before it in case that is damaged
NEW = ".new"                   # whole, but not yet under its name
_NAME = re.compile(r"step-(\d{8,})-([0-9a-f]{16})\.pt")


@dataclass
class TrainingState:
    """What changes from step to step; together with the settings it decides the next one."""

    model: ConnectionBert
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    averaged: AveragedWeights
    history: History
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)

    def state_dict(self) -> dict[str, object]:
        """All of it as tensors and plain values, each process's random state included."""
        known = vars(self.history)
        return {
            **{name: getattr(self, name).state_dict()
               for name in ("model", "optimizer", "schedule", "averaged")},
            "best_weights": self.best_weights,
            "history": {name: known[name] for name in _PLAIN},
            **{name: None if known[name] is None else torch.from_numpy(known[name])
               for name in _COSINES},
            "random": processes.from_each(_random_state(self.model.device)),
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Become what `state_dict` told; the random state, too, if as many processes did."""
        for name in ("model", "optimizer", "schedule", "averaged"):
            getattr(self, name).load_state_dict(state[name])
        self.best_weights = {name: tensor.to(self.model.device)
                             for name, tensor in state["best_weights"].items()}
        for name in _PLAIN:
            setattr(self.history, name, state["history"][name])
        for name in _COSINES:
            if state.get(name) is not None:
                setattr(self.history, name, state[name].numpy())
        if len(state["random"]) == processes.count():
            on_cpu, on_gpu = state["random"][processes.rank()]
            torch.set_rng_state(on_cpu)
            if on_gpu is not None and self.model.device.type == "cuda":
                torch.cuda.set_rng_state(on_gpu, self.model.device)


def _random_state(device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    return torch.get_rng_state(), (torch.cuda.get_rng_state(device) if device.type == "cuda"
                                   else None)


_PLAIN = ("evaluations", "step_losses", "pairs", "seconds")
_COSINES = ("dev_cosines", "start_cosines", "trained_cosines")


class Checkpoints:
    """The folder of one run's checkpoints; the newest two are kept.

    `run` tells what decides the run (see `run_identity`). FileExistsError if `folder` holds
    checkpoints and `resume` is False, as their work would be lost.
    """

    def __init__(self, folder: str | Path, run: dict[str, str], resume: bool,
                 tell: Callable[[str], None] = print) -> None:
        self.folder, self._run, self._tell = as_path(folder), run, tell
        self._resume = resume
        processes.from_main(self._clear_or_refuse)

    def _clear_or_refuse(self) -> None:
        _clear(self.folder)
        if not self._resume and (found := _paths(self.folder)):
            raise FileExistsError(
                f"{shown(found[-1])} is left of a training that did not end. resume=True "
                "(--resume) goes on from it; to begin anew, remove the folder.")

    def restore(self, state: TrainingState) -> None:
        """Put the newest whole checkpoint into `state`; leave it as it is if there is none.

        The main process reads it, and hands it to the others. ValueError if it is one of
        another run, or asks for more than a checkpoint holds.
        """
        kept, where = processes.from_main(self._newest) if self._resume else (None, None)
        if kept is None:
            return
        state.load_state_dict(kept)
        before, now = len(kept["random"]), processes.count()
        self._tell(f"going on after step {len(state.history.step_losses)} ({where})" + (
            f"; it was written by {before} process{'es' * (before > 1)} and now there "
            f"{'are' if now > 1 else 'is'} {now}, so dropout draws other numbers"
            if before != now else ""))

    def _newest(self) -> tuple[dict[str, object] | None, str]:
        """What the newest whole checkpoint holds, and where it lies."""
        for path in reversed(_paths(self.folder)):
            if sha256_of(path)[:16] != _NAME.fullmatch(path.name)[2]:
                self._tell(f"{shown(path)} is damaged: its content has not the hash that its "
                           "name tells. The one before it is taken, if there is one.")
                continue
            try:
                kept = torch.load(path, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError as error:
                raise ValueError(f"{shown(path)} asks for more than a checkpoint holds, and was "
                                 "not opened: it could run code here. Remove it.") from error
            other = [name for name, value in self._run.items() if kept["run"][name] != value]
            if other:
                raise ValueError(
                    f"{shown(path)} is of another training; different are: "
                    + "; ".join(f"{name} ({kept['run'][name]}, now {self._run[name]})"
                                for name in other)
                    + ". Choose another folder, or the same settings and data.")
            return kept, shown(path)
        return None, ""

    def write(self, state: TrainingState) -> None:
        """Write `state` whole, then remove all but the newest `KEPT`; the main process does.

        A full disk does not end the training: it is told, and what was there stays.
        """
        kept = {"run": self._run, **state.state_dict()}      # all processes come to that
        if not processes.is_main():
            return
        step = len(state.history.step_losses)
        new = self.folder / NEW
        try:
            with write_whole(new) as scratch, open(scratch, "wb") as file:
                torch.save(kept, file)
            os.replace(new, self.folder / f"step-{step:08d}-{sha256_of(new)[:16]}.pt")
        except (OSError, RuntimeError) as error:     # torch turns some OSErrors into the other
            good = _paths(self.folder)
            self._tell(
                f"step {step}: no checkpoint could be written to {shown(self.folder)} "
                f"({_reason(error)}). The training goes on; free some space. "
                + (f"The last good one is {good[-1].name}." if good else "There is none yet."))
            return
        for path in _paths(self.folder)[:-KEPT]:
            path.unlink()


def run_identity(model: ConnectionBert, train_set: ConnectionDataset, dev: pd.DataFrame,
                 config: TrainingConfig) -> dict[str, str]:
    """What decides a run, in words and hashes; `model` holds the weights it starts from."""
    rows = pd.util.hash_pandas_object(dev[["sentence1", "sentence2", "score"]], index=False)
    return {
        **{name: str(value) for name, value in deciding(config).items()},
        "pooling": model.pooling,
        "starting weights": model.fingerprint(),
        "training pairs": train_set.fingerprint(),
        "dev pairs": hashlib.sha256(rows.to_numpy().tobytes()).hexdigest()[:16],
    }


def remove_checkpoints(folder: str | Path) -> None:
    """Remove the checkpoints in `folder`, and the folder if nothing else is in it."""
    folder = as_path(folder)
    _clear(folder)
    for path in _paths(folder):
        path.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _clear(folder: Path) -> None:
    """Remove what a kill in the midst of writing left."""
    clear_leftovers(folder / NEW)
    (folder / NEW).unlink(missing_ok=True)


def _paths(folder: Path) -> list[Path]:
    """The checkpoints, oldest first."""
    found = [(int(match[1]), path) for path in folder.glob("step-*.pt")
             if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def _reason(error: Exception) -> str:
    while not isinstance(error, OSError) and error.__context__ is not None:
        error = error.__context__                    # what torch said when the disk had spoken
    return getattr(error, "strerror", None) or str(error).splitlines()[0]
