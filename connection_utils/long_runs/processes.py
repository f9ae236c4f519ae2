"""Several processes that train one model: what torchrun starts finds each other here.

Each holds the whole model, goes through its own share of every batch, and makes the same
step. One process is the ordinary case: then nothing is sent, and every question here has
its answer at once, and torch is not even imported: that takes seconds, and a command line
tells by then what is wrong with its options and files.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

Made = TypeVar("Made")
GO_ON = ("What was saved before is whole. With --checkpoint-every in the command, the same "
         "command with --resume goes on from the last checkpoint.")


def count() -> int:
    """How many processes train together."""
    return sys.modules["torch.distributed"].get_world_size() if are_a_group() else 1


def rank() -> int:
    """This one's number, from 0 on."""
    return sys.modules["torch.distributed"].get_rank() if are_a_group() else 0


def are_a_group() -> bool:
    """Whether torchrun's processes have joined: one alone may be a group, too."""
    dist = sys.modules.get("torch.distributed")      # a group exists only where it is imported
    return dist is not None and dist.is_initialized()


def is_main() -> bool:
    """True in one process: that which writes and speaks."""
    return rank() == 0


@contextmanager
def joined() -> Iterator[None]:
    """In the block the processes that torchrun started are a group; if none did, nothing is.

    NCCL joins GPUs, gloo CPUs. A process that goes away ends the others, each with SystemExit
    and a sentence on how to go on.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    gpus, local = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", 0))
    if gpus:
        if local >= gpus:
            sys.exit(f"process {local} of this machine finds {gpus} GPUs; expected one for "
                     f"each: --nproc-per-node {gpus} or fewer")
        torch.cuda.set_device(local)
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")
    name = f"process {rank()} of {count()}"

    def ended(*_: object) -> None:
        sys.exit(f"{name}: told to end, as torchrun does when another one has died. {GO_ON}")

    before = signal.signal(signal.SIGTERM, ended)
    try:
        yield
        dist.destroy_process_group()
    except RuntimeError as error:            # gloo has no type of its own for it
        if not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        sys.exit(f"{name}: another process has gone away ({str(error).splitlines()[0][:120]}). "
                 f"{GO_ON}")
    finally:
        signal.signal(signal.SIGTERM, before)


# What all of them know

def from_main(make: Callable[[], Made]) -> Made:
    """What `make` returns in the main process, in all of them; what it raises, all raise."""
    if not are_a_group():
        return make()
    import torch.distributed as dist

    sent: list[object] = [None]
    if is_main():
        try:
            sent = [(make(), None)]
        except Exception as error:
            sent = [(None, error)]
    dist.broadcast_object_list(sent, src=0)
    return _made(*sent[0])


def in_all(make: Callable[[], Made]) -> Made:
    """What `make` returns here; if it raises anywhere, all raise what the first of them did."""
    if not are_a_group():
        return make()
    made, error = None, None
    try:
        made = make()
    except Exception as raised:
        error = raised
    return _made(made, next(filter(None, from_each(error)), None))


def _made(made: Made, error: Exception | None) -> Made:
    if error is not None:
        raise error
    return made


def from_each(value: Made) -> list[Made]:
    """Every process's `value`, by rank, in all of them."""
    values = [value] * count()
    if are_a_group():
        import torch.distributed as dist

        dist.all_gather_object(values, value)
    return values


def must_agree(facts: Mapping[str, str]) -> None:
    """ValueError if another process has other `facts`: it would train something else."""
    for other_rank, theirs in enumerate(from_each(dict(facts))):
        other = [name for name, value in theirs.items() if facts[name] != value]
        if other:
            raise ValueError(
                f"process {rank()} and process {other_rank} would train different things: "
                + "; ".join(f"{name} ({facts[name]} and {theirs[name]})" for name in other)
                + ". Give all machines the same files and the same command.")


def total(number: int) -> int:
    """The sum of what all processes state."""
    return _reduced(number, "SUM")


def largest(number: int) -> int:
    """The largest number that a process states; of bools: whether one of them is true."""
    return _reduced(number, "MAX")


def _reduced(number: int, how: str) -> int:
    if not are_a_group():
        return number
    import torch
    import torch.distributed as dist

    said = torch.tensor(int(number))
    dist.all_reduce(said, getattr(dist.ReduceOp, how))
    return said.item()


# Work that is shared

def sharing(model: nn.Module) -> nn.Module:
    """`model` in DistributedDataParallel, so that gradients become the processes' mean."""
    if not are_a_group():
        return model
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(model, gradient_as_bucket_view=True)


def not_yet(model: nn.Module) -> AbstractContextManager:
    """A block whose gradients wait in this process until a backward pass outside of it."""
    return model.no_sync() if hasattr(model, "no_sync") else nullcontext()


def gather_pairs(u: torch.Tensor, v: torch.Tensor, score: torch.Tensor, most: int
                 ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """All processes' shares of a batch: u, v (batch, hidden) and score (batch,).

    Here they are (n, hidden) and (n,), n at most `most`. So each process has the loss of the
    whole batch, also where it compares pairs. Its gradient flows into the process's own rows,
    and the sum of the processes' gradients is that of the whole batch.
    """
    if not are_a_group():
        return u, v, score
    import torch
    import torch.distributed as dist

    own = torch.cat([u, v, score[:, None]], dim=1)
    sent = own.new_full((most, own.shape[1]), torch.nan)     # all send as many rows
    sent[:len(own)] = own.detach()
    received = [torch.empty_like(sent) for _ in range(count())]
    dist.all_gather(received, sent)
    rows = [each[~each[:, -1].isnan()] for each in received]
    rows[rank()] = own
    u, v, score = torch.cat(rows).split([u.shape[1], v.shape[1], 1], dim=1)
    return u, v, score[:, 0]


def divided(score: Callable[..., np.ndarray], *columns: list) -> np.ndarray:
    """``score(*columns)``, a number a row, each process doing its share of the rows."""
    if not are_a_group():
        return score(*columns)
    import numpy as np

    shares = from_each(score(*(column[rank()::count()] for column in columns)))
    scores = np.empty(len(columns[0]), shares[0].dtype)
    for place, share in enumerate(shares):
        scores[place::count()] = share
    return scores
