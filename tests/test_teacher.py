"""What the benchmark with a teacher makes of the training pairs."""

import sys

import numpy as np
import pandas as pd
import pytest

from connection_utils.ground.paths import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import teacher


def test_each_text_is_listed_once_with_its_place():
    pairs = pd.DataFrame({"sentence1": ["a", "b", "a"], "sentence2": ["b", "c", "d"]})
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
