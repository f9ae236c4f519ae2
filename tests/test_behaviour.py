"""The contrasts of data/samples/behaviour.csv: frozen, and what their kinds promise."""

import json
import re

import nbformat
import numpy as np
import pandas as pd
import pytest

from connection_utils import RECIPES, TrainingConfig
from connection_utils.ground.paths import ROOT
from connection_utils.ground.whole_files import sha256_of

FILE = ROOT / "data" / "samples" / "behaviour.csv"
FROZEN = "9436b8f9193faa634373539443e0504258bbfd4744a9a7bd0399873dcbf335d3"


def words(text):
    return sorted(re.findall(r"[a-z0-9]+", text.lower().replace("'s", "")))


def shared(one, other):
    """Jaccard: the share of the two texts' words that are in both, 0..1."""
    one, other = set(words(one)), set(words(other))
    return len(one & other) / len(one | other)


def test_the_file_is_the_one_that_was_committed_before_any_model_had_scored_it():
    assert sha256_of(FILE) == FROZEN


def test_rows_are_balanced_and_no_text_is_in_two_places():
    rows = pd.read_csv(FILE)
    assert set(rows["kind"].value_counts()) == {17} and len(rows) == 6 * 17
    texts = rows[["sentence", "paraphrase", "changed"]].to_numpy().ravel()
    assert len({*texts}) == len(texts) == 306


def test_shared_words_point_the_wrong_way():
    """So a model that counts them fails: the suite's whole purpose."""
    rows = pd.read_csv(FILE)
    right = sum(shared(row.sentence, row.paraphrase) > shared(row.sentence, row.changed)
                for row in rows.itertuples())
    assert right == 1 and "a single row of the 102 right" in said_in("07_choose_pooling_and_loss")
    for row in rows[rows["kind"] == "word order"].itertuples():
        assert words(row.sentence) == words(row.changed), row.sentence


# What was measured with them, and what notebook 07 says of it

SETTINGS = {"untouched": {"pairs": 0}, "post": {}, "best": {"average_from": 0.75},
            "post at 2e-5": {"learning_rate": 2e-5},
            "scale 20": {"loss": "cosent", "cosent_scale": 20}}


