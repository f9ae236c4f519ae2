"""Which of a file's columns hold the pairs, what their cells may hold, and on which scale."""

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from numbers import Real

import numpy as np
import pandas as pd

from connection_utils.pair_files.faults import Fault, listed, show

TEXTS = ("sentence1", "sentence2")
COLUMNS = (*TEXTS, "score")
EXAMPLE = 'columns={"sentence1": "question", "sentence2": "known_issue", "score": "connection"}'

# What others call the columns, as `plain_name` writes it.
_TEXT_NAMES = (
    ("sentence1", "sentence2"), ("sentence_1", "sentence_2"), ("sentence_a", "sentence_b"),
    ("text1", "text2"), ("text_1", "text_2"), ("text_a", "text_b"),
    ("question1", "question2"), ("question_1", "question_2"), ("premise", "hypothesis"),
    ("#1_string", "#2_string"), ("query", "passage"), ("문장1", "문장2"), ("문장_1", "문장_2"))
_SCORE_NAMES = ("score", "label", "similarity", "similarity_score", "relatedness_score",
                "labels.real_label", "is_duplicate", "quality", "connection", "점수")
NAMES = dict(zip(COLUMNS, (*zip(*_TEXT_NAMES, strict=True), _SCORE_NAMES), strict=True))

SCALES = ((0, 1), (-1, 1), (0, 5), (0, 100))        # tried in this order

# What a spreadsheet writes in place of a value that it cannot compute.
_ERRORS = ("#N/A", "#REF!", "#VALUE!", "#NAME?", "#DIV/0!", "#NULL!", "#NUM!", "#SPILL!",
           "#CALC!")
_TRUTHS = {"true": 1.0, "false": 0.0, "": math.nan, "none": math.nan, "nan": math.nan}
_COMMA = re.compile(r"[+-]?\d*,\d+\s*%?")
_UNUSABLE = re.compile("[\0\ud800-\udfff]")       # NUL, half a character, or a stray byte
_BLANK = re.compile(r"[\s\u00ad\u200b-\u200f\u2060\ufeff]*")    # invisible, or no width


# Which columns

def plain_name(name: str) -> str:
    """A column's name without case, outer blanks, and kinds of blanks and dashes."""
    return re.sub(r"[\s_-]+", "_", unicodedata.normalize("NFC", name).strip().lower())


def check_columns(columns: object) -> dict[str, str]:
    """`columns` as a dict; ValueError if it does not map our names to names of the file."""
    given = columns or {}
    if not (isinstance(given, Mapping) and set(given) <= set(COLUMNS)
            and all(isinstance(theirs, str) for theirs in given.values())
            and len(set(given.values())) == len(given)):
        raise ValueError(f"columns is {show(columns)}; expected a different name of the file "
                         f"for each of {', '.join(COLUMNS)}, as {EXAMPLE}")
    return dict(given)


def choose_columns(header: Sequence[str], given: Mapping[str, str]
                   ) -> tuple[dict[str, int], dict[str, str], list[tuple[str, str, str]]]:
    """Where the columns of a pair stand in `header`: as `given`, or by a known name.

    Returns the position of each that was found, the file's names for those that were
    guessed, and (column, found, expected) for each that was not found, or more than once.
    """
    names = [name.strip() for name in header]
    places, guessed, faults = {}, {}, []
    for ours in sorted(COLUMNS, key=lambda name: name not in given):     # the given first
        free = [i for i in range(len(names)) if i not in places.values()]
        wanted = given.get(ours, ours).strip()
        here = [i for i in free if names[i] == wanted]
        if ours not in given and not here:
            here = [i for i in free if plain_name(names[i]) in NAMES[ours]]
            guessed |= {ours: names[here[0]]} if len(here) == 1 else {}
        if len(here) == 1:
            places[ours] = here[0]
            continue
        found = listed([names[i] for i in here] or names)
        if here:
            expected = "one such column, or one that columns= names"
        elif ours in given:
            expected = f"the column {show(wanted)}, which columns= names"
        else:
            expected = f"a column {ours}, or one that columns= names"
            if any(map(is_number, names)):
                expected += "; if these are a pair already, put a line of names above it"
        faults.append((ours, found, expected))
    return places, guessed, faults


# What their cells may hold

# Some rows, checked: the good ones, their index the line of each; the faults of the others; and
# texts of good rows that are numbers, as a question's answer.
Checked = tuple[pd.DataFrame, list[Fault], list[Fault]]


