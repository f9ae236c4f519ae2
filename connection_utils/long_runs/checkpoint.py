"""Checkpoints: a training that was killed goes on where it stood, bit for bit.

A checkpoint is one file with all that decides the next step. It comes into being by a
rename, and its name ends in the hash of its content (``step-00000120-0123456789abcdef.pt``).
So whenever the process is killed, what bears such a name is whole; and a file that was
damaged later is known by its name.
"""

import os
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from connection_utils.ground.paths import as_path, shown
from connection_utils.ground.whole_files import clear_leftovers, sha256_of, write_whole
from connection_utils.long_runs import processes
from connection_utils.long_runs.averaging import AveragedWeights

KEPT = 2                       # the newest, and the one before it in case that is damaged
NEW = ".new"                   # whole, but not yet under its name
_NAME = re.compile(r"step-(\d{8,})-([0-9a-f]{16})\.pt")


class Stateful(Protocol):
    """Anything that tells its state as tensors and plain values, and can become it again."""

    def state_dict(self) -> dict[str, object]: ...

    def load_state_dict(self, state: Mapping[str, object]) -> None: ...


@dataclass
class TrainingState:
    """What changes from step to step; together with the settings it decides the next one."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    averaged: AveragedWeights
    history: Stateful
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)

    def state_dict(self) -> dict[str, object]:
        """All of it as tensors and plain values, each process's random state included."""
        return {
            **{name: getattr(self, name).state_dict()
               for name in ("model", "optimizer", "schedule", "averaged")},
            "best_weights": self.best_weights,
            **self.history.state_dict(),
            "random": processes.from_each(_random_state(self._device)),
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Become what `state_dict` told; the random state, too, if as many processes did."""
        for name in ("model", "optimizer", "schedule", "averaged"):
            getattr(self, name).load_state_dict(state[name])
        self.best_weights = {name: tensor.to(self._device)
                             for name, tensor in state["best_weights"].items()}
        self.history.load_state_dict(state)
        if len(state["random"]) == processes.count():
            on_cpu, on_gpu = state["random"][processes.rank()]
            torch.set_rng_state(on_cpu)
            if on_gpu is not None and self._device.type == "cuda":
                torch.cuda.set_rng_state(on_gpu, self._device)

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


def _random_state(device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    return torch.get_rng_state(), (torch.cuda.get_rng_state(device) if device.type == "cuda"
                                   else None)


class Checkpoints:
    """The folder of one run's checkpoints; the newest two are kept.

    `run` tells in words and hashes what decides the run. FileExistsError if `folder` holds
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
        kept, path = processes.from_main(self._newest) if self._resume else (None, None)
        if kept is None:
            return
        state.load_state_dict(kept)
        before, now = len(kept["random"]), processes.count()
        step = int(_NAME.fullmatch(path.name)[1])
        self._tell(f"going on after step {step} ({shown(path)})" + (
            f"; it was written by {before} process{'es' * (before > 1)} and now there "
            f"{'are' if now > 1 else 'is'} {now}, so dropout draws other numbers"
            if before != now else ""))

    def _newest(self) -> tuple[dict[str, object] | None, Path | None]:
        """The content and the path of the newest whole checkpoint."""
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
            return kept, path
        return None, None

    def write(self, state: TrainingState, step: int) -> None:
        """Write the `state` after `step` whole, then remove all but the newest `KEPT`.

        The main process does. A full disk does not end the training: it is told, and what was
        there stays.
        """
        kept = {"run": self._run, **state.state_dict()}      # all processes come to that
        if not processes.is_main():
            return
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
