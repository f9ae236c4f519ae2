"""Fine-tuning: one plain PyTorch loop that a newcomer can hold in the head."""

import hashlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from transformers import get_linear_schedule_with_warmup

from connection_utils.bert import ConnectionBert
from connection_utils.config import TrainingConfig, deciding
from connection_utils.dataset import ConnectionDataset, connection_loader, split_batch
from connection_utils.evaluation import (
    SAME,
    CollapseCheck,
    gain_interval,
    spearman,
    unpaired_texts,
)
from connection_utils.ground.progress_bar import progress
from connection_utils.long_runs import processes
from connection_utils.long_runs.advice import (
    Watch,
    how_to_go_on,
    interrupt_sets,
    memory_told,
    start_kept,
)
from connection_utils.long_runs.averaging import AveragedWeights
from connection_utils.long_runs.checkpoint import Checkpoints, TrainingState
from connection_utils.losses import LOSSES
from connection_utils.speed.gradient_table import one_gradient_table

_TRAINING = threading.Lock()       # dropout draws from the process's one random state
# what a process sends through the model when a batch has no pair left for it: an empty text
NO_PAIR = {"input_ids": torch.zeros(2, 1, dtype=torch.long),
           "attention_mask": torch.ones(2, 1, dtype=torch.long), "score": torch.zeros(0)}
_PLAIN = ("evaluations", "step_losses", "pairs", "seconds")        # what a checkpoint keeps
_COSINES = ("dev_cosines", "start_cosines", "trained_cosines")


