"""Several processes that train one model, started by torchrun.

Each process has the whole model, computes its own share of every batch, and makes the same
step. With one process, the usual case, nothing is sent.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

Made = TypeVar("Made")
GO_ON = ("What was saved before is whole. If the command had --checkpoint-every, the same "
         "command with --resume continues from the last checkpoint.")


def count() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process: 0, 1, …"""
    return dist.get_rank() if count() > 1 else 0


def is_main() -> bool:
    """True in one process: the one that writes files and prints."""
    return rank() == 0


@contextmanager
def joined() -> Iterator[None]:
    """In the block, the processes that torchrun started work together (NCCL: GPUs, gloo: CPUs).

    If one of them dies, the others end with SystemExit and advice on how to continue. Without
    torchrun this does nothing, whatever WORLD_SIZE and RANK another program has left.
    """
    if not dist.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1":
        yield
        return
    gpus, local = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", 0))
    if gpus:
        if local >= gpus:
            sys.exit(f"process {local} of this machine finds {gpus} GPUs; expected one for "
                     f"each: --nproc-per-node {gpus} or fewer")
        torch.cuda.set_device(local)
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")
    died = f"process {rank()} of {count()}: another process has died. {GO_ON}"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(died))         # which torchrun sends then
    try:
        yield
        dist.destroy_process_group()
    except RuntimeError as error:            # gloo has no type of its own for it
        if not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        sys.exit(f"{died} PyTorch reports: {str(error).splitlines()[0][:120]}")


# What all processes know

def from_main(make: Callable[[], Made]) -> Made:
    """What `make` returns in the main process, for all processes; all raise what it raises."""
    made = [in_all(lambda: make() if is_main() else None)]
    if count() > 1:
        dist.broadcast_object_list(made, src=0)
    return made[0]


def in_all(make: Callable[[], Made]) -> Made:
    """What `make` returns here; if it raises in any process, all raise the first error."""
    made, error = None, None
    try:
        made = make()
    except Exception as raised:
        error = raised
    for first in filter(None, from_each(error)):
        raise first
    return made


def from_each(value: Made) -> list[Made]:
    """The `value` of every process, by rank; all processes get the same list."""
    values = [value] * count()
    if count() > 1:
        dist.all_gather_object(values, value)
    return values


def must_agree(facts: Mapping[str, str]) -> None:
    """ValueError if the `facts` about the training differ between processes."""
    for other_rank, theirs in enumerate(from_each(dict(facts))):
        if different := differences(theirs, facts):
            raise ValueError(
                f"process {rank()} and process {other_rank} would train different things: "
                f"{different}. Give all machines the same files and the same command.")


def differences(theirs: Mapping[str, str], ours: Mapping[str, str]) -> str:
    """In words, where two descriptions of a training differ; empty if they do not."""
    return "; ".join(f"{name} is {theirs.get(name)} there, {ours.get(name)} here"
                     for name in {**theirs, **ours} if theirs.get(name) != ours.get(name))


# Shared work

def sharing(model: nn.Module) -> nn.Module:
    """`model` in DistributedDataParallel, which averages the processes' gradients."""
    return model if count() == 1 else DistributedDataParallel(
        model, gradient_as_bucket_view=True)


def gather_pairs(u: torch.Tensor, v: torch.Tensor, score: torch.Tensor
                 ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """All processes' shares of a batch: u, v (batch, hidden) and score (batch,).

    Here they are (n, hidden) and (n,). So each process has the loss of the whole batch, also
    if the loss compares pairs. Its gradient flows into the process's own rows, and the sum of
    the processes' gradients is that of the whole batch.
    """
    if count() == 1:
        return u, v, score
    own = torch.cat([u, v, score[:, None]], dim=1)
    rows = [each.to(own.device) for each in from_each(own.detach().cpu())]
    rows[rank()] = own
    u, v, score = torch.cat(rows).split([u.shape[1], v.shape[1], 1], dim=1)
    return u, v, score[:, 0]


def divided(score: Callable[..., np.ndarray], *columns: list) -> np.ndarray:
    """``score(*columns)``, one number per row; each process computes its share of the rows."""
    shares = from_each(score(*(column[rank()::count()] for column in columns)))
    scores = np.empty(len(columns[0]), shares[0].dtype)
    for place, share in enumerate(shares):
        scores[place::count()] = share
    return scores