@pytest.fixture(scope="module")
def lines():
    kept = (ROOT / "benchmarks/results/sweep_elsewhere.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in kept.splitlines()]


@pytest.fixture(scope="module")
def found(lines):
    """For each setting the mean over its seeds of a line's value, or of what is made of it."""
    usual = {"pairs": 5725, "average_from": 1.0, "learning_rate": 5e-5, "loss": "cosine_mse"}

    def of(setting, value):
        wanted = usual | SETTINGS[setting]
        if wanted["average_from"] < 1:
            del wanted["loss"]
        chosen = [line for line in lines if all(
            (line["run"] | line["run"]["config"])[name] == it for name, it in wanted.items())
            and (line["run"]["config"]["frozen_layers"] == 0)]
        assert len(chosen) == 3, setting
        return np.mean([value(line) for line in chosen])

    return of


def said_in(notebook):
    return " ".join(" ".join(cell.source.split()) for cell in nbformat.read(
        ROOT / f"notebooks/{notebook}.ipynb", as_version=4).cells)


def test_notebook_07_says_what_fine_tuning_costs_elsewhere(lines, found):
    said = said_in("07_choose_pooling_and_loss")

    def mrr(setting):
        return f"{found(setting, lambda line: line['elsewhere_mrr']):.1f}"

    def near(setting):
        return f"{found(setting, lambda line: line['helpdesk_right']['nearest']):.0f}"

    for words in (
            f"MRR falls from {mrr('untouched')} to {mrr('post')} and the nearest issue is right "
            f"for {near('post')} questions instead of {near('untouched')}",
            f"with `best` it falls to {mrr('best')} and {near('best')}",
            f"loses most ({mrr('scale 20')} and {near('scale 20')})"):
        assert words in said, words
    trained = [line for line in lines if line["run"]["pairs"]]
    untouched = next(line for line in lines if not line["run"]["pairs"])
    assert all(line["elsewhere_mrr"] < untouched["elsewhere_mrr"] for line in trained)
    below = sum(line["helpdesk_right"]["nearest"] < untouched["helpdesk_right"]["nearest"]
                for line in trained)
    assert len(trained) == 21 and (f"In MRR all 21 trainings are below the untouched model, and "
                                   f"in the nearest issue {below} of 21.") in said


def test_notebook_07_says_which_contrasts_the_model_gets_right(lines, found):
    said, kinds = said_in("07_choose_pooling_and_loss"), pd.read_csv(FILE)["kind"]

    def right(setting, kind):
        which = (kinds == kind).to_numpy()
        return "{:.0f}".format(found(setting, lambda line: 100 * np.mean(
            np.array(line["contrasts"])[which] > 0)))

    for kind, words in (("number", "for numbers"), ("name", "for names"),
                        ("negation", "For a *not* it rises"), ("antonym", "for antonyms")):
        rise = f"from {right('untouched', kind)} to {right('post', kind)} %"
        assert f"{words} {rise}" in said or f"{rise} {words}" in said, (kind, rise)
    before, post, best = (found(setting, lambda line: 100 * np.mean(
        np.array(line["contrasts"]) > 0)) for setting in ("untouched", "post", "best"))
    assert f"In only {before:.0f} % of the rows" in said
    assert (f"With `post` the share rises from {before:.0f} to {post:.0f} %, and with `best` to "
            f"{best:.0f} %.") in said
    for kind in ("swapped roles", "word order"):
        which = (kinds == kind).to_numpy()
        assert max(np.sum(np.array(line["contrasts"])[which] > 0) for line in lines) <= 1
    assert "at most one row of 17 is right" in said


def test_notebook_07_says_what_a_genre_that_training_never_saw_does():
    said = said_in("07_choose_pooling_and_loss")
    runs = json.loads((ROOT / "benchmarks/results/transfer.json").read_text())["runs"]
    changes = [run["after"][0]["unseen"] - run["before"]["unseen"] for run in runs]
    pairs = [run["unseen_pairs"] for run in runs]
    assert len(runs) == 6 and all(run["after"][0]["start_share"] == 0 for run in runs)
    assert f"between {min(changes):+.1f} and {max(changes):+.1f} points (before rounding)" in said
    assert f"one run on {min(pairs)} to {max(pairs)} pairs" in said


def test_notebook_07_describes_the_recipes_as_they_are():
    said = said_in("07_choose_pooling_and_loss")
    fast, best = RECIPES["fast"], RECIPES["best"]
    assert RECIPES["post"] == TrainingConfig() and TrainingConfig().loss == "cosine_mse"
    assert (fast.loss, fast.epochs, fast.frozen_layers, fast.learning_rate) == (
        "cosent", 1, 2, 8e-5)
    assert "| `fast` | CoSENT, scale 5 | 1 | the two lowest layers frozen, a learning rate of " \
           "8e-5 |" in said
    assert (best.loss, best.epochs, best.freeze_embeddings, best.average_from) == (
        "cosent", 2, True, 0.75)
    assert "| `best` | CoSENT, scale 5 | 2 | embeddings frozen; the average of the last " \
           "quarter's weights |" in said


def test_notebook_08_finds_what_the_sweep_found_before_training(lines):
    """The sweep counts with code of its own."""
    (cell,) = (cell for cell in nbformat.read(
        ROOT / "notebooks/08_search_and_match.ipynb", as_version=4).cells
        if cell.id == "nb08-26a")
    table = cell.outputs[-1].data["text/plain"]
    untouched = next(line for line in lines if not line["run"]["pairs"])["helpdesk_right"]
    assert [int(number) for number in re.findall(r"\d+", table)] == [
        untouched["nearest"], untouched["matching"]]