def check_cells(cells: pd.DataFrame, scale: tuple[float, float] | None = (0, 1),
                encoding: str | None = "UTF-8") -> Checked:
    """The good rows of `cells`, as pairs, and all faults of the others.

    `cells` has what is in the file (objects), its index each row's line; the pairs have the
    same index, their texts str, their score float64, 0..1 from the lowest to the highest of
    `scale` (None: not known, the scores stay as they are). `encoding` is that of a text file.
    No row is compared with another, so a file may come in parts.
    """
    faults, odd = [], []
    for name in cells.columns.drop("score", errors="ignore"):
        for line, cell in cells[name].items():
            if name in TEXTS and is_number(cell):
                odd.append((line, name, show(cell), "a text"))
            elif fault := text_fault(cell, encoding, free=name not in TEXTS):
                faults.append((line, name, *fault))
    if "score" in cells:
        numbers = _scores(cells["score"], truths=scale == (0, 1))   # on 0..5, True: a fifth
        low, high = scale or (-math.inf, math.inf)
        wanted = f"a number from {low:g} to {high:g}" if scale else "a number"
        inside = np.isfinite(numbers) & (numbers >= low) & (numbers <= high)
        for line, cell in cells["score"][~inside].items():
            comma = type(cell) is str and _COMMA.fullmatch(cell.strip())
            faults.append((line, "score", show(cell),
                           wanted + ", with a decimal point" * bool(comma)))
        cells = cells.assign(score=(numbers - low) / (high - low) if scale else numbers)
    good = cells[~cells.index.isin([line for line, *_ in faults])]
    pairs = good.astype({name: "str" for name in cells if name != "score"})
    return pairs, faults, [each for each in odd if each[0] in pairs.index]


def text_fault(cell: object, encoding: str | None, free: bool) -> tuple[str, str] | None:
    """What is wrong with a cell that must contain a text (`free`: any, also a blank one)."""
    if type(cell) is not str or not free and _BLANK.fullmatch(cell):
        return show(cell), "a text"
    if cell.strip().upper() in _ERRORS and not free:
        return show(cell), "a text; this is a spreadsheet's error"
    if not (unusable := _UNUSABLE.search(cell)):
        return None
    byte = ord(unusable[0]) - 0xdc00     # as surrogateescape lets it through
    if encoding and 0x80 <= byte <= 0xff:
        return (f"{show(cell)} (byte 0x{byte:02x} is not {encoding})",
                f"a text in {encoding}; state encoding= if the file has another")
    return show(cell), "a text without NUL and without halves of characters"


# The scores

def is_number(cell: object) -> bool:
    """Whether a cell is a number, or a text that is nothing else."""
    return math.isfinite(_number(cell))


def _number(cell: object) -> float:
    if type(cell) is str:
        cell = cell.strip().removesuffix("%").replace("_", "x")    # float() takes 1_000
    elif isinstance(cell, bool) or not isinstance(cell, (Real, Decimal)):
        return math.nan
    try:
        return float(cell)
    except (ValueError, OverflowError):
        return math.nan


def _scores(cells: Iterable[object], truths: bool = True) -> np.ndarray:
    """As `_number`; but if `truths`, and all cells are True, False or blank: 1, 0 and NaN."""
    found = [_TRUTHS.get(str(cell).strip().lower()) for cell in cells] if truths else [None]
    return np.array(list(map(_number, cells)) if None in found else found)


def check_scale(scale: object) -> tuple[float, float]:
    """`scale` as the lowest and the highest score; ValueError if it is no such pair."""
    if not (isinstance(scale, tuple | list) and len(scale) == 2 and all(map(is_number, scale))
            and 0 < _number(scale[1]) - _number(scale[0]) < math.inf):
        raise ValueError(f"scale is {show(scale)}; expected the lowest and the highest score "
                         "that are possible, as scale=(1, 5)")
    return _number(scale[0]), _number(scale[1])


def find_scale(cells: Iterable[object], name: str = "score"
               ) -> tuple[tuple[float, float] | None, list[Fault]]:
    """The first known scale that contains nine tenths of the numbers among `cells`.

    1..5 instead of 0..5 if none is below 1; percent if all have the sign, or one is above 10.
    None, and a fault, if no scale does, if only some have a % sign, or if there are only a few
    whole numbers, not from one end of the scale to the other: they may be classes, as 0, 1 and
    2 in NLI files. In a column with the `name` label, they may be in any case: in some files 0
    is entailment and 1 is not. None and no fault if there are no numbers.
    """
    cells = list(cells)
    label = plain_name(name) in ("label", "labels", "gold_label") and not all(
        str(cell).strip().lower() in _TRUTHS for cell in cells)
    numbers = _scores(cells)
    plain = numbers[np.isfinite(numbers)]
    if not len(plain):
        return None, []
    signed = [type(cell) is str and cell.rstrip().endswith("%") for cell in cells]
    if all(np.array(signed)[np.isfinite(numbers)]):
        return (0, 100), []
    if any(signed):
        return None, [(0, "score", f"{sum(signed)} of {len(plain)} scores with a % sign", "all "
                       "of them or none; to read them as they are, state scale=(low, high)")]
    for low, high in SCALES:
        inside = plain[(plain >= low) & (plain <= high)]
        if 10 * len(inside) < 9 * len(plain) or high == 100 and inside.max() <= 10:
            continue
        low += high == 5 and inside.min() >= 1
        values = np.unique(inside)
        ends = [values[0], values[-1]] == [low, high]
        if len(values) <= 10 and not (values % 1).any() and (
                label or high > 1 and not ends):
            shown = ", ".join(f"{value:g}" for value in values)
            return None, [(0, "score", f"only the values {shown}",
                           "scores, and not classes; if they are scores, state "
                           "scale=(low, high), the lowest and the highest possible")]
        return (low, high), []
    return None, [(0, "score", f"scores from {plain.min():g} to {plain.max():g}",
                   "0..1, -1..1, 0..5, 1..5 or percent; for others state scale=(low, high)")]
