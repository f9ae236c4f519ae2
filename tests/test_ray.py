"""The same scorer on a local Ray of two workers, one of which dies."""

import os
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"        # it would call home

import ray  # noqa: E402

from connection_utils import ConnectionScorer  # noqa: E402

ROWS = 400


class Mortal(ConnectionScorer):
    """Kills its process at its third batch, once in all, and notes who scored."""

    def __init__(self, folder: str, notes: str) -> None:
        super().__init__(folder, device="cpu")
        self.notes, self.batches = Path(notes), 0

    def __call__(self, batch):
        self.batches += 1
        (self.notes / f"{os.getpid()}").touch()
        if self.batches == 3:
            try:
                (self.notes / "killed").touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
            except FileExistsError:
                pass
        return super().__call__(batch)


@pytest.fixture(scope="module")
def local_ray():
    """Two CPUs, no dashboard, nothing sent anywhere."""
    for attempt in range(3):
        try:
            ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False,
                     object_store_memory=200 << 20,
                     runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}})
            break
        except Exception:                # Ray gives a busy machine 30 s to start, no more
            ray.shutdown()
            if attempt == 2:
                raise
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    yield
    ray.shutdown()


def test_a_worker_that_dies_costs_no_row(local_ray, tmp_path, tiny_folder, make_pairs):
    pairs = make_pairs(ROWS).assign(id=range(ROWS))
    whole = ConnectionScorer(tiny_folder, device="cpu")(pairs.to_dict("list"))
    notes = tmp_path / "notes"
    notes.mkdir()
    rows = ray.data.from_pandas(pairs).repartition(20).map_batches(
        Mortal, fn_constructor_args=[str(tiny_folder), str(notes)], concurrency=2,
        batch_size=None, num_cpus=1)
    scored = rows.to_pandas()
    names = {path.name for path in notes.iterdir()}
    assert "killed" in names and len(names) >= 4              # two, and one in the dead one's place
    assert scored["id"].tolist() == list(range(ROWS))         # every row, once, in order
    assert scored["sentence1"].tolist() == pairs["sentence1"].tolist()
    assert np.abs(scored["cosine"] - whole["cosine"]).max() < 1e-5
    assert isinstance(scored, pd.DataFrame) and scored["cosine"].dtype == np.float32


def test_nothing_is_reported_home():
    from ray._common.usage import usage_lib
    assert not usage_lib.usage_stats_enabled()
