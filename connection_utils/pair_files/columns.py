"""Which of a file's columns hold the pairs, what their cells may hold, and on which scale."""

import difflib
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
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
                "is_duplicate", "quality", "connection", "점수")
NAMES = dict(zip(COLUMNS, (*zip(*_TEXT_NAMES, strict=True), _SCORE_NAMES), strict=True))

# Benchmarks as distributed: columns that tell one, its column of scores, and their scale.
BENCHMARKS = {
    "KorSTS": (("genre", "filename", "year", "id", "sentence1", "sentence2"), "score", (0, 5)),
    "GLUE's STS-B": (("genre", "filename", "year", "old_index", "source1", "source2",
                      "sentence1", "sentence2"), "score", (0, 5)),
    "SICK": (("sentence_a", "sentence_b"), "relatedness_score", (1, 5)),
    "Quora question pairs": (("qid1", "qid2", "question1", "question2"), "is_duplicate",
                             (0, 1)),
    "MRPC": (("#1_id", "#2_id", "#1_string", "#2_string"), "quality", (0, 1)),
}
SCALES = ((0, 1), (-1, 1), (0, 5), (0, 100))        # tried in this order

NUMBER = re.compile(r"[+-]?(\d+([.,]\d+)*[.,]?|[.,]\d+)(e[+-]?\d+)?\s*%?", re.I)
_LETTER = re.compile(r"[^\W\d_eE]")
_COMMA = re.compile(r"[+-]?\d*,\d+\s*%?")
_ESCAPED = re.compile("[\udc80-\udcff]")            # a byte that surrogateescape let through
_BLANK = re.compile(r"[\s\u00ad\u200b-\u200f\u2060\ufeff]*")    # invisible, or no width


# Which columns

def plain_name(name: str) -> str:
    """A column's name without case, outer blanks, and kinds of blanks and dashes."""
    return re.sub(r"[\s_-]+", "_", unicodedata.normalize("NFC", name).strip().lower())


def benchmark_of(header: Sequence[str], score: str | None = None) -> str | None:
    """The benchmark in `BENCHMARKS` that has this header (and column of scores), if any."""
    names = {plain_name(name) for name in header}
    return next((benchmark for benchmark, (others, column, _) in BENCHMARKS.items()
                 if names.issuperset((*others, column))
                 and (score is None or plain_name(score) == column)), None)


def check_columns(columns: object) -> dict[str, str]:
    """`columns` as a dict; ValueError if it is no mapping from our names to the file's."""
    if columns is not None and not isinstance(columns, Mapping):
        raise ValueError(f"columns is {show(columns)}; expected a mapping, as {EXAMPLE}")
    given = dict(columns or {})
    for ours, theirs in given.items():
        if ours not in COLUMNS or not isinstance(theirs, str):
            raise ValueError(f"columns holds {show(ours)}: {show(theirs)}; expected names of "
                             f"the file's columns for {', '.join(COLUMNS)}, as {EXAMPLE}")
    if len(set(given.values())) < len(given):
        raise ValueError(f"columns is {show(given)}; expected a column of its own for each")
    return given


def stated_columns(said: Sequence[str]) -> dict[str, str]:
    """`columns` as a command line states them, ``sentence1=question``; ValueError if not so."""
    odd = [each for each in said if "=" not in each]
    if odd:
        raise ValueError(f"--columns {odd[0]}: expected OURS=THEIRS, as sentence1=question")
    return dict(each.split("=", 1) for each in said)


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
            close = difflib.get_close_matches(wanted, names, n=1)
            expected = f"the column {show(wanted)}, which columns= names"
            expected += f"; is {show(close[0])} meant?" if close else ""
        else:
            expected = f"a column {ours}, or one that columns= names"
            if any(NUMBER.fullmatch(name) for name in names):
                expected += "; if these are a pair already, put a line of names above it"
        faults.append((ours, found, expected))
    return places, guessed, faults


def as_the_file_says(faults: Sequence[Fault], header: Sequence[str],
                     places: Mapping[str, int]) -> list[Fault]:
    """The same faults, each column by the file's own name for it, where a reader looks."""
    theirs = {ours: header[place].strip() for ours, place in places.items()}
    return [(line, theirs.get(ours, ours), *rest) for line, ours, *rest in faults]


# What their cells may hold

