"""Text files as they come: their encoding, separator and quoting, and their rows."""

import codecs
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator

from connection_utils.pair_files.columns import benchmark_of, plain_name
from connection_utils.pair_files.faults import ConnectionDataError, show

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
MAX_ROW_LINES = 1000         # a quoted row longer than this began with a stray quote
ENCODING_EXAMPLE = "state another, as encoding='cp949', or save the file as UTF-8"
_QUOTED_FIELD = re.compile(r'(?:^|[\t\r])"', re.MULTILINE)

Row = list[str] | csv.Error          # an error carries the line of the file, too


def decode(name: str, content: bytes, encoding: str | None) -> tuple[str, str, list[str]]:
    """The text, its encoding, and what is to be told about it.

    A byte b that cannot be decoded stands in the text as U+DC00 + b. ConnectionDataError
    (with the file's `name`) if nothing can be decoded; ValueError if Python knows no such
    `encoding` (None: it is found).
    """
    told = []
    if encoding is None:
        encoding = "UTF-8"
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            encoding = "UTF-16"
        elif _looks_korean(content):
            encoding = "cp949"
            told.append("is read as cp949, the encoding of Korean Windows (if it is another, "
                        "state encoding=)")
    try:
        wide = codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))
        text = content.decode(encoding, "strict" if wide else "surrogateescape")
    except LookupError:
        raise ValueError(f"encoding is {encoding!r}; expected a text encoding that Python "
                         "knows, as 'utf-8' or 'cp949'") from None
    except UnicodeError as error:        # where a byte is missing, all that follows is shifted
        raise ConnectionDataError(
            f"{name}: cannot be decoded as {encoding} ({error}); {ENCODING_EXAMPLE}.") from None
    return text.removeprefix("\ufeff"), encoding, told


def _looks_korean(content: bytes) -> bool:
    """Whether bytes that are not UTF-8 are cp949 throughout, and more than half Hangul."""
    try:
        content.decode()
        return False
    except UnicodeDecodeError:
        signs = Counter(content.decode("utf-8", "surrogateescape"))
    stray = sum(signs[chr(code)] for code in range(0xdc80, 0xdd00))
    if sum(count for sign, count in signs.items() if sign > "\x7f") > 2 * stray:
        return False                     # UTF-8 with some stray bytes
    try:
        signs = Counter(content.decode("cp949"))
    except UnicodeDecodeError:
        return False
    common = sum(count for sign, count in signs.items()      # those of two bytes in KS X 1001
                 if "가" <= sign <= "힣" and len(sign.encode("euc_kr")) == 2)
    return 2 * common > sum(count for sign, count in signs.items() if sign > "\x7f")


def first_line(text: str) -> str:
    """The first line with anything on it; "" if there is none."""
    start = re.search(r"\S", text)
    if start is None:
        return ""
    begin = max(text.rfind(end, 0, start.start()) for end in "\r\n") + 1
    return re.compile(r"[^\r\n]*").match(text, begin)[0]


def find_separator(first: str, known: Collection[str]) -> str:
    """Comma, semicolon or tab: what cuts the header into most `known` names, then into most."""
    def fit(separator: str) -> tuple[int, int]:
        try:
            names = next(csv.reader([first], delimiter=separator), [])
        except csv.Error:
            return 0, 0
        return sum(plain_name(name) in known for name in names), len(names)

    return max(SEPARATORS, key=fit)


# Rows

def filled(row: Row) -> bool:
    """Whether a row is more than separators and blanks."""
    return isinstance(row, csv.Error) or any(map(str.strip, row))


def plain_rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """Line and fields of tab-separated text in which quotes are part of the texts."""
    for line, row in enumerate(text.split("\n" if "\n" in text else "\r"), start=1):
        if row.strip("\r"):
            yield line, row.rstrip("\r").split("\t")


