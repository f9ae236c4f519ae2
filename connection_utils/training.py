"""Fine-tuning: one plain PyTorch loop that a newcomer can hold in the head."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import nn
from transformers import get_linear_schedule_with_warmup

from connection_utils.averaging import AveragedWeights
from connection_utils.bert import ConnectionBert
from connection_utils.config import TrainingConfig
from connection_utils.dataset import ConnectionDataset, connection_loader
from connection_utils.evaluation import spearman
from connection_utils.losses import LOSSES
from connection_utils.workspace import progress

_TRAINING = threading.Lock()       # dropout draws from the process's one random state


@dataclass
class History:
    """What happened in training: a record for each evaluation, and every step's loss.

    `steps` are those planned; fewer losses mean that the run was stopped. `seconds` are
    those of the steps, evaluations left out. `dev_cosines` are those of the last
    evaluation, (pairs,).
    """

    config: TrainingConfig
    steps: int = 0
    evaluations: list[dict[str, float]] = field(default_factory=list)
    step_losses: list[float] = field(default_factory=list)
    pairs: int = 0
    seconds: float = 0.0
    dev_cosines: np.ndarray | None = None

    def to_frame(self) -> pd.DataFrame:
        """A row an evaluation: step, epoch, loss (mean since the last one), dev_spearman,
        seconds (of training, evaluations left out) and pairs_per_s."""
        return pd.DataFrame(self.evaluations).astype({"step": int})

    @property
    def best(self) -> dict[str, float]:
        """The evaluation whose weights were kept: the first with the highest dev Spearman."""
        return max(self.evaluations, key=lambda record: record["dev_spearman"])


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


def train(model: ConnectionBert, train_set: ConnectionDataset, dev: pd.DataFrame,
          config: TrainingConfig = TrainingConfig(),
          on_evaluation: Callable[[dict[str, float]], None] | None = None,
          on_step: Callable[[History], None] | None = None,
          stop: threading.Event | None = None) -> History:
    """Fine-tune `model` in place; it ends with the weights of the best dev Spearman.

    `dev` is a table of pairs as `read_connections` makes it. `on_evaluation` gets each
    record as it comes, `on_step` the history so far after each step. Setting `stop`, from
    another thread or in one of these two, ends the training after the step at hand: it is
    evaluated, and the best weights so far are kept. On a CPU the same seed gives
    bit-equal weights. On CUDA the forward pass runs in bfloat16 where the GPU has it. The
    model comes back in evaluation mode. Raises FloatingPointError if the loss stops being
    a number, ConstantPredictionError if a dev evaluation finds all cosines alike, and
    RuntimeError if another thread of this process is training.
    """
    if not _TRAINING.acquire(blocking=False):
        raise RuntimeError("another training is running in this process: wait until it has "
                           "ended, or press Stop in its panel")
    cuda = [model.device] if model.device.type == "cuda" else []
    try:
        freeze(model, config.freeze_embeddings, config.frozen_layers)
        with (torch.random.fork_rng(devices=cuda),
              one_gradient_table(model.bert.embeddings.word_embeddings)):
            torch.manual_seed(config.seed)
            return _train(model, train_set.sample(config.train_share, config.seed), dev,
                          config, on_evaluation, on_step, stop or threading.Event())
    finally:
        model.eval()
        _TRAINING.release()


def _train(model: ConnectionBert, train_set: ConnectionDataset, dev: pd.DataFrame,
           config: TrainingConfig, on_evaluation: Callable | None, on_step: Callable | None,
           stop: threading.Event) -> History:
    loader = connection_loader(train_set, config.batch_size, config.seed,
                               model.device.type == "cuda", config.bucket)
    history = History(config, steps=config.epochs * len(loader))
    optimizer = build_optimizer(model, config)
    schedule = build_schedule(optimizer, history.steps, config)
    evaluations = config.epochs * config.evaluations_per_epoch
    evaluate_at = {round(history.steps * i / evaluations) for i in range(1, evaluations + 1)}
    averaged = AveragedWeights(model, history.steps, config.average_from, config.start_share)
    best_weights: dict[str, torch.Tensor] = {}
    batches = _all_batches(loader, config.epochs)
    model.train()
    bar = progress(range(1, history.steps + 1), desc="training", unit="step")
    for step in bar:
        started = time.perf_counter()
        batch = next(batches)
        loss = training_step(model, batch, LOSSES[config.loss], optimizer, schedule,
                             config.max_grad_norm)
        averaged.update(step)
        history.seconds += time.perf_counter() - started
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"step {step}: the loss is {loss}. The training has diverged: lower "
                f"learning_rate (it is {config.learning_rate:g}).")
        history.step_losses.append(loss)
        history.pairs += len(batch["score"])
        if on_step is not None:
            on_step(history)
        stopping = stop.is_set()
        if step in evaluate_at or stopping:
            with averaged.in_place():
                record = _evaluate(model, dev, history, step / len(loader))
                if record is history.best:
                    best_weights = {name: tensor.detach().clone()
                                    for name, tensor in model.state_dict().items()}
            bar.set_postfix(dev_spearman=f"{100 * record['dev_spearman']:.2f}")
            if on_evaluation is not None:
                on_evaluation(record)
        if stopping:
            break
    model.load_state_dict(best_weights)
    return history


def training_step(model: nn.Module, batch: dict[str, torch.Tensor], loss_function: Callable,
                  optimizer: torch.optim.Optimizer,
                  schedule: torch.optim.lr_scheduler.LRScheduler,
                  max_grad_norm: float) -> float:
    """Forward, backward, clip, update: one batch of pairs; returns its loss."""
    device = model.device
    batch = {name: tensor.to(device, non_blocking=device.type == "cuda")
             for name, tensor in batch.items()}
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=_has_bf16(device)):
        u, v = model(batch["input_ids"], batch["attention_mask"], return_embeddings=True)
    loss = loss_function(u, v, batch["score"])
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    return loss.item()


def _has_bf16(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_bf16_supported()


def _all_batches(loader: torch.utils.data.DataLoader, epochs: int):
    for epoch in range(epochs):
        loader.batch_sampler.set_epoch(epoch)
        yield from loader


def _evaluate(model: ConnectionBert, dev: pd.DataFrame, history: History, epoch: float
              ) -> dict[str, float]:
    """Append a record to `history` and return it."""
    history.dev_cosines = model.similarity(dev["sentence1"], dev["sentence2"])
    since = history.evaluations[-1]["step"] if history.evaluations else 0
    losses = history.step_losses[since:]
    record = {"step": len(history.step_losses), "epoch": epoch,
              "loss": sum(losses) / len(losses),
              "dev_spearman": spearman(dev["score"], history.dev_cosines),
              "seconds": history.seconds, "pairs_per_s": history.pairs / history.seconds}
    history.evaluations.append(record)
    return record
