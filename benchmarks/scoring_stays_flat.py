"""Does scoring 100 times the pairs need more memory? 10,000 and 1,000,000 pairs, streamed.

    python benchmarks/scoring_stays_flat.py --sizes 10000 1000000

For each size a CSV file is written under runs/ in which each of some texts meets each of 1,000
others, as when two lists are scored against each other. A process of its own scores it with the
default model by `score_file`, and every 50 ms its anonymous memory is looked at. A last file of
pairs that share no text tells the speed where every text must be encoded. The result goes to
benchmarks/results/ as JSON.
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

from connection_utils import ConnectionScorer, score_file
from connection_utils.ground.paths import ROOT, runs_folder
from connection_utils.workshop.assets import DEFAULT_MODEL

MEET = 1000                  # texts that each of the others meets
DISTINCT = 10_000            # pairs that share no text
SECONDS = 0.05               # between two looks at the memory
WORDS = """a the one two some every small large old new red quiet late early broken open
man woman child dog cat bird driver printer server router battery screen cable window door
plays opens closes starts stops loses finds sends reads writes needs carries fixes drops
slowly quickly often never again today outside inside near under behind without
music water power paper light noise error update password message park kitchen office""".split()


def anonymous_mib() -> float:
    """This process's anonymous memory now, MiB."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"^RssAnon:\s+(\d+) kB", status, re.M)[1]) / 1024


class Peak(threading.Thread):
    """Reads the memory every `SECONDS` while the block runs; ``mib`` is the highest value."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.mib, self._over = anonymous_mib(), threading.Event()

    def run(self) -> None:
        """Read it until the block ends."""
        while not self._over.wait(SECONDS):
            self.mib = max(self.mib, anonymous_mib())

    def __enter__(self) -> "Peak":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()
        self.mib = max(self.mib, anonymous_mib())


def write_pairs(path: Path, count: int, shared: bool, seed: int = 12) -> None:
    """A CSV file of `count` pairs of 3 to 20 words, decided by `seed`.

    `shared`: each text meets each of `MEET` others; else no text comes twice but by chance.
    """
    rng, words = np.random.default_rng(seed), np.array(WORDS)

    def texts(many: int) -> list[str]:
        return [" ".join(words[rng.integers(0, len(words), size)])
                for size in rng.integers(3, 21, many)]

    with open(path, "w", encoding="utf-8") as file:
        file.write("id,sentence1,sentence2\n")
        first = texts(-(-count // MEET) if shared else count)
        second = texts(MEET if shared else count)
        for row in range(count):
            a, b = (row // MEET, row % MEET) if shared else (row, row)
            file.write(f"{row},{first[a]},{second[b]}\n")


def measure(path: Path) -> dict[str, object]:
    """Score `path`; MiB, seconds, and whether every row is there in its place."""
    scorer = ConnectionScorer(ROOT / DEFAULT_MODEL, device="cpu")
    out = path.with_name("scored.csv")
    scorer.model.similarity(["a text"], ["another"])
    before, started = anonymous_mib(), time.perf_counter()
    with Peak() as peak:
        count = score_file(path, out, scorer)
    seconds = time.perf_counter() - started
    with open(out, encoding="utf-8") as file:
        next(file)
        in_order = all(line.startswith(f'"{row}",') for row, line in enumerate(file))
    return {"pairs": count, "file_mib": path.stat().st_size / 2**20,
            "out_mib": out.stat().st_size / 2**20, "before_mib": before, "peak_mib": peak.mib,
            "seconds": seconds, "pairs_per_s": count / seconds, "rows_in_order": in_order}


def main() -> None:
    """Measure, keep, print."""
    options = parser(__doc__)
    options.add_argument("--sizes", type=int, nargs="+", default=[10_000, 1_000_000],
                         metavar="PAIRS")
    options.add_argument("--distinct", type=int, default=DISTINCT, metavar="PAIRS")
    options.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.one:
        print(json.dumps(measure(chosen.one)))
        return
    runs_folder().mkdir(exist_ok=True)
    folder, found = Path(tempfile.mkdtemp(dir=runs_folder())), []
    try:
        for count, shared in [(size, True) for size in chosen.sizes] + [(chosen.distinct, False)]:
            path = folder / f"{count}-{shared}" / "pairs.csv"
            path.parent.mkdir()
            write_pairs(path, count, shared)
            found.append(in_a_process(__file__, "--one", path))
            print(found[-1], flush=True)
            shutil.rmtree(path.parent)
    finally:
        shutil.rmtree(folder)
    *sizes, distinct = found
    keep(chosen.output or RESULTS / "scoring_stays_flat.json",
         f"scoring_stays_flat.py --sizes {' '.join(map(str, chosen.sizes))} "
         f"--distinct {chosen.distinct}",
         sizes=sizes, distinct=distinct, peak_ratio=sizes[-1]["peak_mib"] / sizes[0]["peak_mib"],
         versions={name: version(name) for name in ("pyarrow", "tokenizers", "pandas")},
         note="RssAnon of one process; seconds include the first pass, which looks for faults.")


if __name__ == "__main__":
    main()
