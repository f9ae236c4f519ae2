"""Any file of pairs some thousand rows at a time, each row with the line where it begins."""

import io
from codecs import BOM_UTF16_BE, BOM_UTF16_LE, lookup
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from connection_utils.ground.paths import shown
from connection_utils.pair_files.faults import ConnectionDataError, Fault
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
    ENCODING_EXAMPLE,
    MAX_ROW_LINES,
    decode,
    filled,
    first_line,
    json_rows,
    plain_rows,
    quoted_rows,
    tab_rows,
)

CHUNK = 4096                 # rows at a time
HEAD = 1 << 20               # what tells a text's encoding, separator and quotes
LONGEST = 1 << 24            # characters of a line

Chunk = tuple[pd.DataFrame, list[Fault]]     # cells by column, index: the line; broken rows
_Checked = Iterator[tuple[int, list | None, tuple[str, str] | None]]  # line, cells or a fault


class Chunks(NamedTuple):
    """What stands in a file of pairs, as `tables.Table` tells it, but for its cells."""
    header: list[str]
    read: Callable[[dict[str, int]], Iterator[Chunk]]    # by column: its place in the header
    told: list[str]
    header_line: int = 0
    unit: str = "line"
    encoding: str | None = None
    headerless: bool = False


def read_chunks(path: Path, file: BinaryIO, encoding: str | None = None,
                names: Collection[str] = ()) -> Chunks:
    """The rows of a CSV, TSV, JSON Lines or Parquet file, `CHUNK` of them in memory.

    `file` is `path`, open; `encoding` and `names` are as in `tables.read_table`, and so are
    the cells, lines and faults. What that finds by looking at the whole text, this one finds
    in its first megabyte. ConnectionDataError, here or later, if the file cannot be read.
    """
    name, suffix, head = shown(path), path.suffix.lower(), file.read(HEAD)
    if head.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")) or head and suffix in (
            ".xlsx", ".xlsm", ".xls"):
        raise ConnectionDataError(f"{name}: an Excel file, which holds a million rows at most. "
                                  "They fit into memory: use read_connections.")
    if head.startswith(b"PAR1"):
        return _parquet(name, file)
    if head and suffix == ".parquet":
        raise ConnectionDataError(f"{name}: not the content of a .parquet file. Save it as one.")
    sample = head[:2] if head.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else head
    if len(sample) == HEAD:              # no character cut in two
        sample = sample[:sample.rfind(b"\n") + 1] or sample
    # if it is stated: does Python know it?
    _, encoding, told = decode(name, sample if encoding is None else bytes(4), encoding)
    open_lines = partial(_lines, name, file, encoding, "")
    text = _beginning(open_lines(""))
    first = first_line(text)
    if is_for_excel(first):
        open_lines = partial(_lines, name, file, encoding, first)
        text = text.replace(first, "", 1)
        first = first_line(text)
    if not first:
        raise ConnectionDataError(f"{name}: the file is empty; expected pairs.")
    end = "\n" if "\n" in text else "\r"
    plain = partial(_rows, open_lines(end), lambda text: plain_rows(text + end))
    if is_sts(first):
        rows = ((line, row, sts_fault(row)) for line, row in plain())
        return Chunks(STS_COLUMNS, partial(_in_chunks, rows), told, encoding=encoding,
                      headerless=True)
    if is_json(first, suffix):
        rows = _rows(open_lines("\n"), partial(json_rows, encoding=encoding))
        header, rows = _json(name, rows)
        return Chunks(header, partial(_in_chunks, rows), told)
    separator = separator_of(first, suffix, names, told)
    quoted = separator != "\t" or tab_rows(text, told)[1]
    rows = plain() if not quoted else _rows(
        open_lines(""), partial(quoted_rows, separator=separator), MAX_ROW_LINES)
    line, header = names_of(name, rows)
    fault = partial(fault_below, line, len(header), separator, quoted)
    rows = ((line, row, fault(row)) for line, row in rows if filled(row))
    return Chunks(header, partial(_in_chunks, rows), told, line, encoding=encoding)


