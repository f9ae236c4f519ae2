"""Both ways in which a file of pairs is read: into memory, and some rows at a time."""

import re
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from connection_utils import ConnectionDataError, read_connections, score_file


class Recorder:
    """Stands for a scorer: it keeps the pairs that it gets, and scores them all 0."""
    into = "the cosine"

    def __init__(self) -> None:
        self.pairs: list[tuple[str, str]] = []

    def identity(self) -> list[str]:
        return ["recorder"]

    def unread(self, texts: list[str]) -> str:
        return f"{len(texts)} texts"

    def __call__(self, batch: dict[str, list]) -> dict[str, object]:
        self.pairs += zip(batch["sentence1"], batch["sentence2"], strict=True)
        return {**batch, self.into: np.zeros(len(batch["sentence1"]), np.float32)}


def silent(line: str) -> None:
    """Stands for `tell` where the lines do not matter."""


def streamed(path: Path, keep_bad_rows: bool = False, columns: dict | None = None,
             encoding: str | None = None, **_: object) -> tuple[list[tuple], pd.DataFrame]:
    """The pairs that `score_file` scores, and the table that it writes."""
    recorder = Recorder()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "scored.parquet")
        score_file(path, out, recorder, columns, encoding, keep_bad_rows, tell=silent)
        return recorder.pairs, pd.read_parquet(out)


def read_both(path: Path, **options) -> pd.DataFrame:
    """What `read_connections` returns, after a look at whether `score_file` has the same.

    Where bad rows are dropped, `score_file` also has the pairs whose score alone is bad: then
    the others must be among its pairs, in their order.
    """
    table = read_connections(path, **options)
    dropped = options.get("on_bad_rows") == "drop"
    pairs = list(zip(table["sentence1"], table["sentence2"], strict=True))
    there, written = streamed(path, dropped, **options)
    rest = iter(there)
    assert all(pair in rest for pair in pairs) if dropped else pairs == there
    assert written[Recorder.into].notna().sum() == len(there)
    return table


def refuse_both(path: Path, **options) -> ConnectionDataError:
    """The error of `read_connections`, after a look at whether `score_file` has the same."""
    with pytest.raises(ConnectionDataError) as raised:
        read_connections(path, **options)
    error = raised.value
    score = (options.get("columns") or {}).get("score", "score")
    said = [line for line in str(error).split("\n")[1:-1]       # a line for each fault
            if not re.search(f"column ({score}|score):|a number from|percent", line)]
    if "\n" in str(error) and not said:
        return error
    with pytest.raises(ConnectionDataError) as raised:
        streamed(path, **options)
    other = str(raised.value)
    if "\n" not in str(error):
        assert other == str(error)
    elif " of the columns" not in str(error) and "more" not in said[-1]:
        assert other.split("\n")[1:-1] == said
    return error
