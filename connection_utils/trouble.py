"""What goes wrong in a training: noticed while it runs, and told with what to do."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from connection_utils.config import TrainingConfig
from connection_utils.evaluation import CollapseCheck, gain_interval
from connection_utils.history import History
from connection_utils.workspace import shown

FALLS = 3              # so many evaluations, each below the one before, are worth a word


class Watch:
    """Looks at each evaluation, and tells once what a reader should not find out later."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell, self._told = tell, set()

    def look(self, history: History, unpaired: np.ndarray) -> None:
        """`unpaired` are cosines of texts that do not belong together, (n,)."""
        step = history.evaluations[-1]["step"]
        check = CollapseCheck(unpaired)
        if check.collapsed and step:           # a model that was never trained may start so
            self._once("collapse", f"step {step}: {check}.")
        scores = [record["dev_spearman"] for record in history.evaluations if record["step"]]
        if len(scores) >= FALLS and all(a > b for a, b in zip(scores, scores[1:])):
            self._once("falls", f"step {step}: dev Spearman × 100 only falls ("
                       + ", ".join(f"{100 * score:.2f}" for score in scores) + "). The weights "
                       "of the best evaluation are kept; lower learning_rate (it is "
                       f"{history.config.learning_rate:g}), or train fewer epochs.")

    def _once(self, what: str, sentence: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self._tell(sentence)


def start_kept(history: History, scores: pd.Series) -> str:
    """What to tell where no evaluation beat the starting model; `scores` are dev's, (pairs,)."""
    lower, most, least = (round(-100 * each, 2) + 0.0 for each in gain_interval(
        scores, history.start_cosines, history.trained_cosines))
    config = history.config
    remedies = [f"a lower learning_rate (it is {config.learning_rate:g})",
                *["fewer epochs"] * (config.epochs > 1), "more training pairs"]
    if config.loss != "cosine_mse":
        remedies.insert(0, "loss='cosine_mse'")
    best = 100 * history.best["dev_spearman"]
    return (f"kept the starting model: its dev Spearman × 100, {best:.2f}, was not beaten in "
            f"training. The best evaluation was {lower:.2f} lower (95 % interval {least:.2f} to "
            f"{most:.2f}, {len(scores):,} dev pairs). Try {', '.join(remedies[:-1])} or "
            f"{remedies[-1]}.")


@contextmanager
def interrupt_sets(stop: threading.Event) -> Iterator[threading.Event]:
    """In the block the first Ctrl-C only sets `stop`, so that no step is cut in half.

    Yields an event that tells whether there was one. A second one ends the block at once.
    """
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():     # signals go elsewhere
        yield interrupted
        return
    before = signal.getsignal(signal.SIGINT)

    def note(*_: object) -> None:
        interrupted.set()
        stop.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def how_to_go_on(history: History, checkpoints: Path | None) -> str:
    """What to tell whoever has pressed Ctrl-C."""
    step = len(history.step_losses)
    remedy = (f"With resume=True (--resume) the training goes on from {shown(checkpoints)}."
              if checkpoints else "To be able to go on another time, train with checkpoints=, and "
              "checkpoint_every= in the TrainingConfig.")
    return (f"interrupted after step {step} of {history.steps}. The model holds the best weights "
            f"so far, and can be used and saved. {remedy}")


@contextmanager
def memory_told(config: TrainingConfig, history: History) -> Iterator[None]:
    """MemoryError with advice, whatever kind of error the lack of memory was."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        said = str(error).lower()
        if isinstance(error, RuntimeError) and not (
                "out of memory" in said or "defaultcpuallocator" in said):
            raise
        size, many = config.batch_size, config.gradient_accumulation_steps
        halve = (f"Set batch_size={-(-size // 2)} and gradient_accumulation_steps={2 * many}: a "
                 "step has as many pairs as before, and needs about half the memory. "
                 if size > 1 else "")
        raise MemoryError(
            f"step {len(history.step_losses) + 1}: there is not enough memory for {size} pairs "
            f"at once. {halve}A smaller max_length and frozen layers need less, too.") from error
