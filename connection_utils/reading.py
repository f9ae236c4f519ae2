"""Reading pairs of texts and their scores from files into one kind of table."""

import codecs
import csv
import io
from pathlib import Path

import numpy as np
import pandas as pd

from connection_utils.splitting import drop_leaks, split_connections
from connection_utils.workspace import as_path

COLUMNS = ("sentence1", "sentence2", "score")
STS_COLUMNS = ("genre", "source", "year", "id", "score", "sentence1", "sentence2")
STS_MAX_SCORE = 5.0
SPLITS = ("train", "dev", "test")


class ConnectionDataError(ValueError):
    """A file of pairs that cannot be used; the message names file, line and column."""


def read_connections(path: str | Path) -> pd.DataFrame:
    """Read one file of pairs: ``sentence1``, ``sentence2`` (str), ``score`` (0..1).

    Two kinds of file are known by their content:

    - the STS benchmark's, as distributed: tab-separated, no header, no quoting, score
      0..5 in the fifth column (divided by 5 here), texts in the sixth and seventh. The
      columns ``genre``, ``source`` and ``year`` are kept.
    - a plain CSV, UTF-8, whose header holds sentence1, sentence2 and score; the scores
      must be in 0..1 already. Other columns are dropped.

    Raises ConnectionDataError with file, line, column, what was found and what was
    expected, for the first faulty row and with a count of all.
    """
    path = as_path(path)
    if not path.is_file():
        raise ConnectionDataError(f"file not found: {path.absolute()}. data/README.md tells "
                                  "which files are read and where they belong.")
    content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[:error.start].count(b"\n") + 1
        raise ConnectionDataError(f"{path}, line {line}: byte "
                                  f"0x{content[error.start]:02x} is not UTF-8. Save the "
                                  "file as UTF-8.") from None
    if not text.strip():
        raise ConnectionDataError(f"{path}: the file is empty; expected pairs.")
    if text.split("\n", 1)[0].count("\t") >= len(STS_COLUMNS) - 1:
        return _read_sts(path, text)
    return _read_plain_csv(path, text)


def read_splits(data: str | Path, seed: int = 12, keep_leaks: bool = False
                ) -> dict[str, pd.DataFrame]:
    """Train, dev and test, with no pair of test in dev or train, nor of dev in train.

    `data` is a folder that holds ``sts-train.csv``, ``sts-dev.csv`` and ``sts-test.csv``
    (or ``train.csv``, ``dev.csv``, ``test.csv``), or one file, which `split_connections`
    cuts with `seed`. `keep_leaks` leaves given splits as they are (see `find_leaks`).
    """
    path = as_path(data)
    if not path.is_dir():
        return _rankable(path, split_connections(read_connections(path), seed))
    for prefix in ("sts-", ""):
        files = {name: path / f"{prefix}{name}.csv" for name in SPLITS}
        if all(file.is_file() for file in files.values()):
            splits = {name: read_connections(file) for name, file in files.items()}
            splits = splits if keep_leaks else drop_leaks(splits)
            return _rankable(path, splits)
    found = ", ".join(sorted(file.name for file in path.iterdir())) or "no file at all"
    raise ConnectionDataError(
        f"{path.absolute()} holds {found}; expected train.csv, dev.csv and test.csv (or "
        "sts-train.csv and so on). Run `make run` once for the default data, or name one "
        "file of pairs.")


def _rankable(path: Path, splits: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The same splits; ConnectionDataError, before any training, if one cannot be used."""
    for name, pairs in splits.items():
        if pairs.empty:
            raise ConnectionDataError(
                f"{path.absolute()}: nothing is left of {name}, as all its pairs stand in a "
                "later split, too. Expected splits of different pairs.")
        if name != "train" and pairs["score"].nunique() == 1:
            raise ConnectionDataError(
                f"{path.absolute()}: all {len(pairs)} pairs of {name} have the score "
                f"{pairs['score'].iloc[0]:g}, so nothing can be ranked. Expected different "
                "scores; more pairs help.")
    return splits


def _read_sts(path: Path, text: str) -> pd.DataFrame:
    rows: dict[int, list[str]] = {}          # by line
    for number, line in enumerate(text.split("\n"), start=1):
        cells = line.rstrip("\r").split("\t")      # never quoted: quotes are text here
        if cells == [""]:
            continue
        if len(cells) < len(STS_COLUMNS):
            raise ConnectionDataError(
                f"{path}, line {number}: {len(cells)} tab-separated fields, expected at "
                f"least {len(STS_COLUMNS)} ({', '.join(STS_COLUMNS)}).")
        rows[number] = cells[:len(STS_COLUMNS)]            # some rows name their sources too
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=STS_COLUMNS)
    return _checked(path, frame, STS_MAX_SCORE, [*COLUMNS, "genre", "source", "year"])


def _read_plain_csv(path: Path, text: str) -> pd.DataFrame:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader)
        missing = [name for name in COLUMNS if name not in header]
        if missing:
            raise ConnectionDataError(
                f"{path}, line 1: column {', '.join(missing)} is missing; the header holds "
                f"{', '.join(header)}. Expected a comma-separated file with the columns "
                f"{', '.join(COLUMNS)}.")
        twice = [name for name in COLUMNS if header.count(name) > 1]
        if twice:
            raise ConnectionDataError(f"{path}, line 1: column {', '.join(twice)} stands "
                                      "there twice; expected it once.")
        rows: dict[int, list[str]] = {}          # by the line where they begin
        line = reader.line_num + 1
        for cells in reader:
            if cells and len(cells) != len(header):
                raise ConnectionDataError(
                    f"{path}, line {line}: {len(cells)} fields, the header has "
                    f"{len(header)}. A text with a comma needs double quotes around it.")
            if cells:
                rows[line] = cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise ConnectionDataError(f"{path}, line {reader.line_num}: {error}.") from None
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=header)
    return _checked(path, frame, 1.0, list(COLUMNS))


def _checked(path: Path, frame: pd.DataFrame, max_score: float, keep: list[str]
             ) -> pd.DataFrame:
    """Scores divided by `max_score`; the index still holds each row's line, for messages."""
    if frame.empty:
        raise ConnectionDataError(f"{path}: no row with a pair; expected at least one.")
    for name in ("sentence1", "sentence2"):
        _refuse(path, frame[name], frame[name].str.strip() == "", name, "a text")
    score = pd.to_numeric(frame["score"], errors="coerce").astype(np.float64)
    outside = ~score.between(0, max_score)            # NaN and inf are outside too
    _refuse(path, frame["score"], outside, "score", f"a number from 0 to {max_score:g}")
    return frame.assign(score=score / max_score)[keep].reset_index(drop=True)


def _refuse(path: Path, column: pd.Series, bad: pd.Series, name: str, expected: str) -> None:
    if bad.any():
        line = bad.idxmax()
        more = f" {bad.sum() - 1} more rows have the same fault." if bad.sum() > 1 else ""
        raise ConnectionDataError(f"{path}, line {line}, column {name}: found "
                                  f"{column[line]!r}, expected {expected}.{more}")
