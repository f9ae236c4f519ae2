"""The measures: as scipy's and by hand, honest about constants, thresholds and collapse."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.metrics import f1_score

from connection_utils import (
    ConnectionBert,
    bootstrap_interval,
    check_collapse,
    choose_threshold,
    judge_threshold,
    mean_reciprocal_rank,
    spearman,
)
from connection_utils.evaluation import CollapseCheck, ConstantPredictionError


def noisy(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores with ties, and cosines that follow them roughly."""
    chance = np.random.default_rng(seed)
    scores = chance.integers(0, 26, count) / 25
    return scores, (scores + chance.normal(0, 0.3, count)).astype(np.float32)


def best_f1(connected: np.ndarray, cosines: np.ndarray) -> float:
    """The highest F1 over all cut points, by trying each."""
    return max(f1_score(connected, cosines >= cut) for cut in np.unique(cosines))


# Correlations

def test_spearman_is_scipys():
    scores, cosines = noisy(300)
    assert spearman(scores, cosines) == pytest.approx(
        stats.spearmanr(scores, cosines).statistic)
    assert isinstance(spearman(scores, cosines), float)


def test_spearman_by_hand():
    """Ranks 1 2 3 4 5 against 2 1 4 3 5: 1 - 6 * (1+1+1+1+0) / (5 * 24) = 0.8."""
    assert spearman([0, .2, .4, .6, 1], [.5, .4, .8, .7, .9]) == pytest.approx(0.8)


def test_spearman_with_ties_by_hand():
    """Ranks 1.5 1.5 3 against 1 2 3: 1.5 / sqrt(1.5 * 2)."""
    assert spearman([0, 0, 1], [.1, .2, .3]) == pytest.approx(1.5 / 3 ** 0.5)


def test_spearman_sees_only_the_order():
    scores = np.linspace(0, 1, 20)
    assert spearman(scores, scores ** 5) == pytest.approx(1)
    assert spearman(scores, -scores) == pytest.approx(-1)


def test_a_constant_prediction_is_told_rather_than_nan():
    with pytest.raises(ConstantPredictionError, match="all 3 cosines are") as raised:
        spearman([0, .5, 1], [.99, .99, .99])
    assert "lower the learning rate" in str(raised.value)
    with pytest.raises(ConstantPredictionError, match="all 3 scores are"):
        spearman([1, 1, 1], [.1, .2, .3])
    with pytest.raises(ConstantPredictionError):
        spearman([1], [.3])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_counted_and_refused(value):
    with pytest.raises(ValueError, match="2 of the 4 cosines are not finite") as raised:
        spearman([0, .5, .7, 1], [.1, value, value, .3])
    assert not isinstance(raised.value, ConstantPredictionError)
    with pytest.raises(ValueError, match="1 of the 3 scores are not finite"):
        spearman([0, value, 1], [.1, .2, .3])


# Bootstrap

def test_the_interval_contains_the_estimate():
    scores, cosines = noisy(200)
    low, high = bootstrap_interval(scores, cosines, resamples=200)
    assert -1 <= low < spearman(scores, cosines) < high <= 1
    assert 0.02 < high - low < 0.3


def test_the_interval_holds_95_percent():
    """Of a mean, whose distribution is known: 1.96 standard errors to either side."""
    values = np.random.default_rng(1).normal(size=400)
    low, high = bootstrap_interval(values, values, lambda one, _: float(one.mean()), 4000)
    width = 2 * 1.96 * values.std() / np.sqrt(len(values))
    assert high - low == pytest.approx(width, rel=0.06)      # 90 % would be 16 % less
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=0.01)


