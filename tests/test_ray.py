"""The same scorer on a local Ray of two workers, one of which dies."""

import os
import secrets
import signal
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token",
               "RAY_AUTH_TOKEN": secrets.token_hex(32)}     # as in notebook 10

import ray  # noqa: E402
from ray._common.usage import usage_lib  # noqa: E402

from connection_utils import ConnectionScorer  # noqa: E402

pytestmark = pytest.mark.slow         # starting Ray takes most of its time
ROWS, BLOCK = 400, 20


class Mortal(ConnectionScorer):
    """Kills its process in its third batch, once in all; notes who scored what."""

    def __init__(self, folder: str, notes: str) -> None:
        super().__init__(folder, device="cpu")
        self.notes, self.batches = Path(notes), 0

    def __call__(self, batch):
        self.batches += 1
        with open(self.notes / f"{os.getpid()}", "a") as note:
            note.write(f"{batch['id'][0]}\n")
        if self.batches == 3:
            with suppress(FileExistsError), open(self.notes / "killed", "x") as note:
                note.write(f"{batch['id'][0]}")
                note.flush()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(batch)


@pytest.fixture(scope="module")
def local_ray():
    """Two workers and one that reads; no dashboard."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    for tries_left in (2, 1, 0):         # Ray gives itself 30 s: little on a busy machine
        try:
            ray.init(address="local", num_cpus=3, include_dashboard=False,
                     log_to_driver=False, object_store_memory=200_000_000)
            break
        except Exception as error:       # Ray has no name for it
            ray.shutdown()
            if not tries_left or "timed out during startup" not in str(error):
                raise
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    yield
    ray.shutdown()


def test_a_worker_that_dies_costs_no_row(local_ray, tmp_path, tiny_folder, make_pairs):
    pairs = make_pairs(ROWS).assign(id=range(ROWS))
    whole = ConnectionScorer(tiny_folder, device="cpu")(pairs.to_dict("list"))
    blocks = [pairs[start:start + BLOCK] for start in range(0, ROWS, BLOCK)]
    scored = ray.data.from_pandas(blocks).map_batches(
        Mortal, fn_constructor_args=[str(tiny_folder), str(tmp_path)], num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=2), batch_size=None).to_pandas()
    lost = (tmp_path / "killed").read_text()
    done = [path.read_text().split() for path in tmp_path.glob("[0-9]*")]
    assert len(done) >= 2 and sum(map(len, done)) == ROWS // BLOCK + 1   # one twice:
    assert sum(lost in batches for batches in done) == 2        # by the dead one, and again
    assert scored["id"].tolist() == list(range(ROWS))           # every row once, in order
    assert scored["sentence1"].tolist() == pairs["sentence1"].tolist()
    assert np.abs(scored["cosine"] - whole["cosine"]).max() < 1e-5
    assert pd.to_numeric(scored["cosine"]).dtype.itemsize == 4


def test_nothing_is_reported_and_no_stranger_may_send_work(local_ray):
    assert not usage_lib.usage_stats_enabled()
    assert ray._raylet.get_authentication_mode() == ray._raylet.AuthenticationMode.TOKEN
