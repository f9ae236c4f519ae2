"""How a text file of pairs is laid out: its kind, its line of names, and what fits below it."""

import csv
from collections.abc import Collection, Iterable

from connection_utils.pair_files.columns import NAMES, NUMBER, plain_name
from connection_utils.pair_files.faults import ConnectionDataError
from connection_utils.pair_files.texts import (
    SEPARATORS,
    Row,
    fault_of,
    filled,
    find_separator,
    is_json_object,
)

STS_COLUMNS = ["genre", "source", "year", "id", "score", "sentence1", "sentence2"]
MAX_KEYS = 200               # different ones in a JSON Lines file


def is_for_excel(first: str) -> bool:
    """Whether the first line is ``sep=;`` or the like, which tells Excel alone something."""
    return first.startswith("sep=") and len(first) == 5


def is_sts(first: str) -> bool:
    """Whether a file that begins so is the STS benchmark's own: no names, score in column 5."""
    return first.count("\t") >= 6 and bool(NUMBER.fullmatch(first.split("\t")[4].strip()))


def is_json(first: str, suffix: str) -> bool:
    """Whether a file that begins so is JSON Lines."""
    return suffix in (".jsonl", ".ndjson", ".json") or is_json_object(first)


def separator_of(first: str, suffix: str, names: Collection[str], told: list[str]) -> str:
    """What separates the fields; told where the suffix promises another.

    `names` are columns that the file is known to have, beside the common ones.
    """
    known = {plain_name(each) for each in (*sum(NAMES.values(), ()), *names)}
    separator = find_separator(first, known)
    if separator != ("," if suffix == ".csv" else "\t"):
        told.append(f"fields are separated by {SEPARATORS[separator]}s")
    return separator


def names_of(name: str, rows: Iterable[tuple[int, Row]]) -> tuple[int, list[str]]:
    """The line of the columns' names, and the names: the first row with anything in it.

    ConnectionDataError, with the file's `name`, if it cannot be read.
    """
    for line, row in rows:
        if not filled(row):
            continue
        if isinstance(row, csv.Error):
            found, expected = fault_of(row)
            raise ConnectionDataError(f"{name}, line {line}: found {found}, expected the names "
                                      f"of the columns, {expected}.")
        if "\0" in "".join(row):
            raise ConnectionDataError(
                f"{name}, line {line}: found NUL bytes, expected the names of the columns. If "
                "the file is UTF-16 without a mark at its beginning, state "
                "encoding='utf-16-le'.")
        return line, row
    return 1, []


def fault_below(header_line: int, width: int, separator: str, quoted: bool, row: Row
                ) -> tuple[str, str] | None:
    """What was found and what was expected, if `row` does not fit below `width` names."""
    if isinstance(row, csv.Error):
        return fault_of(row)
    if len(row) == width:
        return None
    advice = f"with a {SEPARATORS[separator]} needs double quotes" if quoted else \
        "can hold no tab"
    return f"{len(row)} fields", f"{width} as in line {header_line}; a text {advice}"


def sts_fault(row: list[str]) -> tuple[str, str] | None:
    """The same for a row of the STS benchmark; some rows name their sources, too."""
    width = len(STS_COLUMNS)
    return None if len(row) >= width else (
        f"{len(row)} tab-separated fields", f"at least {width} ({', '.join(STS_COLUMNS)})")


def check_keys(name: str, keys: Collection[str], lines: int) -> None:
    """ConnectionDataError if so many `lines` of JSON have too many different `keys`."""
    if len(keys) > MAX_KEYS:
        raise ConnectionDataError(f"{name}: {len(keys)} different keys in {lines} lines; "
                                  "expected the same few in each.")