def _in_chunks(rows: _Checked, places: dict[str, int]) -> Iterator[Chunk]:
    while chunk := list(islice(rows, CHUNK)):
        good = {line: cells for line, cells, fault in chunk if not fault}
        yield (pd.DataFrame({name: [cells[place] for cells in good.values()]
                             for name, place in places.items()}, list(good), dtype=object),
               [(line, "", *fault) for line, _, fault in chunk if fault])


# Lines and rows of text

def _lines(name: str, file: BinaryIO, encoding: str, out: str, end: str) -> Iterator[str]:
    """The lines of a text, the first `out` left out; `end` as open() takes it for newline."""
    file.seek(0)
    wide = lookup(encoding).name.startswith(("utf-16", "utf-32"))
    text = io.TextIOWrapper(file, encoding, "strict" if wide else "surrogateescape", end)
    try:
        line = text.readline(LONGEST).removeprefix("\ufeff")
        while line:
            if len(line) == LONGEST:
                raise ConnectionDataError(f"{name}: a line of {LONGEST:,} characters or more; "
                                          "expected pairs of texts.")
            if out and out in line:
                line, out = line.replace(out, "", 1), ""
            yield line
            line = text.readline(LONGEST)
    except UnicodeError as error:
        raise ConnectionDataError(f"{name}: cannot be decoded as {encoding} ({error}); "
                                  f"{ENCODING_EXAMPLE}.") from None
    finally:
        with suppress(ValueError):       # the file is closed: nobody reads on
            text.detach()                # else it would be closed here


def _beginning(lines: Iterator[str]) -> str:
    """The text's first lines, some `HEAD` characters."""
    kept, size = [], 0
    while size < HEAD and (line := next(lines, "")):
        kept.append(line)
        size += len(line)
    lines.close()
    return "".join(kept)


def _rows(lines: Iterator[str], parse: Callable[[str], Iterable[tuple]], span: int = 0
          ) -> Iterator[tuple]:
    """What `parse` makes of all lines, some at a time: tuples that begin with a row's line.

    It decides on a row by the `span` lines after its first: the last ones wait for more.
    """
    before, waiting, more = 0, [], True
    while more:
        block = waiting + list(islice(lines, CHUNK))
        more = len(block) == len(waiting) + CHUNK
        sure, taken = len(block) - span * more, len(block)
        for line, *row in parse("".join(block)):
            if line > sure:
                taken = line - 1
                break
            yield before + line, *row
        before, waiting = before + taken, block[taken:]


def _json(name: str, rows: Iterator[tuple]) -> tuple[list[str], _Checked]:
    """The keys of the first rows, and all rows."""
    first = list(islice(rows, CHUNK))
    header = list(dict.fromkeys(key for _, row, fault in first if not fault for key in row))
    check_keys(name, header, len(first))
    return header, ((line, None if fault else list(map(row.get, header)), fault)
                    for line, row, fault in chain(first, rows))


# Parquet

def _parquet(name: str, file: BinaryIO) -> Chunks:
    try:
        # a row group is not read at once; threads would hold more the larger it is
        parquet = pq.ParquetFile(file, buffer_size=HEAD, pre_buffer=False)
    except Exception as error:           # a damaged file makes it raise anything
        raise _unreadable(name, error) from None
    header = parquet.schema_arrow.names

    def read(places: dict[str, int]) -> Iterator[Chunk]:
        begin = 1
        try:
            wanted = [header[place] for place in places.values()]
            for batch in parquet.iter_batches(CHUNK, columns=wanted, use_threads=False):
                batch.validate(full=True)                    # damaged texts, too
                cells = pa.Table.from_batches([batch]).to_pandas(
                    types_mapper=pd.ArrowDtype, ignore_metadata=True)
                cells = pd.DataFrame({column: cells[header[place]].astype(object)
                                      for column, place in places.items()})
                yield cells.set_axis(range(begin, begin + len(batch))), []
                begin += len(batch)
        except Exception as error:
            raise _unreadable(name, error) from None

    return Chunks(header, read, [], unit="row")


def _unreadable(name: str, error: Exception) -> ConnectionDataError:
    return ConnectionDataError(
        f"{name}: cannot be read as Parquet ({type(error).__name__}: {str(error)[:200]}). Save "
        "texts as strings and scores as numbers, or all as CSV in UTF-8.")
