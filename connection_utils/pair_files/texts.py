"""Text files as they come: their encoding, and the rows that their lines make."""

import csv
import gzip
import io
import zlib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE, getincrementaldecoder, lookup
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from connection_utils.ground.paths import shown
from connection_utils.pair_files.faults import ConnectionDataError

HEAD = 1 << 20               # bytes that decide on the encoding and on quotes
MAX_ROW_LINES = 1000         # a quoted row longer than this began with a stray quote
GZIP = b"\x1f\x8b"

csv.field_size_limit(1 << 24)            # characters; csv's own limit is 131,072

# The line where a row begins; its fields, or why there are none; its text as it is.
Row = tuple[int, list[str] | csv.Error, str]


# Lines

@contextmanager
def unpacked(path: Path) -> Iterator[BinaryIO]:
    """The file, open for reading; decompressed if gzip compressed it.

    ConnectionDataError if it cannot be read, also inside the with statement.
    """
    try:
        with open(path, "rb") as file:
            packed = file.read(2) == GZIP
        with gzip.open(path) if packed else open(path, "rb") as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        raise ConnectionDataError(f"{shown(path)}: cannot be read ({error}).") from None


def find_encoding(head: bytes, told: list[str]) -> str:
    """UTF-8, UTF-16, or cp949, which goes to `told`; `head` begins a text.

    cp949 are bytes that are not UTF-8 but cp949 throughout, and more than half of it Hangul.
    """
    if head.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        return "UTF-16"
    if head[1:2] == b"\0":               # no mark; a first character of ASCII
        return "UTF-16-LE"

    def beyond_ascii(encoding: str, errors: str = "strict") -> list[str]:
        """The signs beyond ASCII; one that the end of the head cuts in two is left out."""
        text = getincrementaldecoder(encoding)(errors).decode(head, len(head) < HEAD)
        return [sign for sign in text if sign > "\x7f"]

    signs = beyond_ascii("utf-8", "surrogateescape")
    if len(signs) > 2 * sum("\udc80" <= sign <= "\udcff" for sign in signs):
        return "UTF-8"                   # perhaps with some stray bytes
    try:
        signs = beyond_ascii("cp949")
    except UnicodeDecodeError:
        return "UTF-8"
    common = sum("가" <= sign <= "힣" and len(sign.encode("euc_kr")) == 2     # in KS X 1001
                 for sign in signs)
    if 2 * common <= len(signs):
        return "UTF-8"
    told.append("is read as cp949, the encoding of Korean Windows (if it is another, state "
                "encoding=)")
    return "cp949"


def lines_of(path: Path, encoding: str, end: str) -> Iterator[str]:
    """The text's lines with their ends, without a byte order mark.

    `end` is what ends a line, "" any of the three line ends. In plain text a lone carriage
    return may be part of a text.

    A byte b that cannot be decoded becomes U+DC00 + b, but in UTF-16 and UTF-32, where all
    that follows would be shifted: ConnectionDataError, as for a file that cannot be read.
    """
    try:
        wide = lookup(encoding).name.startswith(("utf-16", "utf-32"))
        with unpacked(path) as file, io.TextIOWrapper(
                file, encoding, "strict" if wide else "surrogateescape", newline=end) as text:
            first = text.readline().removeprefix("\ufeff")
            for_excel = first.startswith("sep=") and len(first.rstrip("\r\n")) == 5
            yield first[5:] if for_excel else first      # "sep=;" means something to Excel only
            yield from text
    except (UnicodeError, LookupError) as error:             # or Python knows no such encoding
        raise ConnectionDataError(
            f"{shown(path)}: cannot be decoded as {encoding} ({error}); state another, as "
            "encoding='cp949', or save the file as UTF-8.") from None


# Rows

def plain_rows(lines: Iterable[str]) -> Iterator[Row]:
    """The rows of tab-separated text in which quotes are part of the texts."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, line.rstrip("\r\n").split("\t"), line


def quoted_rows(lines: Iterator[str], separator: str) -> Iterator[Row]:
    """The rows of CSV. One that csv cannot take is its first line, and the next line begins
    another row: so a stray quote hides no row below it.
    """
    begin, taken, again = 1, [], deque()

    def feed() -> Iterator[str]:
        while line := again.popleft() if again else next(lines, ""):
            taken.append(line)
            if len(taken) > MAX_ROW_LINES:
                raise csv.Error(f"a row of more than {MAX_ROW_LINES} lines")
            yield line

    while True:
        try:
            row = next(csv.reader(feed(), delimiter=separator, strict=True), None)
        except csv.Error as error:
            row = error
            again.extendleft(reversed(taken[1:]))
            del taken[1:]
        if row is None:
            return
        if isinstance(row, csv.Error) or any(map(str.strip, row)):
            yield begin, row, "".join(taken)
        begin += len(taken)
        taken.clear()


def is_quoted(lines: Iterator[str]) -> bool | None:
    """Whether quotes around the fields of tab-separated text are those of CSV; None: no quotes.

    They are if each field that begins with a quote can be read so, and something speaks for
    it: a quote is doubled inside one, the names of the columns are quoted, or some rows would
    have another number of fields. The first megabyte decides.
    """
    head, size = [], 0
    while size < HEAD and (line := next(lines, "")):
        head.append(line)
        size += len(line)
    if not any(line.startswith('"') or '\t"' in line for line in head):
        return None
    plain = [fields for _, fields, _ in plain_rows(head)]
    quoted = []
    for _, fields, _ in quoted_rows(io.StringIO("".join(head), newline=""), "\t"):
        if isinstance(fields, csv.Error):
            if size < HEAD or "end of data" not in str(fields):
                return False
            break                        # the head ends inside this row
        quoted.append(fields)
    odd, odd_if_quoted = (sum(len(row) != len(rows[0]) for row in rows)
                          for rows in (plain, quoted))
    doubled = any(cell.startswith('"') and '""' in cell[1:-1] for row in plain for cell in row)
    return bool(quoted) and odd_if_quoted <= odd and (
        doubled or odd > 0 or all(name.startswith('"') for name in plain[0]))
