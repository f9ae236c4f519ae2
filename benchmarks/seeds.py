"""A recipe over several seeds: the mean, the spread, and the seconds of training.

    python benchmarks/seeds.py --recipe best --seeds 1 2 3 4 5

Each seed is one call of `connection_utils.finetune`, which scores the test pairs once after
training. A seed that was trained before with the same settings is not trained again. The
result goes to benchmarks/results/ as JSON.
"""

import statistics
import subprocess
import sys
from dataclasses import replace

from measuring import RESULTS, keep, parser

from connection_utils import RECIPES, read_run, run_folder, run_settings
from connection_utils.assets import DEFAULT_DATA, DEFAULT_MODEL


def one_seed(recipe: str, seed: int) -> dict[str, float]:
    """Train, unless that was done before, and read what the run says."""
    settings = run_settings(DEFAULT_MODEL, DEFAULT_DATA, "mean", 128,
                            replace(RECIPES[recipe], seed=seed))
    folder = run_folder(settings)
    if not (folder / "training.json").exists():
        subprocess.run([sys.executable, "-m", "connection_utils.finetune", "--recipe", recipe,
                        "--seed", str(seed), "--output", folder], check=True)
    run = read_run(folder, settings)
    return {"seed": seed, "test_spearman": 100 * run["test_spearman_after"],
            "best_dev_spearman": 100 * max(e["dev_spearman"] for e in run["evaluations"]),
            "train_seconds": run["evaluations"][-1]["seconds"]}


def summary(seeds: list[dict[str, float]]) -> dict[str, float]:
    """Mean and standard deviation over the seeds, and the slowest seed's seconds."""
    scores = [each["test_spearman"] for each in seeds]
    return {"test_spearman_mean": statistics.mean(scores),
            "test_spearman_std": statistics.stdev(scores) if len(scores) > 1 else 0.0,
            "train_seconds_most": max(each["train_seconds"] for each in seeds)}


def main() -> None:
    """Measure, keep, print."""
    options = parser(__doc__)
    options.add_argument("--recipe", choices=RECIPES, default="best")
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    chosen = options.parse_args()
    seeds = []
    for seed in chosen.seeds:
        seeds.append(one_seed(chosen.recipe, seed))
        print("  ".join(f"{name} {value:.2f}" for name, value in seeds[-1].items()), flush=True)
    found = summary(seeds)
    print("  ".join(f"{name} {value:.2f}" for name, value in found.items()))
    keep(chosen.output or RESULTS / f"seeds_{chosen.recipe}.json",
         f"seeds.py --recipe {chosen.recipe} --seeds {' '.join(map(str, chosen.seeds))}",
         **found, seeds=seeds)


if __name__ == "__main__":
    main()
