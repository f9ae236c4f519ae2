"""ConnectionDataset and its batches: pairs of token ids, padded no more than needed.

The pairs come as a table with the columns sentence1, sentence2 and score, as `read_connections`
returns it.
"""

import copy
import hashlib
from array import array
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import PreTrainedTokenizerFast

from connection_utils.encoding import TokenLists, pad_batch, tokenize
from connection_utils.ground.numbers import check_number
from connection_utils.long_runs import processes
from connection_utils.long_runs.advice import Unread

Item = dict[str, list[int] | float]


class ConnectionDataset(Dataset):
    """Pairs of texts as token ids, with their scores.

    All texts are tokenised once, when the dataset is made, and cut to `max_length` tokens.
    ``dataset[i]`` is a dict: ``sentence1`` and ``sentence2`` (lists of token ids, [CLS] …
    [SEP]) and ``score`` (float). Scores are usually 0..1. ValueError if a score is outside of
    -1..1, the range of a cosine. ``print(dataset.unread)``: how many tokens are unknown and
    how many texts are cut. A million pairs like those of the STS benchmark need 139 MB
    (benchmarks/cost_as_work_grows.py).
    """

    def __init__(self, pairs: pd.DataFrame, tokenizer: PreTrainedTokenizerFast,
                 max_length: int = 128) -> None:
        self.sentence1 = TokenLists(tokenize(pairs["sentence1"], tokenizer, max_length))
        self.sentence2 = TokenLists(tokenize(pairs["sentence2"], tokenizer, max_length))
        self.score = array("d", pairs["score"].astype(float))
        outside = [row for row, score in enumerate(self.score) if not -1 <= score <= 1]
        if outside:
            raise ValueError(f"row {outside[0]}: score is {self.score[outside[0]]}, and "
                             f"{len(outside) - 1} more are out of range; expected 0 to 1 (or "
                             "-1 to 1, what a cosine can be). Divide by the scale's maximum.")
        self.pad_token_id = tokenizer.pad_token_id
        self.unread = Unread.of(chain(self.sentence1, self.sentence2), tokenizer.unk_token_id,
                                max_length)

    def __len__(self) -> int:
        return len(self.score)

    def __getitem__(self, index: int) -> Item:
        return {"sentence1": self.sentence1[index], "sentence2": self.sentence2[index],
                "score": self.score[index]}

    def sample(self, share: float, seed: int) -> "ConnectionDataset":
        """A dataset with a random `share` (0..1) of the pairs, at least one.

        With the same `seed`, a smaller sample is a subset of a larger one.
        """
        check_number("share", share, float, 0, 1)
        if share == 1:
            return self
        order = np.random.default_rng(seed).permutation(len(self))
        rows = np.sort(order[:max(1, round(share * len(self)))])
        part = copy.copy(self)
        part.sentence1 = TokenLists(self.sentence1[row] for row in rows)
        part.sentence2 = TokenLists(self.sentence2[row] for row in rows)
        part.score = array("d", (self.score[row] for row in rows))
        return part

    def fingerprint(self) -> str:
        """16 digits of a hash of all tokens and scores: a checkpoint is for one dataset."""
        found = hashlib.sha256(self.score)
        for tokens in (self.sentence1, self.sentence2):
            found.update(tokens.offsets)
            found.update(tokens.ids)
        return found.hexdigest()[:16]

    @property
    def lengths(self) -> np.ndarray:
        """The longer sentence's number of tokens, for each pair: (pairs,) int64."""
        return np.maximum(np.diff(self.sentence1.offsets), np.diff(self.sentence2.offsets))


def collate_connections(items: Sequence[Item], pad_token_id: int) -> dict[str, torch.Tensor]:
    """A batch of pairs as tensors, padded to the longest text in it.

    ``input_ids`` and ``attention_mask``: (2 * batch, tokens) int64, all first sentences and
    then all second sentences, so that both are encoded in one pass through BERT. ``score``:
    (batch,) float32, the shape and type of the cosines it is compared with. Without any items
    (a process may get none of a small batch) there are two texts and no score, so that this
    process can make the same step.
    """
    texts = [item["sentence1"] for item in items] + [item["sentence2"] for item in items]
    texts = texts or [[pad_token_id]] * 2
    scores = torch.tensor([item["score"] for item in items], dtype=torch.float32)
    return {**pad_batch(texts, pad_token_id), "score": scores}


class LengthBucketedBatches(Sampler[list[int]]):
    """Shuffled batches of pairs of similar length; each pair appears once per epoch.

    The pairs are shuffled, cut into buckets of `bucket` batches, sorted by length inside each
    bucket, and the batches are shuffled again. ``bucket=1`` only shuffles. The order depends
    on `seed` and on the epoch alone. Batches are made one at a time, so that a pair needs
    16 bytes, for its length and its place in the order. With several processes, each gets its
    share of every batch.
    """

    def __init__(self, lengths: Sequence[int] | np.ndarray, batch_size: int, seed: int = 12,
                 bucket: int = 50) -> None:
        for name, value, low in (("batch_size", batch_size, 1), ("seed", seed, 0),
                                 ("bucket", bucket, 1)):
            check_number(name, value, int, low)
        self.lengths, self.batch_size, self.seed, self.bucket = (
            np.asarray(lengths), batch_size, seed, bucket)
        self.epoch = self.skip = 0

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Set the epoch (0, 1, …), which gives the order; skip its first `skip` batches."""
        self.epoch, self.skip = epoch, skip

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        rng = torch.Generator().manual_seed(1_000_003 * self.seed + self.epoch)
        order = torch.randperm(len(self.lengths), generator=rng).numpy()
        size = self.batch_size * self.bucket
        for start in range(0, len(order), size) if self.bucket > 1 else ():
            rows = order[start:start + size]                     # a view: sorts a part of order
            rows[:] = rows[self.lengths[rows].argsort(kind="stable")]
        for i in torch.randperm(len(self), generator=rng).numpy()[self.skip:]:
            batch = order[i * self.batch_size:(i + 1) * self.batch_size]
            yield batch[processes.rank()::processes.count()].tolist()


def connection_loader(dataset: ConnectionDataset, batch_size: int, seed: int = 12,
                      pin_memory: bool = False, bucket: int = 1) -> DataLoader:
    """A DataLoader of shuffled batches; its ``batch_sampler`` is a LengthBucketedBatches.

    With `bucket` 1 it only shuffles, with 50 there is little padding. ConnectionBert skips most
    of the padding anyway, so sorting pays only for long texts of very different lengths.
    """
    return DataLoader(
        dataset,
        batch_sampler=LengthBucketedBatches(dataset.lengths, batch_size, seed, bucket),
        collate_fn=partial(collate_connections, pad_token_id=dataset.pad_token_id),
        pin_memory=pin_memory,
    )
