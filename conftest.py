"""Pytest's settings for tests and notebooks alike.

``CONNECTION_CHECK`` says how thorough a run is: ``quick`` (the default) leaves out the tests
marked slow and the notebook cells tagged slow, ``full`` runs all of them. Either way progress
bars are off, and what is trained goes under runs/check/.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("CONNECTION_CHECK", "quick")
collect_ignore_glob = ["notebooks/ko/*"]       # the code of their English twins, checked there
XDIST = "PYTEST_XDIST_WORKER" in os.environ
if XDIST:
    os.environ.setdefault("OMP_NUM_THREADS", "1")       # two workers: a core each

# Notebooks that need the model of notebook 03 follow it on the same worker.
AFTER_03 = ("03_train_siamese_cosine", "04_similarity_distributions", "08_search_and_match",
            "09_ship", "04_solutions", "08_solutions", "09_solutions")


def pytest_configure(config: pytest.Config) -> None:
    """Give a notebook's kernel three chances to start.

    A kernel is told ports that were free a moment ago. When another worker's kernel takes one
    of them first, it dies before its first cell, and every cell of the notebook fails.
    """
    if config.getoption("nbval", False):
        from nbval import kernel

        kernel.start_new_kernel = _up_to_three_times(kernel.start_new_kernel)


def _up_to_three_times(start: Callable) -> Callable:
    def started(*args: object, **settings: object) -> object:
        for _ in range(2):
            try:
                return start(*args, **settings)
            except RuntimeError as error:
                print(f"{error}; starting it again")
        return start(*args, **settings)

    return started


@pytest.hookimpl(optionalhook=True)                    # without xdist nobody calls it
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """A file's tests, or a notebook's cells, run on one worker, in order.

    xdist's own --dist=loadgroup deals them out one by one with pytest 9.2, without a word.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            stem = Path(nodeid.split("::")[0]).stem
            return AFTER_03[0] if stem in AFTER_03 else stem

    return ByFile(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is slow, unless it is wanted.

    For two workers the longest group, notebook 03 and those after it, comes first, then the
    other notebooks: what is left for the end is short, so both workers end together.
    """
    if os.environ["CONNECTION_CHECK"] != "full":
        slow = [item for item in items if _is_slow(item)]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not _is_slow(item)]
    if XDIST:
        items.sort(key=lambda item: AFTER_03.index(item.path.stem)
                   if item.path.stem in AFTER_03
                   else len(AFTER_03) + (item.path.suffix != ".ipynb"))


def _is_slow(item: pytest.Item) -> bool:
    """True for a test marked slow, and for a notebook's cell with the tag slow."""
    tags = item.cell.metadata.get("tags", []) if hasattr(item, "cell") else []
    return bool(item.get_closest_marker("slow")) or "slow" in tags
