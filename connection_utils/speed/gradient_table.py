"""The gradient of the word table, the largest of all, kept in one place from step to step."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def one_gradient_table(words: nn.Embedding) -> Iterator[None]:
    """Let each step's gradient of the word table fill the same (words, hidden) tensor.

    Autograd asks the system for a table of zeros at every step, though a batch has a few
    hundred of its 30,522 words. Here it hands over the rows of these words, and they are
    added, in the order in which autograd adds them, so that the bits are the same. On a
    GPU there is nothing to gain: torch keeps the memory there.
    """
    if words.weight.device.type != "cpu" or not words.weight.requires_grad:
        yield
        return
    table = torch.zeros_like(words.weight)

    def fill(weight: torch.Tensor) -> None:
        if weight.grad.is_sparse:
            rows, gradients = weight.grad._indices()[0], weight.grad._values()
            weight.grad = table.zero_().index_add_(0, rows, gradients)

    hook = words.weight.register_post_accumulate_grad_hook(fill)
    words.sparse = True
    try:
        yield
    finally:
        words.sparse = False
        hook.remove()
