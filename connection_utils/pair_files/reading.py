"""Reading pairs of texts and their scores from files into one kind of table."""

from collections.abc import Callable, Mapping
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from connection_utils.ground.paths import as_path, shown
from connection_utils.pair_files.columns import (
    BENCHMARKS,
    COLUMNS,
    EXAMPLE,
    as_the_file_says,
    benchmark_of,
    check_cells,
    check_columns,
    check_scale,
    choose_columns,
    find_scale,
)
from connection_utils.pair_files.faults import (
    LISTED,
    ConnectionDataError,
    Fault,
    report,
    set_aside,
    show,
)
from connection_utils.pair_files.splitting import (
    drop_leaks,
    find_leaks,
    find_repeats,
    split_connections,
)
from connection_utils.pair_files.tables import Table, read_table, rows_as_they_are

SPLITS = {"train": ("train",), "dev": ("dev", "validation", "valid"), "test": ("test",)}
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".xlsx")

Tell = Callable[[str], object]


def read_connections(path: str | Path, columns: Mapping[str, str] | None = None,
                     scale: tuple[float, float] | None = None, on_bad_rows: str = "error",
                     encoding: str | None = None, tell: Tell = print) -> pd.DataFrame:
    """Read one file of pairs: ``sentence1``, ``sentence2`` (str), ``score`` (0..1).

    CSV (comma, semicolon or tab), TSV, JSON Lines, Parquet or Excel (.xlsx, first sheet).
    The STS benchmark's own files, which have no header, are known by their content: their
    scores are divided by 5, and ``genre``, ``source`` and ``year`` are kept. All other
    columns are left out.

    - `columns`: what the file calls its columns, as ``{"sentence1": "question"}``; those
      not named there are looked for under common names.
    - `scale`: the lowest and the highest score that are possible, which become 0 and 1.
      None: found among 0..1, -1..1, 0..5, 1..5 and percent.
    - `on_bad_rows`: "error" (all faults in one error), or "drop": the good rows are
      returned, the others are written to ``runs/bad_rows/``, as JSON Lines.
    - `encoding`: of a text file. None: UTF-8, UTF-16 with its mark, or cp949.
    - `tell` gets a line for all that was guessed, found or left out; of the STS
      benchmark's own files there is nothing to tell.

    A row is bad if a text is missing or blank or a number, its score is no number or outside
    the scale, it cannot be read, or its pair stands in another row, too (benchmarks that are
    known by their header keep such rows). ConnectionDataError names file, line, column, what
    was found and what was expected.
    """
    return _read([as_path(path)], columns, scale, on_bad_rows, encoding, tell)[0]


def read_splits(data: str | Path, seed: int = 12, keep_leaks: bool = False,
                columns: Mapping[str, str] | None = None,
                scale: tuple[float, float] | None = None, on_bad_rows: str = "error",
                tell: Tell = print, encoding: str | None = None) -> dict[str, pd.DataFrame]:
    """Train, dev and test, with no pair of test in dev or train, nor of dev in train.

    `data` is a folder that holds a train, a dev and a test file of any kind (``train.csv``,
    ``sts-train.csv``, ``train.jsonl``, …; dev may be called validation or valid), or one
    file, which `split_connections` cuts with `seed`. `keep_leaks` leaves given splits as
    they are (see `find_leaks`). All else is as in `read_connections`; a scale that is not
    stated is found over the three files together.
    """
    path = as_path(data)
    if not path.is_dir():
        pairs = read_connections(path, columns, scale, on_bad_rows, encoding, tell)
        return _rankable(path, split_connections(pairs, seed))
    files = _split_files(path)
    if files["dev"].stem.removeprefix("sts-") != "dev":
        tell(f"{shown(files['dev'])}: taken as dev")
    tables = _read(list(files.values()), columns, scale, on_bad_rows, encoding, tell)
    splits = dict(zip(files, tables, strict=True))
    if not all("genre" in pairs for pairs in tables):      # not the STS benchmark's own
        leaks = find_leaks(splits)
        for one, later in combinations(files, 2):
            count = ((leaks[one] > 0) & (leaks[later] > 0)).sum()
            if count:
                tell(f"{shown(path)}: {count} {'pair' if count == 1 else 'pairs'} of {later} "
                     f"{'is' if count == 1 else 'are'} in {one}, too; "
                     + ("left in both" if keep_leaks else f"dropped from {one}"))
    return _rankable(path, splits if keep_leaks else drop_leaks(splits))


