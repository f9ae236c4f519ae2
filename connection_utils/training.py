"""Fine-tuning: one plain PyTorch loop that a newcomer can hold in the head."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from connection_utils import processes
from connection_utils.averaging import AveragedWeights
from connection_utils.bert import ConnectionBert
from connection_utils.checkpoint import Checkpoints, TrainingState, run_identity
from connection_utils.config import TrainingConfig
from connection_utils.dataset import ConnectionDataset, connection_loader, split_batch
from connection_utils.evaluation import SAME, spearman, unpaired_texts
from connection_utils.history import History
from connection_utils.losses import LOSSES
from connection_utils.optimization import (
    build_optimizer,
    build_schedule,
    freeze,
    one_gradient_table,
)
from connection_utils.trouble import (Watch, how_to_go_on, interrupt_sets, memory_told,
                                      start_kept)
from connection_utils.workspace import progress

_TRAINING = threading.Lock()       # dropout draws from the process's one random state
# what a process sends through the model when a batch has no pair left for it: an empty text
NO_PAIR = {"input_ids": torch.zeros(2, 1, dtype=torch.long),
           "attention_mask": torch.ones(2, 1, dtype=torch.long), "score": torch.zeros(0)}


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
            run = run_identity(model, train_set, dev, config)
            processes.must_agree(run)
            if checkpoints is not None:
                keeper = Checkpoints(checkpoints, run, config.resume, tell)
        freeze(model, config.freeze_embeddings, config.frozen_layers)
        with (torch.random.fork_rng(devices=cuda),
              one_gradient_table(model.bert.embeddings.word_embeddings)):
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
    with interrupt_sets(stop) as interrupted, memory_told(config, history):
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
                keeper.write(state)
            if stopping:
                if step not in evaluate_at:      # not in the checkpoint: it was not planned
                    evaluate(step)
                break
    model.load_state_dict(state.best_weights)
    if history.kept_start:
        tell(start_kept(history, dev["score"]))
    if interrupted.is_set():
        tell(how_to_go_on(history, keeper and keeper.folder))
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
    watch.look(history, unpaired)
    return record
