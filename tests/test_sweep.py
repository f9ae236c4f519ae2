"""The sweeps of benchmarks/sweep.py: grids, a kill, and a run for real."""

import inspect
import json
import re
import statistics
import sys
from collections import Counter
from dataclasses import asdict, replace
from threading import Barrier

import nbformat
import numpy as np
import pytest

from connection_utils import (
    ConnectionBert,
    cosent,
    documentation_pairs,
    mean_reciprocal_rank,
    spearman,
)
from connection_utils.commands.finetune import FEWEST_PAIRS
from connection_utils.config import RECIPES, TrainingConfig
from connection_utils.ground.paths import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import sweep
from measuring import RESULTS
from sweep import GRIDS, Run, measure

MODEL = Run().model


@pytest.mark.parametrize("grid", GRIDS)
def test_every_setting_of_a_grid_comes_once_with_each_seed(grid):
    runs = GRIDS[grid](MODEL)
    assert len({json.dumps(asdict(run)) for run in runs}) == len(runs)
    others = Counter(json.dumps(asdict(replace(run, config=replace(run.config, seed=0), keep="")))
                     for run in runs)
    # five of the help desk's few pairs, and where differences are small; one to explore
    assert set(others.values()) == {"recipes": {3, 5}, "precisions": {5}, "silver": {1},
                                    "distilled": {1, 5}}.get(grid, {3})


def test_choices_change_one_thing_at_a_time():
    first, *others = [run for run in GRIDS["choices"](MODEL) if run.config.seed == 1]

    def flat(run):
        return {**asdict(run), **asdict(run.config), "config": None}

    base = flat(first)
    for run in others:
        changed = {name for name, value in flat(run).items() if value != base[name]}
        assert len(changed - {"cosent_scale"}) == 1, changed     # that goes with its loss


