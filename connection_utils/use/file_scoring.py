"""Score a file of pairs of any size: in parts that survive a kill, put together at the end.

Some thousand rows are in memory at a time. Scored parts are kept beside the result until all
rows are scored. After a kill the same call continues with the next part, and the result
appears only at the end, complete. Parts of other pairs, of another model or of other options
are never used.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Mapping
from glob import escape
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from connection_utils.ground.paths import as_path, shown
from connection_utils.ground.progress_bar import progress
from connection_utils.ground.whole_files import clear_leftovers, sha256_of, write_whole
from connection_utils.pair_files.columns import EXAMPLE, TEXTS
from connection_utils.pair_files.faults import ConnectionDataError, sentence, show
from connection_utils.pair_files.formats import CHUNK, Chunk, PairFile
from connection_utils.pair_files.reading import OpenPairs, Tell, open_pairs, refuse
from connection_utils.use.scorer import ConnectionScorer

FORMAT = 3                           # of the parts; another number makes all be scored anew
WRITERS = {".csv": pyarrow.csv.CSVWriter, ".parquet": pq.ParquetWriter}


def score_file(pairs: str | Path, out: str | Path, scorer: ConnectionScorer,
               columns: Mapping[str, str] | None = None, encoding: str | None = None,
               keep_bad_rows: bool = False, tell: Tell = print) -> int:
    """Write `pairs` with their cosines to `out`; returns how many rows it has.

    `columns` is what the file calls ``sentence1`` and ``sentence2``, `encoding` is that of a
    text file; `tell` gets a line for all that was guessed or found. ConnectionDataError lists
    all bad rows (a text is missing; the row cannot be read). With `keep_bad_rows` they keep
    their place and their cells, with an empty cosine; the first text column of a row that
    cannot be read gets its text. FileExistsError if `out` exists, ValueError if it is
    neither .csv nor .parquet.
    """
    pairs, out = as_path(pairs), as_path(out)
    if out.suffix.lower() not in WRITERS:
        raise ValueError(f"{out.name}: expected a name that ends in {' or '.join(WRITERS)}")
    if out.exists():
        raise FileExistsError(f"{shown(out)} exists already. Remove it, or choose another "
                              "name.")
    clear_leftovers(out)
    source = open_pairs(pairs, columns, encoding, tell, TEXTS)
    look = source.look(tell, streaming=True)
    refuse([source], [look], keep_bad_rows, EXAMPLE,
           "keep them without a cosine (keep_bad_rows=True)")
    if look.bad:
        first = "; ".join(sentence(fault, source.file.unit) for fault in look.faults[:3])
        tell(f"{source.file.name}: {look.bad:,} of {look.count:,} rows get no cosine; the "
             f"first faults: {first}")
    schema = _schema_with(scorer.into, source.file, out)
    said = json.dumps([FORMAT, CHUNK, sha256_of(pairs), source.places, encoding, scorer.into,
                       scorer.identity()])
    key = hashlib.sha256(said.encode()).hexdigest()[:16]
    parts = out.with_name(f".{out.name}-{key}.parts")
    parts.mkdir(parents=True, exist_ok=True)
    paths, seen, scored = [], 0, 0
    with progress(None, total=look.count, desc="scoring", unit="pair") as bar:
        for number, chunk in enumerate(source.file.chunks(source.places.values(), whole=True)):
            paths.append(parts / f"{number:08d}.parquet")
            if not number:
                first, *_ = source.check(chunk)
                tell(f"first {len(first):,} rows: "
                     f"{scorer.unread([*first['sentence1'], *first['sentence2']])}")
            if not paths[-1].exists():
                if seen and not scored:
                    tell(f"going on after {seen:,} of {look.count:,} rows")
                scored += len(chunk.whole)
                _score_part(source, chunk, scorer, schema, paths[-1])
            seen += len(chunk.whole)
            bar.update(len(chunk.whole))
    with write_whole(out) as scratch, WRITERS[out.suffix.lower()](scratch, schema) as writer:
        for path in paths:
            writer.write_table(pq.read_table(path, schema=schema, use_threads=False,
                                             pre_buffer=False))
    for folder in out.parent.glob(f".{escape(out.name)}-{'[0-9a-f]' * 16}.parts"):
        shutil.rmtree(folder, ignore_errors=True)
    return look.count


def _schema_with(into: str, file: PairFile, out: Path) -> pa.Schema:
    """The columns of the result: Parquet's own types, texts for all other files.

    ConnectionDataError if `out` cannot contain them.
    """
    names = [name.strip() or f"column {n}" for n, name in enumerate(file.header, start=1)]
    schema = file.schema or pa.schema([(name, pa.string()) for name in names])
    schema = schema.append(pa.field(into, pa.float32()))
    if twice := [name for name in schema.names if schema.names.count(name) > 1]:
        raise ConnectionDataError(
            f"{file.name}: {twice.count(twice[0])} columns of the result would be called "
            f"{show(twice[0])}; expected different names (into= is that of the new column).")
    try:
        with WRITERS[out.suffix.lower()](pa.BufferOutputStream(), schema) as writer:
            writer.write_table(schema.empty_table())
    except pa.ArrowException as error:
        raise ConnectionDataError(f"{file.name} has columns that {out.suffix} cannot contain "
                                  f"({error}); choose a name that ends in .parquet.") from None
    return schema


def _score_part(source: OpenPairs, chunk: Chunk, scorer: ConnectionScorer, schema: pa.Schema,
                path: Path) -> None:
    """Write all rows of `chunk`, with all columns and the cosine, to `path`."""
    good, *_ = source.check(chunk)
    cosines = pd.Series(scorer(good.to_dict("list"))[scorer.into], good.index,
                        dtype="float32").reindex(sorted([*chunk.cells.index, *chunk.broken]))
    if isinstance(chunk.whole, pa.RecordBatch):
        columns = chunk.whole.columns
    else:
        place, empty = source.places["sentence1"], [None] * len(source.file.header)
        rows = [[*empty[:place], cells, *empty[place + 1:]] if fault else cells
                for _, cells, fault in chunk.whole]          # a text for what has no cells
        columns = [pa.array(map(_as_text, column)) for column in zip(*rows, strict=True)]
    table = pa.table([*columns, pa.array(cosines, from_pandas=True)], schema=schema)
    with write_whole(path) as scratch:
        pq.write_table(table, scratch)


def _as_text(cell: object) -> str | None:
    """A cell as Arrow's texts can contain it."""
    if cell is None or isinstance(cell, float) and math.isnan(cell):
        return None
    if isinstance(cell, (bool, list, dict)):                     # of JSON
        cell = json.dumps(cell, ensure_ascii=False)
    return str(cell).encode("utf-8", "backslashreplace").decode()     # bytes of no known text
