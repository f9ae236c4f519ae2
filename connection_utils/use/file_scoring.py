"""Score a file of pairs of any size: in parts that survive a kill, put together at the end.

Some thousand rows are in memory at a time. What is done lies in parts beside the result
until all is. After a kill the same call goes on with the next part, and the result comes
into being at the end, whole. Parts of other pairs, of another model or of other options are
never taken.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from glob import escape
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from connection_utils.ground.paths import as_path, shown
from connection_utils.ground.progress_bar import progress
from connection_utils.ground.whole_files import clear_leftovers, sha256_of, write_whole
from connection_utils.pair_files.chunks import CHUNK
from connection_utils.pair_files.columns import TEXTS
from connection_utils.pair_files.faults import ConnectionDataError, show
from connection_utils.pair_files.row_source import Part, RowSource
from connection_utils.use.scorer import ConnectionScorer

FORMAT = 1                           # of the parts; another number makes all be scored anew
WRITERS = {".csv": pyarrow.csv.CSVWriter, ".parquet": pq.ParquetWriter}

Tell = Callable[[str], object]


def score_file(pairs: str | Path, out: str | Path, scorer: ConnectionScorer,
               columns: Mapping[str, str] | None = None, encoding: str | None = None,
               keep_bad_rows: bool = False, tell: Tell = print) -> int:
    """Write `pairs` with their cosines to `out`; returns how many rows it has.

    `columns` says what the file calls ``sentence1`` and ``sentence2``, `encoding` is that of
    a text file; `tell` gets a line for all that was guessed or found. ConnectionDataError
    lists all bad rows (a text is missing, or is none; the row cannot be read); with
    `keep_bad_rows` they stay in their place, with an empty cosine. FileExistsError if `out`
    is there, ValueError if it is neither .csv nor .parquet.
    """
    pairs, out = as_path(pairs), as_path(out)
    if out.suffix.lower() not in WRITERS:
        raise ValueError(f"{out.name}: expected a name that ends in {' or '.join(WRITERS)}")
    if out.exists():
        raise FileExistsError(f"{shown(out)} is there already. Remove it, or choose another "
                              "name.")
    clear_leftovers(out)
    source = RowSource(pairs, dict(columns or {}), encoding, tell)
    count = source.look(keep_bad_rows)
    schema = _schema_with(scorer.into, source, out)
    said = json.dumps([FORMAT, CHUNK, sha256_of(pairs), source.places, encoding, scorer.into,
                       scorer.identity()])
    key = hashlib.sha256(said.encode()).hexdigest()[:16]
    parts = out.with_name(f".{out.name}-{key}.parts")
    parts.mkdir(parents=True, exist_ok=True)
    for left in parts.glob(".*.partial"):
        left.unlink()
    paths, seen, scored = [], 0, 0
    with progress(None, total=count, desc="scoring", unit="pair") as bar:
        for number, part in enumerate(source):
            paths.append(parts / f"{number:08d}.parquet")
            if not paths[-1].exists():
                if seen and not scored:
                    tell(f"going on after {seen:,} of {count:,} rows")
                scored += len(part.lines)
                _score_part(part, scorer, schema, paths[-1])
            seen += len(part.lines)
            bar.update(len(part.lines))
    with write_whole(out) as scratch, WRITERS[out.suffix.lower()](scratch, schema) as writer:
        for path in paths:
            writer.write_table(pq.read_table(path, schema=schema, use_threads=False,
                                             pre_buffer=False))
    for folder in out.parent.glob(f".{escape(out.name)}-*.parts"):
        shutil.rmtree(folder, ignore_errors=True)
    return count


def _schema_with(into: str, source: RowSource, out: Path) -> pa.Schema:
    """The columns of the result; ConnectionDataError if `out` cannot hold them."""
    if into in source.schema.names:
        raise ConnectionDataError(f"{source.name} has a column {show(into)} already; state "
                                  "another name for the new one (into=).")
    schema = source.schema.append(pa.field(into, pa.float32()))
    try:
        with WRITERS[out.suffix.lower()](pa.BufferOutputStream(), schema) as writer:
            writer.write_table(schema.empty_table())
    except pa.ArrowException as error:
        raise ConnectionDataError(f"{source.name} has columns that {out.suffix} cannot hold "
                                  f"({error}); choose a name that ends in .parquet.") from None
    return schema


def _score_part(part: Part, scorer: ConnectionScorer, schema: pa.Schema, path: Path) -> None:
    texts = {name: part.good[ours].tolist() for name, ours in zip(scorer.columns, TEXTS)}
    cosines = pd.Series(scorer(texts)[scorer.into], part.good.index, dtype="float32"
                        ).reindex(part.lines)
    with write_whole(path) as scratch:
        pq.write_table(part.cells.append_column(
            schema.field(scorer.into), pa.array(cosines, from_pandas=True)), scratch)
