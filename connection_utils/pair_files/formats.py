"""The one reader of pair files: the rows of a file of any kind, some thousand at a time."""

import csv
import json
import re
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from connection_utils.ground.paths import shown
from connection_utils.pair_files import texts
from connection_utils.pair_files.columns import NAMES, is_number, plain_name
from connection_utils.pair_files.faults import ConnectionDataError, show

CHUNK = 4096                 # rows at a time
STS_COLUMNS = ["genre", "source", "year", "id", "score", "sentence1", "sentence2"]
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
SAVE_AS = "Save it as .xlsx, or as CSV in UTF-8."

# How files begin that are not read, what they are, and what to do.
FOREIGN = {
    b"\xd0\xcf\x11\xe0": f"an old or an encrypted Excel file. {SAVE_AS}",
    b"ARROW1": f"an Arrow file. {SAVE_AS}", b"SQLite format": f"a database. {SAVE_AS}",
    **{begin: f"a file compressed with {how}. Unpack it, or compress it with gzip."
       for begin, how in ((b"BZh", "bzip2"), (b"\xfd7zXZ", "xz"), (b"(\xb5/\xfd", "zstd"))}}

# The line of a row, its cells, and None; or its text, with what was found and expected.
Cells = tuple[int, list, None] | tuple[int, str, tuple[str, str]]


class Chunk(NamedTuple):
    """Some thousand rows of a file."""
    cells: pd.DataFrame          # objects, by place in the header; index: the line of each row
    broken: dict[int, tuple[str, str]]      # rows without cells: what was found and expected
    whole: list[Cells] | pa.RecordBatch     # all rows; all columns if `whole` was asked for


@dataclass
class PairFile:
    """A file of pairs: its columns, and its rows as often as they are read."""
    path: Path
    encoding: str | None = None          # of a text file
    told: list[str] = field(default_factory=list)    # what was guessed or found
    header: list[str] = field(default_factory=list)
    header_line: int = 0                 # 0: no line of names
    rows: Callable[[], Iterator[Cells]] = lambda: iter(())
    unit: str = "line"                   # or "row": what the rows are counted in
    scale: tuple[float, float] | None = None     # of the STS benchmark's own file
    schema: pa.Schema | None = None      # of Parquet

    @property
    def name(self) -> str:
        """The path, as messages show it."""
        return shown(self.path)

    def chunks(self, places: Collection[int], whole: bool = False) -> Iterator[Chunk]:
        """All rows in order, with their cells at these `places` in the header.

        ``Chunk.whole`` has all columns if `whole`. ConnectionDataError if the file cannot be
        read on.
        """
        rows = self.rows()
        while some := list(islice(rows, CHUNK)):
            good = {line: cells for line, cells, fault in some if not fault}
            yield Chunk(pd.DataFrame({place: [cells[place] for cells in good.values()]
                                      for place in places}, list(good), dtype=object),
                        {line: fault for line, _, fault in some if fault}, some)

    def rows_at(self, lines: Collection[int]) -> dict[int, dict[str, object] | str]:
        """The rows that begin at `lines`: cells by column, or the text of one without cells.

        The key of a blank or a repeated name has its place, too.
        """
        keys = [name if name.strip() and self.header.count(name) == 1
                else f"{name} (column {place})".strip()
                for place, name in enumerate(self.header, start=1)]
        return {line: cells if fault else dict(zip(keys, cells, strict=True))
                for line, cells, fault in self.rows() if line in lines}


def open_file(path: Path, encoding: str | None = None, names: Collection[str] = ()
              ) -> PairFile:
    """A CSV, TSV, JSON, JSON Lines, Parquet or Excel file; its content decides which.

    `encoding` is that of a text file (None: it is found in its first megabyte); `names` are
    columns that the file is known to have. ConnectionDataError if the file cannot be read at
    all, also because Python knows no such encoding.
    """
    if not path.is_file():
        what = "expected a file, but this is a folder" if path.is_dir() else "file not found"
        raise ConnectionDataError(f"{what}: {path.absolute()}. data/README.md lists the files "
                                  "that are read and where they belong.")
    name, suffix = shown(path), Path(path.name.lower().removesuffix(".gz")).suffix
    with texts.unpacked(path) as file:
        head = file.read(texts.HEAD)
    if head.startswith(b"PAR1"):
        return _parquet(path)
    if head.startswith(b"PK\x03\x04"):
        return _excel(path)
    if what := next((what for begin, what in FOREIGN.items() if head.startswith(begin)), None):
        raise ConnectionDataError(f"{name}: {what}")
    if head and suffix in (".xlsx", ".xlsm", ".xls", ".parquet"):
        raise ConnectionDataError(f"{name}: the content is not that of a {suffix} file. "
                                  f"{SAVE_AS}")
    file = PairFile(path, encoding)
    file.encoding = encoding or texts.find_encoding(head, file.told)
    return _text(file, suffix, names, "\n" if b"\n" in head else "\r")


