"""A progress bar for people, silent where nobody watches."""

import os
import threading
from collections.abc import Iterable

from tqdm.auto import tqdm

from connection_utils.ground.paths import being_checked


def progress(iterable: Iterable, **options) -> tqdm:
    """A tqdm bar over `iterable`, for whoever watches.

    Silent while the run is being checked, in all but one of the processes that torchrun
    started, and in other threads than the main one: a panel shows the progress of what it
    started in a place of its own.
    """
    another = "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("RANK", "0") != "0"
    unseen = (being_checked() or another
              or threading.current_thread() is not threading.main_thread())
    return tqdm(iterable, disable=unseen or None, **options)
