"""Any file of pairs as a table of cells, each row with the line where it begins.

openpyxl and pyarrow are imported where a file wants them: text files need neither.
"""

import csv
import warnings
import zipfile
from collections.abc import Collection
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from connection_utils.ground.paths import shown
from connection_utils.pair_files.faults import ConnectionDataError, show
from connection_utils.pair_files.layout import (
    STS_COLUMNS,
    check_keys,
    fault_below,
    is_for_excel,
    is_json,
    is_sts,
    names_of,
    separator_of,
    sts_fault,
)
from connection_utils.pair_files.texts import (
    decode,
    filled,
    first_line,
    json_rows,
    plain_rows,
    quoted_rows,
    tab_rows,
)

MAX_UNPACKED = 2 << 30       # bytes, of all parts of an Excel file
MAX_SHEET_ROWS = 1 << 20     # Excel's own limit
SAVE_AS = "Save it as .xlsx, or as CSV in UTF-8."


class Table(NamedTuple):
    """What stands in a file of pairs."""
    header: list[str]
    cells: pd.DataFrame              # columns 0, 1, … as in the header; index: the line
    broken: dict[int, tuple[str, str, dict]]     # line: found, expected, the row as it is
    told: list[str]                  # what was guessed or found
    header_line: int = 0             # 0: no line of names
    unit: str = "line"
    encoding: str | None = None      # of a text without types; None: cells have types
    headerless: bool = False         # the STS benchmark's own file


def read_table(path: Path, encoding: str | None = None,
               names: Collection[str] = ()) -> Table:
    """The cells of a CSV, TSV, JSON Lines, Parquet or Excel file; its content tells which.

    `encoding` is that of a text file (None: it is found); `names` are columns that it is
    known to have. ConnectionDataError if the file cannot be read at all.
    """
    if not path.is_file():
        raise ConnectionDataError(f"file not found: {path.absolute()}. data/README.md tells "
                                  "which files are read and where they belong.")
    name, suffix = shown(path), path.suffix.lower()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConnectionDataError(f"{name}: {error.strerror or error}.") from None
    try:
        if content.startswith(b"PAR1") and (content.endswith(b"PAR1") or suffix == ".parquet"):
            return _parquet_table(content)
        if content.startswith(b"PK\x03\x04"):
            return _excel_table(content)
    except Exception as error:       # a damaged file makes these libraries raise anything
        raise ConnectionDataError(f"{name}: cannot be read as Parquet or Excel "
                                  f"({type(error).__name__}: {str(error)[:200]}). {SAVE_AS}"
                                  ) from None
    if content.startswith(b"\xd0\xcf\x11\xe0"):
        raise ConnectionDataError(f"{name}: an old or an encrypted Excel file. {SAVE_AS}")
    if content and suffix in (".xlsx", ".xlsm", ".xls", ".parquet"):
        raise ConnectionDataError(f"{name}: the content is not that of a {suffix} file. "
                                  f"{SAVE_AS}")
    text, encoding, told = decode(name, content, encoding)
    first = first_line(text)
    if is_for_excel(first):
        text = text.replace(first, "", 1)
        first = first_line(text)
    if not first:
        raise ConnectionDataError(f"{name}: the file is empty; expected pairs.")
    if is_sts(first):
        return _sts_table(text, encoding, told)
    if is_json(first, suffix):
        return _json_table(name, text, encoding, told)
    separator = separator_of(first, suffix, names, told)
    return _separated_table(name, text, encoding, separator, told)


def _frame(cells: dict[int, list], width: int) -> pd.DataFrame:
    return pd.DataFrame(list(cells.values()), index=list(cells), columns=range(width),
                        dtype=object)


def rows_as_they_are(table: Table, lines: Collection[int]) -> dict[int, dict[str, object]]:
    """The rows that begin at `lines`: their cells by column, as they stand in the file."""
    cells = table.cells.loc[[line for line in lines if line not in table.broken]]
    rows = zip(cells.index, *(_values(cells[place]) for place in cells), strict=True)
    return {line: row for line, (_, _, row) in table.broken.items()} | {
        line: _by_column(table.header, row) for line, *row in rows}


def _by_column(header: list[str], row: list) -> dict[str, object]:
    """What belongs to no column stands under ``""``."""
    named = dict(zip(header, row, strict=False))
    return named | {"": row[len(header):]} if len(row) > len(header) else named


