"""How much memory does a ConnectionDataset of a million pairs need?

    python benchmarks/pairs_in_memory.py --pairs 1000000

The pairs are drawn from the training pairs of the STS benchmark, most of them many times: a
repeated text takes as much memory as a new one. While the dataset is made, the anonymous memory
of the process is read every 50 ms. The result goes to benchmarks/results/ as JSON, in MB
(1,000,000 bytes).
"""

import time

from measuring import RESULTS, keep, parser
from scoring_stays_flat import Peak, anonymous_mib

from connection_utils import ConnectionDataset, load_tokenizer, read_splits
from connection_utils.ground.paths import ROOT
from connection_utils.workshop.assets import DEFAULT_DATA, DEFAULT_MODEL

MIB = 2**20 / 1e6            # in MB


def measure(count: int) -> dict[str, float]:
    """Make a dataset of `count` pairs: MB of its arrays, growth of the memory, seconds."""
    pairs = read_splits(ROOT / DEFAULT_DATA)["train"][["sentence1", "sentence2", "score"]]
    pairs = pairs.sample(count, replace=True, random_state=12, ignore_index=True)
    tokenizer = load_tokenizer(ROOT / DEFAULT_MODEL)
    ConnectionDataset(pairs.head(10_000), tokenizer)   # what a first block needs once is there
    before, started = anonymous_mib(), time.perf_counter()
    with Peak() as peak:
        dataset = ConnectionDataset(pairs, tokenizer)
    seconds, after = time.perf_counter() - started, anonymous_mib()
    lists = dataset.sentence1, dataset.sentence2
    arrays = [dataset.score, *(part for each in lists for part in (each.ids, each.offsets))]
    return {"pairs": len(dataset), "seconds": seconds,
            "tokens_per_pair": sum(len(each.ids) for each in lists) / len(dataset),
            "arrays_mb": sum(len(part) * part.itemsize for part in arrays) / 1e6,
            "growth_mb": MIB * (after - before), "peak_growth_mb": MIB * (peak.mib - before),
            "table_mb": float(pairs.memory_usage(deep=True).sum()) / 1e6}


def main() -> None:
    """Measure, keep, print."""
    options = parser(__doc__)
    options.add_argument("--pairs", type=int, default=1_000_000)
    chosen = options.parse_args()
    found = measure(chosen.pairs)
    print(found)
    keep(chosen.output or RESULTS / "pairs_in_memory.json",
         f"pairs_in_memory.py --pairs {chosen.pairs}", **found)


if __name__ == "__main__":
    main()