# Text

def _text(file: PairFile, suffix: str, names: Collection[str], end: str) -> PairFile:
    """Text of any kind; `end` is what ends its lines, unless quotes are around fields."""
    lines = partial(texts.lines_of, file.path, file.encoding, end=end)
    first = next((line for line in lines() if line.strip()), None)
    if first is None:
        raise ConnectionDataError(f"{file.name}: the file is empty; expected pairs.")
    first = first.strip("\r\n")
    if first.count("\t") >= 6 and is_number(first.split("\t")[4]):
        file.header, file.scale, file.rows = STS_COLUMNS, (0, 5), lambda: _sts_rows(lines())
        return file
    if suffix in (".jsonl", ".ndjson", ".json") or re.match(r'\s*\{\s*"', first):
        return _json(file, _elements(file, "".join(lines()))
                     if re.match(r"\s*(\[|\{\s*$)", first) else lines)
    known = {plain_name(each) for each in chain(*NAMES.values(), names)}
    separator = _separator(first.split("\r")[0], known)
    if separator != ("," if suffix == ".csv" else "\t"):
        file.told.append(f"fields are separated by {SEPARATORS[separator]}s")
    quoted = True if separator != "\t" else texts.is_quoted(lines())
    if separator == "\t" and quoted is not None:
        file.told.append("quotes around fields are " + (
            "no part of the texts, as in CSV" if quoted else "part of the texts"))
    if quoted:
        return _separated(file, lambda: texts.quoted_rows(lines(end=""), separator),
                          f"with a {SEPARATORS[separator]} needs double quotes")
    return _separated(file, lambda: texts.plain_rows(lines()), "can hold no tab")


def _sts_rows(lines: Iterator[str]) -> Iterator[Cells]:
    """The rows of the STS benchmark; some name their sources in two columns more."""
    width = len(STS_COLUMNS)
    for line, row, text in texts.plain_rows(lines):
        yield (line, row[:width], None) if len(row) >= width else (
            line, text.rstrip("\r\n"), (f"{len(row)} tab-separated fields",
                                        f"at least {width} ({', '.join(STS_COLUMNS)})"))


def _separator(first: str, known: Collection[str]) -> str:
    """Comma, semicolon or tab: what cuts the header into most `known` names, then into most."""
    def fit(separator: str) -> tuple[int, int]:
        names = [plain_name(name.strip('" ')) for name in first.split(separator)]
        return sum(name in known for name in names), len(names)

    return max(SEPARATORS, key=fit)


def _separated(file: PairFile, parsed: Callable[[], Iterator[texts.Row]], advice: str
               ) -> PairFile:
    """A file whose first filled row has the names of the columns."""
    quotes = "every quote closed, and doubled inside a quoted text"
    header_line, header, text = next(parsed(), (1, [], ""))
    if isinstance(header, csv.Error):
        raise ConnectionDataError(
            f"{file.name}, line {header_line}: found {show(text)}, expected the names of the "
            f"columns, {quotes} ({header}).")

    def rows() -> Iterator[Cells]:
        for line, fields, text in islice(parsed(), 1, None):
            fault = None
            if isinstance(fields, csv.Error):
                fault = show(text), f"{quotes} ({fields})"
            elif len(fields) < len(header) or any(map(str.strip, fields[len(header):])):
                fault = (f"{len(fields)} fields",
                         f"{len(header)} as in line {header_line}; a text {advice}")
            # columns without a name at the end, as a spreadsheet leaves them, are cut
            yield line, text.rstrip("\r\n") if fault else fields[:len(header)], fault

    file.header, file.header_line, file.rows = header, header_line, rows
    return file


# JSON

def _json(file: PairFile, objects: Callable[[], Iterable[str]]) -> PairFile:
    """A file of JSON objects; its columns are the fields of all of them."""
    def parsed() -> Iterator[tuple]:
        for number, text in enumerate(map(str.strip, objects()), start=1):
            if text:
                yield number, *_json_row(text, f"one JSON object per {file.unit}")

    def rows() -> Iterator[Cells]:
        for number, row, fault in parsed():
            yield number, row if fault else list(map(row.get, header)), fault

    header = list(dict.fromkeys(
        name for _, row, fault in parsed() if not fault for name, cell in row.items()
        if not (cell and isinstance(cell, dict))))
    file.header, file.rows = header, rows
    return file