def _split_files(folder: Path) -> dict[str, Path]:
    for prefix in ("sts-", ""):
        files = {split: [file for name in names for suffix in SUFFIXES
                         if (file := folder / f"{prefix}{name}{suffix}").is_file()]
                 for split, names in SPLITS.items()}
        if all(files.values()):
            for split, found in files.items():
                if len(found) > 1:
                    raise ConnectionDataError(
                        f"{folder.absolute()} holds {', '.join(file.name for file in found)}; "
                        f"expected one file for {split}.")
            return {split: found for split, (found,) in files.items()}
    found = ", ".join(sorted(file.name for file in folder.iterdir())) or "no file at all"
    raise ConnectionDataError(
        f"{folder.absolute()} holds {found}; expected train.csv, dev.csv and test.csv (or "
        "sts-train.csv and so on; .tsv, .jsonl, .parquet and .xlsx do, too). Run `make run` "
        "once for the default data, or name one file of pairs.")


def _rankable(path: Path, splits: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The same splits; ConnectionDataError, before any training, if one cannot be used."""
    for name, pairs in splits.items():
        if pairs.empty:
            raise ConnectionDataError(
                f"{path.absolute()}: nothing is left of {name}, as all its pairs stand in a "
                "later split, too. Expected splits of different pairs.")
        if name != "train" and pairs["score"].nunique() == 1:
            raise ConnectionDataError(
                f"{path.absolute()}: all {len(pairs)} pairs of {name} have the score "
                f"{pairs['score'].iloc[0]:g}, so nothing can be ranked. Expected different "
                "scores; more pairs help.")
    return splits


# One file, or some that belong together

class _File(NamedTuple):
    path: Path
    table: Table
    places: dict[str, int]           # of the wanted columns, as far as they were found
    cells: pd.DataFrame              # of these
    faults: list[Fault]              # of whole columns
    benchmark: str | None
    scale: tuple[float, float] | None            # where the format tells it

    @property
    def count(self) -> int:
        """How many rows the file has, good and bad."""
        return len(self.cells) + len(self.table.broken)


def _read(paths: list[Path], columns: Mapping[str, str] | None,
          scale: tuple[float, float] | None, on_bad_rows: str, encoding: str | None, tell: Tell
          ) -> list[pd.DataFrame]:
    """The files' pairs; a scale that is not known is found over all of them together."""
    if on_bad_rows not in ("error", "drop"):
        raise ValueError(f"on_bad_rows is {on_bad_rows!r}; expected 'error' or 'drop'")
    stated, given = None if scale is None else check_scale(scale), check_columns(columns)
    files = [_open(path, given, encoding, tell) for path in paths]
    asked = [file for file in files if "score" in file.cells and not (stated or file.scale)]
    found, fault = find_scale(pd.concat([file.cells["score"] for file in asked])
                              ) if asked else (None, [])
    for file in asked:
        file.faults.extend(as_the_file_says(fault, file.table.header, file.places))
    judged = [_judge(file, stated or file.scale or found, tell) for file in files]
    _refuse(files, judged, on_bad_rows)
    tables = []
    for file, (good, faults) in zip(files, judged, strict=True):
        if faults:
            _drop(file, faults, tell)
        if not (stated or file.table.headerless):
            low, high = file.scale or found
            first, last = (low + score * (high - low) for score in
                           (good["score"].min(), good["score"].max()))
            tell(f"{shown(file.path)}: {len(good):,} pairs; scores from {first:g} to {last:g}, "
                 f"taken as {low:g}..{high:g}" + (
                     f", the scale of {file.benchmark}" if file.benchmark else
                     " (if others are possible, state scale=(low, high))"))
        tables.append(good.reset_index(drop=True))
    return tables


def _open(path: Path, given: Mapping[str, str], encoding: str | None, tell: Tell) -> _File:
    table = read_table(path, encoding, given.values())
    places, guessed, faults = choose_columns(table.header, given)
    names = ", ".join(f"{ours} is {show(theirs)}" for ours, theirs in guessed.items())
    for line in table.told + [f"{names} (if it is another, state columns=)"] * bool(guessed):
        tell(f"{shown(path)}: {line}")
    names, benchmark = COLUMNS, None
    if table.headerless:
        names = (*COLUMNS, "genre", "source", "year")
        places |= {name: table.header.index(name) for name in names[3:]}
    elif not faults:
        benchmark = benchmark_of(table.header, table.header[places["score"]])
    try:
        cells = pd.DataFrame({name: table.cells[places[name]].astype(object)
                              for name in names if name in places}, index=table.cells.index)
    except Exception as error:       # Parquet has types that no Python object can hold
        raise ConnectionDataError(f"{shown(path)}: cannot be read ({error}). Save texts as "
                                  "strings and scores as numbers.") from None
    return _File(path, table, places, cells, [(table.header_line, *fault) for fault in faults],
                 benchmark, (0, 5) if table.headerless else
                 BENCHMARKS[benchmark][-1] if benchmark else None)


def _judge(file: _File, scale: tuple[float, float] | None, tell: Tell
           ) -> tuple[pd.DataFrame, list[Fault]]:
    """The good pairs, by line, and all faults of the rows, in the order of the file."""
    good, faults = check_cells(file.cells, scale, file.table.encoding)
    faults += [(line, "", found, expected)
               for line, (found, expected, _) in file.table.broken.items()]
    if not file.table.headerless and set(COLUMNS) <= set(file.cells):
        repeats, unit = find_repeats(good), file.table.unit
        if file.benchmark and len(repeats):
            tell(f"{shown(file.path)}: {len(repeats)} rows hold a pair that stands in another "
                 f"row, too; kept, as they belong to {file.benchmark}")
        elif len(repeats):
            scores = file.cells["score"]
            faults += [(line, "", f"the pair of {unit} {other}", "each pair once") if agrees
                       else (line, "score", show(scores[line]), "one score for a pair; "
                             f"{unit} {other} has the same with {show(scores[other])}")
                       for line, other, agrees in repeats.itertuples()]
            good = good.drop(index=repeats.index)
    faults = as_the_file_says(faults, file.table.header, file.places)
    return good, sorted(faults, key=lambda fault: fault[0])


# What becomes of the faults

def _refuse(files: list[_File], judged: list[tuple], on_bad_rows: str) -> None:
    """ConnectionDataError with all faults of all files, unless they are to be dropped."""
    blocks, everything = [], []
    for file, (_, faults) in zip(files, judged, strict=True):
        name = shown(file.path)
        if file.faults or faults:
            blocks.append(report(name, file.table.unit, file.faults, faults, file.count,
                                 max(0, LISTED - len(everything))))
            everything += [(name, *fault) for fault in file.faults + faults]
        elif not file.count:
            blocks.append(f"{name}: no row with a pair; expected at least one.")
    if any(file.faults for file in files):
        blocks.append(f"Mend the file, or state what is meant, as {EXAMPLE} or scale=(1, 5).")
    elif any(good.empty for good, _ in judged):
        blocks += ["No row is left; mend the file."] * bool(everything)
    elif everything and on_bad_rows == "error":
        blocks.append('Mend these rows, or pass on_bad_rows="drop" to go on without them.')
    else:
        return
    raise ConnectionDataError("\n".join(blocks), everything)


def _drop(file: _File, faults: list[Fault], tell: Tell) -> None:
    """Set the bad rows aside, and tell how many and where."""
    bad = {line for line, *_ in faults}
    target = set_aside(file.path, shown(file.path), faults, rows_as_they_are(file.table, bad))
    tell(f"{shown(file.path)}: {len(bad)} of {file.count} rows dropped; they are in "
         f"{shown(target)}, with what is wrong")
