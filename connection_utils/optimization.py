"""What turns a loss into new weights: optimizer, schedule, and which weights are frozen."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import get_linear_schedule_with_warmup

from connection_utils import processes
from connection_utils.bert import ConnectionBert
from connection_utils.config import TrainingConfig


def build_optimizer(model: ConnectionBert, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW (arXiv 1711.05101); biases and LayerNorm are not decayed, as BERT was trained.

    Weights that are frozen (``requires_grad`` is False) are left out.
    """
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim < 2]
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay},
         {"params": others, "weight_decay": 0.0}],
        lr=config.learning_rate, fused=model.device.type in {"cpu", "cuda"})


def build_schedule(optimizer: torch.optim.Optimizer, steps: int, config: TrainingConfig
                   ) -> torch.optim.lr_scheduler.LambdaLR:
    """Learning rate: from 0 up in a line for ``warmup_ratio`` of `steps`, then down to 0."""
    return get_linear_schedule_with_warmup(
        optimizer, math.ceil(config.warmup_ratio * steps), steps)


def freeze(model: ConnectionBert, embeddings: bool, layers: int) -> None:
    """Freeze the embeddings and the lowest `layers` layers; let all other weights train.

    Layers stand on the embeddings, so freezing a layer freezes these, too. ValueError if
    nothing would be left to train.
    """
    known = model.bert.encoder.layer
    if layers >= len(known):
        raise ValueError(f"frozen_layers is {layers}, and the model has {len(known)} layers: "
                         f"nothing is left to train. Expected {len(known) - 1} or fewer.")
    model.requires_grad_(True)
    if embeddings or layers:
        model.bert.embeddings.requires_grad_(False)
    known[:layers].requires_grad_(False)


@contextmanager
def one_gradient_table(words: nn.Embedding) -> Iterator[None]:
    """Let each step's gradient of the word table fill the same (words, hidden) tensor.

    Autograd asks the system for a table of zeros at every step, though a batch has a few
    hundred of its 30,522 words. Here it hands over the rows of these words, and they are
    added, in the order in which autograd adds them, so that the bits are the same. On a
    GPU there is nothing to gain: torch keeps the memory there. With several processes,
    DistributedDataParallel keeps the gradients in memory of its own.
    """
    if (words.weight.device.type != "cpu" or not words.weight.requires_grad
            or processes.are_a_group()):
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
