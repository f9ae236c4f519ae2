"""A file's rows with all their columns, part by part, for whoever writes them on."""

import json
import math
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from connection_utils.ground.paths import shown
from connection_utils.pair_files.chunks import CHUNK, Chunks, read_chunks
from connection_utils.pair_files.columns import (
    EXAMPLE,
    TEXTS,
    as_the_file_says,
    check_cells,
    check_columns,
    choose_columns,
)
from connection_utils.pair_files.faults import (
    MOST,
    ConnectionDataError,
    Fault,
    report,
    sentence,
    show,
)

Tell = Callable[[str], object]


class Part(NamedTuple):
    """Some thousand rows of a file."""
    lines: list[int]             # where each row begins
    good: pd.DataFrame           # the texts of those that have two, by line
    cells: pa.Table              # all columns of all of them


class RowSource:
    """The rows of a CSV, TSV, JSON Lines or Parquet file, as often as they are gone over.

    ``places`` tells where the two texts stand in a row, ``schema`` all columns: Parquet's own,
    texts for all other files. ConnectionDataError if the file cannot be read.
    """

    def __init__(self, path: Path, given: dict[str, str], encoding: str | None, tell: Tell
                 ) -> None:
        self._path, self._given, self._encoding, self._tell = path, given, encoding, tell
        self.name = shown(path)
        if not path.is_file():
            raise ConnectionDataError(f"file not found: {path.absolute()}")
        with open(path, "rb") as file:
            chunks = self._open(file)
        header = [name.strip() for name in chunks.header]
        places, guessed, missing = choose_columns(header, check_columns(given))
        self.places = {ours: place for ours, place in places.items() if ours in TEXTS}
        self._missing = [(chunks.header_line, *fault) for fault in missing if fault[0] in TEXTS]
        self._unit, self._header = chunks.unit, header
        twice = [name for name in header if header.count(name) > 1]
        if twice:
            raise ConnectionDataError(f"{self.name}: {len(twice)} columns are called "
                                      f"{show(twice[0])}; expected a name of its own for each.")
        self._parquet = chunks.unit == "row"             # all others have lines
        self.schema = (pq.read_schema(path).remove_metadata() if self._parquet else
                        pa.schema([(name, pa.string()) for name in header]))
        told = ", ".join(f"{ours} is {show(guessed[ours])}" for ours in TEXTS if ours in guessed)
        for line in chunks.told + [f"{told} (if it is another, state columns=)"] * bool(told):
            tell(f"{self.name}: {line}")

    def _open(self, file: BinaryIO) -> Chunks:
        return read_chunks(self._path, file, self._encoding, self._given.values())

    def _checked(self, places: Collection[int]) -> Iterator[
            tuple[pd.DataFrame, list[int], pd.DataFrame, list[Fault]]]:
        """The cells in these places, the lines, the good texts, and the faults."""
        with open(self._path, "rb") as file:
            chunks = self._open(file)
            for cells, broken in chunks.read({place: place for place in places}):
                texts = pd.DataFrame({ours: cells[place] for ours, place in self.places.items()})
                good, faults = check_cells(texts.assign(score=0), encoding=chunks.encoding)
                faults = as_the_file_says(faults, self._header, self.places) + broken
                yield (cells, sorted([*cells.index, *(line for line, *_ in broken)]), good,
                       sorted(faults, key=lambda fault: fault[0]))

    def __iter__(self) -> Iterator[Part]:
        if self._parquet:                                # its own types stay as they are
            with pq.ParquetFile(self._path, pre_buffer=False) as whole:
                batches = whole.iter_batches(CHUNK, use_threads=False)
                for (_, lines, good, _), batch in zip(self._checked(self.places.values()),
                                                      batches, strict=True):
                    yield Part(lines, good, pa.Table.from_batches([batch]).cast(self.schema))
            return
        for cells, lines, good, _ in self._checked(range(len(self._header))):
            columns = [list(map(_as_text, column)) for _, column in cells.reindex(lines).items()]
            yield Part(lines, good, pa.table(columns, self.schema))

    def look(self, keep_bad_rows: bool) -> int:
        """How many rows there are; ConnectionDataError, with all faults, if some are bad."""
        faults, count, bad = [], 0, 0
        checked = () if self._missing else self._checked(self.places.values())
        for _, lines, good, found in checked:
            count += len(lines)
            bad += len(lines) - len(good)
            faults += found[:MOST - len(faults)]
        if self._missing or faults and not keep_bad_rows:
            raise ConnectionDataError(
                report(self.name, self._unit, self._missing, faults, count) + "\n" + (
                    f"Mend the file, or state what is meant, as {EXAMPLE}." if self._missing else
                    "Mend these rows, or keep them without a cosine (keep_bad_rows=True)."),
                [(self.name, *fault) for fault in self._missing + faults])
        if not count:
            raise ConnectionDataError(f"{self.name}: no row with a pair; expected at least one.")
        if faults:
            first = "; ".join(sentence(fault, self._unit) for fault in faults[:3])
            self._tell(f"{self.name}: {bad:,} of {count:,} rows get no cosine; the first "
                       f"faults: {first}")
        return count


def _as_text(cell: object) -> str | None:
    """A cell of a text file, or of JSON Lines, as Arrow can hold it."""
    if cell is None or isinstance(cell, float) and math.isnan(cell):
        return None
    text = cell if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode()       # bytes of no known text
