"""Fine-tuning in plain PyTorch.

At the heart of it is a step (`training_step`):

    u, v = model(input_ids, attention_mask, return_embeddings=True)
    loss = loss_function(u, v, score)
    loss.backward()
    clip_grad_norm_(model.parameters(), max_grad_norm)
    optimizer.step(), schedule.step(), optimizer.zero_grad()

`train` repeats it for all batches, scores the dev pairs now and then, and keeps the weights
with the best dev score in memory. Dev pairs are held out from training for this choice. What
else is here lets a training be watched, stopped, resumed after a kill (long_runs/) and shared
among several processes (long_runs/processes.py); with one process those calls do nothing.
"""

import hashlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from transformers import get_linear_schedule_with_warmup

from connection_utils.bert import ConnectionBert
from connection_utils.config import TrainingConfig, deciding
from connection_utils.dataset import ConnectionDataset, connection_loader
from connection_utils.evaluation import CollapseCheck, gain_interval, spearman, unpaired_texts
from connection_utils.ground.progress_bar import progress
from connection_utils.long_runs import advice, processes
from connection_utils.long_runs.averaging import AveragedWeights
from connection_utils.long_runs.checkpoint import Checkpoints, TrainingState
from connection_utils.losses import LOSSES
from connection_utils.speed.gradient_table import one_gradient_table
from connection_utils.speed.precision import autocast, resolved

_TRAINING = threading.Lock()       # one at a time: dropout uses the process's random state


@dataclass
class History:
    """What happened in training: a record for each evaluation, and every step's loss.

    The first record is of step 0, the starting model: its `loss` and `pairs_per_s` are None.
    `steps` is the planned number of steps; fewer losses mean that the run was stopped.
    `seconds` is the time of the steps, without evaluations. `cosines` has those of the dev
    pairs, (pairs,), at each evaluation. With `keep_start` False the starting model has its
    record but is never `best`.
    """

    config: TrainingConfig
    steps: int = 0
    evaluations: list[dict[str, float]] = field(default_factory=list)
    step_losses: list[float] = field(default_factory=list)
    pairs: int = 0
    seconds: float = 0.0
    cosines: list[torch.Tensor] = field(default_factory=list)
    keep_start: bool = True

    def __post_init__(self) -> None:
        self.start_clock()

    def start_clock(self) -> None:
        """Count the next step's time from now on."""
        self._counted_until = time.perf_counter()

    def add_step(self, loss: float, pairs: int) -> None:
        """Record a step: its loss, its number of pairs, and its time since the last record."""
        self.seconds += time.perf_counter() - self._counted_until
        self.step_losses.append(loss)
        self.pairs += pairs
        self.start_clock()

    def add(self, epoch: float, dev_spearman: float, dev_cosines: np.ndarray
            ) -> dict[str, float]:
        """Append and return the record of an evaluation; its time is not counted.

        `epoch` is how many epochs are done, as a fraction: 0.25, 0.5, …; `dev_cosines` are
        the cosines of the dev pairs, (pairs,).
        """
        losses = self.step_losses[self.evaluations[-1]["step"] if self.evaluations else 0:]
        record = {"step": len(self.step_losses), "epoch": epoch,
                  "loss": sum(losses) / len(losses) if losses else None,
                  "dev_spearman": dev_spearman, "seconds": self.seconds,
                  "pairs_per_s": self.pairs / self.seconds if losses else None}
        self.evaluations.append(record)
        self.cosines.append(torch.from_numpy(dev_cosines))      # a checkpoint takes no arrays
        self.start_clock()
        return record

    def to_frame(self) -> pd.DataFrame:
        """A row for each evaluation: step, epoch, loss (mean since the last one),
        dev_spearman, seconds (of training, evaluations left out) and pairs_per_s."""
        columns = {"step": int, "epoch": float, "loss": float, "dev_spearman": float,
                   "seconds": float, "pairs_per_s": float}
        return pd.DataFrame(self.evaluations, columns=[*columns]).astype(columns)

    def state_dict(self) -> dict[str, object]:
        """What a checkpoint keeps, as plain values and tensors."""
        return {name: value for name, value in vars(self).items()
                if name not in ("config", "keep_start")}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Restore what `state_dict` returned."""
        vars(self).update(state)

    @property
    def best(self) -> dict[str, float]:
        """The evaluation whose weights were kept: the first with the highest dev Spearman.

        That is step 0, the starting model, if no later evaluation is higher.
        """
        trained = [record for record in self.evaluations if record["step"]]
        return max(self.evaluations if self.keep_start or not trained else trained,
                   key=lambda record: record["dev_spearman"])

    @property
    def kept_start(self) -> bool:
        """True if no evaluation beat the starting model, whose weights were then kept."""
        return bool(self.evaluations) and self.best["step"] == 0

    def gain(self, scores: np.ndarray) -> tuple[float, float, float]:
        """What the best trained weights add to the starting model's dev Spearman.

        `scores` are those of the dev pairs, (pairs,). Returns the gain and the ends of its
        95 % interval, as `gain_interval` does.
        """
        _, best = max(zip(self.evaluations[1:], self.cosines[1:], strict=True),
                      key=lambda each: each[0]["dev_spearman"])
        return gain_interval(scores, self.cosines[0], best)


def build_optimizer(model: ConnectionBert, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW (arXiv 1711.05101): Adam with weight decay, which pulls weights towards zero.

    Biases and LayerNorm, which are vectors, are not decayed, as in BERT's own training. Frozen
    weights (``requires_grad`` is False) are left out.
    """
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim < 2]
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay},
         {"params": others, "weight_decay": 0.0}],
        lr=config.learning_rate, fused=model.device.type in {"cpu", "cuda"})


