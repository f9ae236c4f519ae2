"""Do 100 times the pairs need more memory? 10,000 and 1,000,000 pairs, from an Arrow cache.

    python benchmarks/memory_stays_flat.py --sizes 10000 1000000

For each size a file of short made-up texts is written under runs/. A process of its own loads
the default model, opens the file (the cache is built), trains 600 steps of 16 pairs, in buckets
by length, and is then stopped. Every 50 ms its anonymous memory is looked at: what the process
itself holds. Pages of the cache that are mapped from the disk do not count; the system takes
them back when memory is short. What is held grows with the steps, ever slower, as batches of
ever new shapes leave gaps in the allocator's memory; what it is after every tenth step is kept,
too. So both sizes are compared after as many steps. The result goes to benchmarks/results/ as
JSON.
"""

import argparse
import json
import re
import shutil
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from measuring import RESULTS, in_a_process, keep, parser

from connection_utils import (
    ConnectionBert,
    TrainingConfig,
    open_connections,
    read_splits,
    train,
)
from connection_utils.ground.paths import ROOT, runs_folder
from connection_utils.workshop.assets import DEFAULT_DATA, DEFAULT_MODEL

SECONDS = 0.05               # between two looks at the memory
BATCH_SIZE = 16
WORDS = """a the one two some every small large old new red quiet late early broken open
man woman child dog cat bird driver printer server router battery screen cable window door
plays opens closes starts stops loses finds sends reads writes needs carries fixes drops
slowly quickly often never again today outside inside near under behind without
music water power paper light noise error update password message park kitchen office""".split()


def write_pairs(path: Path, count: int, seed: int = 12) -> None:
    """A CSV file of `count` pairs of 3 to 20 words with scores 0..1, decided by `seed`."""
    rng, words = np.random.default_rng(seed), np.array(WORDS)
    with open(path, "w", encoding="utf-8") as file:
        file.write("sentence1,sentence2,score\n")
        for score in (rng.integers(0, 101, count) / 100).tolist():
            first, second = (" ".join(words[rng.integers(0, len(words), size)])
                             for size in rng.integers(3, 21, 2))
            file.write(f"{first},{second},{score}\n")


def anonymous_mib() -> float:
    """This process's anonymous memory now, MiB."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"^RssAnon:\s+(\d+) kB", status, re.M)[1]) / 1024


class Peak(threading.Thread):
    """Looks at the memory every `SECONDS` while the block runs; ``mib`` is the most it saw."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.mib, self._over = anonymous_mib(), threading.Event()

    def run(self) -> None:
        """Look, until the block ends."""
        while not self._over.wait(SECONDS):
            self.mib = max(self.mib, anonymous_mib())

    def __enter__(self) -> "Peak":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()
        self.mib = max(self.mib, anonymous_mib())


def measure(path: Path, steps: int) -> dict[str, object]:
    """Open `path`, train `steps` steps on it; MiB and seconds of both."""
    model = ConnectionBert.from_local(ROOT / DEFAULT_MODEL, device="cpu")
    dev = read_splits(ROOT / DEFAULT_DATA)["dev"].head(50)
    before, started = anonymous_mib(), time.perf_counter()
    with Peak() as building:
        pairs = open_connections(path, model.tokenizer, cache=path.parent / "cache")
    seconds = time.perf_counter() - started
    by_step, stop = [], threading.Event()

    def look(history) -> None:
        done = len(history.step_losses)
        if done % 10 == 0:
            by_step.append(anonymous_mib())
        if done == steps:
            stop.set()

    config = TrainingConfig(epochs=1, batch_size=BATCH_SIZE, evaluations_per_epoch=1, bucket=50)
    with Peak() as training:
        history = train(model, pairs, dev, config, on_step=look, stop=stop)
    (cache,) = path.parent.glob("cache/*/pairs.arrow")
    return {"pairs": len(pairs), "file_mib": path.stat().st_size / 2**20,
            "cache_mib": cache.stat().st_size / 2**20, "before_mib": before,
            "building_seconds": seconds, "building_peak_mib": building.mib,
            "building_above_before_mib": building.mib - before,
            "steps": len(history.step_losses), "steps_of_an_epoch": history.steps,
            "training_peak_mib": training.mib, "training_mib_by_10_steps": by_step}


def main() -> None:
    """Measure, keep, print."""
    options = parser(__doc__)
    options.add_argument("--sizes", type=int, nargs="+", default=[10_000, 1_000_000],
                         metavar="PAIRS")
    options.add_argument("--steps", type=int, default=600)
    options.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.one:
        print(json.dumps(measure(chosen.one, chosen.steps)))
        return
    runs_folder().mkdir(exist_ok=True)
    folder, sizes = Path(tempfile.mkdtemp(dir=runs_folder())), []
    try:
        for count in chosen.sizes:
            path = folder / f"{count}" / "pairs.csv"
            path.parent.mkdir()
            write_pairs(path, count)
            sizes.append(in_a_process(__file__, "--one", path, "--steps", chosen.steps))
            print("  ".join(f"{name} {value:.1f}" for name, value in sizes[-1].items()
                            if not isinstance(value, list)), flush=True)
            shutil.rmtree(path.parent)
    finally:
        shutil.rmtree(folder)
    first, last = sizes[0], sizes[-1]
    keep(chosen.output or RESULTS / "memory_stays_flat.json",
         f"memory_stays_flat.py --sizes {' '.join(map(str, chosen.sizes))} "
         f"--steps {chosen.steps}",
         sizes=sizes, versions={name: version(name) for name in (
             "datasets", "pyarrow", "tokenizers", "pandas")},
         note="RssAnon of one process. It grows with the steps, ever slower, as batches of new "
              "shapes leave gaps in the allocator's memory: see training_mib_by_10_steps. "
              "building_peak_mib includes before_mib, the model and the libraries.",
         **{f"{part}_peak_ratio": last[f"{part}_peak_mib"] / first[f"{part}_peak_mib"]
            for part in ("training", "building")})


if __name__ == "__main__":
    main()
