"""A scorer that can be sent to other processes and machines: it loads its model there."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from connection_utils.bert import ConnectionBert


class ConnectionScorer:
    """Adds the cosine of each pair to a batch of columns; made to be pickled.

    It holds the model's folder and not the model, which is loaded at the first batch, where
    that is; `folder` must be there, too. `columns` are the batch's two columns of texts,
    `into` the new one, `batch_size` the texts that go through the model at once (on a CPU 64
    were some 5 % faster than 32, and want more memory).
    """

    def __init__(self, folder: str | Path,
                 columns: tuple[str, str] = ("sentence1", "sentence2"), into: str = "cosine",
                 batch_size: int = 32, device: str | None = None) -> None:
        self.folder, self.columns, self.into = str(folder), tuple(columns), into
        self.batch_size, self.device = batch_size, device
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
                self.batch_size]

    def __call__(self, batch: Mapping[str, Sequence]) -> dict[str, Sequence]:
        """`batch` and its cosines, float32, -1..1; each text of it is encoded once.

        KeyError if a column is missing.
        """
        first, second = (list(batch[name]) for name in self.columns)
        cosines = self.model.similarity(first, second, self.batch_size)
        return {**batch, self.into: np.asarray(cosines, np.float32)}

    def __getstate__(self) -> dict[str, object]:
        return vars(self) | {"_model": None}
