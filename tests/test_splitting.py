"""Pairs that stand in two splits are found and dropped, and new splits share no sentence."""

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connection_utils import drop_leaks, find_leaks, read_splits, split_connections
from connection_utils.ground.paths import ROOT
from connection_utils.pair_files.splitting import pair_keys
from connection_utils.workshop.assets import DEFAULT_DATA


@pytest.fixture(scope="module")
def real_splits() -> dict[str, pd.DataFrame]:
    """The STS benchmark as it is distributed, leaks and all."""
    return read_splits(ROOT / DEFAULT_DATA, keep_leaks=True)


def table(*pairs: tuple[str, str]) -> pd.DataFrame:
    return pd.DataFrame([(a, b, 0.5) for a, b in pairs],
                        columns=["sentence1", "sentence2", "score"])


def texts_of(pairs: pd.DataFrame) -> set[str]:
    both = pd.concat([pairs["sentence1"], pairs["sentence2"]])
    return set(both.str.strip().str.lower())


def chains(count: int, length: int) -> pd.DataFrame:
    """`count` chains of `length` pairs; each shares a sentence with the next in its chain."""
    return pd.DataFrame([
        {"sentence1": f"chain {c} text {i}", "sentence2": f"Chain {c} text {i + 1} ",
         "score": (c + i) % 11 / 10}
        for i in range(length) for c in range(count)])


# Keys

def test_a_swapped_pair_has_the_same_key():
    keys = pair_keys(table(("a cat", "a dog"), ("a dog", "a cat"), ("a cat", "a cow")))
    assert keys[0] == keys[1] != keys[2]


def test_case_and_outer_blanks_do_not_matter():
    keys = pair_keys(table(("A cat.", "a Dog"), ("  a cat.", "A DOG "), ("a cat", "a dog")))
    assert keys[0] == keys[1] != keys[2]


def test_case_is_folded_before_the_order_is_chosen():
    """"B" < "a" but "a" < "b": a swap after a change of case must still be seen."""
    keys = pair_keys(table(("B", "a"), ("A", "b"), ("b", "A")))
    assert keys.nunique() == 1


def test_keys_stand_at_the_rows_they_belong_to():
    pairs = table(("a", "b"), ("c", "d")).set_axis([7, 3])
    assert pair_keys(pairs).index.tolist() == [7, 3]


def test_a_tab_inside_a_text_makes_no_key_of_another_pair():
    keys = pair_keys(table(("a\tb", "c"), ("a", "b\tc"), ("C", "A\tb ")))
    assert keys[0] == keys[2] != keys[1]
    assert keys.str.count("\t").tolist() == [1, 1, 1]


# Leaks

def test_leaks_are_counted_for_each_split():
    leaks = find_leaks({"train": table(("a", "b"), ("B", "A"), ("c", "d"), ("e", "f")),
                        "dev": table(("c", "D"), ("g", "h")), "test": table(("b", "a"))})
    assert leaks.columns.tolist() == ["pair", "train", "dev", "test"]
    assert leaks[["train", "dev", "test"]].values.tolist() == [[2, 0, 1], [1, 1, 0]]


def test_a_pair_twice_in_one_split_is_no_leak():
    assert find_leaks({"train": table(("a", "b"), ("b", "a")), "test": table(("c", "d"))}).empty


@pytest.mark.parametrize(("one", "other", "count"), [
    ("train", "test", 12), ("train", "dev", 7), ("dev", "test", 3)])
def test_the_known_leaks_of_the_sts_benchmark_are_found(real_splits, one, other, count):
    leaks = find_leaks(real_splits)
    assert ((leaks[one] > 0) & (leaks[other] > 0)).sum() == count
    assert len(find_leaks({name: real_splits[name] for name in (one, other)})) == count


def test_dropping_leaks_leaves_none_and_never_touches_test(real_splits):
    kept = drop_leaks(real_splits)
    assert find_leaks(kept).empty
    pd.testing.assert_frame_equal(kept["test"], real_splits["test"])


@pytest.mark.parametrize("name", ["train", "dev"])
def test_dropping_leaks_keeps_order_and_every_other_row(real_splits, name):
    later = {"train": ["dev", "test"], "dev": ["test"]}[name]
    leaked = set(pd.concat([pair_keys(real_splits[other]) for other in later]))
    given = real_splits[name]
    expected = given[[key not in leaked for key in pair_keys(given)]]
    assert 0 < len(given) - len(expected) < 30
    pd.testing.assert_frame_equal(drop_leaks(real_splits)[name],
                                  expected.reset_index(drop=True))


def test_dropping_leaks_changes_no_table_in_place():
    splits = {"train": table(("a", "b"), ("c", "d")), "test": table(("b", "a"))}
    drop_leaks(splits)
    assert len(splits["train"]) == 2


# Splits

