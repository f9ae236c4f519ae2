"""What the benchmark with a teacher makes of the training pairs."""

import sys
import unicodedata

import numpy as np
import pandas as pd
import pytest
import torch

from connection_utils import ConnectionBert, read_splits, spearman
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


def test_the_pages_say_what_was_measured(ladder_scores):
    page = " ".join((ROOT / "benchmarks/README.md").read_text(encoding="utf-8").split())
    for name, models in {"`best`": "best", "`distilled`": "distilled"}.items():
        row = f"| {name} | " + " | ".join(
            f"{mean(ladder_scores[split], models):.2f}" for split in ("dev", "test"))
        assert row in page, row
    for name, model in {"soup of `best`": "best-soup", "soup of `distilled`": "distilled-soup",
                        "untouched": "untouched", "large, siamese": "teacher-cosent",
                        "large, cross-encoder": "teacher-cross",
                        "our cross-encoder": "teacher-own"}.items():
        row = f"| {name} | " + " | ".join(
            f"{ladder_scores[split][model]:.2f}" for split in ("dev", "test"))
        assert row in page, row
