"""This series and sentence-transformers, side by side on one machine.

    python benchmarks/compare_sentence_transformers.py --pairs 2000 --repeats 3

Both fine-tune the same checkpoint on the same pairs (drawn by the seed across all genres),
with the same batch size, epochs, learning rate, precision, seed and loss. Two comparisons
leave the same settings, and say so: `with_options` takes ours with the loss CoSENT and the
two lowest layers frozen; the time to quality sets their recipe as published against ours
called `fast`, which counts only if it ends with at least their test Spearman. Every
measurement is a process of its own, ours and theirs in turn. The ratios are formed within a
turn, so that a machine that slows down slows both. The result goes to benchmarks/results/
as JSON, written anew after each measurement: a call that was killed goes on where it stopped.

Needs the extra `bench` (accelerate and datasets, which their trainer wants).
"""

import argparse
import json
import math
import resource
import statistics
import tempfile
import time
from dataclasses import replace
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
from connection_utils.config import RECIPES, TrainingConfig
from connection_utils.ground.paths import ROOT
from connection_utils.workshop.assets import DEFAULT_DATA, DEFAULT_MODEL

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

BATCH_SIZE, MAX_LENGTH, LEARNING_RATE = 16, 128, 5e-5
BUCKET = 50               # batches' worth of pairs that are sorted by length, where any are
THEIR_EPOCHS = 4          # of their published STS recipe, with the three numbers above


# What is measured: each runs in a process of its own and returns numbers

def train_ours(pairs: int, seed: int, config: TrainingConfig) -> dict[str, float]:
    """Fine-tune with this series; the seconds are those of tokenising and of the steps."""
    splits = _splits(pairs, seed)
    model = ConnectionBert.from_local(ROOT / DEFAULT_MODEL, max_length=MAX_LENGTH, device="cpu")
    started = time.perf_counter()
    train_set = ConnectionDataset(splits["train"], model.tokenizer, MAX_LENGTH)
    tokenising = time.perf_counter() - started
    history = train(model, train_set, splits["dev"].head(100), replace(
        config, seed=seed, evaluations_per_epoch=1), keep_start=False)
    return _judged(history.pairs, tokenising + history.seconds, model.similarity, splits)


def train_theirs(pairs: int, seed: int, epochs: int, by_length: bool = False
                 ) -> dict[str, float]:
    """Fine-tune with sentence-transformers' trainer; the seconds are those of train().

    The library has no batches by length of its own (the trainer below it has, but
    sentence-transformers makes its own batches), yet takes anybody's: `by_length` gives
    it ours, whose lengths are counted before the clock starts.
    """
    splits = _splits(pairs, seed)
    batches = {}
    if by_length:
        lengths = ConnectionDataset(splits["train"], load_tokenizer(ROOT / DEFAULT_MODEL),
                                    MAX_LENGTH).lengths
        batches["batch_sampler"] = lambda dataset, batch_size, **_: LengthBucketedBatches(
            lengths, batch_size, seed, BUCKET)
    model, seconds = fit_theirs(ROOT / DEFAULT_MODEL, splits["train"], "cpu", seed=seed,
                                num_train_epochs=epochs, **batches)

    def similarity(first, second):
        u, v = (model.encode(list(texts), normalize_embeddings=True)
                for texts in (first, second))
        return (u * v).sum(axis=1)

    return _judged(epochs * len(splits["train"]), seconds, similarity, splits)


def fit_theirs(folder: str | Path, pairs: pd.DataFrame, device: str, **arguments: object
               ) -> tuple["SentenceTransformer", float]:
    """Their model in `folder`, trained by their trainer on `pairs`, and train()'s seconds.

    `arguments` are those of their trainer that differ from the settings of this comparison.
    """
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss

    model = SentenceTransformer(str(folder), device=device,
                                model_kwargs={"dtype": torch.float32})   # as ours, always
    model.max_seq_length = MAX_LENGTH
    with tempfile.TemporaryDirectory() as scratch:
        trainer = SentenceTransformerTrainer(
            model=model, loss=CosineSimilarityLoss(model),
            train_dataset=Dataset.from_pandas(pairs[["sentence1", "sentence2", "score"]]),
            args=SentenceTransformerTrainingArguments(**{
                "output_dir": scratch, "use_cpu": device == "cpu", "save_strategy": "no",
                "logging_strategy": "no", "report_to": "none", "disable_tqdm": True,
                "per_device_train_batch_size": BATCH_SIZE, "learning_rate": LEARNING_RATE,
                "warmup_steps": 0.1, **arguments}))
        started = time.perf_counter()
        trainer.train()
        return model, time.perf_counter() - started


