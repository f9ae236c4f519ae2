"""One factor at a time: what each choice in a training does, over seeds.

    python benchmarks/sweep.py why_fine_tune --jobs 2
    python benchmarks/sweep.py choices --jobs 2
    python benchmarks/sweep.py epochs --jobs 2
    python benchmarks/sweep.py recipes --jobs 2
    python benchmarks/sweep.py elsewhere --jobs 2
    python benchmarks/sweep.py precisions --jobs 2
    python benchmarks/sweep.py silver --jobs 2
    python benchmarks/sweep.py distilled --jobs 2

Each run is a process of its own, and one line in benchmarks/results/sweep_NAME.jsonl, written
when the run has ended. A run that has its line is not run again: a sweep that was killed goes
on where it stopped, and a grid that has grown runs only what is new. Notebooks 06 and 07 show
the files.

In why_fine_tune the test pairs are scored once a run, and nothing is chosen by them; choices
and epochs read dev only. epochs is why notebook 03 trains for one epoch. recipes trains each
recipe on few and on many pairs, and asks what somebody would have got whose dev pairs are few, too
(`as_chosen_by`). It scores test once a run, where all pairs are trained on; nothing is chosen by it.
elsewhere scores other kinds of texts, before and after training by recipe and by loss.
precisions is what bfloat16 costs in dev Spearman; the CPU must have it. silver tries, with one
seed and on dev, how to train on a teacher's pairs (teacher.py) before the labels or with them.
distilled trains what it chose, `best` and `post` with five seeds each; the models stay in
runs/students/, and ladder.py scores them.
"""

import argparse
import json
import math
import os
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from functools import partial
from pathlib import Path
from threading import Lock

import numpy as np
import pandas as pd
import torch
from measuring import RESULTS, commit, in_a_process, machine, parser
from scipy.optimize import linear_sum_assignment
from teacher import silver_pairs
from transformers import BertModel

from connection_utils import (
    LOSSES,
    RECIPES,
    ConnectionBert,
    ConnectionDataset,
    TrainingConfig,
    bootstrap_interval,
    cosent,
    documentation_pairs,
    mean_reciprocal_rank,
    read_connections,
    read_splits,
    spearman,
    split_connections,
    train,
)
from connection_utils.ground.paths import ROOT, shown
from connection_utils.ground.whole_files import write_whole
from connection_utils.workshop.assets import DEFAULT_DATA, DEFAULT_MODEL

HELPDESK = {"sentence1": "question", "sentence2": "known_issue", "score": "connection"}
SEEDS = (1, 2, 3)
SIZES = (50, 150, 500, 1500, 5725)       # pairs; 5,725 is the whole training set
FEWEST_STEPS = 100                       # few pairs are seen more often
EPOCHS = {"random": 5, "pretrained": 2}  # from scratch there is more to learn
OLD_SCALE, SCALE = 20.0, 5.0             # CoSENT's: its author's, and the series'
HELPDESK_DEV = 45                        # of the some 90 pairs that it does not train on
MOST_DEV = 500                           # pairs; who has few to train on has few to choose by


@dataclass(frozen=True)
class Run:
    """All that decides a run of a sweep."""

    config: TrainingConfig = field(default_factory=TrainingConfig)
    pairs: int = SIZES[-1]               # 0: no training
    start: str = "pretrained"            # or "random": the same architecture, nothing learnt
    pooling: str = "mean"
    labels: str = "0..1"                 # or "-1..1": what a score is to the loss
    model: str = str(DEFAULT_MODEL)
    dev_pairs: int = 1500                # at most; they choose the weights that are kept
    test: bool = False                   # score the test pairs, once
    elsewhere: bool = False              # score pairs of another kind: documentation
    more_elsewhere: bool = False         # and the help desk's, and the contrasts
    few_dev: int = 0                     # also: what so few dev pairs would have chosen
    helpdesk: bool = False               # the help-desk pairs, split by the seed, not STS
    cosent_scale: float = OLD_SCALE      # what lines that tell none had
    silver: TrainingConfig | None = None     # before: a training on a teacher's pairs
    teacher: str = "large"               # whose scores these have: see teacher.py
    mixed: bool = False                  # labelled pairs are in it, too; or it is the only one
    keep: str = ""                       # the model's folder in runs/students/


# The grids

def why_fine_tune(model: str) -> list[Run]:
    """From scratch or pre-trained, from no pairs to all of them."""
    return [Run(TrainingConfig(seed=seed, epochs=_epochs(pairs, start),
                               evaluations_per_epoch=4 if pairs >= MOST_DEV else 1),
                pairs, start, model=model, dev_pairs=min(pairs or MOST_DEV, MOST_DEV),
                test=True)
            for seed in SEEDS for pairs in (*SIZES[::-1], 0) for start in EPOCHS]


