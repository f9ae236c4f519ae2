"""Which cases run when, and pairs that any training does better on than its start."""

import os

import pandas as pd
import pytest

FULL = os.environ.get("CONNECTION_CHECK") == "full"


def slow(*values: object, **options: object):
    """A parametrized case that only `make test-all` runs."""
    return pytest.param(*values, marks=pytest.mark.slow, **options)


def chosen(request: pytest.FixtureRequest, name: str) -> list:
    """The values of parameter `name` that this run tries: a fixture prepares these alone."""
    items = (item for item in request.session.items if item.path == request.path)
    return list(dict.fromkeys(
        item.callspec.params[name] for item in items
        if hasattr(item, "callspec") and name in item.callspec.params))


def contradicting(model, pairs: pd.DataFrame) -> pd.DataFrame:
    """`pairs` with scores that order them the other way round than `model` does.

    As dev pairs they make sure that a training's weights are kept, not those at its start.
    """
    ranks = pd.Series(-model.similarity(pairs["sentence1"], pairs["sentence2"])).rank()
    return pairs.assign(score=(ranks / len(pairs)).to_numpy())