def check_cells(cells: pd.DataFrame, scale: tuple[float, float] | None = (0, 1),
                encoding: str | None = "UTF-8") -> tuple[pd.DataFrame, list[Fault]]:
    """The good rows of `cells`, as pairs, and all faults of the others.

    `cells` holds what stands in the file (objects), its index each row's line; the pairs
    have the same index, their texts str, their score float64, 0..1 from the lowest to the
    highest of `scale` (None: not known, the scores stay as they are). `encoding` is that of
    a text file, whose cells have no types; None where they have. Sees no row beside another,
    so a file may come in parts.
    """
    faults = []
    for name in cells.columns.drop("score", errors="ignore"):
        odd = [type(cell) is not str or not _LETTER.search(cell) for cell in cells[name]] \
            if _encodable(cells[name]) else np.ones(len(cells), bool)
        for line, cell in cells.loc[odd, name].items():
            fault = _text_fault(cell, encoding, free=name not in TEXTS)
            faults += [(line, name, *fault)] if fault else []
    score = cells.get("score", pd.Series(index=cells.index, dtype=object))
    numbers, percent = parse_scores(score)
    low, high = scale or (-math.inf, math.inf)
    lows, highs = np.where(percent, 0, low), np.where(percent, 100, high)
    outside = ~((numbers >= lows) & (numbers <= highs)) | ~np.isfinite(numbers)
    wanted = f"a number from {low:g} to {high:g}" if scale else "a number"
    if "score" in cells:
        faults += [(line, "score", show(cell), wanted + ", with a decimal point" * (
            type(cell) is str and _COMMA.fullmatch(cell.strip()) is not None))
            for line, cell in score[outside].items()]
    bad = outside | cells.index.isin([line for line, *_ in faults])
    if scale:
        numbers = (numbers - lows) / (highs - lows)
    texts = cells.loc[~bad].drop(columns="score", errors="ignore").astype("str")
    return texts.assign(score=numbers[~bad])[list(cells)], faults


def _encodable(column: pd.Series) -> bool:
    """Whether no text in `column` holds half a character, a stray byte, or a NUL."""
    joined = "\n".join(cell for cell in column if type(cell) is str)
    try:
        joined.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in joined


def _text_fault(cell: object, encoding: str | None, free: bool = False
                ) -> tuple[str, str] | None:
    """What is wrong with a cell that must hold a text (`free`: any, even none)."""
    if type(cell) is not str:
        number = isinstance(cell, (Real, Decimal)) and not pd.isna(cell)
        return show(cell), "a text, not a number" if number else "a text"
    if stray := encoding and _ESCAPED.search(cell):
        return (f"{show(cell)} (byte 0x{ord(stray[0]) - 0xdc00:02x} is not {encoding})",
                f"a text in {encoding}; state encoding= if the file has another")
    if not _encodable([cell]):
        return show(cell), "a text without NUL and without halves of characters"
    if free:
        return None
    if _BLANK.fullmatch(cell):
        return show(cell), "a text"
    if encoding and NUMBER.fullmatch(cell.strip()):
        return show(cell), "a text, not a number"
    return None


# The scores

def parse_scores(cells: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Each score as it stands (float64; NaN: no number), and whether it has a % sign."""
    percent = [type(cell) is str and cell.rstrip().endswith("%") for cell in cells]
    return np.fromiter(map(_number, cells), np.float64, len(cells)), np.array(percent, bool)


def _number(cell: object) -> float:
    if type(cell) is str:
        cell = cell.strip().removesuffix("%")
        if "_" in cell:                                # float() takes 1_000
            return math.nan
    elif isinstance(cell, (bool, np.bool_)) or not isinstance(cell, (Real, Decimal)):
        return math.nan
    try:
        return float(cell)
    except (ValueError, OverflowError):
        return math.nan


def check_scale(scale: object) -> tuple[float, float]:
    """`scale` as the lowest and the highest score; ValueError if it is no such pair."""
    try:
        low, high = map(float, () if isinstance(scale, str) else scale)
        if low < high and math.isfinite(high - low):
            return low, high
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"scale is {show(scale)}; expected the lowest and the highest score that "
                     "are possible, as scale=(1, 5)")


def find_scale(cells: pd.Series) -> tuple[tuple[float, float] | None, list[Fault]]:
    """The first known scale that holds nine tenths of the numbers among `cells`.

    1..5 instead of 0..5 if none is below 1, percent only if one is above 10 or all have the
    sign. None, and a fault, if no scale does; None and no fault if there are no numbers.
    """
    numbers, percent = parse_scores(cells)
    plain = numbers[np.isfinite(numbers) & ~percent]
    if not len(plain):
        return ((0, 100) if percent.any() else None), []
    for low, high in SCALES:
        inside = plain[(plain >= low) & (plain <= high)]
        if 10 * len(inside) >= 9 * len(plain):
            if high == 5:
                return ((1, 5) if inside.min() >= 1 else (0, 5)), []
            if high < 100 or inside.max() > 10:
                return (low, high), []
    return None, [(0, "score", f"scores from {plain.min():g} to {plain.max():g}",
                   "0..1, -1..1, 0..5, 1..5 or percent; for others state scale=(low, high)")]
