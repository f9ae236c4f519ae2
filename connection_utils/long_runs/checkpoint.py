"""Checkpoints: a training that was killed continues from the last one, bit for bit.

A checkpoint, such as ``step-00000120.pt``, is one file with everything that determines the
next step. It gets its name when it is completely written, so a kill at any moment leaves no
half checkpoint. One that was damaged later is detected by its checksums: torch.save writes a
zip file, with a CRC-32 of each part.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import ZipFile

import torch
from torch import nn

from connection_utils.ground.paths import as_path, shown
from connection_utils.ground.whole_files import only_writer, write_whole
from connection_utils.long_runs import processes
from connection_utils.long_runs.averaging import AveragedWeights

KEPT = 2                       # the newest, and the one before it in case that is damaged
_PARTS = ("model", "optimizer", "schedule", "averaged", "history")     # of a TrainingState


@dataclass
class TrainingState:
    """What changes from step to step; with the settings it determines the next step."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    averaged: AveragedWeights
    history: object
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)

    def state_dict(self) -> dict[str, object]:
        """All of it as tensors and plain values, each process's random state included."""
        device = self.model.device
        on_gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return {**{part: getattr(self, part).state_dict() for part in _PARTS},
                "best_weights": self.best_weights,
                "random": processes.from_each((torch.get_rng_state(), on_gpu))}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Restore what `state_dict` returned; random states only for as many processes."""
        for part in _PARTS:
            getattr(self, part).load_state_dict(state[part])
        self.best_weights = state["best_weights"]
        if len(state["random"]) == processes.count():
            on_cpu, on_gpu = state["random"][processes.rank()]
            torch.set_rng_state(on_cpu)
            if on_gpu is not None and self.model.device.type == "cuda":
                torch.cuda.set_rng_state(on_gpu, self.model.device)


class Checkpoints:
    """The folder of one run's checkpoints; the newest two are kept.

    `run` describes in words and hashes what determines the run. FileExistsError if `folder`
    contains checkpoints and `resume` is False, as their work would be lost; another OSError if
    none can be written there.
    """

    def __init__(self, folder: str | Path, run: dict[str, str], resume: bool,
                 tell: Callable[[str], None] = print) -> None:
        self.folder, self._run, self._resume, self._tell = as_path(folder), run, resume, tell
        processes.from_main(self._refuse_if_taken)

    def _refuse_if_taken(self) -> None:
        if not self._resume and (found := _paths(self.folder)):
            raise FileExistsError(
                f"{shown(found[-1])} is left of a training that did not end. resume=True "
                "(--resume) goes on from it; to begin anew, remove the folder.")
        with only_writer(self.folder / "step-00000000.pt"):       # proves it before step 1
            pass

    def restore(self, state: TrainingState) -> None:
        """Put the newest whole checkpoint into `state`; without one, `state` stays as it is.

        The main process reads it and sends it to the others. ValueError if it belongs to
        another run.
        """
        if not self._resume:
            return
        kept, path = processes.from_main(self._newest)
        if kept is None:
            self._tell(f"nothing to resume in {shown(self.folder)}: the training begins anew.")
            return
        state.load_state_dict(kept)
        self._tell(f"going on after step {int(path.stem[5:])} ({shown(path)})")

    def _newest(self) -> tuple[dict[str, object] | None, Path | None]:
        """The content and the path of the newest whole checkpoint."""
        for path in reversed(_paths(self.folder)):
            kept = _loaded(path)
            if kept is None:
                self._tell(f"{shown(path)} is damaged. The one before it is used, if there is "
                           "one.")
                continue
            if different := processes.differences(kept["run"], self._run):
                raise ValueError(f"{shown(path)} is of another training: {different}. Choose "
                                 "another folder, or the same settings and data.")
            return kept, path
        return None, None

    def write(self, state: TrainingState, step: int) -> None:
        """Write the `state` after `step` whole, then remove all but the newest `KEPT`.

        Only the main process writes. A full disk does not end the training: it is reported,
        and the earlier checkpoints stay.
        """
        kept = {"run": self._run, **state.state_dict()}      # needs all processes
        if not processes.is_main():
            return
        try:
            with (write_whole(self.folder / f"step-{step:08d}.pt") as scratch,
                  open(scratch, "wb") as file):
                torch.save(kept, file)
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
    for path in [*_paths(folder), *folder.glob(".step-*.partial")]:    # parts, after a kill
        path.unlink()
    with suppress(OSError):               # it is not there, not empty, or a mount point
        folder.rmdir()


def _paths(folder: Path) -> list[Path]:
    """The checkpoints, oldest first."""
    return sorted(folder.glob(f"step-{8 * '[0-9]'}.pt"))


def _loaded(path: Path) -> dict[str, object] | None:
    """The content of a checkpoint; None if it is not as it was written.

    Nothing but tensors and plain values is taken from it: no code in it is run.
    """
    try:
        with ZipFile(path) as parts:
            if parts.testzip() is not None:
                return None
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # zipfile and torch raise many kinds, depending on what is damaged
        return None


def _reason(error: Exception) -> str:
    while not isinstance(error, OSError) and error.__context__ is not None:
        error = error.__context__            # the context of torch's error is the disk's
    return getattr(error, "strerror", None) or str(error).splitlines()[0]
