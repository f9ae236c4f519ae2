"""A scorer that can be sent to other processes and machines: it loads its model there."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from connection_utils.bert import ConnectionBert
from connection_utils.ground.numbers import check_number
from connection_utils.long_runs.advice import Unread
from connection_utils.speed.precision import resolved


class ConnectionScorer:
    """Adds the cosine of each pair to a batch of columns; made to be pickled.

    It stores the model's folder and not the model, which is loaded when the first batch comes,
    in the process that gets it; `folder` must be there, too. `into` is the name of the new
    column, `batch_size` the number of texts that go through the model at once, `precision` that
    of matrix products, as in `ConnectionBert.encode`.
    """

    def __init__(self, folder: str | Path, into: str = "cosine", batch_size: int = 32,
                 device: str | None = None, precision: str = "fp32") -> None:
        check_number("batch_size", batch_size, int, 1)
        self.folder, self.into = str(folder), into
        self.batch_size, self.device, self.precision = batch_size, device, precision
        self._model: ConnectionBert | None = None

    @property
    def model(self) -> ConnectionBert:
        """The model; loaded when it is first asked for. ModelFolderError if it is broken."""
        if self._model is None:
            self._model = ConnectionBert.from_local(self.folder, device=self.device)
        return self._model

    def identity(self) -> list[object]:
        """What decides the cosines."""
        return [self.model.fingerprint(), self.model.pooling, self.model.max_length,
                self.batch_size, resolved(self.precision, self.model.device)]

    def unread(self, texts: Sequence[str]) -> Unread:
        """How much of `texts` the model cannot read."""
        return Unread.of(self.model.tokenize(texts), self.model.tokenizer.unk_token_id,
                         self.model.max_length)

    def __call__(self, batch: Mapping[str, Sequence]) -> dict[str, Sequence]:
        """`batch` and the cosines of its pairs, float32, -1..1; each text is encoded once.

        The texts are in ``sentence1`` and ``sentence2``; KeyError if one of them is missing.
        """
        cosines = self.model.similarity(list(batch["sentence1"]), list(batch["sentence2"]),
                                        self.batch_size, precision=self.precision)
        return {**batch, self.into: np.asarray(cosines, np.float32)}

    def __getstate__(self) -> dict[str, object]:
        return vars(self) | {"_model": None}
