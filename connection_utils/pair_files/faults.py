"""What is wrong with a file of pairs: how it is told, and where bad rows are set aside.

A fault is a tuple: line, column, what was found, what was expected. Line 0 stands for no line
in particular, the column "" for the whole row.
"""

import json
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from connection_utils.ground.paths import runs_folder
from connection_utils.ground.whole_files import write_whole

LISTED = 50                  # faults in one message
MOST = 5000                  # faults that are kept of a file that is read in chunks
Fault = tuple[int, str, str, str]

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


class ConnectionDataError(ValueError):
    """Pairs that cannot be used; the message names file, line and column.

    ``faults`` is a table of all that is wrong in the rows and the header: file, line,
    column, found, expected. It is empty where there are no rows to speak of.
    """

    def __init__(self, message: str, faults: Sequence[tuple] = ()):
        super().__init__(message)
        self.faults = pd.DataFrame(
            list(faults), columns=["file", "line", "column", "found", "expected"])


def show(value: object) -> str:
    """`value` as an error shows it: its repr, cut to about 60 characters."""
    try:
        return _SHORT.repr(value.item() if isinstance(value, np.generic) else value)
    except Exception:                # a stranger's value; its repr may fail in any way
        return f"a {type(value).__name__}"


def listed(names: Sequence[str]) -> str:
    """Names as an error lists them, a few dozen at most."""
    more = f" and {len(names) - 30} more" if len(names) > 30 else ""
    return ", ".join(map(show, names[:30])) + more or "none"


def sentence(fault: Fault, unit: str = "") -> str:
    """A fault in words; with its line if `unit`, "line" or "row", is given."""
    line, column, found, expected = fault
    place = ", ".join([f"{unit} {line}"] * bool(unit and line)
                      + [f"column {column}"] * bool(column))
    return f"{place}{': ' * bool(place)}found {found}, expected {expected}"


def report(name: str, unit: str, columns: list[Fault], rows: list[Fault], count: int,
           most: int = LISTED) -> str:
    """A summary, then a line for each of the first `most` faults.

    `columns` are faults of whole columns, `rows` those of the file's `count` rows.
    """
    def many(faults: list[Fault]) -> str:
        return f"{len(faults)} fault{'s' * (len(faults) != 1)}"

    everything = columns + rows
    bad = len({line for line, *_ in rows})
    summary = " and ".join([f"{many(columns)} of the columns"] * bool(columns)
                           + [f"{many(rows)} in {bad} of {count} rows"] * bool(rows))
    more = [f"  and {len(everything) - most} more"] if len(everything) > most else []
    return "\n".join([f"{name}: {summary}",
                      *(f"  {sentence(fault, unit)}" for fault in everything[:most]), *more])


def set_aside(path: Path, name: str, faults: list[Fault], rows: Mapping[int, dict]) -> Path:
    """Write the rows with `faults` to a JSON Lines file under ``runs/``; returns its path.

    An object a line: file, line, faults, row (its cells by column, from `rows`). No
    spreadsheet evaluates a formula in there. A second run replaces the file.
    """
    reasons: dict[int, list[str]] = {}
    for fault in faults:
        reasons.setdefault(fault[0], []).append(sentence(fault))
    target = runs_folder() / "bad_rows" / f"{path.name}.jsonl"
    try:
        with write_whole(target) as scratch, open(scratch, "w", encoding="ascii") as file:
            for line, why in reasons.items():
                row = {column: _plain(cell) for column, cell in rows[line].items()}
                file.write(json.dumps({"file": name, "line": line, "faults": why,
                                       "row": row}) + "\n")
    except OSError as error:
        raise ConnectionDataError(f"{name}: its bad rows cannot be written to {target} "
                                  f"({error.strerror}); nothing was dropped.") from None
    return target


def _plain(cell: object) -> object:
    """`cell` where JSON can hold it, or its repr."""
    try:
        json.dumps([[[cell]]], allow_nan=False)
        return cell
    except (TypeError, ValueError, RecursionError):
        return show(cell)
