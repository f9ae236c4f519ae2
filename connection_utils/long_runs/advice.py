"""What goes wrong in a training: noticed while it runs, and told with what to do."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path

from connection_utils.ground.paths import shown

FALLS = 3              # so many evaluations, each below the one before, are worth a word


class Watch:
    """Looks at each evaluation, and tells once what a reader should not find out later."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell, self._told = tell, set()

    def look(self, step: int, scores: Sequence[float], learning_rate: float,
             collapsed: str | None) -> None:
        """Check the evaluation at `step`, the last of `scores`: dev Spearmans after step 0.

        `collapsed` says how the model has collapsed, None if it has not.
        """
        if collapsed and step:                 # a model that was never trained may start so
            self._once("collapse", f"step {step}: {collapsed}.")
        if len(scores) >= FALLS and all(a > b for a, b in zip(scores, scores[1:])):
            self._once("falls", f"step {step}: dev Spearman × 100 only falls ("
                       + ", ".join(f"{100 * score:.2f}" for score in scores) + "). The weights "
                       "of the best evaluation are kept; lower learning_rate (it is "
                       f"{learning_rate:g}), or train fewer epochs.")

    def _once(self, what: str, sentence: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self._tell(sentence)


def start_kept(best: float, gain: tuple[float, float, float], pairs: int, loss: str,
               learning_rate: float, epochs: int) -> str:
    """What to tell where no evaluation beat the starting model.

    `best` is its dev Spearman on `pairs` pairs, `gain` how much the best trained weights add
    to that, with the interval's ends; the other three are settings of the training.
    """
    lower, most, least = (round(-100 * each, 2) + 0.0 for each in gain)
    remedies = [f"a lower learning_rate (it is {learning_rate:g})",
                *["fewer epochs"] * (epochs > 1), "more training pairs"]
    if loss != "cosine_mse":
        remedies.insert(0, "loss='cosine_mse'")
    return (f"kept the starting model: its dev Spearman × 100, {100 * best:.2f}, was not beaten "
            f"in training. The best evaluation was {lower:.2f} lower (95 % interval {least:.2f} "
            f"to {most:.2f}, {pairs:,} dev pairs). Try {', '.join(remedies[:-1])} or "
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


def how_to_go_on(step: int, steps: int, checkpoints: Path | None) -> str:
    """What to tell whoever has pressed Ctrl-C after `step` of `steps`."""
    remedy = (f"With resume=True (--resume) the training goes on from {shown(checkpoints)}."
              if checkpoints else "To be able to go on another time, train with checkpoints=, "
              "and checkpoint_every= in the TrainingConfig.")
    return (f"interrupted after step {step} of {steps}. The model holds the best weights "
            f"so far, and can be used and saved. {remedy}")


@contextmanager
def memory_told(batch_size: int, batches: int, done: Sized) -> Iterator[None]:
    """MemoryError with advice, whatever kind of error the lack of memory was.

    `done` has an entry for each step that is done; a step has so many `batches`.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        said = str(error).lower()
        if isinstance(error, RuntimeError) and not (
                "out of memory" in said or "defaultcpuallocator" in said):
            raise
        halve = (f"Set batch_size={-(-batch_size // 2)} and gradient_accumulation_steps="
                 f"{2 * batches}: a step has as many pairs as before, and needs about half the "
                 "memory. " if batch_size > 1 else "")
        raise MemoryError(
            f"step {len(done) + 1}: there is not enough memory for {batch_size} pairs at once. "
            f"{halve}A smaller max_length and frozen layers need less, too.") from error
