"""This series and sentence-transformers, side by side on one machine, like with like first.

    python benchmarks/compare_sentence_transformers.py --pairs 1500 --repeats 5

Both fine-tune the same checkpoint on the same pairs (drawn by the seed across all genres)
with the same batch size, epochs, learning rate, seed and loss: shuffled on both sides, in
batches by length on both sides, and in bfloat16 on both sides where the CPU has it. Then both
encode. Rows with other settings on one side are named so: int8 against their fp32.

Time to quality: both score the same 500 dev pairs after each quarter of the epoch, while the
clock is stopped, and the first moment counts at which a target is reached that was fixed
beforehand (`TARGETS`). Both are trained with cosine MSE and with CoSENT, at the scale of this
series, 5 (with their default, 20, both gain less or lose: sweep.py choices).

Every measurement is a process of its own, ours and theirs in turn. The ratios are formed within
a turn, so that a machine that slows down slows both. The result goes to benchmarks/results/
as JSON, written anew after each measurement: a call that was killed goes on where it stopped.

Needs the extra `bench` (accelerate and datasets, which their trainer wants).
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from measuring import RESULTS, in_a_process, keep, parser

from connection_utils import (
    ConnectionBert,
    ConnectionDataset,
    LengthBucketedBatches,
    load_tokenizer,
    read_splits,
    spearman,
    train,
)
from connection_utils.config import TrainingConfig
from connection_utils.ground.paths import ROOT
from connection_utils.speed.precision import has_bf16
from connection_utils.workshop.assets import DEFAULT_DATA, DEFAULT_MODEL

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

BATCH_SIZE, MAX_LENGTH, LEARNING_RATE = 16, 128, 5e-5
BUCKET = 50               # batches' worth of pairs that are sorted by length, where any are
SCALE = 5.0               # of CoSENT, as in connection_utils.losses
DEV = 500                 # pairs that are scored, the same for both
TARGETS = (86.6, 87.1)    # their Spearman × 100: 0.5 and 1 above the untouched model's 86.09
QUARTERS = (0.25, 0.5, 0.75, 1.0)      # of the epoch: when both are scored


# What is measured: each runs in a process of its own and returns numbers

def train_ours(pairs: int, seed: int, config: TrainingConfig) -> dict[str, object]:
    """Fine-tune with this series; the seconds are those of tokenising and of the steps."""
    splits = _splits(pairs, seed)
    model = ConnectionBert.from_local(ROOT / DEFAULT_MODEL, max_length=MAX_LENGTH, device="cpu")
    started = time.perf_counter()
    train_set = ConnectionDataset(splits["train"], model.tokenizer, MAX_LENGTH)
    tokenising = time.perf_counter() - started
    history = train(model, train_set, splits["dev"], replace(config, seed=seed),
                    keep_start=False)
    curve = [[tokenising + each["seconds"], 100 * each["dev_spearman"]]
             for each in history.evaluations if each["step"]]
    return _judged(history.pairs, tokenising + history.seconds, curve)


def train_theirs(pairs: int, seed: int, by_length: bool = False, loss: str = "cosine_mse",
                 quarters: tuple[float, ...] = (1.0,), **arguments: object
                 ) -> dict[str, object]:
    """Fine-tune with sentence-transformers' trainer; the seconds are those of train().

    The library has no batches by length of its own (the trainer below it has, but
    sentence-transformers makes its own batches), yet takes anybody's: `by_length` gives
    it ours, whose lengths are counted before the clock starts. The dev pairs are scored after
    these `quarters` of the epoch, while the clock is stopped.
    """
    from transformers import TrainerCallback

    splits = _splits(pairs, seed)
    if by_length:
        lengths = ConnectionDataset(splits["train"], load_tokenizer(ROOT / DEFAULT_MODEL),
                                    MAX_LENGTH).lengths
        arguments["batch_sampler"] = lambda dataset, batch_size, **_: LengthBucketedBatches(
            lengths, batch_size, seed, BUCKET)
    steps = math.ceil(len(splits["train"]) / BATCH_SIZE)
    moments, dev, curve, stopped = {round(steps * q) for q in quarters}, splits["dev"], [], []

    class Curve(TrainerCallback):
        """Scores the dev pairs now and then; what that takes is not counted."""

        def on_train_begin(self, args, state, control, **kwargs):
            self.started = time.perf_counter()

        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step not in moments:
                return
            now = time.perf_counter()
            curve.append([now - self.started - sum(stopped),
                          100 * spearman(dev["score"], _cosines(model.eval(), dev))])
            model.train()
            stopped.append(time.perf_counter() - now)

    _, seconds = fit_theirs(ROOT / DEFAULT_MODEL, splits["train"], "cpu", loss, [Curve()],
                            seed=seed, num_train_epochs=1, **arguments)
    return _judged(len(splits["train"]), seconds - sum(stopped), curve)


def _cosines(model: "SentenceTransformer", pairs: pd.DataFrame) -> np.ndarray:
    u, v = (model.encode(list(pairs[side]), batch_size=64, normalize_embeddings=True)
            for side in ("sentence1", "sentence2"))
    return (u * v).sum(axis=1)


def fit_theirs(folder: str | Path, pairs: pd.DataFrame, device: str, loss: str = "cosine_mse",
               callbacks: Sequence = (), **arguments: object
               ) -> tuple["SentenceTransformer", float]:
    """Their model in `folder`, trained by their trainer on `pairs`, and train()'s seconds.

    `arguments` are those of their trainer that differ from the settings of this comparison. It
    continues from a checkpoint in `output_dir`.
    """
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import (
        CoSENTLoss,
        CosineSimilarityLoss,
    )
    from transformers.trainer_utils import get_last_checkpoint

    model = SentenceTransformer(str(folder), device=device,
                                model_kwargs={"dtype": torch.float32})   # as ours, always
    model.max_seq_length = MAX_LENGTH
    with tempfile.TemporaryDirectory() as scratch:
        trainer = SentenceTransformerTrainer(
            model=model, callbacks=list(callbacks), loss={
                "cosine_mse": CosineSimilarityLoss,
                "cosent": partial(CoSENTLoss, scale=SCALE)}[loss](model),
            train_dataset=Dataset.from_pandas(pairs[["sentence1", "sentence2", "score"]]),
            args=SentenceTransformerTrainingArguments(**{
                "output_dir": scratch, "use_cpu": device == "cpu", "save_strategy": "no",
                "logging_strategy": "no", "report_to": "none", "disable_tqdm": True,
                "per_device_train_batch_size": BATCH_SIZE, "learning_rate": LEARNING_RATE,
                "warmup_steps": 0.1, **arguments}))
        started = time.perf_counter()
        trainer.train(resume_from_checkpoint=get_last_checkpoint(trainer.args.output_dir))
        return model, time.perf_counter() - started


def encode(pairs: int, seed: int, whose: str) -> dict[str, float]:
    """Encode both texts of each pair in batches of 64, after one round to warm up.

    `whose` is ours, ours_int8 or theirs. The Spearman is that of the dev pairs.
    """
    splits = _splits(pairs, seed)
    if whose == "theirs":
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(ROOT / DEFAULT_MODEL), device="cpu")
        model.max_seq_length = MAX_LENGTH
    else:
        model = ConnectionBert.from_local(ROOT / DEFAULT_MODEL, max_length=MAX_LENGTH,
                                          device="cpu")
        if whose != "ours":
            from connection_utils import OnnxBert

            model = OnnxBert(model, int8=True)
    texts = [*splits["train"]["sentence1"], *splits["train"]["sentence2"]]
    model.encode(texts[:256], batch_size=64)
    started = time.perf_counter()
    model.encode(texts, batch_size=64)
    seconds = time.perf_counter() - started
    dev = splits["dev"]
    u, v = (torch.from_numpy(model.encode(list(dev[name]), batch_size=64))
            for name in ("sentence1", "sentence2"))
    return {"sentences_per_s": len(texts) / seconds, "dev_spearman":
            100 * spearman(dev["score"], torch.cosine_similarity(u, v).numpy())}


def _splits(pairs: int, seed: int) -> dict:
    splits = read_splits(ROOT / DEFAULT_DATA)
    number = min(pairs, len(splits["train"]))
    return splits | {"dev": splits["dev"].sample(DEV, random_state=0).reset_index(drop=True),
                     "train": splits["train"].sample(number, random_state=seed)
                     .reset_index(drop=True)}


def _judged(pairs: int, seconds: float, curve: list[list[float]]) -> dict[str, object]:
    return {"pairs_per_s": pairs / seconds, "seconds": seconds,
            "peak_memory_mib": peak_memory_mib(), "curve": curve,
            "dev_spearman": curve[-1][1]}


def peak_memory_mib() -> float:
    """The most memory that this process has had."""
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset / 2**20
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


SAME = TrainingConfig(epochs=1, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE,
                      evaluations_per_epoch=1, precision="fp32")
TASKS = {
    "ours": lambda n, seed: train_ours(n, seed, replace(
        SAME, evaluations_per_epoch=len(QUARTERS))),
    "theirs": lambda n, seed: train_theirs(n, seed, quarters=QUARTERS),
    "ours_by_length": lambda n, seed: train_ours(n, seed, replace(SAME, bucket=BUCKET)),
    "theirs_by_length": lambda n, seed: train_theirs(n, seed, by_length=True),
    "ours_bf16": lambda n, seed: train_ours(n, seed, replace(SAME, precision="bf16")),
    "theirs_bf16": lambda n, seed: train_theirs(n, seed, bf16=True),
    "encode_ours": lambda n, seed: encode(n, seed, "ours"),
    "encode_theirs": lambda n, seed: encode(n, seed, "theirs"),
    "encode_ours_int8": lambda n, seed: encode(n, seed, "ours_int8"),
    "ours_cosent": lambda n, seed: train_ours(n, seed, replace(
        SAME, evaluations_per_epoch=len(QUARTERS), loss="cosent")),
    "theirs_cosent": lambda n, seed: train_theirs(
        n, seed, loss="cosent", quarters=QUARTERS),
}
if not has_bf16(torch.device("cpu")):
    del TASKS["ours_bf16"], TASKS["theirs_bf16"]


# The parent: one process after the other, and what comes of it

def measure(task: str, pairs: int, seed: int) -> dict[str, float]:
    """Run one task in a fresh process."""
    return in_a_process(__file__, "--task", task, "--pairs", pairs, "--seed", seed)


def ratios(turns: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Median, min and max over the turns of each ratio, ours / theirs within a turn.

    A turn that has not ended does not count; without any other there are no ratios.
    """
    turns = [turn for turn in turns if turn.keys() >= TASKS.keys()]
    if not turns:
        return {}

    def each(value):
        numbers = [value(turn) for turn in turns]
        return {"median": statistics.median(numbers), "min": min(numbers), "max": max(numbers)}

    def over(ours, theirs, key):
        return each(lambda turn: turn[ours][key] / turn[theirs][key])

    found = {
        "train_ratio_both_shuffled": over("ours", "theirs", "pairs_per_s"),
        "train_ratio_both_by_length": over("ours_by_length", "theirs_by_length", "pairs_per_s"),
        "encode_ratio_fp32": over("encode_ours", "encode_theirs", "sentences_per_s"),
        "encode_ratio_int8": over("encode_ours_int8", "encode_theirs", "sentences_per_s"),
        "peak_memory_ratio": over("ours", "theirs", "peak_memory_mib"),
        **{f"dev_spearman_{task}": each(lambda turn, task=task: turn[task]["dev_spearman"])
           for task in TASKS},
        **{f"seconds_to_{target}_{whose}": each(lambda turn, whose=whose, target=target:
                                                seconds_to(target, turn[whose]))
           for target in TARGETS for whose in ("ours", "theirs", "ours_cosent",
                                               "theirs_cosent")},
    }
    if "ours_bf16" in turns[0]:
        found["train_ratio_both_bf16"] = over("ours_bf16", "theirs_bf16", "pairs_per_s")
        found["train_ratio_ours_bf16_to_fp32"] = over("ours_bf16", "ours", "pairs_per_s")
    return found