def encode(pairs: int, seed: int, whose: str) -> dict[str, float]:
    """Encode both texts of each pair in batches of 64, after one round to warm up.

    `whose` is ours, ours_onnx, ours_int8 or theirs. The Spearman is that of the dev pairs.
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

            model = OnnxBert(model, int8=whose == "ours_int8")
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
    return splits | {"train": splits["train"].sample(number, random_state=seed)
                     .reset_index(drop=True)}


def _judged(pairs: int, seconds: float, similarity, splits: dict) -> dict[str, float]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024         # MiB, on Linux
    test = splits["test"]
    return {"pairs_per_s": pairs / seconds, "seconds": seconds, "peak_memory_mib": peak,
            "test_spearman": 100 * spearman(
                test["score"], np.asarray(similarity(test["sentence1"], test["sentence2"])))}


SAME = TrainingConfig(epochs=1, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE)
TASKS = {
    "ours": lambda n, seed: train_ours(n, seed, SAME),
    "theirs": lambda n, seed: train_theirs(n, seed, 1),
    "ours_by_length": lambda n, seed: train_ours(n, seed, replace(SAME, bucket=BUCKET)),
    "ours_frozen": lambda n, seed: train_ours(n, seed, replace(SAME, frozen_layers=1)),
    "ours_options": lambda n, seed: train_ours(n, seed, replace(
        SAME, loss="cosent", frozen_layers=2)),
    "theirs_by_length": lambda n, seed: train_theirs(n, seed, 1, by_length=True),
    "encode_ours": lambda n, seed: encode(n, seed, "ours"),
    "encode_ours_onnx": lambda n, seed: encode(n, seed, "ours_onnx"),
    "encode_ours_int8": lambda n, seed: encode(n, seed, "ours_int8"),
    "encode_theirs": lambda n, seed: encode(n, seed, "theirs"),
    "quality_ours": lambda n, seed: train_ours(n, seed, RECIPES["fast"]),
    "quality_theirs": lambda n, seed: train_theirs(n, seed, THEIR_EPOCHS),
}


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

    return {
        "train_pairs_per_s_ratio": over("ours_by_length", "theirs", "pairs_per_s"),
        "train_pairs_per_s_ratio_both_shuffled": over("ours", "theirs", "pairs_per_s"),
        "train_pairs_per_s_ratio_both_by_length": over("ours_by_length", "theirs_by_length",
                                                       "pairs_per_s"),
        "train_pairs_per_s_ratio_frozen": over("ours_frozen", "theirs", "pairs_per_s"),
        "train_pairs_per_s_ratio_with_options": over("ours_options", "theirs",
                                                     "pairs_per_s"),
        "encode_sentences_per_s_ratio": over("encode_ours", "encode_theirs",
                                             "sentences_per_s"),
        "encode_onnx_sentences_per_s_ratio": over("encode_ours_onnx", "encode_theirs",
                                                  "sentences_per_s"),
        "encode_int8_sentences_per_s_ratio": over("encode_ours_int8", "encode_theirs",
                                                  "sentences_per_s"),
        "dev_spearman_encode_fp32": each(lambda turn: turn["encode_ours"]["dev_spearman"]),
        "dev_spearman_encode_int8": each(
            lambda turn: turn["encode_ours_int8"]["dev_spearman"]),
        "peak_memory_ratio": over("ours", "theirs", "peak_memory_mib"),
        "time_to_quality_ratio": each(_time_to_quality),
        "quality_spearman_ours": each(lambda turn: turn["quality_ours"]["test_spearman"]),
        "quality_spearman_theirs": each(lambda turn: turn["quality_theirs"]["test_spearman"]),
        "spearman_ours": each(lambda turn: turn["ours"]["test_spearman"]),
        **{f"spearman_{task}": each(lambda turn, task=task: turn[task]["test_spearman"])
           for task in ("ours", "ours_by_length", "ours_frozen", "ours_options",
                        "theirs", "theirs_by_length")},
    }


def _time_to_quality(turn: dict[str, dict[str, float]]) -> float:
    """Our time to at least their final test Spearman / their time; infinite if we miss it."""
    ours, theirs = turn["quality_ours"], turn["quality_theirs"]
    reached = ours["test_spearman"] >= theirs["test_spearman"]
    return ours["seconds"] / theirs["seconds"] if reached else math.inf


def begun(output: Path, command: str, repeats: int) -> list[dict[str, dict[str, float]]]:
    """The turns that an earlier call of this command left when it was killed; else none."""
    kept = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}
    turns = kept.get("turns", [])
    ended = len(turns) == repeats and turns[-1].keys() >= TASKS.keys()
    return [] if ended or kept.get("command") != f"python benchmarks/{command}" else turns


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--pairs", type=int, default=2000, help="training pairs")
    options.add_argument("--repeats", type=int, default=3, help="turns, each with its seed")
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
                f"{name} {value:.2f}" for name, value in found.items()), flush=True)
            keep(output, command, **ratios(turns), turns=turns)
    for name, value in ratios(turns).items():
        print(f"{name:42} {value['median']:7.2f}   ({value['min']:.2f} to {value['max']:.2f})")


if __name__ == "__main__":
    main()