@dataclass
class History:
    """What happened in training: a record for each evaluation, and every step's loss.

    The first record is that of step 0, the starting model: its `loss` and `pairs_per_s` are
    None. `steps` are those planned; fewer losses mean that the run was stopped. `seconds` are
    those of the steps, evaluations left out. The cosines of the dev pairs, (pairs,) each, are
    kept of three evaluations: the last, the first (step 0), and the best of those after it.
    Without `keep_start` the starting model is shown, but never the best.
    """

    config: TrainingConfig
    steps: int = 0
    evaluations: list[dict[str, float]] = field(default_factory=list)
    step_losses: list[float] = field(default_factory=list)
    pairs: int = 0
    seconds: float = 0.0
    dev_cosines: np.ndarray | None = None
    start_cosines: np.ndarray | None = None
    trained_cosines: np.ndarray | None = None
    keep_start: bool = True

    def add(self, epoch: float, dev_spearman: float) -> dict[str, float]:
        """Append the record of an evaluation, that of `dev_cosines`, and return it."""
        losses = self.step_losses[self.evaluations[-1]["step"] if self.evaluations else 0:]
        trained = [each["dev_spearman"] for each in self.evaluations if each["step"]]
        record = {"step": len(self.step_losses), "epoch": epoch,
                  "loss": sum(losses) / len(losses) if losses else None,
                  "dev_spearman": dev_spearman, "seconds": self.seconds,
                  "pairs_per_s": self.pairs / self.seconds if losses else None}
        self.evaluations.append(record)
        if not losses:
            self.start_cosines = self.dev_cosines
        elif dev_spearman > max(trained, default=-np.inf):
            self.trained_cosines = self.dev_cosines
        return record

    def to_frame(self) -> pd.DataFrame:
        """A row for each evaluation: step, epoch, loss (mean since the last one),
        dev_spearman, seconds (of training, evaluations left out) and pairs_per_s."""
        columns = {"step": int, "epoch": float, "loss": float, "dev_spearman": float,
                   "seconds": float, "pairs_per_s": float}
        return pd.DataFrame(self.evaluations, columns=[*columns]).astype(columns)

    def state_dict(self) -> dict[str, object]:
        """What a checkpoint keeps of it, as plain values and tensors."""
        known = vars(self)
        return {"history": {name: known[name] for name in _PLAIN},
                **{name: None if known[name] is None else torch.from_numpy(known[name])
                   for name in _COSINES}}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Become what `state_dict` told."""
        vars(self).update(state["history"])
        for name in _COSINES:
            if state.get(name) is not None:
                setattr(self, name, state[name].numpy())

    @property
    def best(self) -> dict[str, float]:
        """The evaluation whose weights were kept: the first with the highest dev Spearman.

        That is step 0, the starting model, if no evaluation after it is higher.
        """
        trained = [record for record in self.evaluations if record["step"]]
        return max(self.evaluations if self.keep_start or not trained else trained,
                   key=lambda record: record["dev_spearman"])

    @property
    def kept_start(self) -> bool:
        """True if no evaluation beat the starting model, whose weights were then kept."""
        return bool(self.evaluations) and self.best["step"] == 0


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


def train(model: ConnectionBert, train_set: ConnectionDataset, dev: pd.DataFrame,
          config: TrainingConfig = TrainingConfig(),
          on_evaluation: Callable[[dict[str, float]], None] | None = None,
          on_step: Callable[[History], None] | None = None,
          stop: threading.Event | None = None, checkpoints: str | Path | None = None,
          tell: Callable[[str], None] = print, keep_start: bool = True) -> History:
    """Fine-tune `model` in place; it ends with the weights of the best dev Spearman.

    The dev pairs are scored before the first step, too. If no later evaluation is higher,
    the model comes back with the weights it had, and `tell` gets a sentence that says so.
    Without `keep_start` it gets the best trained weights even so: to measure what a setting does.

    `dev` is a table of pairs as `read_connections` makes it. `on_evaluation` gets each
    record as it comes (that of step 0 has no loss), `on_step` the history so far after each
    step. Setting `stop`, from another thread or in one of these two, ends the training after
    the step at hand: it is evaluated, and the best weights so far are kept. Ctrl-C (in a
    notebook: interrupt) does the same, and then raises KeyboardInterrupt.

    `checkpoints` is a folder: every ``config.checkpoint_every`` steps the state is written
    there, and with ``config.resume`` a training that was killed goes on from it, on a CPU to
    bit-equal weights. `tell` gets a sentence when something is noticed that advice can help:
    collapse, a dev score that only falls, a full disk.

    Called in each of several processes (`joined`), all train one model: a batch is that of
    all of them together, and its loss, dropout apart, that of one process. `tell` and
    `on_evaluation` are called in the main one, which also writes the checkpoints.

    On a CPU the same seed gives bit-equal weights. On CUDA the forward pass runs in bfloat16
    where the GPU has it. The model comes back in evaluation mode. Raises FloatingPointError
    if the loss stops being a number, ConstantPredictionError if a dev evaluation finds all
    cosines alike, MemoryError, with advice, if a batch needs more memory than there is, and
    RuntimeError if another thread of this process is training.
    """
    if (config.checkpoint_every or config.resume) and checkpoints is None:
        raise ValueError("checkpoint_every and resume want a folder: train(…, "
                         "checkpoints='runs/my_run-checkpoints')")
    if not _TRAINING.acquire(blocking=False):
        raise RuntimeError("another training is running in this process: wait until it has "
                           "ended, or press Stop in its panel")
    cuda = [model.device] if model.device.type == "cuda" else []
    if not processes.is_main():
        tell, on_evaluation = _silent, None
    try:
        train_set = train_set.sample(config.train_share, config.seed)
        keeper = None
        if checkpoints is not None or processes.count() > 1:
            run = _identity(model, train_set, dev, config)
            processes.must_agree(run)
            if checkpoints is not None:
                keeper = Checkpoints(checkpoints, run, config.resume, tell)
        freeze(model, config.freeze_embeddings, config.frozen_layers)
        with (torch.random.fork_rng(devices=cuda), nullcontext() if processes.are_a_group()
              else one_gradient_table(model.bert.embeddings.word_embeddings)):   # DDP has its own
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
    loader = connection_loader(
        train_set, config.batch_size * config.gradient_accumulation_steps, config.seed,
        model.device.type == "cuda", config.bucket, config.batch_size)
    network = processes.sharing(model)
    history = History(config, config.epochs * len(loader), keep_start=keep_start)
    optimizer = build_optimizer(model, config)
    state = TrainingState(
        model, optimizer, build_schedule(optimizer, history.steps, config),
        AveragedWeights(model, history.steps, config.average_from, config.start_share), history)
    evaluations = config.epochs * config.evaluations_per_epoch
    evaluate_at = {round(history.steps * i / evaluations) for i in range(1, evaluations + 1)}
    watch = Watch(tell)
    if keeper:
        keeper.restore(state)
    done = len(history.step_losses)
    batches = _all_batches(loader, config.epochs, done)

    def evaluate(step: int) -> None:
        with state.averaged.in_place():
            record = _evaluate(model, dev, history, step / len(loader), watch)
            if record is None:
                return
            if record is history.best:
                state.best_weights = {name: tensor.detach().clone()
                                      for name, tensor in model.state_dict().items()}
        bar.set_postfix(dev_spearman=f"{100 * record['dev_spearman']:.2f}")
        if on_evaluation is not None:
            on_evaluation(record)

    bar = progress(range(done + 1, history.steps + 1), initial=done, total=history.steps,
                   desc="training", unit="step")
    with interrupt_sets(stop) as interrupted, memory_told(
            config.batch_size, config.gradient_accumulation_steps, history.step_losses):
        if not done:
            evaluate(0)
        model.train()
        for step in bar:
            started = time.perf_counter()
            batch = next(batches)
            loss, pairs = training_step(network, batch, LOSSES[config.loss], optimizer,
                                        state.schedule, config.max_grad_norm,
                                        config.batch_size)
            state.averaged.update(step)
            history.seconds += time.perf_counter() - started
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"step {step}: the loss is {loss}. The training has diverged: lower "
                    f"learning_rate (it is {config.learning_rate:g}).")
            history.step_losses.append(loss)
            history.pairs += pairs
            if on_step is not None:
                on_step(history)
            stopping = bool(processes.largest(stop.is_set()))
            if step in evaluate_at:
                evaluate(step)
            if keeper and (stopping or config.checkpoint_every
                           and step % config.checkpoint_every == 0):
                keeper.write(state, step)
            if stopping:
                if step not in evaluate_at:      # not in the checkpoint: it was not planned
                    evaluate(step)
                break
    model.load_state_dict(state.best_weights)
    if history.kept_start:
        tell(start_kept(
            history.best["dev_spearman"], gain_interval(dev["score"], history.start_cosines,
                                                        history.trained_cosines),
            len(dev), config.loss, config.learning_rate, config.epochs))
    if interrupted.is_set():
        tell(how_to_go_on(len(history.step_losses), history.steps, keeper and keeper.folder))
        raise KeyboardInterrupt
    return history


def training_step(model: nn.Module, batch: dict[str, torch.Tensor], loss_function: Callable,
                  optimizer: torch.optim.Optimizer,
                  schedule: torch.optim.lr_scheduler.LRScheduler,
                  max_grad_norm: float, at_once: int | None = None) -> tuple[float, int]:
    """Forward, backward, clip, update; returns the batch's loss, and how many pairs it has.

    `at_once` pairs at a time go through the model, all if None, and their gradients are
    added up: the same step for less memory, where the loss is a mean over pairs. A loss
    that compares pairs (CoSENT, ranking) compares those that go through together.

    With several processes `batch` is this one's share, and `at_once` that of all of them.
    """
    device, loss_sum, count = model.device, 0.0, processes.count()
    pairs = processes.total(len(batch["score"]))
    most, here = (len(range(rank, at_once or pairs, count)) for rank in (0, processes.rank()))
    parts = list(split_batch(batch, here)) if len(batch["score"]) else []
    parts += [NO_PAIR] * (processes.largest(len(parts)) - len(parts))    # none waits in vain
    for left, part in zip(reversed(range(len(parts))), parts):
        part = {name: tensor.to(device, non_blocking=device.type == "cuda")
                for name, tensor in part.items()}
        n = len(part["score"])
        with processes.not_yet(model) if left else nullcontext():
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=_has_bf16(device)):
                u, v = model(part["input_ids"], part["attention_mask"], return_embeddings=True)
            u, v, score = processes.gather_pairs(u[:n], v[:n], part["score"], most)
            loss = loss_function(u, v, score) * (len(score) / pairs)
            (loss * count).backward()                    # DDP takes the mean, not the sum
        loss_sum += loss.item()
    nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    return loss_sum, pairs


def _identity(model: ConnectionBert, train_set: ConnectionDataset, dev: pd.DataFrame,
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


def _silent(*_: object) -> None:
    pass


def _has_bf16(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def _all_batches(loader: torch.utils.data.DataLoader, epochs: int, done: int = 0
                 ) -> Iterator[dict[str, torch.Tensor]]:
    """The batches of all epochs, without the first `done` of them."""
    first, skip = divmod(done, len(loader))
    for epoch in range(first, epochs):
        loader.batch_sampler.set_epoch(epoch, skip)
        # an iterator draws a number, and that of an epoch begun before has been drawn
        with torch.random.fork_rng(devices=[]) if skip else nullcontext():
            batches = iter(loader)
        yield from batches
        skip = 0


def _evaluate(model: ConnectionBert, dev: pd.DataFrame, history: History, epoch: float,
              watch: Watch) -> dict[str, float] | None:
    """Append a record to `history` and return it.

    None, and no record, for a starting model that gives all pairs the same cosine: it has no
    Spearman yet, and training may give it one.
    """
    first, second = unpaired_texts(dev)            # no text in them that is not encoded anyway
    cosines = processes.divided(model.similarity, [*dev["sentence1"], *first],
                                [*dev["sentence2"], *second])
    history.dev_cosines, unpaired = cosines[:len(dev)], cosines[len(dev):]
    if not history.step_losses and np.ptp(history.dev_cosines) < SAME:
        return None
    record = history.add(epoch, spearman(dev["score"], history.dev_cosines))
    check = CollapseCheck(unpaired)
    watch.look(record["step"], [each["dev_spearman"] for each in history.evaluations
                                if each["step"]],
               history.config.learning_rate, str(check) if check.collapsed else None)
    return record
