"""What does fine-tuning cost on texts of a kind that it did not see?

    python benchmarks/transfer.py --settings post cosent best

Each genre of the STS benchmark is left out in turn: the model is fine-tuned on the pairs of
the other genres, whose dev pairs also choose its weights, and then scores the dev pairs of
the genre that it never saw. Test pairs play no part. The result goes to
benchmarks/results/ as JSON.
"""

import argparse
import json
from dataclasses import replace

from measuring import RESULTS, in_a_process, keep, parser

from connection_utils import (
    RECIPES,
    ConnectionBert,
    ConnectionDataset,
    TrainingConfig,
    read_splits,
    spearman,
    train,
)
from connection_utils.assets import DEFAULT_DATA, DEFAULT_MODEL
from connection_utils.workspace import ROOT

GENRES = ("captions", "news", "forum")      # main-forum in train is main-forums elsewhere
SETTINGS = RECIPES | {
    "cosent": TrainingConfig(loss="cosent"),
    "post_with_start": replace(RECIPES["post"], start_share=0.4),
    "cosent_with_start": TrainingConfig(loss="cosent", start_share=0.4),
}


def leave_out(genre: str, name: str, seed: int) -> dict[str, object]:
    """Dev Spearman (× 100) of the genre left out, and of the others, before and after."""
    splits = read_splits(ROOT / DEFAULT_DATA)
    model = ConnectionBert.from_local(ROOT / DEFAULT_MODEL, device="cpu")
    seen = {split: pairs[~pairs["genre"].str.contains(genre)].reset_index(drop=True)
            for split, pairs in splits.items()}
    unseen = splits["dev"][splits["dev"]["genre"].str.contains(genre)]

    def scores(when: str) -> dict[str, float]:
        return {f"{which}_{when}": 100 * spearman(pairs["score"], model.similarity(
            pairs["sentence1"], pairs["sentence2"]))
            for which, pairs in (("unseen", unseen), ("seen", seen["dev"]))}

    before = scores("before")
    train(model, ConnectionDataset(seen["train"], model.tokenizer), seen["dev"],
          replace(SETTINGS[name], seed=seed))
    return {"left_out": genre, "settings": name, "seed": seed,
            "train_pairs": len(seen["train"]), "unseen_pairs": len(unseen),
            **before, **scores("after")}


def main() -> None:
    """Measure, keep, print."""
    options = parser(__doc__)
    options.add_argument("--settings", nargs="+", choices=SETTINGS, default=["post", "best"])
    options.add_argument("--seed", type=int, default=12)
    options.add_argument("--genre", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.genre:
        print(json.dumps(leave_out(chosen.genre, chosen.settings[0], chosen.seed)))
        return
    runs = []
    for name in chosen.settings:
        for genre in GENRES:
            runs.append(in_a_process(__file__, "--genre", genre, "--settings", name,
                                     "--seed", chosen.seed))
            print("  ".join(f"{key} {value:.2f}" if isinstance(value, float) else
                            f"{key} {value}" for key, value in runs[-1].items()), flush=True)
    keep(chosen.output or RESULTS / "transfer.json",
         f"transfer.py --settings {' '.join(chosen.settings)}", runs=runs)


if __name__ == "__main__":
    main()