@pytest.mark.parametrize("count", [30, 100, 1001])
def test_each_pair_lands_on_exactly_one_side(make_pairs, count):
    pairs = make_pairs(count)
    splits = split_connections(pairs)
    assert list(splits) == ["train", "dev", "test"]
    together = pd.concat(splits.values())
    assert sorted(together["sentence1"]) == sorted(pairs["sentence1"])
    merged = together.merge(pairs, how="inner")
    assert len(merged) == len(together) == count


def test_the_sides_are_about_8_1_1(make_pairs):
    sizes = {name: len(pairs) for name, pairs in split_connections(make_pairs(1000)).items()}
    assert 780 <= sizes["train"] <= 820
    assert 90 <= sizes["dev"] <= 110
    assert 90 <= sizes["test"] <= 110


def test_rows_keep_their_order_and_are_numbered_anew(make_pairs):
    pairs = make_pairs(200)
    place = {text: i for i, text in enumerate(pairs["sentence1"])}
    for side in split_connections(pairs).values():
        places = [place[text] for text in side["sentence1"]]
        assert places == sorted(places)
        assert side.index.tolist() == list(range(len(side)))


@pytest.mark.parametrize("seed", [1, 12])
def test_no_sentence_stands_on_two_sides(seed):
    """Not even through a chain of pairs, or in another case."""
    splits = split_connections(chains(60, 4), seed)
    texts = {name: texts_of(pairs) for name, pairs in splits.items()}
    assert not texts["train"] & texts["dev"]
    assert not texts["train"] & texts["test"]
    assert not texts["dev"] & texts["test"]
    assert sum(map(len, splits.values())) == 240


def test_each_side_gets_low_middle_and_high_scores(make_pairs):
    for side in split_connections(make_pairs(600)).values():
        shares = pd.cut(side["score"], [-1, 1 / 3, 2 / 3, 2]).value_counts(normalize=True)
        assert shares.min() > 0.2


def test_the_same_seed_gives_the_same_split(make_pairs):
    first, second = (split_connections(make_pairs(100), seed=5) for _ in range(2))
    for name, pairs in first.items():
        pd.testing.assert_frame_equal(pairs, second[name])


def test_another_seed_gives_another_split(make_pairs):
    tests = [set(split_connections(make_pairs(100), seed)["test"]["sentence1"])
             for seed in range(4)]
    assert len({frozenset(side) for side in tests}) == 4


def test_few_high_scores_make_no_warning(make_pairs):
    """A warning would stand on stderr of a notebook's cell."""
    pairs = make_pairs(60).assign(score=[1.0] * 3 + [0.0] * 57)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sum(map(len, split_connections(pairs).values())) == 60


def test_too_few_pairs_are_refused(make_pairs):
    with pytest.raises(ValueError, match="29 pairs are too few.*at least 30"):
        split_connections(make_pairs(29))


def test_pairs_that_are_all_related_are_refused(make_pairs):
    pairs = make_pairs(100).assign(sentence1="the same text")
    with pytest.raises(ValueError, match="so related through shared sentences") as raised:
        split_connections(pairs)
    assert "train, dev and test files" in str(raised.value)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(count=st.integers(30, 120), share=st.floats(0.5, 4), draw=st.integers(0, 2 ** 32 - 1),
       levels=st.integers(1, 6), seed=st.integers(0, 1000))
def test_no_relation_is_cut_whatever_the_pairs(count, share, draw, levels, seed):
    """Random pairs from a pool of sentences: fewer sentences are more relations."""
    random = np.random.default_rng(draw)
    pool = max(2, int(count * share))
    names = [f"text {i}" if i % 2 else f" TEXT {i}  " for i in range(pool)]
    first, second = (random.integers(0, pool, count) for _ in range(2))
    pairs = pd.DataFrame({
        "sentence1": [names[i] for i in first], "sentence2": [names[i].lower() for i in second],
        "score": random.integers(0, levels, count) / max(1, levels - 1), "row": range(count)})
    try:
        splits = split_connections(pairs, seed)
    except ValueError as error:
        assert "so related" in str(error)
        return
    sides = list(splits.values())
    for i, side in enumerate(sides):
        assert len(side) > 0 and side["row"].is_monotonic_increasing
        for other in sides[i + 1:]:
            assert not texts_of(side) & texts_of(other)
            assert not set(pair_keys(side)) & set(pair_keys(other))
    assert sorted(pd.concat(sides)["row"]) == list(range(count))
    for name, side in split_connections(pairs, seed).items():
        pd.testing.assert_frame_equal(side, splits[name])


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(low=st.integers(40, 200), high=st.integers(40, 200), seed=st.integers(0, 1000))
def test_each_side_has_its_share_of_low_and_high_scores(make_pairs, low, high, seed):
    pairs = make_pairs(low + high).assign(score=[0.0] * low + [1.0] * high)
    for side in split_connections(pairs, seed).values():
        assert abs(side["score"].mean() - high / (low + high)) < 0.1