def build_schedule(optimizer: torch.optim.Optimizer, steps: int, config: TrainingConfig
                   ) -> torch.optim.lr_scheduler.LambdaLR:
    """Learning rate: linear from 0 to its peak for ``warmup_ratio`` of `steps`, then to 0."""
    return get_linear_schedule_with_warmup(
        optimizer, math.ceil(config.warmup_ratio * steps), steps)


def freeze(model: ConnectionBert, embeddings: bool, layers: int) -> None:
    """Freeze the embeddings and the lowest `layers` layers; let all other weights train.

    The embeddings feed every layer, so they are frozen whenever a layer is. Raises ValueError
    if nothing would be left to train.
    """
    blocks = model.bert.encoder.layer
    if layers >= len(blocks):
        raise ValueError(f"frozen_layers is {layers}, and the model has {len(blocks)} layers: "
                         f"nothing is left to train. Expected {len(blocks) - 1} or fewer.")
    model.requires_grad_(True)
    if embeddings or layers:
        model.bert.embeddings.requires_grad_(False)
    blocks[:layers].requires_grad_(False)


def train(model: ConnectionBert, train_set: ConnectionDataset, dev: pd.DataFrame,
          config: TrainingConfig = TrainingConfig(),
          on_evaluation: Callable[[dict[str, float]], None] | None = None,
          on_step: Callable[[History], None] | None = None,
          stop: threading.Event | None = None, checkpoints: str | Path | None = None,
          tell: Callable[[str], None] = print, keep_start: bool = True) -> History:
    """Fine-tune `model` in place; it ends with the weights of the best dev Spearman.

    Arguments: `dev` is a table of pairs as `read_connections` returns it. `on_evaluation` gets
    the record of each evaluation (that of step 0 has no loss), `on_step` the history after each
    step, and `tell` a sentence of advice when a problem is noticed: many unknown tokens or cut
    texts, collapse, a full disk. Setting `stop`, from another thread or in one of these
    functions, ends the training after the current step, with an evaluation; so does Ctrl-C (in
    a notebook: interrupt), which then raises KeyboardInterrupt.
    `checkpoints` is a folder: the state is written there every ``config.checkpoint_every``
    steps, and with ``config.resume`` a training that was killed continues from it, on a CPU to
    bit-equal weights.

    Kept weights: the dev pairs are also scored before the first step. If no later evaluation is
    higher, the starting weights are restored and `tell` reports it. With `keep_start` False the
    best trained weights are kept even then, to measure what a setting does.

    Several processes (``processes.joined``, started by torchrun) train one model: they share
    each batch, and apart from dropout the loss is that of one process. `tell` and
    `on_evaluation` are called in the main process, which also writes the checkpoints.

    Returns the history; the model is in evaluation mode. On a CPU the same seed gives bit-equal
    weights. The forward pass and the evaluations run in ``config.precision``.

    Raises FloatingPointError if the loss becomes NaN or infinite, ConstantPredictionError if
    all cosines of a dev evaluation are equal, MemoryError, with advice, if a batch needs more
    memory than there is, and RuntimeError if another thread of this process is training.
    """
    if (config.checkpoint_every or config.resume) and checkpoints is None:
        raise ValueError("checkpoint_every and resume need a folder: train(…, "
                         "checkpoints='runs/my_run-checkpoints')")
    if not _TRAINING.acquire(blocking=False):
        raise RuntimeError("another training is running in this process: wait until it has "
                           "ended, or press Stop in its panel")
    cuda = [model.device] if model.device.type == "cuda" else []
    if not processes.is_main():
        tell, on_evaluation = lambda _: None, None
    try:
        if train_set.unread.is_much:
            tell(f"training texts: {train_set.unread}.")
        train_set = train_set.sample(config.train_share, config.seed)
        run = _identity(model, train_set, dev, config)
        processes.must_agree(run)
        keeper = checkpoints and Checkpoints(checkpoints, run, config.resume, tell)
        freeze(model, config.freeze_embeddings, config.frozen_layers)
        words = model.bert.embeddings.word_embeddings
        # Several processes keep their gradients in DistributedDataParallel's own memory.
        table = nullcontext() if processes.count() > 1 else one_gradient_table(words)
        with torch.random.fork_rng(devices=cuda), table:   # the caller's random state stays
            torch.manual_seed(config.seed + processes.rank())    # each its own dropout
            return _train(model, train_set, dev, config, on_evaluation, on_step,
                          stop or threading.Event(), keeper, tell, keep_start)
    finally:
        model.eval()
        _TRAINING.release()


