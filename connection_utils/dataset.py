"""ConnectionDataset and its batches: pairs of token ids, padded no more than needed.

The pairs come as a table with the columns sentence1, sentence2 and score, as `read_connections`
returns it.
"""

import copy
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import BertTokenizer

from connection_utils.encoding import pad_batch, tokenize
from connection_utils.long_runs import processes
from connection_utils.long_runs.batch_parts import ShareOfBatches

Item = dict[str, list[int] | float]


class ConnectionDataset(Dataset):
    """Pairs of texts as token ids, with their scores.

    All texts are tokenised once, when the dataset is made, and cut to `max_length` tokens.
    ``dataset[i]`` is a dict: ``sentence1`` and ``sentence2`` (lists of token ids, [CLS] …
    [SEP]) and ``score`` (float). Scores are usually 0..1. ValueError if one is outside of -1..1,
    the range of a cosine.
    """

    def __init__(self, pairs: pd.DataFrame, tokenizer: BertTokenizer,
                 max_length: int = 128) -> None:
        self.sentence1 = tokenize(pairs["sentence1"].tolist(), tokenizer, max_length)
        self.sentence2 = tokenize(pairs["sentence2"].tolist(), tokenizer, max_length)
        self.score = pairs["score"].astype(float).tolist()
        outside = [row for row, score in enumerate(self.score) if not -1 <= score <= 1]
        if outside:
            raise ValueError(f"row {outside[0]}: score is {self.score[outside[0]]}, and "
                             f"{len(outside) - 1} more are out of range; expected 0 to 1 (or "
                             "-1 to 1, what a cosine can be). Divide by the scale's maximum.")
        self.pad_token_id = tokenizer.pad_token_id

    def __len__(self) -> int:
        return len(self.score)

    def __getitem__(self, index: int) -> Item:
        return {"sentence1": self.sentence1[index], "sentence2": self.sentence2[index],
                "score": self.score[index]}

    def sample(self, share: float, seed: int) -> "ConnectionDataset":
        """A dataset with a random `share` (0..1) of the pairs, at least one.

        With the same `seed`, a smaller sample is a subset of a larger one.
        """
        if share == 1:
            return self
        rows = draw_rows(len(self), share, seed)
        part = copy.copy(self)
        for name in ("sentence1", "sentence2", "score"):
            setattr(part, name, [getattr(self, name)[row] for row in rows])
        return part

    def fingerprint(self) -> str:
        """16 digits of a hash of all tokens and scores: a checkpoint is for one dataset."""
        return hash_of(zip(self.sentence1, self.sentence2, self.score))

    @property
    def lengths(self) -> list[int]:
        """The longer sentence's number of tokens, for each pair."""
        return [max(len(a), len(b)) for a, b in zip(self.sentence1, self.sentence2)]


def draw_rows(count: int, share: float, seed: int) -> np.ndarray:
    """Sorted row numbers, int64, of a random `share` (0..1) of `count` pairs, at least one."""
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[:max(1, round(share * count))])


def hash_of(pairs: Iterable[tuple[list[int], list[int], float]]) -> str:
    """16 digits of a hash of pairs of token ids with their scores."""
    found = hashlib.sha256()
    for pair in pairs:
        found.update(repr(pair).encode())
    return found.hexdigest()[:16]


def collate_connections(items: Sequence[Item], pad_token_id: int) -> dict[str, torch.Tensor]:
    """A batch of pairs as tensors, padded to the longest text in it.

    ``input_ids`` and ``attention_mask``: (2 * batch, tokens) int64, all first sentences and
    then all second sentences, so that both are encoded in one pass through BERT. ``score``:
    (batch,) float32, the shape and type of the cosines it is compared with.
    """
    texts = [item["sentence1"] for item in items] + [item["sentence2"] for item in items]
    scores = torch.tensor([item["score"] for item in items], dtype=torch.float32)
    return {**pad_batch(texts, pad_token_id), "score": scores}


class LengthBucketedBatches(Sampler[list[int]]):
    """Shuffled batches of pairs of similar length; each pair appears once per epoch.

    The pairs are shuffled, cut into buckets of `bucket` batches, sorted by length inside each
    bucket, and the batches are shuffled again. ``bucket=1`` only shuffles. The order depends
    on `seed` and on the epoch alone. Batches are made one at a time, so that millions of pairs
    need no more than 8 bytes per pair.
    """

    def __init__(self, lengths: Sequence[int] | np.ndarray, batch_size: int, seed: int = 12,
                 bucket: int = 50) -> None:
        if batch_size < 1 or bucket < 1:
            raise ValueError(f"batch_size is {batch_size} and bucket {bucket}; expected 1 "
                             "or more")
        self.lengths, self.batch_size, self.seed, self.bucket = (
            np.asarray(lengths), batch_size, seed, bucket)
        self.epoch = self.skip = 0

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Set the epoch (0, 1, …), which determines the order; skip its first `skip` batches."""
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
            yield order[i * self.batch_size:(i + 1) * self.batch_size].tolist()


def connection_loader(dataset: ConnectionDataset, batch_size: int, seed: int = 12,
                      pin_memory: bool = False, bucket: int = 1,
                      at_once: int | None = None) -> DataLoader:
    """A DataLoader of shuffled batches; its ``batch_sampler`` is a LengthBucketedBatches.

    With `bucket` 1 it only shuffles, with 50 there is little padding. ConnectionBert skips most
    of the padding anyway, so sorting pays only for long texts of very different lengths. With
    several processes each gets its part of every `at_once` pairs (None: of the batch).
    """
    batches: Sampler = LengthBucketedBatches(dataset.lengths, batch_size, seed, bucket)
    if processes.count() > 1:
        batches = ShareOfBatches(batches, at_once or batch_size, processes.rank(),
                                 processes.count())
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=partial(collate_connections, pad_token_id=dataset.pad_token_id),
        pin_memory=pin_memory,
    )
