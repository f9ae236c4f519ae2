"""Warnings and advice while a training runs: what is going wrong, and what to do about it."""

import signal
import threading
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from connection_utils.ground.paths import shown

MANY = 0.03            # unknown tokens or long texts: warn if there are more (STS: none)


class Unread(NamedTuple):
    """How much of some texts a model cannot read; ``str`` adds advice if it is much."""

    unknown: float       # the share of [UNK] among the tokens, 0..1
    full: float          # the share of texts that reach max_length: hardly any is not cut
    max_length: int

    @classmethod
    def of(cls, tokens: Iterable[Sequence[int]], unk_token_id: int, max_length: int
           ) -> "Unread":
        """Count in the token ids of texts, cut to `max_length` and with [CLS] and [SEP]."""
        texts = pieces = unknown = full = 0
        for ids in tokens:
            texts += 1
            pieces += len(ids) - 2
            unknown += ids.count(unk_token_id)
            full += len(ids) == max_length
        return cls(unknown / max(pieces, 1), full / max(texts, 1), max_length)

    @property
    def is_much(self) -> bool:
        """True if the texts or the settings do not suit the model."""
        return max(self.unknown, self.full) > MANY

    def __str__(self) -> str:
        return (f"{100 * self.unknown:.1f} % of the tokens are unknown ([UNK]), "
                f"{100 * self.full:.1f} % of the texts reach max_length ({self.max_length})"
                + ". Unknown words cannot be told apart: take a BERT whose vocabulary was made "
                  "for these texts" * (self.unknown > MANY)
                + ". What follows is cut off: raise max_length if the model accepts more"
                  * (self.full > MANY))


def start_kept(best: float, gain: tuple[float, float, float], pairs: int, loss: str,
               learning_rate: float, epochs: int) -> str:
    """The advice if no evaluation beat the starting model.

    `best` is its dev Spearman on `pairs` pairs; `gain` is what the best trained weights add to
    it, and the ends of the interval. The other arguments are settings of the training.
    """
    lower, most, least = (-100 * each for each in gain)
    remedies = [f"a lower learning_rate (it is {learning_rate:g})",
                *["fewer epochs"] * (epochs > 1), "more training pairs"]
    if loss != "cosine_mse":
        remedies.insert(0, "loss='cosine_mse'")
    return (f"kept the starting model: its dev Spearman × 100, {100 * best:.2f}, was not "
            f"beaten in training. The best evaluation was {lower:z.2f} lower (95 % interval "
            f"{least:z.2f} to {most:z.2f}, {pairs:,} dev pairs). Try "
            f"{', '.join(remedies[:-1])} or {remedies[-1]}.")


@contextmanager
def interrupt_sets(stop: threading.Event) -> Iterator[threading.Event]:
    """In the block, the first Ctrl-C only sets `stop`, so that no step is cut in half.

    Yields an event that is set by that Ctrl-C. A second one ends the block at once.
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
    """How to continue after Ctrl-C at `step` of `steps`."""
    remedy = (f"With resume=True (--resume) the training goes on from {shown(checkpoints)}."
              if checkpoints else "To be able to go on another time, train with checkpoints=, "
              "and checkpoint_every= in the TrainingConfig.")
    return (f"interrupted after step {step} of {steps}. The model holds the best weights "
            f"so far, and can be used and saved. {remedy}")


@contextmanager
def memory_told(batch_size: int, done: Sized) -> Iterator[None]:
    """Raise MemoryError with advice for any kind of out-of-memory error in the block.

    `done` has an entry for each finished step.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        said = str(error).lower()
        if isinstance(error, RuntimeError) and not (
                "out of memory" in said or "defaultcpuallocator" in said):
            raise
        raise MemoryError(
            f"step {len(done) + 1}: there is not enough memory for {batch_size} pairs at once. "
            "Half the batch_size needs about half of it; a smaller max_length and frozen "
            "layers also help.") from error
