"""From texts to token ids, padded batches and embeddings, independent of the model.

A tokenizer cuts a text into word pieces and replaces each by its number in the vocabulary, its
token id. BERT's start and end tokens, [CLS] and [SEP], are added to every text.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast

from connection_utils.ground.numbers import check_number
from connection_utils.ground.progress_bar import progress

BLOCK = 4096          # texts that are tokenised at a time


def tokenize(texts: Iterable[str], tokenizer: PreTrainedTokenizerFast, max_length: int
             ) -> Iterator[list[int]]:
    """The token ids of each text, with [CLS] and [SEP], cut to `max_length` tokens.

    The texts are tokenised in blocks, so that a million of them need little memory at a time.
    TypeError, with the position, if a text is not a str.
    """
    if isinstance(texts, str):
        raise TypeError("texts is a single str; expected a list of texts")
    check_number("max_length", max_length, int, 3)          # [CLS], a token, [SEP]
    numbered = enumerate(texts)
    while block := list(islice(numbered, BLOCK)):
        for position, text in block:
            if not isinstance(text, str):
                raise TypeError(f"texts[{position}] is {text!r} ({type(text).__name__}); "
                                "expected a str")
        yield from tokenizer([text for _, text in block], truncation=True,
                             max_length=max_length, return_attention_mask=False,
                             return_token_type_ids=False)["input_ids"]


class TokenLists(Sequence[list[int]]):
    """Lists of token ids, kept end to end in one array instead of as Python lists.

    List i is ``ids[offsets[i]:offsets[i + 1]]``. The arrays take 4 bytes per token and 8 per
    list.
    """

    def __init__(self, lists: Iterable[list[int]]) -> None:
        self.ids, self.offsets = array("i"), array("q", [0])
        for ids in lists:
            self.ids.extend(ids)
            self.offsets.append(len(self.ids))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> list[int]:
        index = range(len(self))[index]              # counts from the end if it is negative
        return self.ids[self.offsets[index]:self.offsets[index + 1]].tolist()


def pad_batch(sequences: Sequence[Sequence[int]], pad_token_id: int
              ) -> dict[str, torch.Tensor]:
    """Pad token ids of different lengths to ``input_ids`` and ``attention_mask``.

    Both are (n, tokens) int64; `tokens` is the length of the longest sequence in this batch.
    The mask is 1 for a text's own tokens and 0 for padding.
    """
    ids = [torch.tensor(sequence, dtype=torch.long) for sequence in sequences]
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad_token_id),
        "attention_mask": pad_sequence([torch.ones_like(i) for i in ids], batch_first=True),
    }


class TextEncoder:
    """`encode` and `similarity` of `ConnectionBert` and `OnnxBert`.

    Each of them has `tokenizer`, `max_length`, `device`, `hidden_size`, and `embed`, which
    turns padded token ids and their mask into vectors.
    """

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids with [CLS] and [SEP], each text cut to `max_length` tokens."""
        return list(tokenize(texts, self.tokenizer, self.max_length))

    def encode(self, texts: Sequence[str], batch_size: int = 64, normalize: bool = False
               ) -> np.ndarray:
        """Sentence embeddings (n, hidden) float32 in the order of `texts`.

        Texts of similar length are batched together, so that there is little padding. With
        `normalize`, vectors are scaled to length 1.
        """
        check_number("batch_size", batch_size, int, 1)
        tokens = self.tokenize(texts)
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]), reverse=True)
        embeddings = np.empty((len(tokens), self.hidden_size), np.float32)
        for start in progress(range(0, len(order), batch_size), desc="encoding", unit="batch",
                              delay=1, leave=False):
            rows = order[start:start + batch_size]
            batch = pad_batch([tokens[i] for i in rows], self.tokenizer.pad_token_id)
            vectors = self.embed(**{name: t.to(self.device) for name, t in batch.items()})
            embeddings[rows] = (F.normalize(vectors) if normalize else vectors).cpu().numpy()
        return embeddings

    def similarity(self, sentences1: Sequence[str], sentences2: Sequence[str],
                   batch_size: int = 64, **options: str) -> np.ndarray:
        """cos(u, v) in -1..1 of each pair: (n,) float32. A repeated text is encoded once.

        `options` are further arguments of `encode`.
        """
        if isinstance(sentences1, str) or isinstance(sentences2, str):     # or letter by letter
            raise TypeError("a single str was given; expected two lists of texts")
        if len(sentences1) != len(sentences2):
            raise ValueError(f"{len(sentences1)} first sentences and {len(sentences2)} "
                             "second sentences; expected as many of each")
        row = {text: i for i, text in enumerate(dict.fromkeys([*sentences1, *sentences2]))}
        vectors = self.encode(list(row), batch_size, normalize=True, **options)
        u = vectors[[row[text] for text in sentences1]]
        v = vectors[[row[text] for text in sentences2]]
        return (u * v).sum(axis=1)                 # of vectors of length 1: their cosine
