"""Weights that are averaged over the last steps, and mixed with the starting weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class AveragedWeights:
    """The weights that a training keeps, where these are not simply its last ones.

    They are the mean of the weights after the steps that follow the fraction `average_from`
    (0..1) of all `steps` (stochastic weight averaging, arXiv 1803.05407; here with a falling
    learning rate). Every hundredth of the run is averaged, or more often where few steps are
    left. A fraction `start_share` (0..1) of the result is the weights that the model had when
    this object was made (WiSE-FT, arXiv 2109.01903), so that part of what fine-tuning forgot
    comes back.
    """

    def __init__(self, model: nn.Module, steps: int, average_from: float,
                 start_share: float) -> None:
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._first = average_from * steps                   # later steps are averaged
        self._every = max(1, min(steps // 100, (steps - int(self._first)) // 10))
        self._start_share = start_share
        self._start = self._copy() if start_share else None
        self._mean: list[torch.Tensor] | None = None
        self._averaged = 0

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights after step number `step` (1, 2, …) into the mean."""
        if step > self._first and step % self._every == 0:
            self._averaged += 1
            self._mean = self._mean or self._copy()
            torch._foreach_lerp_(self._mean, self._parameters, 1 / self._averaged)

    @contextmanager
    @torch.no_grad()
    def in_place(self) -> Iterator[None]:
        """The model has the averaged weights inside the block, and its own again after it."""
        own = self._copy()
        kept = self._mean or own
        if self._start is not None:
            kept = torch._foreach_lerp(kept, self._start, self._start_share)
        torch._foreach_copy_(self._parameters, kept)
        try:
            yield
        finally:
            torch._foreach_copy_(self._parameters, own)

    def state_dict(self) -> dict[str, object]:
        """The mean so far, without the starting weights: those come with the model."""
        return {"mean": self._mean, "averaged": self._averaged}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Take over a state that `state_dict` returned."""
        self._averaged = state["averaged"]
        self._mean = state["mean"] and [
            mean.to(p.device) for mean, p in zip(state["mean"], self._parameters, strict=True)]

    def _copy(self) -> list[torch.Tensor]:
        return [p.detach().clone() for p in self._parameters]
