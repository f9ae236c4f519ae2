"""Does twice the pairs cost twice the time? An epoch on 1,000, 6,000 and 20,000 pairs.

    python benchmarks/cost_grows_linearly.py --sizes 1000 6000 20000

Each size is trained for one epoch in a process of its own. Sizes above the training set's
5,725 pairs are drawn from it with replacement, so that all sizes hold the same kinds of
pairs. The result goes to benchmarks/results/ as JSON.
"""

import argparse
import json
import time

from measuring import RESULTS, in_a_process, keep, parser, tokens_per_pair

from connection_utils import (
    ConnectionBert,
    ConnectionDataset,
    TrainingConfig,
    read_splits,
    train,
)
from connection_utils.ground.paths import ROOT
from connection_utils.workshop.assets import DEFAULT_DATA, DEFAULT_MODEL


def epoch(size: int, seed: int) -> dict[str, float]:
    """Train one epoch on `size` pairs; tokens are exact, seconds those of the steps."""
    splits = read_splits(ROOT / DEFAULT_DATA)
    pairs = splits["train"].sample(size, replace=size > len(splits["train"]),
                                   random_state=seed).reset_index(drop=True)
    model = ConnectionBert.from_local(ROOT / DEFAULT_MODEL, device="cpu")
    started = time.perf_counter()
    dataset = ConnectionDataset(pairs, model.tokenizer)
    tokenizing = time.perf_counter() - started
    config = TrainingConfig(epochs=1, evaluations_per_epoch=1, seed=seed)
    tokens = tokens_per_pair(dataset, config.batch_size, seed, config.bucket)
    history = train(model, dataset, splits["dev"].head(50), config)
    return {"pairs": size, "own_tokens_per_pair": tokens["own"],
            "padded_tokens_per_pair": tokens["padded"],
            "tokenizing_pairs_per_s": size / tokenizing,
            "train_seconds": history.seconds, "train_pairs_per_s": size / history.seconds}


def main() -> None:
    """Measure, keep, print."""
    options = parser(__doc__)
    options.add_argument("--sizes", type=int, nargs="+", default=[1000, 6000, 20000],
                         metavar="PAIRS")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--one", type=int, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.one:
        print(json.dumps(epoch(chosen.one, chosen.seed)))
        return
    epochs = []
    for size in chosen.sizes:
        epochs.append(in_a_process(__file__, "--one", size, "--seed", chosen.seed))
        print("  ".join(f"{name} {value:.1f}" for name, value in epochs[-1].items()),
              flush=True)
    speeds = [each["train_pairs_per_s"] for each in epochs]
    tokens = [each["padded_tokens_per_pair"] for each in epochs]
    keep(chosen.output or RESULTS / "cost_grows_linearly.json",
         f"cost_grows_linearly.py --sizes {' '.join(map(str, chosen.sizes))}",
         epochs=epochs, slowest_over_fastest_pairs_per_s=min(speeds) / max(speeds),
         most_over_fewest_padded_tokens_per_pair=max(tokens) / min(tokens))


if __name__ == "__main__":
    main()