def _train(model: ConnectionBert, train_set: ConnectionDataset, dev: pd.DataFrame,
           config: TrainingConfig, on_evaluation: Callable | None, on_step: Callable | None,
           stop: threading.Event, keeper: Checkpoints | None, tell: Callable,
           keep_start: bool) -> History:
    loader = connection_loader(train_set, config.batch_size, config.seed,
                               model.device.type == "cuda", config.bucket)
    network = processes.sharing(model)
    history = History(config, config.epochs * len(loader), keep_start=keep_start)
    optimizer = build_optimizer(model, config)
    state = TrainingState(
        model, optimizer, build_schedule(optimizer, history.steps, config),
        AveragedWeights(model, history.steps, config.average_from, config.start_share), history)
    evaluations = config.epochs * config.evaluations_per_epoch
    evaluate_at = {round(history.steps * i / evaluations) for i in range(1, evaluations + 1)}
    first, second = unpaired_texts(dev)        # texts of dev, encoded for its pairs anyway
    warned: list[int] = []
    similarity = partial(model.similarity, precision=config.precision)
    if keeper:
        keeper.restore(state)
    done = len(history.step_losses)
    batches = _all_batches(loader, config.epochs, done)

    def evaluate(step: int) -> None:
        with state.averaged.in_place():
            cosines = processes.divided(similarity, [*dev["sentence1"], *first],
                                        [*dev["sentence2"], *second])
            dev_cosines, check = cosines[:len(dev)], CollapseCheck(cosines[len(dev):])
            record = history.add(step / len(loader), spearman(dev["score"], dev_cosines),
                                 dev_cosines)
            if record is history.best:
                state.best_weights = {name: tensor.detach().clone()
                                      for name, tensor in model.state_dict().items()}
        if step and check.collapsed and not warned:        # untrained models may start so
            warned.append(step)
            tell(f"step {step}: {check}.")
        bar.set_postfix(dev_spearman=f"{100 * record['dev_spearman']:.2f}")
        if on_evaluation is not None:
            on_evaluation(record)

    bar = progress(range(done + 1, history.steps + 1), initial=done, total=history.steps,
                   desc="training", unit="step")
    with (advice.interrupt_sets(stop) as interrupted,
          advice.memory_told(config.batch_size, history.step_losses)):
        if not done:
            evaluate(0)
        model.train()
        for step in bar:
            history.start_clock()
            loss, pairs = training_step(network, next(batches), LOSSES[config.loss], optimizer,
                                        state.schedule, config.max_grad_norm,
                                        config.precision)
            state.averaged.update(step)
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"step {step}: the loss is {loss}. The training has diverged: lower "
                    f"learning_rate (it is {config.learning_rate:g}).")
            history.add_step(loss, pairs)
            if on_step is not None:
                on_step(history)
            stopping = any(processes.from_each(stop.is_set()))
            if step in evaluate_at:
                evaluate(step)
            if keeper and (stopping or config.checkpoint_every
                           and step % config.checkpoint_every == 0):
                keeper.write(state, step)
            if stopping:
                if step not in evaluate_at:      # not in the checkpoint, which may be resumed
                    evaluate(step)
                break
    model.load_state_dict(state.best_weights)
    if history.kept_start:
        tell(advice.start_kept(history.best["dev_spearman"], history.gain(dev["score"]),
                               len(dev), config.loss, config.learning_rate, config.epochs))
    if interrupted.is_set():
        tell(advice.how_to_go_on(len(history.step_losses), history.steps,
                                 keeper and keeper.folder))
        raise KeyboardInterrupt
    return history