def _values(column: pd.Series) -> list:
    try:
        return list(column)
    except (OverflowError, ValueError):          # a time in Parquet that Python cannot hold
        import pyarrow as pa

        return pa.array(column).cast(pa.string()).to_pylist()


# Text

def _sts_table(text: str, encoding: str, told: list[str]) -> Table:
    width = len(STS_COLUMNS)
    cells, broken = {}, {}
    for line, row in plain_rows(text):
        if fault := sts_fault(row):
            broken[line] = (*fault, _by_column(STS_COLUMNS, row))
        else:
            cells[line] = row[:width]
    return Table(STS_COLUMNS, _frame(cells, width), broken, told, encoding=encoding,
                 headerless=True)


def _separated_table(name: str, text: str, encoding: str, separator: str, told: list[str]
                     ) -> Table:
    rows, quoted = tab_rows(text, told) if separator == "\t" else (
        quoted_rows(text, separator), True)
    rows = iter(rows)
    header_line, header = names_of(name, rows)
    cells, broken, empty = {}, {}, 0
    for line, row in rows:
        if not filled(row):
            empty += 1
        elif fault := fault_below(header_line, len(header), separator, quoted, row):
            broken[line] = (*fault, {"": row.args[1]} if isinstance(row, csv.Error)
                            else _by_column(header, row))
        else:
            cells[line] = row
    if empty:
        told.append(f"{empty} rows without any text are left out")
    return Table(header, _frame(cells, len(header)), broken, told, header_line,
                 encoding=encoding)


def _json_table(name: str, text: str, encoding: str, told: list[str]) -> Table:
    rows, broken, keys = {}, {}, {}
    for line, row, fault in json_rows(text, encoding):
        if fault:
            broken[line] = (*fault, {"": row})
        else:
            rows[line] = row
            keys.update(row)
    check_keys(name, keys, len(rows))
    cells = {line: list(map(row.get, keys)) for line, row in rows.items()}
    return Table(list(keys), _frame(cells, len(keys)), broken, told)


# Excel and Parquet

def _excel_table(content: bytes) -> Table:
    """The first sheet. Formulas stay as they are written: nothing is evaluated."""
    import openpyxl

    with zipfile.ZipFile(BytesIO(content)) as parts:
        if sum(part.file_size for part in parts.infolist()) > MAX_UNPACKED:
            raise ValueError(f"unpacks to more than {MAX_UNPACKED >> 30} GB")
    with warnings.catch_warnings():      # of styles and the like, which are not read
        warnings.simplefilter("ignore")
        book = openpyxl.load_workbook(BytesIO(content), read_only=True, keep_links=False)
        sheet = book.worksheets[0]
        sheet.reset_dimensions()         # some programs write wrong ones
        rows, width = {}, None
        for number, row in enumerate(sheet.iter_rows(values_only=True), start=1):
            if number > MAX_SHEET_ROWS:
                raise ValueError(f"more than {MAX_SHEET_ROWS} rows")
            row = row[:width]            # right of the header's last name nothing is read
            if any(cell is not None for cell in row):
                width = width or len(row)
                rows[number] = [getattr(cell, "text", cell) for cell in row]   # array formulas
    told = [f"the first of {len(book.worksheets)} sheets is read, {show(sheet.title)}"
            ] if len(book.worksheets) > 1 else []
    header_line = next(iter(rows), 1)
    header = ["" if cell is None else str(cell) for cell in rows.pop(header_line, [])]
    formulas = sum(type(cell) is str and cell.startswith("=")
                   for row in rows.values() for cell in row)
    if formulas:
        told.append(f"{formulas} cells begin with = and are read as they are written (if their "
                    "values are meant, paste them as values)")
    cells = {line: row + [None] * (width - len(row)) for line, row in rows.items()}
    return Table(header, _frame(cells, len(header)), {}, told, header_line, "row")


def _parquet_table(content: bytes) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.ParquetFile(pa.BufferReader(content)).read()
    table.validate(full=True)            # damaged texts, too
    header = table.column_names
    cells = table.rename_columns([str(place) for place in range(len(header))]).to_pandas(
        types_mapper=pd.ArrowDtype, ignore_metadata=True)    # no copies until they are used
    cells = cells.set_axis(range(len(header)), axis=1).set_axis(
        range(1, len(cells) + 1), axis=0)
    return Table(header, cells, {}, [], unit="row")
