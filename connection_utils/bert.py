"""ConnectionBert: a siamese BERT whose cosine measures how connected two texts are.

Siamese means that the same network, with the same weights, reads both texts. BERT makes a
vector for each token; pooling makes one vector of these, the text's embedding: u for the first
text and v for the second. The prediction is cos(u, v). This is Sentence-BERT's regression
architecture (Reimers and Gurevych 2019, arXiv 1908.10084, figure 2).
"""

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import BertModel, PreTrainedTokenizerFast

from connection_utils.encoding import TextEncoder
from connection_utils.ground.numbers import check_number
from connection_utils.ground.whole_files import check_replaceable, put_back, write_folder_whole
from connection_utils.model_folder.check import check_model_dir
from connection_utils.model_folder.files import replaceable_names, write_siamese_settings
from connection_utils.speed.dropout import use_dropout
from connection_utils.speed.packing import PACKED, last_hidden_state
from connection_utils.speed.precision import autocast


def mean_pooling(hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Mean over a text's tokens, padding left out.

    (n, tokens, hidden) and the mask, (n, tokens), give (n, hidden).
    """
    mask = attention_mask.unsqueeze(-1).to(hidden.dtype)       # (n, tokens, 1)
    return (hidden * mask).sum(dim=1) / mask.sum(dim=1)


def cls_pooling(hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """The vector of the first token, [CLS], alone: (n, tokens, hidden) -> (n, hidden)."""
    return hidden[:, 0]


def max_pooling(hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Largest value over a text's tokens, in each dimension: shapes as in `mean_pooling`."""
    padding = attention_mask.unsqueeze(-1) == 0                # (n, tokens, 1)
    return hidden.masked_fill(padding, -torch.inf).amax(dim=1)


POOLINGS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "mean": mean_pooling, "cls": cls_pooling, "max": max_pooling,
}


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """`device` if given, otherwise the best available: CUDA, Apple's MPS or the CPU.

    ValueError if PyTorch cannot compute on it here.
    """
    if device is not None:
        try:
            torch.zeros(1, device=device).item()
        except Exception as error:         # its kind depends on the device and the build
            raise ValueError(f"device is {str(device)!r}, and PyTorch cannot use it here; "
                             "expected cpu, or cuda, cuda:1, mps where there is one") from error
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


class ConnectionBert(TextEncoder, nn.Module):
    """A siamese BERT with a pooling layer; cosines in -1..1. Load one with `from_local`.

    BERT's own pooler, an extra layer on the vector of [CLS], is left out: the token vectors are
    pooled here instead, so it would never receive a gradient.
    """

    def __init__(self, bert: BertModel, tokenizer: PreTrainedTokenizerFast,
                 pooling: str = "mean", max_length: int = 128) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"pooling is {pooling!r}; expected one of {', '.join(POOLINGS)}")
        check_number("max_length", max_length, int, 3, bert.config.max_position_embeddings)
        bert.set_attn_implementation(PACKED)       # computes no padding: same result, sooner
        use_dropout(bert)                          # BERT's dropout from fewer random bits
        self.bert = bert
        self.tokenizer = tokenizer
        self.pooling = pooling
        self.max_length = max_length
        self.hidden_size = bert.config.hidden_size

    @classmethod
    def from_local(cls, folder: str | Path, pooling: str | None = None,
                   max_length: int | None = None,
                   device: str | torch.device | None = None) -> "ConnectionBert":
        """Load a BERT folder from disk: any that passes `check_model_dir`.

        `pooling` is "mean", "cls" or "max"; texts are cut to `max_length` tokens. The defaults
        are the settings saved in the folder, if `save` or sentence-transformers wrote it, and
        otherwise "mean" and 128 (or less, if the model accepts less). The model is returned in
        evaluation mode (no dropout), on the best available device. Raises ModelFolderError,
        with what to do, if the folder cannot be used.
        """
        report = check_model_dir(folder)
        report.raise_if_broken()
        checked, longest = report.bert, report.bert.config.max_position_embeddings
        bert = BertModel.from_pretrained(None, config=checked.config, add_pooling_layer=False,
                                         state_dict=checked.state_dict())
        model = cls(bert, report.tokenizer,
                    pooling=pooling or report.settings.get("pooling", "mean"),
                    max_length=report.settings.get("max_length", min(128, longest))
                    if max_length is None else max_length)
        return model.to(pick_device(device)).eval()

    @property
    def device(self) -> torch.device:
        """The device that the weights are on."""
        return self.bert.device

    def fingerprint(self) -> str:
        """16 digits of a hash of all weights."""
        weights = hashlib.sha256()
        for tensor in self.state_dict().values():
            weights.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return weights.hexdigest()[:16]

    def embed(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Token ids (n, tokens) and their mask -> sentence embeddings (n, hidden) float32."""
        # one vector for each token, (n, tokens, hidden)
        hidden = last_hidden_state(self.bert, input_ids, attention_mask)
        return POOLINGS[self.pooling](hidden.float(), attention_mask)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor,
                return_embeddings: bool = False
                ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """A batch of pairs -> their cosines (batch,), or u and v, each (batch, hidden).

        The 2 * batch rows are all first sentences and then all second sentences, as in
        `collate_connections`, so that both go through BERT in one pass.
        """
        u, v = self.embed(input_ids, attention_mask).chunk(2)
        return (u, v) if return_embeddings else F.cosine_similarity(u, v)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], batch_size: int = 64, normalize: bool = False,
               precision: str = "fp32") -> np.ndarray:
        """Sentence embeddings (n, hidden) float32 in the order of `texts`.

        Texts are sorted by length internally, to reduce padding. With `normalize`, vectors
        are scaled to length 1. `precision` is that of matrix products: "fp32", "bf16" where
        the processor has it, or "auto", which is bf16 on such a GPU and fp32 elsewhere. The
        model's mode (train or eval) is left as it was.
        """
        was_training = self.training
        self.eval()
        try:
            with autocast(precision, self.device):
                return super().encode(texts, batch_size, normalize)
        finally:
            self.train(was_training)

    @staticmethod
    def check_output(folder: str | Path) -> None:
        """Raise an OSError if `save` could not write to `folder`: call it before training.

        FileExistsError if it holds other files, is a file or a mount point; PermissionError if
        nothing may be created beside it. All is then as it was before.
        """
        check_replaceable(folder, replaceable_names(folder))

    def save(self, folder: str | Path, beside: Mapping[str, str] = {}) -> None:
        """Write a model folder, whole or not at all.

        `ConnectionBert.from_local`, ``transformers.BertModel.from_pretrained`` and
        ``sentence_transformers.SentenceTransformer`` load it. `beside` maps the names of
        additional text files to their content. An earlier model in `folder` is replaced; its
        README.md stays, unless `beside` has a new one. Raises what `check_output` raises.
        """
        put_back(folder)                       # of a save that was killed
        card = Path(folder) / "README.md"
        with write_folder_whole(folder, replaceable_names(folder)) as scratch:
            if card.exists():
                shutil.copyfile(card, scratch / card.name)
            self.bert.save_pretrained(scratch)
            self.tokenizer.model_max_length = self.max_length
            self.tokenizer.save_pretrained(scratch)
            self.tokenizer.backend_tokenizer.model.save(str(scratch))      # vocab.txt
            write_siamese_settings(scratch, self.pooling, self.max_length, self.hidden_size)
            for name, text in beside.items():
                (scratch / name).write_text(text, encoding="utf-8")
