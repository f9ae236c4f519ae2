"""From texts to tokens, batches and embeddings, whatever model stands in the middle."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import BertTokenizer

from connection_utils.ground.progress_bar import progress


def tokenize(texts: Sequence[str], tokenizer: BertTokenizer, max_length: int
             ) -> list[list[int]]:
    """Token ids with [CLS] and [SEP], each text cut to `max_length` tokens."""
    if isinstance(texts, str):
        raise TypeError("texts is a single str; expected a list of texts")
    texts = list(texts)
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts[{position}] is {text!r} ({type(text).__name__}); "
                            "expected a str")
    if not texts:
        return []
    return tokenizer(texts, truncation=True, max_length=max_length,
                     return_attention_mask=False, return_token_type_ids=False)["input_ids"]


def pad_batch(sequences: Sequence[Sequence[int]], pad_token_id: int
              ) -> dict[str, torch.Tensor]:
    """Token ids of different lengths as ``input_ids`` and ``attention_mask``.

    Both are (n, tokens) int64, tokens being the longest of these sequences and no more.
    """
    if not sequences:
        return {name: torch.zeros(0, 0, dtype=torch.long)
                for name in ("input_ids", "attention_mask")}
    ids = [torch.tensor(sequence, dtype=torch.long) for sequence in sequences]
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad_token_id),
        "attention_mask": pad_sequence([torch.ones_like(i) for i in ids], batch_first=True),
    }


def encode_by_length(tokens: Sequence[Sequence[int]], pad_token_id: int, hidden_size: int,
                     embed: Callable[[dict[str, torch.Tensor]], torch.Tensor],
                     batch_size: int) -> np.ndarray:
    """Embeddings (n, hidden_size) float32 in the order of `tokens`, long texts first inside.

    `embed` makes vectors of a padded batch; texts of like length share one, so that little
    is padded.
    """
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]), reverse=True)
    embeddings = np.empty((len(tokens), hidden_size), np.float32)
    for start in progress(range(0, len(order), batch_size), desc="encoding", unit="batch",
                          delay=1, leave=False):
        rows = order[start:start + batch_size]
        embeddings[rows] = embed(pad_batch([tokens[i] for i in rows], pad_token_id)
                                 ).float().cpu().numpy()
    return embeddings


def paired_cosines(sentences1: Sequence[str], sentences2: Sequence[str],
                   encode: Callable[[list[str]], np.ndarray]) -> np.ndarray:
    """cos(u, v) of each pair, (n,) float32; a repeated text is encoded once.

    `encode` makes embeddings of length 1.
    """
    sentences1, sentences2 = list(sentences1), list(sentences2)
    if len(sentences1) != len(sentences2):
        raise ValueError(f"{len(sentences1)} first sentences and {len(sentences2)} "
                         "second ones; expected pairs")
    row = {text: i for i, text in enumerate(dict.fromkeys(sentences1 + sentences2))}
    vectors = encode(list(row))
    u = vectors[[row[text] for text in sentences1]]
    v = vectors[[row[text] for text in sentences2]]
    return (u * v).sum(axis=1)