def test_the_interval_is_the_same_for_the_same_seed_only():
    scores, cosines = noisy(100)
    first, again, other = (bootstrap_interval(scores, cosines, resamples=200, seed=seed)
                           for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_more_data_make_the_interval_narrower():
    widths = [np.ptp(bootstrap_interval(*noisy(count), resamples=200))
              for count in (50, 500, 2000)]
    assert widths[0] > 2 * widths[1] > 2 * widths[2]


def test_pairs_are_drawn_together():
    """Drawn apart, perfectly correlated values would lose their correlation."""
    scores = np.linspace(0, 1, 100)
    low, high = bootstrap_interval(scores, scores ** 3, resamples=100)
    assert low == pytest.approx(1)
    assert high == pytest.approx(1)


@pytest.mark.parametrize("scores", [[0, 1] * 5, [0, .5, 1]], ids=["ten of 0 or 1", "three"])
def test_a_few_pairs_have_an_interval_too(scores):
    """Some draws of so few hold one value only; that is no collapse of the model."""
    cosines = np.random.default_rng(0).random(len(scores))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        low, high = bootstrap_interval(np.array(scores), cosines)
    assert -1 <= low <= spearman(scores, cosines) <= high <= 1


@pytest.mark.parametrize(("scores", "cosines"), [([0, .5, 1], [.99, .99, .99]),
                                                 ([1, 1, 1], [.1, .2, .3])])
def test_a_constant_has_no_interval_and_is_told_rather_than_nan(scores, cosines):
    with pytest.raises(ConstantPredictionError):
        bootstrap_interval(np.array(scores), np.array(cosines), resamples=50)


# Threshold

@pytest.mark.parametrize("seed", range(20))
def test_the_threshold_has_the_highest_f1_of_all_cut_points(seed):
    scores, cosines = noisy(60, seed)
    connected = scores >= 0.6
    threshold = choose_threshold(connected, cosines)
    assert judge_threshold(connected, cosines, threshold)["f1"] == \
        pytest.approx(best_f1(connected, cosines))


def test_the_threshold_lies_between_two_cosines():
    connected, cosines = np.array([False, False, True, True]), np.array([.1, .3, .7, .9])
    assert choose_threshold(connected, cosines) == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_stays_off_every_cosine(seed):
    """A cosine that comes out a little different on another machine is judged the same."""
    scores, cosines = noisy(60, seed)
    threshold = choose_threshold(scores >= 0.6, cosines)
    assert np.abs(cosines - threshold).min() > 1e-6


def test_where_all_should_be_called_connected_the_lowest_cosine_still_is():
    connected = np.array([True, False, True, True])
    cosines = np.array([.1, .2, .3, .4])
    threshold = choose_threshold(connected, cosines)
    assert threshold <= 0.1
    assert judge_threshold(connected, cosines, threshold)["recall"] == 1


def test_a_threshold_between_neighbouring_float32_cosines_tells_them_apart():
    """Cosines crowd just below 1, where halfway between two is no float32."""
    low = np.float32(0.5)
    for _ in range(4):
        high = np.nextafter(low, np.float32(1))
        cosines = np.array([low, high], dtype=np.float32)
        threshold = choose_threshold([False, True], cosines)
        assert judge_threshold([False, True], cosines, threshold)["f1"] == 1, (low, high)
        low = high


@pytest.mark.parametrize("connected", [[True] * 3, [False] * 3])
def test_one_kind_of_pairs_only_gives_no_threshold(connected):
    message = f"{sum(connected)} of 3 pairs are connected; expected some of both kinds"
    with pytest.raises(ValueError, match=message):
        choose_threshold(connected, [.1, .2, .3])


def test_judging_by_hand():
    connected = [True, True, True, False, False, False, False]
    cosines = np.array([.9, .5, .2, .7, .5, .49, .1], np.float32)
    assert judge_threshold(connected, cosines, 0.5) == {
        "true_positive": 2, "false_negative": 1, "false_positive": 2, "true_negative": 2,
        "accuracy": pytest.approx(4 / 7), "precision": 2 / 4, "recall": pytest.approx(2 / 3),
        "f1": pytest.approx(2 * 2 / (2 * 2 + 2 + 1))}


def test_judging_where_nothing_is_called_connected_divides_by_nothing():
    judged = judge_threshold([True, False], [.1, .2], 0.5)
    assert judged["precision"] == judged["recall"] == judged["f1"] == 0
    assert judged["accuracy"] == 0.5
    assert judge_threshold([False, False], [.1, .2], 0.5)["accuracy"] == 1


# Collapse

def collapse(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The last LayerNorm gives the same vector for every token of every text."""
    last = "encoder.layer.1.output.LayerNorm."
    return tensors | {last + "weight": torch.zeros(32), last + "bias": torch.ones(32)}


def tell_words_apart(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Word vectors that outweigh those of the positions."""
    name = "embeddings.word_embeddings.weight"
    return tensors | {name: 50 * tensors[name]}


@pytest.fixture
def words(make_pairs):
    """Twelve pairs, each of one letter twice: unpaired ones have no word in common."""
    letters = [(f"{letter} " * 3).strip() for letter in "abcdefghijkl"]
    return make_pairs(12).assign(sentence1=letters, sentence2=letters)


def test_a_model_whose_embeddings_are_all_equal_is_called_collapsed(tiny_folder, alter, words):
    alter.tensors(tiny_folder, collapse)
    check = check_collapse(ConnectionBert.from_local(tiny_folder, device="cpu"), words)
    assert check.cosines == pytest.approx(1)
    assert check.collapsed
    assert "mean cosine 1.00 (COLLAPSED" in str(check)
    assert "learning rate" in str(check)


def test_a_model_that_tells_texts_apart_is_not(tiny_folder, alter, words):
    alter.tensors(tiny_folder, tell_words_apart)
    model = ConnectionBert.from_local(tiny_folder, device="cpu")
    assert model.similarity(words["sentence1"], words["sentence2"]) == pytest.approx(1)
    check = check_collapse(model, words)
    assert check.cosines.shape == (12,)
    assert check.cosines.max() < 0.99               # no text was scored against itself
    assert not check.collapsed
    assert str(check).endswith("(not collapsed)")


def test_the_verdict_goes_by_the_mean():
    assert CollapseCheck(np.array([0.75, 0.9])).collapsed
    assert not CollapseCheck(np.array([0.6, 0.99])).collapsed


@pytest.mark.parametrize("sample", [1, 2, 3, 11, 12, 1000])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_unpaired_rows_are_never_their_own_pair(tiny_folder, make_pairs, monkeypatch, sample,
                                                seed):
    model = ConnectionBert.from_local(tiny_folder, device="cpu")
    asked, score = [], model.similarity

    def listen(first, second):
        asked.extend(zip(first, second))
        return score(first, second)

    monkeypatch.setattr(model, "similarity", listen)
    pairs = make_pairs(12)
    check = check_collapse(model, pairs, sample=sample, seed=seed)
    assert len(asked) == len(check.cosines) == min(sample, 12)
    own = set(zip(pairs["sentence1"], pairs["sentence2"]))
    assert not own & set(asked)
    assert {a for a, _ in asked} <= set(pairs["sentence1"])
    assert {b for _, b in asked} <= set(pairs["sentence2"])
    assert len({a for a, _ in asked}) == len(asked)


def test_the_sample_is_the_same_for_the_same_seed(tiny_folder, words):
    model = ConnectionBert.from_local(tiny_folder, device="cpu")
    one, again = (check_collapse(model, words, sample=5, seed=4).cosines for _ in range(2))
    assert np.array_equal(one, again)


def test_one_pair_cannot_be_taken_apart(tiny_folder, make_pairs):
    model = ConnectionBert.from_local(tiny_folder, device="cpu")
    with pytest.raises(ValueError, match="1 pair; expected at least 2"):
        check_collapse(model, make_pairs(1))


def test_the_mean_reciprocal_rank_by_hand():
    """Rows a, b and c find their own second text second, first and third."""
    turn = {"a": 0, "b": 60, "c": 100, "A": 10, "B": 85, "C": 0}           # degrees

    class Model:
        def encode(self, texts, normalize):
            assert normalize
            angles = np.radians([turn[text] for text in texts])
            return np.stack([np.cos(angles), np.sin(angles)], axis=1)

    def rank_of(pairs):
        return mean_reciprocal_rank(Model(), pd.DataFrame(pairs, columns=["sentence1",
                                                                          "sentence2"]))

    assert rank_of([("a", "A")]) == 1
    assert rank_of([("b", "B"), ("c", "C")]) == pytest.approx((1 + 1 / 2) / 2)
    assert rank_of(list(zip("abc", "ABC"))) == pytest.approx((1 / 2 + 1 + 1 / 3) / 3)
