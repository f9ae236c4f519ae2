"""A batch shared out among several processes."""

from collections.abc import Iterator

from torch.utils.data import Sampler


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
