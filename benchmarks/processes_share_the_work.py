"""What do two processes bring on one CPU? The same training by one and by two, in turn.

    python benchmarks/processes_share_the_work.py --steps 60 --turns 3

Each measurement is a torchrun of its own: one process with one thread, one with two threads,
two with one thread each; and, to tell what it costs them to train one model, two of one thread
that train a model each, at the same time. All on the STS benchmark's training pairs, 16 pairs
a step, once as they are and once with frozen embeddings, whose gradients then need not be
sent. The first ten steps are not counted. The result goes to benchmarks/results/ as JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median

from measuring import RESULTS, keep, parser

from connection_utils import (
    ConnectionBert,
    ConnectionDataset,
    TrainingConfig,
    read_splits,
    train,
)
from connection_utils.ground.paths import ROOT
from connection_utils.long_runs import processes
from connection_utils.workshop.assets import DEFAULT_DATA, DEFAULT_MODEL

BATCH_SIZE = 16
WARM = 10                    # steps that are not counted
WAYS = ((1, 1, 1), (1, 2, 1), (2, 1, 1), (1, 1, 2))    # processes, threads of each, trainings


def measure(steps: int, freeze: bool) -> dict[str, float]:
    """Pairs a second of the steps after the first ones, and the numbers that are sent."""
    model = ConnectionBert.from_local(ROOT / DEFAULT_MODEL, device="cpu")
    splits = read_splits(ROOT / DEFAULT_DATA)
    stop, times = threading.Event(), []

    def look(history) -> None:
        times.append(time.perf_counter())
        if len(times) == WARM + steps:
            stop.set()

    train(model, ConnectionDataset(splits["train"], model.tokenizer), splits["dev"].head(50),
          TrainingConfig(epochs=1, batch_size=BATCH_SIZE, evaluations_per_epoch=1,
                         freeze_embeddings=freeze), on_step=look, stop=stop, keep_start=False)
    return {"pairs_per_s": BATCH_SIZE * steps / (times[-1] - times[WARM - 1]),
            "gradient_mib": sum(4 * p.numel() for p in model.parameters()
                                if p.requires_grad) / 2**20}


def started(count: int, threads: int, trainings: int, steps: int, freeze: bool
            ) -> dict[str, float]:
    """`measure` by `count` processes; of several `trainings` at a time, their sum of pairs."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
               "--nproc-per-node", str(count), __file__, "--one", "--steps", str(steps),
               *["--freeze"] * freeze]
    with ThreadPoolExecutor(trainings) as pool:
        runs = list(pool.map(lambda _: subprocess.run(
            command, capture_output=True, text=True,
            env=os.environ | {"CONNECTION_CHECK": "quick", "OMP_NUM_THREADS": str(threads)}),
            range(trainings)))
    for done in runs:
        if done.returncode:
            sys.exit(done.stderr)
    found = [json.loads(done.stdout.splitlines()[-1]) for done in runs]
    return found[0] | {"pairs_per_s": sum(each["pairs_per_s"] for each in found)}


def main() -> None:
    """Measure, keep, print."""
    options = parser(__doc__)
    options.add_argument("--steps", type=int, default=60)
    options.add_argument("--turns", type=int, default=3)
    options.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options.add_argument("--freeze", action="store_true", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.one:
        with processes.joined():
            found = measure(chosen.steps, chosen.freeze)
            if processes.is_main():
                print(json.dumps(found), flush=True)
        return
    measured = []
    for turn in range(chosen.turns):
        for freeze in (False, True):
            for count, threads, trainings in WAYS:
                measured.append({"turn": turn, "freeze_embeddings": freeze, "processes": count,
                                 "threads": threads, "trainings": trainings,
                                 **started(count, threads, trainings, chosen.steps, freeze)})
                print(measured[-1], flush=True)

    def ratio(freeze: bool, way: tuple, other: tuple) -> dict[str, object]:
        """The pairs a second of one way to those of another, turn by turn."""
        speed = {(m["turn"], m["processes"], m["threads"], m["trainings"]): m["pairs_per_s"]
                 for m in measured if m["freeze_embeddings"] == freeze}
        turns = [speed[turn, *way] / speed[turn, *other] for turn in range(chosen.turns)]
        return {"turns": turns, "median": median(turns)}

    one, both, together, apart = WAYS
    found = {name + "_frozen" * freeze: ratio(freeze, *ways) for freeze in (False, True)
             for name, ways in (("two_processes_to_1_thread", (together, one)),
                                ("two_processes_to_2_threads", (together, both)),
                                ("two_trainings_to_2_threads", (apart, both)))}
    for name, each in found.items():
        print(f"{name}: {each['median']:.2f}")
    keep(chosen.output or RESULTS / "processes_share_the_work.json",
         f"processes_share_the_work.py --steps {chosen.steps} --turns {chosen.turns}",
         measured=measured, ratios=found)


if __name__ == "__main__":
    main()