def _elements(file: PairFile, text: str) -> Callable[[], list[str]]:
    """The elements of a JSON array, or the objects of a file with lines inside them.

    Each is a text; the file's rows are counted in them.
    """
    file.unit = "row"
    found, place = [], 0
    decoder = json.JSONDecoder(object_pairs_hook=_object)
    with _read_as("JSON", file.path, "Expected one JSON array of objects, or one object after "
                  "another."):
        while start := re.compile(r"\S").search(text, place):
            element, place = decoder.raw_decode(text, start.start())
            found.append(element)
        if len(found) == 1 and isinstance(found[0], list):
            found, = found
        elements = list(map(json.dumps, found))
    return lambda: elements


def _json_row(text: str, expected: str) -> tuple:
    """The fields of a JSON object by path, and None; or its text, and its fault."""
    try:
        found, why = json.loads(text, object_pairs_hook=_object), ""
        if isinstance(found, dict):
            return _object(list(_fields(found))), None
    except (ValueError, RecursionError) as error:
        found, why = text, f" ({str(error)[:80]})"
    return text, (show(found), expected + why)


def _object(fields: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object; ValueError if a key is there twice, as one of its values would be lost."""
    found = dict(fields)
    if len(found) < len(fields):
        (twice, _), = Counter(key for key, _ in fields).most_common(1)
        raise ValueError(f"the key {show(twice)} is there twice")
    return found


def _fields(row: Mapping[str, object], path: str = "") -> Iterator[tuple[str, object]]:
    """The fields of `row` and of the objects in it, these as ``labels.real-label``."""
    for key, value in row.items():
        yield path + key, value
        if isinstance(value, dict):
            yield from _fields(value, f"{path}{key}.")


# Excel and Parquet

def _excel(path: Path) -> PairFile:
    """The first sheet. Of a formula, the value that its program saved: none is evaluated."""
    import openpyxl

    advice = "Unpack a zip archive; save OpenDocument or Strict Open XML as .xlsx."
    # styles and the like are not read
    with warnings.catch_warnings(action="ignore"), _read_as("Excel", path, advice):
        book = openpyxl.load_workbook(path, read_only=True, keep_links=False, data_only=True)
        sheet = book.worksheets[0]
        sheet.reset_dimensions()         # some programs write wrong ones
        rows = {line: list(row)
                for line, row in enumerate(sheet.iter_rows(values_only=True), start=1)
                if any(cell is not None for cell in row)}
        book.close()
    header_line = next(iter(rows), 1)
    header = ["" if cell is None else str(cell) for cell in rows.pop(header_line, [])]
    width = len(header)
    right = sum(cell is not None for row in rows.values() for cell in row[width:])
    rows = {line: (row + [None] * width)[:width] for line, row in rows.items()
            if any(cell is not None for cell in row[:width])}
    told = [f"the first of {len(book.worksheets)} sheets is read, {show(sheet.title)}"
            ] * (len(book.worksheets) > 1)
    told += [f"cells right of the header are left out: {right}"] * bool(right)
    return PairFile(path, None, told, header, header_line,
                    lambda: ((line, row, None) for line, row in rows.items()), "row")


class _ParquetFile(PairFile):
    """Rows with types of their own, which stay as they are in ``Chunk.whole``."""

    def chunks(self, places: Collection[int], whole: bool = False) -> Iterator[Chunk]:
        begin, wanted = 1, {place: self.header[place] for place in places}
        # a row group is not read at once; threads would hold more the larger it is
        with (_read_as("Parquet", self.path),
              pq.ParquetFile(self.path, buffer_size=texts.HEAD, pre_buffer=False) as parquet):
            for batch in parquet.iter_batches(
                    CHUNK, use_threads=False, columns=None if whole else [*wanted.values()]):
                batch.validate(full=True)                    # damaged texts, too
                cells = {place: batch[name].to_pylist() for place, name in wanted.items()}
                lines = range(begin, begin + len(batch))
                yield Chunk(pd.DataFrame(cells, lines, dtype=object), {}, batch)
                begin += len(batch)


def _parquet(path: Path) -> PairFile:
    with _read_as("Parquet", path):
        schema = pq.read_schema(path).remove_metadata()

    def rows() -> Iterator[Cells]:
        for chunk in file.chunks([], whole=True):
            columns = ((column.cast(pa.string())      # Python's dates end with the year 9999
                        if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type)
                        else column).to_pylist() for column in chunk.whole.columns)
            for line, cells in zip(chunk.cells.index, zip(*columns, strict=True), strict=True):
                yield line, list(cells), None

    file = _ParquetFile(path, header=schema.names, rows=rows, unit="row", schema=schema)
    return file


@contextmanager
def _read_as(kind: str, path: Path, advice: str = SAVE_AS) -> Iterator[None]:
    """In the block, all errors are a ConnectionDataError: a damaged file raises anything."""
    try:
        yield
    except Exception as error:
        raise ConnectionDataError(f"{shown(path)}: cannot be read as {kind} "
                                  f"({type(error).__name__}: {str(error)[:200]}). {advice}"
                                  ) from None
