"""Which cases run when: all of them in `make test-all`, one of each kind in `make test`."""

import os

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