def training_step(model: nn.Module, batch: dict[str, torch.Tensor], loss_function: Callable,
                  optimizer: torch.optim.Optimizer,
                  schedule: torch.optim.lr_scheduler.LRScheduler, max_grad_norm: float,
                  precision: str = "auto") -> tuple[float, int]:
    """Forward, backward, clip, update; returns the batch's loss and its number of pairs.

    With several processes `batch` is this process's share of a batch, and the loss is that of
    the whole batch.
    """
    device, n = model.device, len(batch["score"])
    batch = {name: tensor.to(device, non_blocking=device.type == "cuda")
             for name, tensor in batch.items()}
    with autocast(precision, device):
        u, v = model(batch["input_ids"], batch["attention_mask"], return_embeddings=True)
    u, v, score = processes.gather_pairs(u[:n], v[:n], batch["score"])
    loss = loss_function(u, v, score)
    (loss * processes.count()).backward()        # the processes' gradients are averaged
    nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    return loss.item(), len(score)


def _identity(model: ConnectionBert, train_set: ConnectionDataset, dev: pd.DataFrame,
              config: TrainingConfig) -> dict[str, str]:
    """What determines a run, in words and hashes; `model` has the weights it starts from."""
    rows = pd.util.hash_pandas_object(dev[["sentence1", "sentence2", "score"]], index=False)
    return {
        **{name: str(value) for name, value in deciding(config).items()},
        "precision": resolved(config.precision, model.device),
        "pooling": model.pooling,
        "starting weights": model.fingerprint(),
        "training pairs": train_set.fingerprint(),
        "dev pairs": hashlib.sha256(rows.to_numpy().tobytes()).hexdigest()[:16],
    }


def _all_batches(loader: torch.utils.data.DataLoader, epochs: int, done: int = 0
                 ) -> Iterator[dict[str, torch.Tensor]]:
    """The batches of all epochs, without the first `done` of them."""
    first, skip = divmod(done, len(loader))
    for epoch in range(first, epochs):
        loader.batch_sampler.set_epoch(epoch, skip)
        # An iterator draws a random number; for a resumed epoch it was drawn before the kill.
        with torch.random.fork_rng(devices=[]) if skip else nullcontext():
            batches = iter(loader)
        yield from batches
        skip = 0
