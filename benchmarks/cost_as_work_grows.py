"""Seconds and memory as the number of pairs grows: reading, tokenising, training, scoring.

    python benchmarks/cost_as_work_grows.py --sizes 1000 10000 100000 1000000 --turns 3

Each part at each size runs in a process of its own, in turns; the seconds are medians, and
1,000,000 pairs are measured once. The pairs are drawn from the training pairs of the STS
benchmark, most of them many times: a repeated text costs as much as a new one. Only scoring
encodes a text that comes twice in a few thousand rows once, so its texts are random words, and
each of ten texts meets each of ten others. An epoch on a million pairs would take hours: 150
steps are timed, with all pairs in memory, and an epoch is computed from them.

Memory is what the process holds above what it held before the first pair: its anonymous memory,
in MB (1,000,000 bytes), at its peak (it is read every 50 ms). Of training it is what the pairs
take, after the steps: what a step takes for a moment depends on its longest texts, and is the
same for all sizes. Needs Linux. The result goes to benchmarks/results/ as JSON, and a figure
beside that folder.
"""

import argparse
import ctypes
import gc
import json
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from measuring import RESULTS, in_a_process, keep, parser
from torch.utils.data import DataLoader

from connection_utils import (
    ConnectionBert,
    ConnectionDataset,
    ConnectionScorer,
    TrainingConfig,
    connection_loader,
    cosine_mse,
    load_tokenizer,
    plots,
    read_connections,
    read_splits,
    score_file,
)
from connection_utils.ground.paths import ROOT, runs_folder
from connection_utils.ground.whole_files import write_whole
from connection_utils.speed.gradient_table import one_gradient_table
from connection_utils.training import build_optimizer, build_schedule, training_step
from connection_utils.workshop.assets import DEFAULT_DATA, DEFAULT_MODEL

STEPS, WARM = 150, 63       # of training: timed; before that, an epoch of 1,000 pairs
MEET = 10                    # texts to score that each of as many others meets
DISTINCT = 10_000            # pairs of which no two share a text: the speed without repeats
ONCE = 1_000_000             # from this size on a part is measured once
SECONDS = 0.05               # between two looks at the memory
PICTURE = ROOT / "benchmarks" / "cost_as_work_grows.png"
WORDS = """a the one two some every small large old new red quiet late early broken open
man woman child dog cat bird driver printer server router battery screen cable window door
plays opens closes starts stops loses finds sends reads writes needs carries fixes drops
slowly quickly often never again today outside inside near under behind without
music water power paper light noise error update password message park kitchen office""".split()


def anonymous_mb() -> float:
    """This process's anonymous memory now, MB."""
    status = Path("/proc/self/status").read_text()
    return 1.024 * int(re.search(r"^RssAnon:\s+(\d+) kB", status, re.M)[1]) / 1000


class Peak(threading.Thread):
    """Reads the memory every `SECONDS` while the block runs; ``mb`` is the highest value."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.mb, self._over = anonymous_mb(), threading.Event()

    def run(self) -> None:
        """Read it until the block ends."""
        while not self._over.wait(SECONDS):
            self.mb = max(self.mb, anonymous_mb())

    def __enter__(self) -> "Peak":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()
        self.mb = max(self.mb, anonymous_mb())


# What is measured

def drawn(count: int, seed: int = 12) -> pd.DataFrame:
    """`count` of the benchmark's training pairs, with replacement."""
    pairs = read_splits(ROOT / DEFAULT_DATA)["train"][["sentence1", "sentence2", "score"]]
    return pairs.sample(count, replace=True, random_state=seed, ignore_index=True)


