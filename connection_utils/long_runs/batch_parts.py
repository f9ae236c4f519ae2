"""A batch in parts: shared among several processes, or put through the model bit by bit."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from connection_utils.long_runs import processes

# What a process puts through the model when a batch has no pair left for it: an empty text.
NO_PAIR = {"input_ids": torch.zeros(2, 1, dtype=torch.long),
           "attention_mask": torch.ones(2, 1, dtype=torch.long), "score": torch.zeros(0)}


def parts_of(batch: dict[str, torch.Tensor], at_once: int
             ) -> tuple[list[dict[str, torch.Tensor]], int]:
    """This process's `batch` in parts, and the most pairs that a process has in one of them.

    All processes together have `at_once` pairs in a part. All have equally many parts, though
    some may hold no pair: a process that made fewer passes would let the others wait forever.
    """
    count, rank = processes.count(), processes.rank()
    most, here = (len(range(first, at_once, count)) for first in (0, rank))
    parts = list(split_batch(batch, here)) if len(batch["score"]) else []
    return parts + [NO_PAIR] * (processes.largest(len(parts)) - len(parts)), most


def split_batch(batch: dict[str, torch.Tensor], size: int
                ) -> Iterator[dict[str, torch.Tensor]]:
    """A batch as `collate_connections` makes it, in parts of at most `size` pairs."""
    pairs = len(batch["score"])
    if size >= pairs:
        yield batch
        return
    for start in range(0, pairs, size):
        rows = slice(start, start + size)
        yield {name: torch.cat([half[rows] for half in tensor.chunk(2)])   # first, second texts
               for name, tensor in batch.items() if name != "score"} | {
            "score": batch["score"][rows]}


class ShareOfBatches(Sampler[list[int]]):
    """What one of several processes takes of the same `batches`: each pair goes to one of them.

    Of every `at_once` rows of a batch, process `rank` of `count` takes each `count`-th. A
    batch's last rows may be fewer than the processes: then some take none of them.
    """

    def __init__(self, batches: Sampler[list[int]], at_once: int, rank: int, count: int
                 ) -> None:
        if at_once < count:
            raise ValueError(f"batch_size is {at_once}, for {count} processes; expected a pair "
                             "for each of them or more. It is that of all of them together.")
        self.batches, self.at_once, self.rank, self.count = batches, at_once, rank, count

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """As `batches` have it: another order, without the first `skip` batches."""
        self.batches.set_epoch(epoch, skip)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        for rows in self.batches:
            yield [row for start in range(0, len(rows), self.at_once)
                   for row in rows[start:start + self.at_once][self.rank::self.count]]
