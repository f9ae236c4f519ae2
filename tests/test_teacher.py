"""What the benchmark with a teacher makes of the training pairs."""

import json
import re
import sys
import unicodedata

import numpy as np
import pandas as pd
import pytest
import torch

from connection_utils import ConnectionBert, bootstrap_interval, read_splits, spearman
from connection_utils.ground.paths import ROOT
from connection_utils.workshop.assets import DATA, DEFAULT_DATA

sys.path.insert(0, str(ROOT / "benchmarks"))
import ladder
import sweep
import teacher


def test_each_text_is_listed_once_with_its_place():
    pairs = pd.DataFrame({"sentence1": ["a", "b", "a"], "sentence2": ["B ", "c", "d"]})
    assert teacher.texts_of(pairs).to_numpy().tolist() == [
        ["a", 0, 1], ["b", 1, 1], ["c", 1, 2], ["d", 2, 2]]


def test_a_pair_of_new_texts_comes_once_and_never_with_itself():
    vectors = np.random.default_rng(0).normal(size=(300, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = teacher.recombined(vectors)
    assert (pairs[:, 0] < pairs[:, 1]).all() and len(np.unique(pairs, axis=0)) == len(pairs)
    nearest = np.argsort(-(vectors @ vectors.T), axis=1)
    there = {tuple(pair) for pair in pairs.tolist()}
    assert all(tuple(sorted((text, int(nearest[text, rank])))) in there
               for text in range(300) for rank in teacher.RANKS)


@pytest.mark.parametrize("count", [100, 1000])
def test_the_scores_are_as_many_in_each_tenth_of_the_gold_range(count):
    rng = np.random.default_rng(0)
    gold, scores = rng.uniform(size=500), rng.uniform(size=5000) ** 2
    chosen = scores[teacher.evenly(scores, gold, count)]
    assert len(chosen) == count
    assert np.histogram(chosen, np.quantile(gold, np.linspace(0, 1, 11)))[0] == pytest.approx(
        [count / 10] * 10, abs=count / 100)


def test_two_teachers_are_mixed_as_they_predict_the_known_scores():
    rng = np.random.default_rng(0)
    cosine, cross = rng.uniform(0, 1, (2, 400))
    new = rng.uniform(0, 1, (2, 50))
    weighted = teacher.mixed(pd.Series(0.3 * cosine + 0.5 * cross + 0.1), (cosine, cross), new)
    assert weighted == pytest.approx(0.3 * new[0] + 0.5 * new[1] + 0.1)
    assert teacher.mixed(pd.Series(3 * cosine - 1), (cosine, cross), new).max() == 1


def test_a_soup_is_the_mean_of_the_weights(tiny_folder, tmp_path):
    model, folders = ConnectionBert.from_local(tiny_folder, device="cpu"), []
    names = {name for name, _ in model.named_parameters()}
    for factor in (1, 3):
        for parameter in model.parameters():
            parameter.data *= factor
        model.save(tmp_path / f"times-{factor}")
        folders.append(tmp_path / f"times-{factor}")
    mean = ladder.soup(folders).state_dict()
    first = ConnectionBert.from_local(folders[0], device="cpu").state_dict()
    for name, value in first.items():
        torch.testing.assert_close(mean[name], 2 * value if name in names else value)


def test_reranking_moves_a_partner_to_the_front(monkeypatch):
    """A cross-encoder that knows the partners finds all that are among the candidates."""
    texts = [f"text {row}" for row in range(60)]
    pairs = pd.DataFrame({"sentence1": texts[:30], "sentence2": texts[30:], "score": 1.0})
    partner = dict(zip(pairs["sentence1"], pairs["sentence2"]))

    class Model:
        def encode(self, texts, normalize):
            vectors = np.random.default_rng(0).normal(size=(len(texts), 4))
            return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    monkeypatch.setattr(ladder, "read_both", lambda cross, pairs: np.array(
        [float(partner[a] == b) for a, b in zip(pairs["sentence1"], pairs["sentence2"])]))
    found = ladder.reranked(Model(), None, pairs)
    assert found["queries"] == 30 and found["texts"] == 60
    assert found["reranked"]["first"] == pytest.approx(found["reranked"]["mrr"])
    assert found["search"]["mrr"] < found["both"]["mrr"] <= found["reranked"]["mrr"] < 100


def test_silver_holds_numbers_alone_and_knows_the_file_that_they_are_from():
    silver = pd.read_parquet(teacher.SILVER)
    assert teacher.SILVER.stat().st_size < 2e6
    assert [*silver] == ["row1", "side1", "row2", "side2", "large", "own"]
    assert all(kind.kind in "if" for kind in silver.dtypes)
    assert silver[["large", "own"]].to_numpy().min() >= 0
    assert silver[["large", "own"]].to_numpy().max() <= 1
    assert DATA.files["sts-train.csv"] in silver.attrs.values() and silver.attrs["commit"]


def test_no_silver_pair_is_a_pair_of_any_split_in_either_order():
    splits = read_splits(ROOT / DEFAULT_DATA)
    assert len(splits["train"]) == 5725

    def both(pairs):
        texts = pairs[["sentence1", "sentence2"]].map(lambda text: " ".join(
            unicodedata.normalize("NFKC", text).casefold().split()))
        return {frozenset(pair) for pair in texts.itertuples(index=False)}

    silver = both(teacher.silver_pairs(splits["train"]))
    assert len(silver) == len(pd.read_parquet(teacher.SILVER))       # none comes twice
    for split in splits.values():
        assert not silver & both(split)


# What is kept, and what is said of it

@pytest.fixture(scope="module")
def ladder_scores():
    """Spearman x 100 of each model, and each pair's score, by split."""
    splits, kept = read_splits(ROOT / DEFAULT_DATA), pd.read_parquet(ladder.SCORES)
    return {name: pd.Series({model: 100 * spearman(splits[name]["score"], kept.loc[name, model])
                             for model in kept}) for name in ("dev", "test")}


def mean(scores, name):
    return scores[[f"{name}-{seed}" for seed in range(1, 6)]].mean()


def test_the_ladder_has_the_models_that_the_sweep_trained(ladder_scores):
    for line in sweep.read_lines(sweep.RESULTS / "sweep_distilled.jsonl"):
        assert ladder_scores["dev"][line["run"]["keep"]] == pytest.approx(
            line["dev_spearman"], abs=0.02)


def test_every_seed_of_distilled_is_above_best_on_dev(ladder_scores):
    for seed in range(1, 6):
        assert ladder_scores["dev"][f"distilled-{seed}"] > ladder_scores["dev"][f"best-{seed}"]


def together(scores, first, second):
    """The sum of two models' scores, each divided by its standard deviation."""
    return scores[first] / scores[first].std() + scores[second] / scores[second].std()


@pytest.fixture(scope="module")
def page():
    return " ".join((ROOT / "benchmarks/README.md").read_text(encoding="utf-8").split())


def test_the_page_has_the_ladder_as_measured(ladder_scores, page):
    rows = {"`post`": "post", "`best`": "best", "`distilled`": "distilled", "`mixed`": "mixed",
            "soup of `best`": "best-soup", "soup of `distilled`": "distilled-soup",
            "soup of `mixed`": "mixed-soup", "untouched": "untouched", "its student": "own-1",
            "large, siamese": "teacher-cosent", "large, cross-encoder": "teacher-cross",
            "our cross-encoder": "teacher-own", "both large ones, sum": "both"}
    splits, kept = read_splits(ROOT / DEFAULT_DATA), pd.read_parquet(ladder.SCORES)
    for name, model in rows.items():
        found = {split: scores[model] if model in scores else
                 100 * spearman(splits[split]["score"], together(
                     kept.loc[split], "teacher-cosent", "teacher-cross"))
                 if model == "both" else mean(scores, model)
                 for split, scores in ladder_scores.items()}
        row = f"| {name} | {found['dev']:.2f} | {found['test']:.2f} |"
        assert row in page, row
    halfway = "{dev[mixed-halfway]:.2f} on dev and {test[mixed-halfway]:.2f} on test"
    assert halfway.format(**ladder_scores) in page
    soup = ladder_scores["test"]["best-soup"]
    assert f"notebooks/11_learn_from_a_teacher.ipynb)) | **{soup:.2f}** |" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_page_says_what_a_student_and_a_soup_gain(page):
    splits, kept = read_splits(ROOT / DEFAULT_DATA), pd.read_parquet(ladder.SCORES)
    best = [f"best-{seed}" for seed in range(1, 6)]

    def gain(models, split):
        """Over the mean of `best`: the gain of the mean of `models`, and its interval."""
        def of(score, each):
            found = [spearman(score, column) for column in each.T]
            return np.mean(found[len(best):]) - np.mean(found[:len(best)])

        pairs = splits[split]["score"], kept.loc[split, best + models]
        low, high = bootstrap_interval(*pairs, of, resamples=500)
        return [100 * each for each in (of(*map(np.asarray, pairs)), low, high)]

    number = r"([\d.]+)"
    mixed = [f"mixed-{seed}" for seed in range(1, 6)]
    interval = rf"\(−{number} to \+{number}\)"
    said = re.search(rf"It gains {number} on dev {interval} and {number} on test {interval}", page)
    gained, low, high, test_gained, test_low, test_high = map(float, said.groups())
    assert [gained, -low, high] == pytest.approx(gain(mixed, "dev"), abs=0.05)
    assert [test_gained, -test_low, test_high] == pytest.approx(gain(mixed, "test"), abs=0.05)
    distilled = [f"distilled-{seed}" for seed in range(1, 6)]
    dev, test = gain(distilled, "dev"), gain(distilled, "test")
    assert dev[1] < 0 < dev[2] and test[1] < 0 < test[2]          # neither is more than chance
    assert f"It gains {dev[0]:.2f} on dev" in page and f"loses {-test[0]:.2f} on test" in page
    said = re.search(rf"the seeds −{number} to \+{number}\) and loses {number} on test "
                     rf"\(−{number} to \+{number}\)", page)
    low, high, _, test_low, test_high = map(float, said.groups())
    assert [-low, high, -test_low, test_high] == pytest.approx([*dev[1:], *test[1:]], abs=0.05)
    soup = re.search(rf"by {number} on dev \({number} to {number}\) and {number} on test "
                     rf"\({number} to {number}\)", page)
    measured = [*gain(["best-soup"], "dev"), *gain(["best-soup"], "test")]
    assert [*map(float, soup.groups())] == pytest.approx(measured, abs=0.05)
    assert min(measured) > 0


def test_the_page_says_what_reranking_and_other_texts_showed(page):
    facts = json.loads(ladder.FACTS.read_text())["models"]
    own, large = (facts[f"teacher-{name}"]["rerank"] for name in ("own", "cross"))
    assert (f"of the {large['candidates']} nearest of {large['texts']:,} dev texts, for "
            f"{large['queries']} queries") in page
    assert (f"(MRR × 100 of {large['reranked']['mrr']:.1f} after the search's "
            f"{large['search']['mrr']:.1f}) and ours loses ({own['reranked']['mrr']:.1f})") in page
    assert f"{large['both']['mrr']:.1f} with the large one, {own['both']['mrr']:.1f} with" in page

    def of(what):
        return {name: np.mean([what(facts[each]) for each in facts
                               if each.startswith(f"{name}-") and each[-1].isdigit()])
                for name in ("distilled", "best")} | {"untouched": what(facts["untouched"])}

    documentation = of(lambda fact: fact["elsewhere_mrr"])
    desk = of(lambda fact: fact["helpdesk_right"]["nearest"])
    contrasts = of(lambda fact: sum(margin > 0 for margin in fact["contrasts"]))
    for said in (
            "{distilled:.1f} and {best:.1f} on documentation (untouched: {untouched:.1f})".format(
                **documentation),
            "{distilled:.1f} and {best:.1f} right of the help desk's 93 (untouched: "
            "{untouched:.0f})".format(**desk),
            "`behaviour.csv` right: {distilled:.1f} and {best:.1f} (untouched: "
            "{untouched:.0f})".format(**contrasts)):
        assert said in page, said
    halfway = facts["mixed-halfway"]
    assert ("untouched weights it is {:.1f}, {} and {}".format(
        halfway["elsewhere_mrr"], halfway["helpdesk_right"]["nearest"],
        sum(margin > 0 for margin in halfway["contrasts"]))) in page


def test_the_page_has_every_way_that_was_tried(page):
    for line in sweep.read_lines(sweep.RESULTS / "sweep_silver.jsonl"):
        assert f"| {line['dev_spearman']:.2f} |" in page.replace("**", "")
        if line["run"].get("mixed") and line["run"]["silver"]["epochs"] == 2:
            assert f"| {line['silver_dev_spearman']:.2f} |" in page.replace("**", "")


def test_what_notebook_11_says_beside_its_outputs_is_measured():
    """Its outputs are compared; no cell prints these numbers."""
    cells = json.loads((ROOT / "notebooks/11_learn_from_a_teacher.ipynb").read_text())["cells"]
    text = " ".join(" ".join("".join(cell["source"]) for cell in cells
                             if cell["cell_type"] == "markdown").split())
    train = read_splits(ROOT / DEFAULT_DATA)["train"]
    texts = len(pd.unique(train[["sentence1", "sentence2"]].to_numpy().ravel()))
    assert (f"the {texts:,} texts of the training pairs make {texts ** 2 / 2e6:.0f} million "
            "pairs") in text
    silver, source = pd.read_parquet(teacher.SILVER), train["source"].to_numpy()
    headlines = np.mean((source[silver["row1"]] == "headlines")
                        & (source[silver["row2"]] == "headlines"))
    assert f"in {100 * headlines:.0f} % of them both texts are headlines" in text
    taught = sum(each.get("seconds", 0)
                 for each in json.loads(teacher.TRAINED.read_text())["teachers"].values())
    learnt = sum(line["curve"][-1]["seconds"] + line.get("silver_seconds", 0) for line in
                 sweep.read_lines(sweep.RESULTS / "sweep_distilled.jsonl"))
    assert (f"the teachers trained for {taught / 60:.0f} minutes, and the students for "
            f"{learnt / 2 / 60:.0f}, two at a time") in text
    rerank = json.loads(ladder.FACTS.read_text())["models"]["teacher-cross"]["rerank"]
    assert f"it costs {rerank['seconds_per_query']:.1f} seconds per query" in text


@pytest.mark.parametrize("name", ["cosent", "own"])
def test_a_teacher_that_was_interrupted_continues_after_its_last_epoch(
        name, tiny_folder, make_pairs, tmp_path, monkeypatch):
    """The same as without the interruption, and the first epoch is not trained again."""
    pairs = make_pairs(40)
    for attribute, value in {"TEACHER": tiny_folder, "DEFAULT_MODEL": tiny_folder,
                             "read_splits": lambda folder: {"train": pairs, "dev": pairs},
                             "TEACHERS": tmp_path / "whole"}.items():
        monkeypatch.setattr(teacher, attribute, value)
    whole = teacher.train(name)["dev_spearman"]

    scored = []

    def once(*arguments):
        if scored:
            raise KeyboardInterrupt
        scored.append(spearman(*arguments))
        return scored[-1]

    monkeypatch.setattr(teacher, "TEACHERS", tmp_path / "interrupted")
    monkeypatch.setattr(teacher, "spearman", once)
    with pytest.raises(KeyboardInterrupt):
        teacher.train(name)
    monkeypatch.setattr(teacher, "spearman", spearman)
    found = teacher.train(name)
    assert found["dev_spearman"] == pytest.approx(whole, abs=0.01)
    assert found["dev_spearman"][0] == 100 * scored[0]
    assert [path.name for path in (tmp_path / "interrupted").iterdir()] == [name]
