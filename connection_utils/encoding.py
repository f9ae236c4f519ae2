"""From texts to token ids, padded batches and embeddings, independent of the model.

A tokenizer cuts a text into word pieces and replaces each by its number in the vocabulary, its
token id. BERT's start and end tokens, [CLS] and [SEP], are added to every text.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import BertTokenizer

from connection_utils.ground.progress_bar import progress


def tokenize(texts: Sequence[str], tokenizer: BertTokenizer, max_length: int
             ) -> list[list[int]]:
    """Token ids with [CLS] and [SEP]; texts are cut to `max_length` tokens, with these two."""
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
    """Pad token ids of different lengths to ``input_ids`` and ``attention_mask``.

    Both are (n, tokens) int64; `tokens` is the length of the longest sequence in this batch.
    The mask is 1 for a text's own tokens and 0 for padding.
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
    """Embeddings (n, hidden_size) float32, in the order of `tokens`.

    `embed` turns a padded batch into vectors. Texts of similar length are batched together,
    so that there is little padding.
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

    `encode` returns embeddings of length 1, for which the cosine is the dot product.
    """
    sentences1, sentences2 = list(sentences1), list(sentences2)
    if len(sentences1) != len(sentences2):
        raise ValueError(f"{len(sentences1)} first sentences and {len(sentences2)} "
                         "second sentences; expected as many of each")
    row = {text: i for i, text in enumerate(dict.fromkeys(sentences1 + sentences2))}
    vectors = encode(list(row))
    u = vectors[[row[text] for text in sentences1]]
    v = vectors[[row[text] for text in sentences2]]
    return (u * v).sum(axis=1)