def test_few_pairs_are_seen_as_often_as_a_hundred_steps_need():
    for run in GRIDS["why_fine_tune"](MODEL):
        steps = run.config.epochs * -(-run.pairs // run.config.batch_size)
        assert run.pairs == 0 or steps >= 100


def test_a_sweep_that_was_killed_goes_on_where_it_stopped(monkeypatch, tmp_path):
    path, runs, done = tmp_path / "sweep.jsonl", GRIDS["choices"](MODEL)[:4], []

    def one(script, flag, settings, **environment):
        assert int(environment["OMP_NUM_THREADS"]) >= 1
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(json.loads(settings))
        return {"dev_spearman": 88.0}

    monkeypatch.setattr(sweep, "in_a_process", one)
    with pytest.raises(KeyboardInterrupt):
        sweep.sweep(path, runs, "command")
    assert [line["run"] for line in sweep.read_lines(path)] == done
    assert done == [asdict(run) for run in runs[:2]]
    done.clear()
    sweep.sweep(path, runs, "command")
    assert done == [asdict(run) for run in runs[2:]]
    lines = sweep.read_lines(path)
    assert [line["run"] for line in lines] == [asdict(run) for run in runs]
    assert all(line["machine"]["cpu"] and line["command"] == "command" for line in lines)


def test_a_line_from_before_a_setting_existed_counts_as_its_default(monkeypatch, tmp_path):
    path, (first, second) = tmp_path / "sweep.jsonl", GRIDS["why_fine_tune"](MODEL)[:2]
    settings = {name: value for name, value in asdict(first).items() if name != "elsewhere"}
    path.write_text(json.dumps({"run": settings, "dev_spearman": 88.0}) + "\n")
    done = []
    monkeypatch.setattr(sweep, "in_a_process", lambda script, flag, settings, **_: done.append(
        json.loads(settings)) or {"dev_spearman": 88.0})
    sweep.sweep(path, [first, second], "command")
    assert done == [asdict(second)]


def test_lines_stand_in_the_order_of_the_grid_and_none_is_lost(monkeypatch, tmp_path):
    path, runs = tmp_path / "sweep.jsonl", GRIDS["choices"](MODEL)[:4]
    monkeypatch.setattr(sweep, "in_a_process", lambda *_, **__: {"dev_spearman": 88.0})
    for some in (runs[3:], runs[1:2], runs[:3]):       # as if they had ended in that order
        sweep.sweep(path, some, "command")
    assert [line["run"] for line in sweep.read_lines(path)] == [
        asdict(run) for run in runs]


def test_two_jobs_run_side_by_side_and_share_the_cores(monkeypatch, tmp_path):
    both, threads = Barrier(2, timeout=20), []

    def one(script, flag, settings, **environment):
        both.wait()                                  # one alone would wait in vain
        threads.append(int(environment["OMP_NUM_THREADS"]))
        return {"dev_spearman": 88.0}

    monkeypatch.setattr(sweep, "in_a_process", one)
    monkeypatch.setattr(sweep.os, "cpu_count", lambda: 6)
    sweep.sweep(tmp_path / "sweep.jsonl", GRIDS["choices"](MODEL)[:4], "command", jobs=2)
    lines = sweep.read_lines(tmp_path / "sweep.jsonl")
    assert threads == [line["machine"]["threads"] for line in lines] == [3] * 4


def test_few_dev_pairs_choose_and_the_others_judge():
    """Few pairs prefer the trained weights by chance only; all of them know the better."""
    rng = np.random.default_rng(0)
    scores = np.linspace(0, 1, 400)
    start, worse = (scores + noise * rng.normal(size=400) for noise in (0.3, 0.4))
    few, many = (sweep.as_chosen_by(n, scores, [start, worse, start + 1]) for n in (10, 300))
    for found in (few, many):
        assert found["judged_before"] == pytest.approx(found["judged_last"])
        assert found["judged_before"] == pytest.approx(100 * spearman(scores, start), abs=2)
    assert few["judged_kept"] < few["judged_before"] - 1
    assert many["judged_kept"] == pytest.approx(many["judged_before"])


@pytest.mark.slow
@pytest.mark.parametrize("run", [
    Run(pairs=0, start="random", test=True),
    Run(TrainingConfig(epochs=1, evaluations_per_epoch=1), pairs=32, labels="-1..1",
        elsewhere=True, more_elsewhere=True, few_dev=200),
], ids=lambda run: f"{run.start}-{run.pairs}")
def test_a_run_for_real(run):
    found = measure(run)
    first, *others = found["curve"]
    assert len(others) == bool(run.pairs)
    if run.start == "random":                        # not taught anything, yet words count
        assert 30 < first["dev_spearman"] < 80
        low, high = found["test_interval"]
        assert low < found["test_spearman"] < high
    else:
        assert first["dev_spearman"] == pytest.approx(86.7, abs=0.1)
        assert found["dev_spearman"] == others[0]["dev_spearman"]
        assert found["judged_before"] == pytest.approx(86.7, abs=0.5)
        assert found["judged_last"] == pytest.approx(others[0]["dev_spearman"], abs=0.5)
        assert "test_spearman" not in found
        assert 60 < found["elsewhere_mrr"] < 80
        assert 20 < found["helpdesk_right"]["nearest"] < found["helpdesk_right"]["matching"] < 93
        assert len(found["contrasts"]) == 102


# What is kept, and what is said of it

def kept(grid):
    return sweep.read_lines(RESULTS / f"sweep_{grid}.jsonl")


@pytest.mark.parametrize("grid", GRIDS)
def test_what_is_kept_is_the_whole_grid_and_tells_command_and_machine(grid):
    lines = kept(grid)
    assert [sweep.run_of(line["run"]) for line in lines] == GRIDS[grid](MODEL)
    for line in lines:
        assert line["command"].startswith(f"python benchmarks/sweep.py {grid}")
        assert line["machine"]["cpu"] and line["machine"]["versions"]["torch"] and line["date"]


@pytest.fixture(scope="module")
def by_start():
    """Mean test Spearman x 100 over the seeds, by start and pairs; and each of them."""
    every = {}
    for line in kept("why_fine_tune"):
        every.setdefault((line["run"]["start"], line["run"]["pairs"]), []).append(
            line["test_spearman"])
    return {key: statistics.mean(found) for key, found in every.items()}, every


def test_the_readme_tells_why_to_fine_tune_as_measured(by_start):
    readme = (ROOT / "README.md").read_text()
    for start, said in (("pretrained", "the default model, fine-tuned"),
                        ("random", "the same architecture, from random weights")):
        row = " | ".join(f"{by_start[0][start, pairs]:.2f}" for pairs in (0, *sweep.SIZES))
        assert f"| {said} | {row} |" in readme, row


def test_notebook_06_says_in_words_what_was_measured(by_start):
    means, every = by_start
    said = " ".join(" ".join(cell.source.split()) for cell in nbformat.read(
        ROOT / "notebooks/06_why_fine_tune.ipynb", as_version=4).cells)
    untouched = means["pretrained", 0]
    gain = {pairs: means["pretrained", pairs] - untouched for pairs in sweep.SIZES}
    few = [found - untouched for found in every["pretrained", 50]]
    for words in (
            f"{gain[50]:.1f} points with 50 pairs, {gain[500]:.1f} with 500 "
            f"and {gain[5725]:.1f} with all",
            f"between {min(few):.1f} and {max(few):.1f}",
            f"all 5,725 pairs reach {means['random', 5725]:.1f}, which is "
            f"{untouched - means['random', 5725]:.0f} points *below*",
            f"reach {means['random', 0]:.0f}, not 0.",
            f"yes | {gain[50]:.1f} points of Spearman × 100 from 50 labelled pairs, "
            f"{gain[5725]:.1f} from 5,725",
            f"it starts at {untouched:.1f}"):
        assert words in said, words
    assert all(min(every["pretrained", pairs]) > untouched for pairs in sweep.SIZES)
    assert gain[500] > gain[5725] / 2


def test_notebook_06_says_how_far_shared_words_go():
    cells = {cell.id: cell for cell in nbformat.read(
        ROOT / "notebooks/06_why_fine_tune.ipynb", as_version=4).cells}
    said = " ".join(cells["nb06-37"].source.split())
    table = cells["nb06-33"].outputs[0].data["text/plain"]
    words, tf_idf, untouched = (float(re.search(rf"{name}.*?  +([\d.]+)", table)[1])
                                for name in ("Jaccard", "TF-IDF", "untouched"))
    assert f"{words:.1f} points by shared words, {tf_idf:.1f} by TF-IDF" in said
    assert f"adds {untouched - tf_idf:.0f} points" in said
    assert (f"they reach {words:.1f}, TF-IDF {tf_idf:.1f}, the untouched model {untouched:.1f}"
            in " ".join(cells["nb06-25"].source.split()))


def test_notebook_07_says_in_words_what_was_measured():
    found = {}
    for line in kept("choices"):
        run = line["run"] | line["run"]["config"]
        if run["loss"] == "cosent":
            run["loss"] += f", scale {run.get('cosent_scale', sweep.OLD_SCALE):g}"
        found.setdefault(tuple(run[name] for name in (
            "pooling", "loss", "labels", "frozen_layers", "learning_rate", "batch_size",
            "freeze_embeddings")), []).append((line["dev_spearman"], line["elsewhere_mrr"]))
    base = ("mean", "cosine_mse", "0..1", 0, 5e-5, 16, False)

    def mean(position, value, which=0):
        key = (*base[:position], value, *base[position + 1:])
        return statistics.mean(each[which] for each in found[key])

    def cost(position, value):
        return f"{mean(0, 'mean') - mean(position, value):.1f}"

    said = " ".join(" ".join(cell.source.split()) for cell in nbformat.read(
        ROOT / "notebooks/07_choose_pooling_and_loss.ipynb", as_version=4).cells)
    before = 100 * mean_reciprocal_rank(ConnectionBert.from_local(ROOT / MODEL, device="cpu"),
                                        documentation_pairs())
    rates = [f"{before - mean(4, rate, 1):.1f}" for rate in (2e-5, 5e-5, 1e-4, 2e-4)]
    for words in (
            f"max pooling (-{cost(0, 'max')}) and labels of -1..1 (-{cost(2, '-1..1')}).",
            f"Five cost {cost(4, 2e-4)} to {cost(1, 'multiple_negatives_ranking')} points",
            f"by {cost(0, 'max')} points here, 17.5 in the paper",
            f"[CLS] is {cost(0, 'cls')} points behind the mean here, 0.8 in the paper",
            f"With its author's scale of 20 CoSENT is {cost(1, 'cosent, scale 20')} points behind",
            "with 5 it is level with it",
            f"layers frozen cost {cost(3, 3)} points and save a third of the time; five of six "
            f"cost {cost(3, 5)} and save more than half.",
            "lost: {}, {}, {} and {} points for 2e-5, 5e-5, 1e-4".format(*rates),
            f"({mean(4, 2e-5):.1f} against {mean(0, 'mean'):.1f})"):
        assert words in said, words
    small = [mean(0, "mean") - mean(*each) for each in (
        (1, "cosent, scale 5"), (3, 3), (4, 2e-5), (4, 1e-4), (5, 8), (5, 32), (6, True))]
    assert max(map(abs, small)) < 0.25 and "moves the score by about 0.2 or less" in said


WHERE = (*sweep.SIZES[1:], "help desk")


@pytest.fixture(scope="module")
def by_recipe():
    """The kept lines of the sweep `recipes`, by recipe, CoSENT's scale and data."""
    found = {}
    for line in kept("recipes"):
        run = sweep.run_of(line["run"])
        (recipe,) = (name for name, config in RECIPES.items()
                     if replace(config, seed=run.config.seed) == run.config)
        found.setdefault((recipe, run.cosent_scale, "help desk" if run.helpdesk else run.pairs),
                         []).append(line)
    return found


def gains(lines, weights="kept"):
    """Spearman x 100 above the starting model's, on pairs that chose nothing, by seed."""
    return [line[f"judged_{weights}"] - line["judged_before"] for line in lines]


def test_the_recipe_for_pairs_of_ones_own_never_lost(by_recipe):
    for where in WHERE:
        assert min(gains(by_recipe["best", sweep.SCALE, where])) > 0
        for recipe in RECIPES:
            assert statistics.mean(gains(by_recipe[recipe, sweep.SCALE, where])) > 0
    assert FEWEST_PAIRS == min(sweep.SIZES[1:])
    assert inspect.signature(cosent).parameters["scale"].default == sweep.SCALE
    new, old = (gains(by_recipe["best", scale, "help desk"])
                for scale in (sweep.SCALE, sweep.OLD_SCALE))
    assert [len(new), sum(gain < 0 for gain in old)] == [5, 1]
    said = " ".join(" ".join(cell.source.split()) for cell in nbformat.read(
        ROOT / "notebooks/07_choose_pooling_and_loss.ipynb", as_version=4).cells)
    assert (f"gained {statistics.mean(old):.1f} points with a scale of 20 (five seeds, one of "
            f"which lost), and {statistics.mean(new):.1f} with 5 (none lost)") in said


@pytest.mark.parametrize("name", ["docs/commands.md", "docs/korean.md"])
def test_the_page_says_what_the_recipes_bring_as_measured(by_recipe, name):
    page = (ROOT / name).read_text()
    for recipe in RECIPES:
        assert f"| `{recipe}` | {row(by_recipe, recipe)} |" in page, recipe
    assert f" | {row(by_recipe, 'best', 'last')} |" in page
    scores = [line["test_spearman"] for line in by_recipe["best", sweep.SCALE, sweep.SIZES[-1]]]
    said = f"**{statistics.mean(scores):.2f} ± {statistics.stdev(scores):.2f}**"
    for front in ("README.md", "README.ko.md"):
        assert said in (ROOT / front).read_text(), said


def row(by_recipe, recipe, weights="kept"):
    return " | ".join(f"{statistics.mean(gains(by_recipe[recipe, sweep.SCALE, where], weights)):+.1f}"
                      for where in WHERE)