def quoted_rows(text: str, separator: str) -> Iterator[tuple[int, Row]]:
    """Line and fields of each row of CSV; for one that csv cannot take, the error.

    After an error all goes on with the next line of the file.
    """
    lines = list(io.StringIO(text, newline=""))
    begin = position = 0

    def feed() -> Iterator[str]:
        nonlocal position
        for position in range(begin + 1, len(lines) + 1):
            if position - begin > MAX_ROW_LINES:
                raise csv.Error(f"a row of more than {MAX_ROW_LINES} lines")
            yield lines[position - 1]

    while begin < len(lines):
        try:
            for row in csv.reader(feed(), delimiter=separator, strict=True):
                if row:
                    yield begin + 1, row
                begin = position
        except csv.Error as error:
            yield begin + 1, csv.Error(str(error), lines[begin])
            begin += 1


def tab_rows(text: str, told: list[str]) -> tuple[list[tuple[int, Row]], bool]:
    """Line and fields of tab-separated text, and whether it was taken as quoted.

    The benchmarks' quoting is known. Other text is quoted if each field that begins with a
    quote can be read so, and something speaks for it: a quote is doubled inside one, or a
    line ends there, the header is quoted, or fields are missing otherwise. What was decided
    goes to `told`.
    """
    plain = list(plain_rows(text))
    if not _QUOTED_FIELD.search(text):
        return plain, False
    quoted = list(quoted_rows(text, "\t"))
    errors = any(isinstance(row, csv.Error) for _, row in quoted)
    header = next(row for _, row in plain if filled(row))
    odd = _odd_rows(plain)
    better = _odd_rows(quoted) <= odd
    benchmark = benchmark_of(header)
    if benchmark:
        is_quoted = benchmark.startswith("Quora") and better
    else:
        inside = any(cell.startswith('"') and ('""' in cell[1:-1] or "\r" in cell)
                     for _, row in plain for cell in row)
        is_quoted = better and not errors and (
            inside or odd > 0 or all(name.startswith('"') for name in header))
        told.append("quotes around fields are " + (
            "no part of the texts, as in CSV" if is_quoted else "part of the texts"))
    return (quoted if is_quoted else plain), is_quoted


def _odd_rows(rows: list[tuple[int, Row]]) -> int:
    """How many rows have another number of fields than the first, or cannot be read."""
    header, *others = [row for _, row in rows if filled(row)] or [[]]
    if isinstance(header, csv.Error):
        return len(others) + 1
    return sum(isinstance(row, csv.Error) or len(row) != len(header) for row in others)


def is_json_object(line: str) -> bool:
    """Whether `line` is a whole JSON object."""
    try:
        return line.lstrip().startswith("{") and type(json.loads(line)) is dict
    except (ValueError, RecursionError):
        return False


def json_rows(text: str, encoding: str) -> Iterator[tuple[int, object, tuple[str, str] | None]]:
    """Line and object of each line of JSON; or its text, and what was found and expected."""
    expected = "one JSON object a line"
    for line, content in enumerate(text.split("\n"), start=1):
        content = content.strip(" \t\r")
        if not content:
            continue
        try:
            content.encode()
            row = json.loads(content, object_pairs_hook=_each_key_once)
        except UnicodeEncodeError as error:
            stray = ord(content[error.start]) - 0xdc00
            yield line, content, (f"{show(content)} (byte 0x{stray:02x} is not {encoding})",
                                  f"text in {encoding}")
        except (ValueError, RecursionError) as error:
            why = str(error)[:80] or type(error).__name__
            yield line, content, (show(content), f"{expected} ({why})")
        else:
            good = isinstance(row, dict)
            yield line, row if good else content, None if good else (show(content), expected)


def _each_key_once(pairs: list[tuple[str, object]]) -> dict:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a key stands there twice")
    return row


def fault_of(error: csv.Error) -> tuple[str, str]:
    """What was found and what was expected where csv raised `error`."""
    why, line = error.args
    return show(line), f"every quote closed, and doubled inside a quoted text ({why})"
