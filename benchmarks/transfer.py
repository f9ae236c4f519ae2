"""What does fine-tuning bring, or cost, on texts of a kind that it did not see?

    python benchmarks/transfer.py --settings post best

Each genre of the STS benchmark is left out in turn: the model is fine-tuned on the pairs of
the other genres, whose dev pairs also choose its weights, and then scores the dev pairs of
the genre that it never saw. It does so several times, with more and more of the weights that
it started from mixed into its own (`start_share` in `TrainingConfig`). Test pairs play no
part. The result goes to benchmarks/results/ as JSON, written anew after each training;
notebook 07, section 7, shows it.
"""

import argparse
import json
from dataclasses import replace

from measuring import RESULTS, in_a_process, keep, parser

from connection_utils import (
    RECIPES,
    ConnectionBert,
    ConnectionDataset,
    read_splits,
    spearman,
    train,
)
from connection_utils.ground.paths import ROOT
from connection_utils.long_runs.averaging import AveragedWeights
from connection_utils.workshop.assets import DEFAULT_DATA, DEFAULT_MODEL

GENRES = ("captions", "news", "forum")      # main-forum in train is main-forums elsewhere
START_SHARES = (0.0, 0.2, 0.4, 0.6, 0.8)


def leave_out(genre: str, recipe: str, seed: int) -> dict[str, object]:
    """Dev Spearman (× 100) of the genre left out and of the others, before and after."""
    splits = read_splits(ROOT / DEFAULT_DATA)
    model = ConnectionBert.from_local(ROOT / DEFAULT_MODEL, device="cpu")
    seen = {split: pairs[~pairs["genre"].str.contains(genre)].reset_index(drop=True)
            for split, pairs in splits.items()}
    unseen = splits["dev"][splits["dev"]["genre"].str.contains(genre)]

    def scores() -> dict[str, float]:
        return {name: 100 * spearman(pairs["score"], model.similarity(
            pairs["sentence1"], pairs["sentence2"]))
            for name, pairs in (("unseen", unseen), ("seen", seen["dev"]))}

    before = scores()
    mixed = {share: AveragedWeights(model, steps=1, average_from=1, start_share=share)
             for share in START_SHARES}
    train(model, ConnectionDataset(seen["train"], model.tokenizer), seen["dev"],
          replace(RECIPES[recipe], seed=seed, start_share=0), keep_start=False)
    after = []
    for share, weights in mixed.items():
        with weights.in_place():
            after.append({"start_share": share, **scores()})
    return {"left_out": genre, "settings": recipe, "seed": seed,
            "train_pairs": len(seen["train"]), "unseen_pairs": len(unseen),
            "before": before, "after": after}


def main() -> None:
    """Measure, keep, print."""
    options = parser(__doc__)
    options.add_argument("--settings", nargs="+", choices=RECIPES, default=["post", "best"])
    options.add_argument("--seed", type=int, default=12)
    options.add_argument("--genre", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.genre:
        print(json.dumps(leave_out(chosen.genre, chosen.settings[0], chosen.seed)))
        return
    runs = []
    for recipe in chosen.settings:
        for genre in GENRES:
            runs.append(in_a_process(__file__, "--genre", genre, "--settings", recipe,
                                     "--seed", chosen.seed))
            print(json.dumps(runs[-1]), flush=True)
            keep(chosen.output or RESULTS / "transfer.json", "transfer.py --settings "
                 f"{' '.join(chosen.settings)} --seed {chosen.seed}", runs=runs)


if __name__ == "__main__":
    main()
