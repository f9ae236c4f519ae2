"""Fine-tuning: one plain PyTorch loop that a newcomer can hold in the head."""

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from transformers import get_linear_schedule_with_warmup

from connection_utils.bert import ConnectionBert
from connection_utils.dataset import ConnectionDataset, connection_loader
from connection_utils.evaluation import spearman
from connection_utils.files import write_whole
from connection_utils.losses import LOSSES
from connection_utils.workspace import progress, runs_folder, shown


@dataclass(frozen=True)
class TrainingConfig:
    """All that decides a training run, apart from the model and the data."""

    epochs: int = 2
    batch_size: int = 16               # pairs
    learning_rate: float = 5e-5        # at the end of the warm-up
    warmup_ratio: float = 0.1          # share of the steps; then down to 0 in a line
    weight_decay: float = 0.01         # AdamW; not on biases and LayerNorm
    max_grad_norm: float = 1.0
    loss: str = "cosine_mse"           # a name in LOSSES
    evaluations_per_epoch: int = 4     # dev Spearman; the best weights are kept
    seed: int = 12                     # order of the pairs, and dropout

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f"loss is {self.loss!r}; expected one of {', '.join(LOSSES)}")
        for name, low in (("epochs", 1), ("batch_size", 1), ("evaluations_per_epoch", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)}; expected {low} or more")
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"learning_rate is {self.learning_rate}; expected a number "
                             "between 0 and 1, such as 5e-5")
        if not 0 <= self.warmup_ratio <= 1:
            raise ValueError(f"warmup_ratio is {self.warmup_ratio}; expected 0 to 1")


@dataclass
class History:
    """What happened in training: a record for each evaluation, and every step's loss."""

    config: TrainingConfig
    evaluations: list[dict[str, float]] = field(default_factory=list)
    step_losses: list[float] = field(default_factory=list)

    def to_frame(self) -> pd.DataFrame:
        """A row an evaluation: step, epoch, loss (mean since the last one), dev_spearman,
        seconds (of training, evaluations left out) and pairs_per_s."""
        return pd.DataFrame(self.evaluations).astype({"step": int})

    @property
    def best(self) -> dict[str, float]:
        """The evaluation whose weights were kept: the first with the highest dev Spearman."""
        return max(self.evaluations, key=lambda record: record["dev_spearman"])