def seconds_to(target: float, found: dict[str, object]) -> float:
    """When the dev Spearman first reached `target`; infinite if it never did."""
    return next((seconds for seconds, reached in found["curve"] if reached >= target), math.inf)


def begun(output: Path, command: str, repeats: int) -> list[dict[str, dict[str, float]]]:
    """The turns that an earlier call of this command left when it was killed; else none."""
    kept = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}
    turns = kept.get("turns", [])
    ended = len(turns) == repeats and turns[-1].keys() >= TASKS.keys()
    return [] if ended or kept.get("command") != f"python benchmarks/{command}" else turns


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--pairs", type=int, default=1500, help="training pairs")
    options.add_argument("--repeats", type=int, default=5, help="turns, each with its seed")
    options.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    options.add_argument("--seed", type=int, default=1, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.task:
        print(json.dumps(TASKS[chosen.task](chosen.pairs, chosen.seed)))
        return
    output = chosen.output or RESULTS / f"compare_sentence_transformers_{chosen.pairs}.json"
    command = (f"compare_sentence_transformers.py --pairs {chosen.pairs} "
               f"--repeats {chosen.repeats}")
    turns = begun(output, command, chosen.repeats)
    for seed in range(1, chosen.repeats + 1):
        if len(turns) < seed:
            turns.append({})
        for task in [task for task in TASKS if task not in turns[seed - 1]]:
            found = turns[seed - 1][task] = measure(task, chosen.pairs, seed)
            print(f"turn {seed} of {chosen.repeats}  {task}: " + "  ".join(
                f"{name} {value:.2f}" for name, value in found.items() if name != "curve"),
                flush=True)
            keep(output, command, **ratios(turns), turns=turns)
    for name, value in ratios(turns).items():
        print(f"{name:42} {value['median']:7.2f}   ({value['min']:.2f} to {value['max']:.2f})")


if __name__ == "__main__":
    main()