def write_pairs(path: Path, count: int, meet: int = MEET, seed: int = 12) -> None:
    """A CSV file of `count` pairs of 3 to 20 words, decided by `seed`.

    Each of `meet` texts meets each of `meet` others; then come new texts.
    """
    rng, words = np.random.default_rng(seed), np.array(WORDS)
    many = -(-count // meet**2) * meet

    def texts() -> list[str]:
        return [" ".join(words[rng.integers(0, len(words), size)])
                for size in rng.integers(3, 21, many)]

    first, second = texts(), texts()
    with open(path, "w", encoding="utf-8") as file:
        file.write("id,sentence1,sentence2\n")
        for row in range(count):
            block, place = divmod(row, meet**2)
            file.write(f"{row},{first[meet * block + place // meet]},"
                       f"{second[meet * block + place % meet]}\n")


def reading(count: int, folder: Path) -> dict[str, float]:
    """`read_connections` of a CSV file."""
    path = folder / "pairs.csv"
    drawn(100).to_csv(path, index=False)
    read_connections(path)                        # what a first file needs once is there
    drawn(count).to_csv(path, index=False)
    before, started = anonymous_mb(), time.perf_counter()
    with Peak() as peak:
        pairs = read_connections(path)
        seconds = time.perf_counter() - started
    assert len(pairs) == count
    return {"seconds": seconds, "memory_mb": peak.mb - before,
            "table_mb": float(pairs.memory_usage(deep=True).sum()) / 1e6}


def tokenizing(count: int, folder: Path) -> dict[str, float]:
    """A `ConnectionDataset` of a table that is in memory already."""
    pairs, tokenizer = drawn(count), load_tokenizer(ROOT / DEFAULT_MODEL)
    ConnectionDataset(drawn(10_000), tokenizer)
    before, started = anonymous_mb(), time.perf_counter()
    with Peak() as peak:
        dataset = ConnectionDataset(pairs, tokenizer)
        seconds = time.perf_counter() - started
    lists = dataset.sentence1, dataset.sentence2
    arrays = [dataset.score, *(part for each in lists for part in (each.ids, each.offsets))]
    return {"seconds": seconds, "memory_mb": peak.mb - before,
            "arrays_mb": sum(len(part) * part.itemsize for part in arrays) / 1e6,
            "tokens_per_pair": sum(len(each.ids) for each in lists) / count}


def training(count: int, folder: Path) -> dict[str, float]:
    """Steps of notebook 03's training, with `count` pairs in memory as tokens."""
    config = TrainingConfig(epochs=1)
    model = ConnectionBert.from_local(ROOT / DEFAULT_MODEL, device="cpu")
    optimizer = build_optimizer(model, config)
    schedule = build_schedule(optimizer, STEPS + WARM, config)
    pairs = drawn(count)
    model.train()

    def steps(batches: Iterator[dict], many: int) -> int:
        return sum(training_step(model, batch, cosine_mse, optimizer, schedule,
                                 config.max_grad_norm, "fp32")[1]
                   for batch in islice(batches, many))

    with one_gradient_table(model.bert.embeddings.word_embeddings):
        steps(_again_and_again(connection_loader(ConnectionDataset(
            drawn(1000), model.tokenizer), config.batch_size, config.seed)), WARM)
        before = _trimmed_mb()
        with Peak() as peak:
            batches = _again_and_again(connection_loader(ConnectionDataset(
                pairs, model.tokenizer), config.batch_size, config.seed))
            started = time.perf_counter()
            trained = steps(batches, STEPS)
            seconds = time.perf_counter() - started
        after = _trimmed_mb()                     # the loader still has the pairs, in an order
    return {"seconds": seconds / trained * count, "timed_seconds": seconds,
            "memory_mb": after - before, "peak_mb": peak.mb, "pairs_per_s": trained / seconds}


def _again_and_again(loader: DataLoader) -> Iterator[dict]:
    while True:
        yield from loader


def _trimmed_mb() -> float:
    """The anonymous memory, without what was freed and is not yet given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return anonymous_mb()


def scoring(count: int, folder: Path, meet: int = MEET) -> dict[str, float]:
    """`score_file` of a CSV file; whether every row is in its place."""
    path, out = folder / "pairs.csv", folder / "scored.csv"
    write_pairs(path, count, meet)
    scorer = ConnectionScorer(ROOT / DEFAULT_MODEL, device="cpu")
    scorer.model.similarity(["a text"], ["another"])
    before, started = anonymous_mb(), time.perf_counter()
    with Peak() as peak:
        assert score_file(path, out, scorer) == count
        seconds = time.perf_counter() - started
    with open(out, encoding="utf-8") as file:
        next(file)
        in_order = all(line.startswith(f'"{row}",') for row, line in enumerate(file))
    return {"seconds": seconds, "memory_mb": peak.mb - before, "peak_mb": peak.mb,
            "pairs_per_s": count / seconds, "out_mb": out.stat().st_size / 1e6,
            "rows_in_order": in_order}


def distinct(count: int, folder: Path) -> dict[str, float]:
    """`score_file` where every text must be encoded."""
    return scoring(count, folder, meet=1)


PARTS = {each.__name__: each for each in (reading, tokenizing, training, scoring)}


# The parent: one process after the other, and what comes of it

def summed_up(turns: list[dict[str, float]]) -> dict[str, object]:
    """The last turn's numbers, the median of its seconds, and the most memory."""
    seconds = [turn["seconds"] for turn in turns]
    return turns[-1] | {"seconds": statistics.median(seconds), "turns": seconds,
                        "memory_mb": max(turn["memory_mb"] for turn in turns)}


def draw(found: dict[str, list[dict[str, float]]]) -> plt.Figure:
    """Seconds over pairs, with a line of constant speed beside each part; memory over pairs."""
    figure, (time_ax, memory_ax) = plt.subplots(1, 2, figsize=(9.5, 3.2), layout="constrained")
    for (part, sizes), color in zip(found.items(), (plots.ORANGE, plots.GREEN, plots.RED,
                                                    plots.BLUE)):
        pairs = np.array([size["pairs"] for size in sizes])
        seconds = [size["seconds"] for size in sizes]
        time_ax.plot(pairs, seconds[-1] * pairs / pairs[-1], color="0.7", lw=1, ls="--")
        time_ax.plot(pairs, seconds, "o-", color=color, label=part)
        memory_ax.plot(pairs, [size["memory_mb"] for size in sizes], "o-", color=color,
                       label=part)
    time_ax.set(xscale="log", yscale="log", xlabel="pairs", ylabel="seconds",
                title="Time: the dashed lines are proportional to the pairs")
    memory_ax.set(xscale="log", xlabel="pairs", ylabel="MB above the start",
                  title="Memory")
    time_ax.legend()
    return figure


def main() -> None:
    """Measure, keep, draw, print."""
    options = parser(__doc__)
    options.add_argument("--sizes", type=int, nargs="+", metavar="PAIRS",
                         default=[1000, 10_000, 100_000, 1_000_000])
    options.add_argument("--turns", type=int, default=3)
    options.add_argument("--one", choices=[*PARTS, "distinct"], help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.one:
        runs_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=runs_folder()) as folder:
            print(json.dumps((PARTS | {"distinct": distinct})[chosen.one](
                *chosen.sizes, Path(folder))))
        return

    def measured(part: str, size: int) -> dict[str, float]:
        numbers = {"pairs": size, **in_a_process(__file__, "--one", part, "--sizes", size)}
        print(part, "  ".join(f"{name} {value:.6g}" for name, value in numbers.items()),
              flush=True)
        return numbers

    turns = {(part, size): [] for part in PARTS for size in chosen.sizes}
    for turn in range(chosen.turns):
        for (part, size), done in turns.items():
            if turn == 0 or size < ONCE:
                done.append(measured(part, size))
    found = {part: [summed_up(turns[part, size]) for size in chosen.sizes] for part in PARTS}
    per_pair = {part: [size["seconds"] / size["pairs"] for size in sizes]
                for part, sizes in found.items()}
    keep(chosen.output or RESULTS / "cost_as_work_grows.json",
         f"cost_as_work_grows.py --sizes {' '.join(map(str, chosen.sizes))} "
         f"--turns {chosen.turns}", **found, distinct=measured("distinct", DISTINCT),
         most_over_least_seconds_per_pair={part: max(values) / min(values)
                                           for part, values in per_pair.items()})
    if not chosen.output:
        plots.use_style()
        with write_whole(PICTURE) as scratch:
            scratch.write_bytes(plots.png_of(draw(found), plots.DPI))


if __name__ == "__main__":
    main()
