"""Which texts share pairs: leakage between splits, and splits without any."""

import warnings
from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from connection_utils.ground.numbers import check_number


def pair_keys(pairs: pd.DataFrame) -> pd.Series:
    """A key for each row that is equal for equal pairs, swapped or not, in any case."""
    first, second = (pairs[name].str.strip().str.lower().str.replace("\t", "\x1f")
                     for name in ("sentence1", "sentence2"))     # so one tab is in a key
    swap = first > second
    return first.where(~swap, second) + "\t" + second.where(~swap, first)


def find_leaks(splits: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The pairs that stand in more than one split.

    A row for each such pair: ``pair`` (its key, as `pair_keys` makes it) and, for each
    split, how many rows it has there.
    """
    counts = pd.DataFrame({name: pair_keys(pairs).value_counts()
                           for name, pairs in splits.items()})
    leaked = counts[counts.notna().sum(axis=1) > 1].fillna(0).astype(int)
    return leaked.rename_axis("pair").sort_index().reset_index()


def drop_leaks(splits: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The same splits, each without the pairs that a later one holds.

    In the order train, dev, test: train gives way to dev and test, dev gives way to
    test, and test is never touched, or its scores could not be compared with others'.
    """
    kept, later = {}, set()
    for name in reversed(list(splits)):
        keys = pair_keys(splits[name])
        kept[name] = splits[name][~keys.isin(later)].reset_index(drop=True)
        later.update(keys)
    return {name: kept[name] for name in splits}


def split_connections(pairs: pd.DataFrame, seed: int = 12) -> dict[str, pd.DataFrame]:
    """Cut one table into train, dev and test, about 8 : 1 : 1.

    Pairs that share a sentence, directly or through other pairs, stay on one side, and
    each side gets its share of low, middle and high scores. The seed decides; the rows
    keep their order. ValueError if there are fewer than 30 pairs, or fewer than ten groups of
    related ones.
    """
    check_number("seed", seed, int, 0)
    if len(pairs) < 30:
        raise ValueError(f"{len(pairs)} pairs are too few to cut into train, dev and test; "
                         "expected at least 30")
    groups = _related_groups(pairs)
    related = ValueError(
        f"the {len(pairs)} pairs are so related through shared sentences that they cannot be "
        "cut apart; bring a folder with train, dev and test files")
    if len(np.unique(groups)) < 10:
        raise related
    from sklearn.model_selection import StratifiedGroupKFold  # a second or two; rarely wanted

    tenths = StratifiedGroupKFold(n_splits=10, shuffle=True, random_state=seed)
    # few pairs of one kind of score: as even as can be
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        folds = [rows for _, rows in tenths.split(
            pairs, y=pd.cut(pairs["score"], 3, labels=False), groups=groups)]
    sides = {"train": np.concatenate(folds[2:]), "dev": folds[0], "test": folds[1]}
    if not all(map(len, sides.values())):
        raise related
    return {name: pairs.iloc[np.sort(rows)].reset_index(drop=True)
            for name, rows in sides.items()}


def _related_groups(pairs: pd.DataFrame) -> np.ndarray:
    """A group number for each row; rows that share a sentence have the same."""
    both = pd.concat([pairs["sentence1"], pairs["sentence2"]]).str.strip().str.lower()
    nodes, names = pd.factorize(both)
    first, second = np.split(nodes, 2)
    edges = coo_array((np.ones(len(first)), (first, second)), shape=(len(names),) * 2)
    return connected_components(edges, directed=False)[1][first]
