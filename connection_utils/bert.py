"""ConnectionBert: a local BERT, twice the same, whose cosine says how connected texts are.

The Sentence-BERT regression architecture (Reimers and Gurevych 2019, arXiv 1908.10084,
figure 2): both sentences go through one BERT, a pooling layer makes u and v, and
cos(u, v) is the answer.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import BertModel, BertTokenizer

from connection_utils.encoding import encode_by_length, paired_cosines, tokenize
from connection_utils.ground.whole_files import check_replaceable, write_folder_whole
from connection_utils.model_folder.check import check_model_dir, load_weights
from connection_utils.model_folder.files import (
    load_tokenizer,
    read_siamese_settings,
    replaceable_names,
    write_siamese_settings,
    write_vocab_txt,
)
from connection_utils.speed.dropout import use_dropout
from connection_utils.speed.packing import PACKED, last_hidden_state


def mean_pooling(hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Mean over a text's own tokens: (n, tokens, hidden), (n, tokens) -> (n, hidden)."""
    mask = attention_mask.unsqueeze(-1).to(hidden.dtype)       # (n, tokens, 1)
    return (hidden * mask).sum(dim=1) / mask.sum(dim=1)


def cls_pooling(hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """The vector of the first token, [CLS]: (n, tokens, hidden) -> (n, hidden)."""
    return hidden[:, 0]


def max_pooling(hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Maximum over a text's own tokens: (n, tokens, hidden), (n, tokens) -> (n, hidden)."""
    padding = attention_mask.unsqueeze(-1) == 0                # (n, tokens, 1)
    return hidden.masked_fill(padding, -torch.inf).amax(dim=1)


POOLINGS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "mean": mean_pooling, "cls": cls_pooling, "max": max_pooling,
}


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """`device` if given, else the best there is: CUDA, then Apple's MPS, then the CPU."""
    if device is not None:
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


class ConnectionBert(nn.Module):
    """A siamese BERT with a pooling layer; cosines in -1..1.

    `bert` is built without its pooler: with pooling over tokens the pooler would get no
    gradient. Load one with `from_local`.
    """

    def __init__(self, bert: BertModel, tokenizer: BertTokenizer, pooling: str = "mean",
                 max_length: int = 128) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"pooling is {pooling!r}; expected one of {', '.join(POOLINGS)}")
        longest = bert.config.max_position_embeddings
        if not 3 <= max_length <= longest:
            raise ValueError(f"max_length is {max_length}; expected 3 to {longest}, the "
                             "positions that this model knows")
        bert.set_attn_implementation(PACKED)
        use_dropout(bert)
        self.bert = bert
        self.tokenizer = tokenizer
        self.pooling = pooling
        self.max_length = max_length

    @classmethod
    def from_local(cls, folder: str | Path, pooling: str | None = None,
                   max_length: int | None = None,
                   device: str | torch.device | None = None) -> "ConnectionBert":
        """Load a BERT folder from disk (any that `check_model_dir` finds well).

        `pooling` is "mean", "cls" or "max", `max_length` the tokens a text is cut to.
        Left out, the folder's own settings hold, if `save` or sentence-transformers wrote
        it; else "mean" and 128 (or all positions that a smaller model has). The model
        comes in evaluation mode (no dropout), on the best device there is. Raises
        ModelFolderError, with what to do, if the folder is broken.
        """
        report = check_model_dir(folder)
        weights = load_weights(report)
        saved = read_siamese_settings(report.folder)
        longest = report.config.max_position_embeddings
        bert = BertModel.from_pretrained(None, config=report.config, state_dict=weights,
                                         add_pooling_layer=False)   # draws no random weights
        model = cls(bert, load_tokenizer(report.folder),
                    pooling=pooling or saved.get("pooling", "mean"),
                    max_length=saved.get("max_length", min(128, longest))
                    if max_length is None else max_length)
        return model.to(pick_device(device)).eval()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.bert.device

    def fingerprint(self) -> str:
        """16 digits of a hash of all weights."""
        weights = hashlib.sha256()
        for tensor in self.state_dict().values():
            weights.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return weights.hexdigest()[:16]

    def embed(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Token ids (n, tokens) and their mask -> sentence embeddings (n, hidden)."""
        hidden = last_hidden_state(self.bert, input_ids, attention_mask)
        return POOLINGS[self.pooling](hidden, attention_mask)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor,
                return_embeddings: bool = False
                ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """A batch of pairs -> their cosines (batch,), or u and v, each (batch, hidden).

        The 2 * batch rows are all first sentences, then all second ones, as
        `collate_connections` lays them, so that both go through BERT in one pass.
        """
        u, v = self.embed(input_ids, attention_mask).float().chunk(2)
        return (u, v) if return_embeddings else F.cosine_similarity(u, v)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids with [CLS] and [SEP], each text cut to `max_length` tokens."""
        return tokenize(texts, self.tokenizer, self.max_length)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], batch_size: int = 64, normalize: bool = False
               ) -> np.ndarray:
        """Sentence embeddings (n, hidden) float32 in the order of `texts`.

        Texts are sorted by length inside, so that little is padded. `normalize` makes
        each vector's length 1. The model's mode (train or eval) is left as it was.
        """
        def embed(batch: dict[str, torch.Tensor]) -> torch.Tensor:
            vectors = self.embed(**{k: t.to(self.device) for k, t in batch.items()})
            return F.normalize(vectors) if normalize else vectors

        tokens = self.tokenize(texts)
        was_training = self.training
        self.eval()
        try:
            return encode_by_length(tokens, self.tokenizer.pad_token_id,
                                    self.bert.config.hidden_size, embed, batch_size)
        finally:
            self.train(was_training)

    def similarity(self, sentences1: Sequence[str], sentences2: Sequence[str],
                   batch_size: int = 64) -> np.ndarray:
        """cos(u, v) in -1..1 of each pair: (n,) float32. A repeated text is encoded once."""
        return paired_cosines(sentences1, sentences2,
                              lambda texts: self.encode(texts, batch_size, normalize=True))

    @staticmethod
    def check_output(folder: str | Path) -> None:
        """FileExistsError, before hours of training, if `save` would refuse `folder`."""
        check_replaceable(folder, replaceable_names(folder))

    def save(self, folder: str | Path, beside: Mapping[str, str] = {}) -> None:
        """Write a model folder, whole or not at all, that three libraries load.

        `ConnectionBert.from_local`, ``transformers.BertModel.from_pretrained`` and
        ``sentence_transformers.SentenceTransformer``. `beside` are texts to put there, too,
        by file name. A model that lay there is replaced; FileExistsError if other files
        would be lost.
        """
        with write_folder_whole(folder, replaceable_names(folder)) as scratch:
            self.bert.save_pretrained(scratch)
            self.tokenizer.model_max_length = self.max_length
            self.tokenizer.save_pretrained(scratch)
            write_vocab_txt(scratch / "vocab.txt", self.tokenizer.get_vocab())
            write_siamese_settings(scratch, self.pooling, self.max_length,
                                   self.bert.config.hidden_size)
            for name, text in beside.items():
                (scratch / name).write_text(text, encoding="utf-8")
