"""What is wrong with a file of pairs: how it is told, and where bad rows are set aside.

A fault is a tuple: line, column, what was found, what was expected. Line 0 stands for no line
in particular, the column "" for the whole row.
"""

import json
import re
import reprlib
import shlex
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from connection_utils.ground.paths import runs_folder, shown
from connection_utils.ground.whole_files import write_whole

Fault = tuple[int, str, str, str]

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


class ConnectionDataError(ValueError):
    """Pairs that cannot be used; the message names file, line and column."""


def show(value: object) -> str:
    """`value` as an error shows it: its repr, cut to about 60 characters."""
    return _SHORT.repr(value)


def many(count: int, one: str, more: str) -> str:
    """`count`, and what there is of it: `one` thing, or several."""
    return f"{count:,} {one if count == 1 else more}"


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


def set_aside(path: Path, faults: Sequence[Fault], rows: Mapping[int, object]) -> Path:
    """Write the rows with `faults` to a JSON Lines file under ``runs/``; returns its path.

    One object per line: file, line, faults, row (from `rows`: its cells by column, or its text
    if it has no cells). No spreadsheet evaluates a formula in there. Each file of pairs has a
    file of bad rows, in folders named like those that `path` is in; a second run replaces it.
    """
    place = Path(shown(path.resolve()))                  # no .. in it
    if place.is_absolute():              # a file outside of the repository
        place = Path("elsewhere", *place.parts[1:])
    target = runs_folder() / "bad_rows" / f"{place}.jsonl"
    with write_whole(target) as scratch, open(scratch, "w", encoding="ascii") as file:
        for line, some in groupby(faults, key=lambda fault: fault[0]):
            entry = {"file": shown(path), "line": line, "faults": [*map(sentence, some)]}
            file.write(json.dumps(entry | {"row": rows[line]}, default=show) + "\n")
    return target


_PARAMETER = re.compile(r"\b(columns|scale|encoding|into)=(\{.*?\}|\(.*?\)|'.*?'|(?=[\s,)]|$))")


def as_options(message: str) -> str:
    """`message` for a command line: the options in place of the parameters that it names."""
    def option(found: re.Match) -> str:
        values = re.sub(r"[{}()'\"]", "", found[2]).replace(": ", "=").split(", ")
        return shlex.join([f"--{found[1]}", *filter(None, values)])

    return _PARAMETER.sub(option, message).replace(
        'on_bad_rows="drop"', "--drop-bad-rows").replace(
        "keep_bad_rows=True", "--keep-bad-rows")