def build_optimizer(model: ConnectionBert, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW (arXiv 1711.05101); biases and LayerNorm are not decayed, as BERT was trained."""
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


def train(model: ConnectionBert, train_set: ConnectionDataset, dev: pd.DataFrame,
          config: TrainingConfig = TrainingConfig(),
          on_evaluation: Callable[[dict[str, float]], None] | None = None) -> History:
    """Fine-tune `model` in place; it ends with the weights of the best dev Spearman.

    `dev` is a table of pairs as `read_connections` makes it. `on_evaluation` gets each
    record as it comes. On a CPU the same seed gives bit-equal weights. On CUDA the
    forward pass runs in bfloat16 where the GPU has it. The model comes back in
    evaluation mode. Raises FloatingPointError if the loss stops being a number, and
    ConstantPredictionError if a dev evaluation finds all cosines alike.
    """
    device = model.device
    loader = connection_loader(train_set, config.batch_size, config.seed,
                               pin_memory=device.type == "cuda")
    steps = config.epochs * len(loader)
    loss_function = LOSSES[config.loss]
    optimizer = build_optimizer(model, config)
    schedule = build_schedule(optimizer, steps, config)
    evaluate_at = {round(steps * i / (config.epochs * config.evaluations_per_epoch))
                   for i in range(1, config.epochs * config.evaluations_per_epoch + 1)}
    history = History(config)
    best_weights: dict[str, torch.Tensor] = {}
    seconds, pairs = 0.0, 0

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        bar = progress(range(1, steps + 1), desc="training", unit="step")
        batches = _all_batches(loader, config.epochs)
        model.train()
        started = time.perf_counter()
        for step in bar:
            batch = next(batches)
            loss = training_step(model, batch, loss_function, optimizer, schedule,
                                 config.max_grad_norm)
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"step {step}: the loss is {loss}. The training has diverged: lower "
                    f"learning_rate (it is {config.learning_rate:g}).")
            history.step_losses.append(loss)
            pairs += len(batch["score"])
            if step in evaluate_at:
                seconds += time.perf_counter() - started
                record = _evaluate(model, dev, history, step, step / len(loader), seconds,
                                   pairs)
                if record is history.best:
                    best_weights = {name: tensor.detach().clone()
                                    for name, tensor in model.state_dict().items()}
                bar.set_postfix(dev_spearman=f"{100 * record['dev_spearman']:.2f}")
                if on_evaluation is not None:
                    on_evaluation(record)
                started = time.perf_counter()
    model.load_state_dict(best_weights)
    model.eval()
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


def run_settings(model_dir: str | Path, data: str | Path, pooling: str, max_length: int,
                 config: TrainingConfig) -> dict[str, object]:
    """All that decides a run, as training.json records it."""
    return {"base_model": shown(model_dir), "data": shown(data), "pooling": pooling,
            "max_length": max_length, "config": asdict(config)}


def run_folder(settings: dict) -> Path:
    """Where the model of a run with these settings goes: other settings, other folder.

    The name tells the main ones, and ends in six digits of a hash of them all.
    """
    c = settings["config"]
    mark = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:6]
    return runs_folder() / (
        f"{Path(settings['base_model']).name}-{Path(settings['data']).stem}-"
        f"{settings['pooling']}-{c['loss']}-lr{c['learning_rate']:g}-bs{c['batch_size']}"
        f"-ep{c['epochs']}-seed{c['seed']}-{mark}")


def save_run(folder: str | Path, model: ConnectionBert, history: History, settings: dict,
             **facts: object) -> None:
    """Save the model, and beside it ``training.json``: settings, `facts` and history."""
    model.save(folder)
    record = {**settings, **facts, "evaluations": history.evaluations}
    with write_whole(Path(folder) / "training.json") as scratch:
        scratch.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def read_run(folder: str | Path, expected: dict | None = None) -> dict:
    """What `save_run` wrote beside the model, checked against the settings `expected`.

    FileNotFoundError if there is no such run, ValueError if it was trained otherwise;
    both say how to make the right one.
    """
    path = Path(folder) / "training.json"
    remedy = ("Run notebook 03 with the same parameters, or python -m "
              "connection_utils.finetune (see --help).")
    if not path.is_file():
        raise FileNotFoundError(f"{shown(path)} not found: no model was trained with these "
                                f"settings. {remedy}")
    record = json.loads(path.read_text(encoding="utf-8"))
    other = [f"{name} is {record.get(name)!r}, expected {value!r}"
             for name, value in (expected or {}).items() if record.get(name) != value]
    if other:
        raise ValueError(f"{shown(path)}: trained with other settings: {'; '.join(other)}. "
                         f"{remedy}")
    return record


def _has_bf16(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_bf16_supported()


def _all_batches(loader: torch.utils.data.DataLoader, epochs: int):
    for epoch in range(epochs):
        loader.batch_sampler.set_epoch(epoch)
        yield from loader


def _evaluate(model: ConnectionBert, dev: pd.DataFrame, history: History, step: int,
              epoch: float, seconds: float, pairs: int) -> dict[str, float]:
    """Append a record to `history` and return it."""
    cosines = model.similarity(dev["sentence1"], dev["sentence2"])
    since = history.evaluations[-1]["step"] if history.evaluations else 0
    losses = history.step_losses[since:]
    record = {"step": step, "epoch": epoch, "loss": sum(losses) / len(losses),
              "dev_spearman": spearman(dev["score"], cosines),
              "seconds": seconds, "pairs_per_s": pairs / seconds}
    history.evaluations.append(record)
    return record