def choices(model: str) -> list[Run]:
    """One epoch of the recipe `post`, and each choice in it changed alone."""
    base = Run(TrainingConfig(epochs=1, evaluations_per_epoch=1), model=model, elsewhere=True)
    changed = [
        *({"pooling": pooling} for pooling in ("cls", "max")),
        *({"loss": loss} for loss in ("cosent", "multiple_negatives_ranking")),
        {"labels": "-1..1"},
        {"freeze_embeddings": True},
        *({"frozen_layers": layers} for layers in (3, 5)),
        *({"learning_rate": rate} for rate in (2e-5, 1e-4, 2e-4)),
        *({"batch_size": size} for size in (8, 32)),
        {"loss": "cosent", "cosent_scale": SCALE},
    ]
    return [_changed(base, {"seed": seed} | change)
            for seed in SEEDS for change in ({}, *changed)]


def epochs(model: str) -> list[Run]:
    """Notebook 03's recipe over one epoch and over two, on all dev pairs."""
    return [Run(TrainingConfig(epochs=number, seed=seed), model=model)
            for seed in SEEDS for number in (1, 2)]


def recipes(model: str) -> list[Run]:
    """Each recipe on 150 pairs and more of STS, and on the help desk's; `best` as it was, too."""
    found = []
    for seed in (*SEEDS, 4, 5):
        for name, config in RECIPES.items():
            run = Run(replace(config, seed=seed), model=model, cosent_scale=SCALE)
            found += [replace(run, pairs=pairs, few_dev=min(pairs // 8, MOST_DEV),
                              test=pairs == SIZES[-1])
                      for pairs in SIZES[1:] if seed in SEEDS]
            found.append(replace(run, helpdesk=True, few_dev=HELPDESK_DEV))
            if name == "best":
                found.append(replace(found[-1], cosent_scale=OLD_SCALE))
    return found


def elsewhere(model: str) -> list[Run]:
    """What the untouched model, the recipes and the losses do on texts of other kinds."""
    post = Run(RECIPES["post"], model=model, cosent_scale=SCALE, elsewhere=True,
               more_elsewhere=True)
    settings = [replace(post, pairs=0), post, _changed(post, {"learning_rate": 2e-5}),
                _changed(post, {"loss": "cosent"}),
                _changed(post, {"loss": "cosent", "cosent_scale": OLD_SCALE}),
                _changed(post, {"loss": "multiple_negatives_ranking"}),
                *(replace(post, config=RECIPES[name]) for name in ("fast", "best"))]
    return [_changed(run, {"seed": seed}) for seed in SEEDS for run in settings]


def precisions(model: str) -> list[Run]:
    """The recipe `post` in fp32 and in bfloat16, five seeds."""
    return [Run(replace(RECIPES["post"], seed=seed, precision=precision), model=model)
            for seed in (*SEEDS, 4, 5) for precision in ("fp32", "bf16")]


BEST = Run(replace(RECIPES["best"], precision="bf16"), cosent_scale=SCALE)
SILVER = replace(BEST.config, epochs=1, batch_size=32, average_from=1.0)


def silver(model: str) -> list[Run]:
    """How to train on silver pairs before `best`; dev alone is scored."""
    base = replace(BEST, model=model, silver=SILVER)
    gentle = replace(base, config=replace(base.config, learning_rate=2e-5))
    tried = [base, gentle, replace(gentle, silver=replace(SILVER, epochs=3)),
             replace(gentle, silver=replace(SILVER, epochs=3, learning_rate=1e-4)),
             replace(gentle, silver=replace(SILVER, epochs=3), teacher="own"),
             *(replace(gentle, silver=replace(SILVER, epochs=epochs), mixed=True)
               for epochs in (2, 3))]
    return [_changed(run, {"seed": 1}) for run in tried]


def distilled(model: str) -> list[Run]:
    """`post`, `best`, and what `silver` chose: the highest dev Spearman; five seeds.

    `distilled` is the best of silver pairs before gold ones, `mixed` of both in one training.
    With one seed, the same with the scores of our own cross-encoder.
    """
    best = replace(BEST, model=model)
    post = replace(best, config=replace(RECIPES["post"], precision="bf16"))
    chosen = replace(best, config=replace(best.config, learning_rate=2e-5),
                     silver=replace(SILVER, epochs=3))
    mixed = replace(best, config=replace(SILVER, epochs=2), mixed=True)
    recipes = {"distilled": chosen, "best": best, "post": post, "mixed": mixed}
    own = replace(_changed(chosen, {"seed": 1}), teacher="own", keep="own-1")
    return [replace(_changed(run, {"seed": seed}), keep=f"{name}-{seed}")
            for seed in (*SEEDS, 4, 5) for name, run in recipes.items()] + [own]


GRIDS = {"why_fine_tune": why_fine_tune, "choices": choices, "epochs": epochs,
         "recipes": recipes, "elsewhere": elsewhere, "precisions": precisions, "silver": silver,
         "distilled": distilled}


def _epochs(pairs: int, start: str) -> int:
    """As EPOCHS says, or more where that is fewer than FEWEST_STEPS."""
    if not pairs:
        return 1
    steps = math.ceil(pairs / TrainingConfig.batch_size)
    return max(EPOCHS[start], math.ceil(FEWEST_STEPS / steps))


def _changed(run: Run, change: dict[str, object]) -> Run:
    """`run` with other values of its own fields, or of its config's."""
    own = {name: value for name, value in change.items() if hasattr(run, name)}
    rest = {name: value for name, value in change.items() if name not in own}
    return replace(run, config=replace(run.config, **rest), **own)


def run_of(settings: dict) -> Run:
    """The run that a line describes. What it does not state is as by default.

    Earlier lines also state gradient_accumulation_steps, which was 1 in each of them.
    """
    config = {name: value for name, value in settings["config"].items()
              if name != "gradient_accumulation_steps"}
    silver = settings.get("silver")
    return Run(**settings | {"config": TrainingConfig(**config),
                             "silver": silver and TrainingConfig(**silver)})


# One run

def as_chosen_by(few: int, scores: np.ndarray, cosines: list[np.ndarray],
                 draws: int = 20) -> dict[str, float]:
    """Spearman × 100 of the weights that `few` pairs would have kept, judged on the others.

    `cosines` are those of each evaluation, (pairs,) like `scores`; the first is the starting
    model's. Means over random draws of the few: `judged_before` of the starting model,
    `judged_kept` of the best by the few, `judged_last` of the last.
    """
    judged = {"judged_before": [], "judged_kept": [], "judged_last": []}
    for draw in range(draws):
        chosen = np.random.default_rng(draw).permutation(len(scores)) < few
        dev, rest = ([100 * spearman(scores[part], each[part]) for each in cosines]
                     for part in (chosen, ~chosen))
        for found, which in zip(judged.values(), (0, int(np.argmax(dev)), -1)):
            found.append(rest[which])
    return {name: float(np.mean(found)) for name, found in judged.items()}


def helpdesk_right(model: ConnectionBert) -> dict[str, int]:
    """For how many of the help desk's 93 questions the right known issue is found.

    `nearest`: the issue with the highest cosine; `matching`: each issue is given away once.
    """
    pairs = read_connections(ROOT / "data/samples/helpdesk.csv", scale=(0, 4), columns=HELPDESK)
    pairs = pairs[pairs["score"] == 1].drop_duplicates("sentence1").drop_duplicates("sentence2")
    first, second = (model.encode(pairs[side], normalize=True)
                     for side in ("sentence1", "sentence2"))
    cosines, own = first @ second.T, np.arange(len(pairs))
    return {"nearest": int((cosines.argmax(axis=1) == own).sum()),
            "matching": int((linear_sum_assignment(cosines, maximize=True)[1] == own).sum())}


def contrasts(model: ConnectionBert) -> list[float]:
    """For each row of behaviour.csv: by how much the paraphrase's cosine is the higher one."""
    rows = pd.read_csv(ROOT / "data/samples/behaviour.csv")
    paraphrase, changed = (model.similarity(rows["sentence"], rows[side])
                           for side in ("paraphrase", "changed"))
    return [round(float(margin), 5) for margin in paraphrase - changed]


def measure(run: Run) -> dict[str, object]:
    """Train as `run` says; dev Spearman (× 100) at each evaluation, and seconds to there."""
    splits = (split_connections(read_connections(
        ROOT / "data/samples/helpdesk.csv", scale=(0, 4), columns=HELPDESK), run.config.seed)
        if run.helpdesk else read_splits(ROOT / DEFAULT_DATA))
    LOSSES["cosent"] = partial(cosent, scale=run.cosent_scale)       # in this process only
    model = ConnectionBert.from_local(ROOT / run.model, run.pooling, device="cpu")
    if run.start == "random":
        torch.manual_seed(run.config.seed)
        model = ConnectionBert(BertModel(model.bert.config, add_pooling_layer=False),
                               model.tokenizer, run.pooling, model.max_length).eval()
    dev, test = splits["dev"], splits["test"]
    if run.helpdesk:
        dev = pd.concat([dev, test])
    dev = dev.sample(min(run.dev_pairs, len(dev)), random_state=0)

    if not run.pairs:
        cosines = model.similarity(dev["sentence1"], dev["sentence2"])
        curve = [{"epoch": 0.0, "seconds": 0.0,
                  "dev_spearman": 100 * spearman(dev["score"], cosines)}]
        found = {}
    else:
        pairs = splits["train"].sample(min(run.pairs, len(splits["train"])),
                                       random_state=run.config.seed)
        if run.labels == "-1..1":
            pairs = pairs.assign(score=2 * pairs["score"] - 1)
        found = {}
        if run.silver or run.mixed:
            silver = silver_pairs(splits["train"], run.teacher)
            if run.mixed:
                silver = pd.concat([silver, splits["train"]], ignore_index=True)
            if not run.silver:
                pairs = silver
        if run.silver:
            history = train(model, ConnectionDataset(silver, model.tokenizer), dev,
                            replace(run.silver, seed=run.config.seed))
            found = {"silver_seconds": history.seconds,
                     "silver_dev_spearman": 100 * history.best["dev_spearman"]}
        history = train(model, ConnectionDataset(pairs, model.tokenizer), dev, run.config,
                        keep_start=False)              # what a harmful setting does shall show
        curve = [{"epoch": each["epoch"], "seconds": each["seconds"],
                  "dev_spearman": 100 * each["dev_spearman"]} for each in history.evaluations]
        if run.few_dev:
            found |= as_chosen_by(run.few_dev, dev["score"].to_numpy(), history.cosines)
    found |= {"curve": curve,
              "dev_spearman": max(each["dev_spearman"] for each in curve[bool(run.pairs):])}
    if run.keep:
        model.save(ROOT / "runs" / "students" / run.keep)
    if run.elsewhere:
        found["elsewhere_mrr"] = 100 * mean_reciprocal_rank(model, documentation_pairs())
    if run.more_elsewhere:
        found |= {"helpdesk_right": helpdesk_right(model), "contrasts": contrasts(model)}
    if run.test:
        cosines = model.similarity(test["sentence1"], test["sentence2"])
        found["test_spearman"] = 100 * spearman(test["score"], cosines)
        found["test_interval"] = [100 * end for end in
                                  bootstrap_interval(test["score"], cosines)]
    return found


# The sweep

def read_lines(path: Path) -> list[dict]:
    """The finished runs of a sweep; none if there is no such file yet."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def sweep(path: Path, runs: list[Run], command: str, jobs: int = 1) -> None:
    """Run what has no line in `path` yet; each ends in a line, and the file stays whole.

    `jobs` runs at a time share the cores: on CPUs, several runs with a core each are done
    sooner than one after the other with all of them, and find the same.
    """
    lines = read_lines(path)
    known = {run_of(line["run"]) for line in lines}
    missing = [run for run in runs if run not in known]
    order = {run: position for position, run in enumerate(runs)}
    print(f"{len(runs)} runs, {len(missing)} of them to do", flush=True)
    threads, alone = max(1, (os.cpu_count() or 1) // jobs), Lock()

    def write() -> None:
        """In the order of `runs`, whichever of them ended first; then what is none of them."""
        lines.sort(key=lambda line: order.get(run_of(line["run"]), len(runs)))
        with write_whole(path) as scratch:
            scratch.write_text("".join(json.dumps(line) + "\n" for line in lines),
                               encoding="utf-8")

    def one(run: Run) -> None:
        found = in_a_process(__file__, "--one", json.dumps(asdict(run)),
                             OMP_NUM_THREADS=f"{threads}")
        with alone:
            lines.append({"run": asdict(run), **found, "command": command,
                          "date": f"{date.today()}", "commit": commit(),
                          "machine": machine() | {"threads": threads}})
            write()
            print(f"{len(lines)} runs kept: dev Spearman {found['dev_spearman']:.2f}",
                  flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            for each in as_completed([pool.submit(one, run) for run in missing]):
                each.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)   # else the rest would be run all the same
            raise
    write()
    print(f"{shown(path)} holds {len(lines)} runs")


def main() -> None:
    """Run a grid, or the one run that a grid asks a process of its own for."""
    options = parser(__doc__)
    options.add_argument("grid", choices=GRIDS, nargs="?")
    options.add_argument("--model", default=str(DEFAULT_MODEL), help="another local BERT")
    options.add_argument("--jobs", type=int, default=1, help="runs at a time (default: 1)")
    options.add_argument("--one", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.one:
        print(json.dumps(measure(run_of(json.loads(chosen.one)))))
        return
    if not chosen.grid:
        options.error(f"which grid? expected one of {', '.join(GRIDS)}")
    sweep(chosen.output or RESULTS / f"sweep_{chosen.grid}.jsonl",
          GRIDS[chosen.grid](chosen.model),
          f"python benchmarks/sweep.py {chosen.grid} --jobs {chosen.jobs}", chosen.jobs)


if __name__ == "__main__":
    main()
