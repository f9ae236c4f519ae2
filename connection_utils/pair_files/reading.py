"""Reading pairs of texts and their scores from files into one kind of table."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from connection_utils.ground.paths import as_path, shown
from connection_utils.pair_files import columns, faults, splitting
from connection_utils.pair_files.faults import ConnectionDataError, Fault, many, sentence, show
from connection_utils.pair_files.formats import STS_COLUMNS, Chunk, PairFile, open_file

LISTED = 50                  # faults in one message

# How the three files may be called, as patterns.
SPLITS = {"train": "train", "dev": "dev|validation|valid", "test": "test"}
SUFFIX = r"\.(csv|tsv|jsonl|ndjson|json)(\.gz)?|\.parquet|\.xlsx"

Tell = Callable[[str], object]


def read_connections(path: str | Path, columns: Mapping[str, str] | None = None,
                     scale: tuple[float, float] | None = None, on_bad_rows: str = "error",
                     encoding: str | None = None, tell: Tell = print) -> pd.DataFrame:
    """Read one file of pairs: ``sentence1``, ``sentence2`` (str), ``score`` (0..1).

    CSV (comma, semicolon or tab), TSV, JSON Lines, JSON (an array of objects), each of these
    also as .gz, Parquet or Excel (.xlsx, first sheet). The STS benchmark's own files, which
    have no header, are known by their content: their scores are divided by 5, and ``genre``,
    ``source`` and ``year`` are kept. All other columns are left out.

    - `columns`: what the file calls its columns, as ``{"sentence1": "question"}``; those
      not named there are looked for under common names.
    - `scale`: the lowest and the highest score that are possible, which become 0 and 1.
      None: found among 0..1, -1..1, 0..5, 1..5 and percent.
    - `on_bad_rows`: "error" (all faults in one error), or "drop": the good rows are
      returned, the others are written to ``runs/bad_rows/``, as JSON Lines.
    - `encoding`: of a text file. None: UTF-8, UTF-16 or cp949. The first megabyte decides,
      also on whether quotes in tab-separated text are part of the texts.
    - `tell` gets a line for all that was guessed, found or left out; of the STS
      benchmark's own files there is nothing to tell.

    A row is bad if a text is missing or blank, if its score is no number or outside the scale,
    or if it cannot be read. ConnectionDataError names file, line, column, what was found and
    what was expected. Texts that are numbers, and pairs in several rows, are reported and kept.
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
        return _rankable(path, splitting.split_connections(pairs, seed))
    files = _split_files(path)
    if files["dev"].name.split(".")[0].removeprefix("sts-") != "dev":
        tell(f"{shown(files['dev'])}: taken as dev")
    tables = _read(list(files.values()), columns, scale, on_bad_rows, encoding, tell)
    splits = dict(zip(files, tables, strict=True))
    kept = splits if keep_leaks else splitting.drop_leaks(splits)
    for name, pairs in kept.items():
        lost = len(splits[name]) - len(pairs)
        if lost and "genre" not in pairs:        # of the STS benchmark's own, data/README.md
            tell(f"{shown(path)}: {many(lost, 'row', 'rows')} of {name} dropped, as the same "
                 "pairs are in a later split, too")
    return _rankable(path, kept)


def _split_files(folder: Path) -> dict[str, Path]:
    """The one file of each split, as ``sts-train.csv`` or ``validation.jsonl.gz``."""
    there = sorted(file for file in folder.iterdir() if file.is_file())
    found = {split: [file for file in there if re.fullmatch(
        f"(sts-)?({names})({SUFFIX})", file.name)] for split, names in SPLITS.items()}
    for split, files in found.items():
        if len(files) != 1:
            names = ", ".join(file.name for file in files or there) or "no file at all"
            raise ConnectionDataError(
                f"{folder.absolute()} contains {names}; expected one file for {split}, as in "
                "train.csv, dev.csv and test.csv (sts-train.csv and so on, .tsv, .jsonl, "
                ".parquet and .xlsx will do, too). Run `make run` once for the default data, "
                "or name one file of pairs.")
    return {split: file for split, (file,) in found.items()}


def _rankable(path: Path, splits: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The same splits; ConnectionDataError, before any training, if one cannot be used."""
    for name, pairs in splits.items():
        if pairs.empty:
            raise ConnectionDataError(
                f"{path.absolute()}: nothing is left of {name}, as all its pairs are in a "
                "later split, too. Expected splits of different pairs.")
        if name != "train" and pairs["score"].nunique() == 1:
            raise ConnectionDataError(
                f"{path.absolute()}: all {len(pairs)} pairs of {name} have the score "
                f"{pairs['score'].iloc[0]:g}, so nothing can be ranked. Expected different "
                "scores; more pairs help.")
    return splits


# A file with its columns

class Look(NamedTuple):
    """What is in the rows of a file."""
    pairs: pd.DataFrame          # the good ones; index: the line of each
    faults: list[Fault]          # of the others, in the order of the file
    total: int                   # how many faults there are
    bad: int                     # how many rows they are in
    count: int                   # how many rows there are


class OpenPairs(NamedTuple):
    """A file of pairs, and which of its columns are the pairs'."""
    file: PairFile
    places: dict[str, int]       # in the header, of the columns that were found
    missing: list[Fault]         # the columns that were not

    def sort(self, found: list[Fault]) -> list[Fault]:
        """The faults in the order of the file, with its own names for the columns."""
        theirs = {ours: self.file.header[place].strip() for ours, place in self.places.items()}
        return sorted(((line, theirs.get(ours, ours), *rest) for line, ours, *rest in found),
                      key=lambda fault: fault[0])

    def check(self, chunk: Chunk, scale: tuple[float, float] | None = (0, 1)
              ) -> columns.Checked:
        """The good pairs by line, and all faults of the rows, in the order of the file."""
        cells = chunk.cells[list(self.places.values())].set_axis(list(self.places), axis=1)
        pairs, wrong, numbers = columns.check_cells(cells, scale, self.file.encoding)
        wrong += [(line, "", *fault) for line, fault in chunk.broken.items()]
        return pairs, self.sort(wrong), self.sort(numbers)

    def look(self, tell: Tell, scale: tuple[float, float] | None = (0, 1),
             streaming: bool = False) -> Look:
        """Check all rows, a chunk at a time; tell what is odd.

        If `streaming`, no pairs are kept, and only as many faults as a message lists.
        """
        tables, listed, numbers, total, bad, count, odd = [], [], [], 0, 0, 0, 0
        for chunk in self.file.chunks(self.places.values()):
            pairs, wrong, doubtful = self.check(chunk, scale)
            tables += [] if streaming else [pairs]
            listed += wrong[:LISTED - len(listed)] if streaming else wrong
            numbers = numbers or doubtful
            total += len(wrong)
            bad += len(chunk.whole) - len(pairs)
            count += len(chunk.whole)
            odd += len(doubtful)
        if numbers:
            line, column, found, _ = numbers[0]
            tell(f"{self.file.name}: {many(odd, 'text is a number', 'texts are numbers')}, "
                 f"kept as text; see {self.file.unit} {line}, column {column}: {found}")
        return Look(pd.concat(tables) if tables else pd.DataFrame(), listed, total, bad, count)


def open_pairs(path: Path, given: Mapping[str, str] | None, encoding: str | None, tell: Tell,
               wanted: tuple[str, ...] = columns.COLUMNS) -> OpenPairs:
    """Open a file of pairs, and find the `wanted` columns; `tell` gets what was guessed."""
    given = columns.check_columns(given)
    file = open_file(path, encoding, given.values())
    places, guessed, missing = columns.choose_columns(file.header, given)
    names = ", ".join(f"{ours} is {show(guessed[ours])}" for ours in wanted if ours in guessed)
    for line in file.told + [f"{names} (if it is another, state columns=)"] * bool(names):
        tell(f"{file.name}: {line}")
    places = {ours: places[ours] for ours in wanted if ours in places}
    odd = [("", *fault) for name in file.header
           if (fault := columns.text_fault(name, file.encoding, free=True))]
    if file.scale and wanted == columns.COLUMNS:
        places |= {name: STS_COLUMNS.index(name) for name in ("genre", "source", "year")}
    return OpenPairs(file, places, [(file.header_line, *fault) for fault in odd + missing
                                    if fault[0] in ("", *wanted)])


# Some files that belong together, in memory

def _read(paths: list[Path], given: Mapping[str, str] | None,
          scale: tuple[float, float] | None, on_bad_rows: str, encoding: str | None, tell: Tell
          ) -> list[pd.DataFrame]:
    """The files' pairs; a scale that is not known is found over all of them together."""
    if on_bad_rows not in ("error", "drop"):
        raise ValueError(f"on_bad_rows is {on_bad_rows!r}; expected 'error' or 'drop'")
    stated = None if scale is None else columns.check_scale(scale)
    opened, found = [open_pairs(path, given, encoding, tell) for path in paths], None
    unknown = [pairs for pairs in opened
               if "score" in pairs.places and not (stated or pairs.file.scale)]
    if unknown:
        cells = (cell for pairs in unknown
                 for chunk in pairs.file.chunks([pairs.places["score"]])
                 for cell in chunk.cells[pairs.places["score"]])
        name = unknown[0].file.header[unknown[0].places["score"]]
        found, fault = columns.find_scale(cells, name)
        for pairs in unknown:
            pairs.missing.extend(pairs.sort(fault))
    looks = [pairs.look(tell, stated or pairs.file.scale or found) for pairs in opened]
    for pairs, look in zip(opened, looks, strict=True):
        if look.count > look.bad and not (pairs.file.scale or pairs.missing):
            _tell_repeats(pairs.file, look.pairs, tell)
    refuse(opened, looks, on_bad_rows == "drop", f"{columns.EXAMPLE} or scale=(1, 5)",
           'pass on_bad_rows="drop" to go on without them')
    for (file, *_), (good, wrong, _, bad, count) in zip(opened, looks, strict=True):
        if bad:
            rows = file.rows_at({line for line, *_ in wrong})
            target = faults.set_aside(file.path, wrong, rows)
            tell(f"{file.name}: {bad} of {count} rows dropped; they are in {shown(target)}, "
                 "with what is wrong")
        if not (stated or file.scale):
            low, high = found
            first, last = (low + score * (high - low)
                           for score in (good["score"].min(), good["score"].max()))
            tell(f"{file.name}: {len(good):,} pairs; scores from {first:g} to {last:g}, taken "
                 f"as {low:g}..{high:g} (if others are possible, state scale=(low, high))")
    return [look.pairs.reset_index(drop=True) for look in looks]


def _tell_repeats(file: PairFile, pairs: pd.DataFrame, tell: Tell) -> None:
    """Tell which pairs are in several rows, apart those whose scores contradict each other."""
    keys = splitting.pair_keys(pairs)
    keys = keys[keys.duplicated(keep=False)]
    kinds = pairs["score"][keys.index].groupby(keys, sort=False).nunique()    # of scores
    for repeated, what in ((kinds == 1, ""), (kinds > 1, " with different scores")):
        if found := list(kinds.index[repeated]):
            where = "; ".join(" and ".join(map(str, keys.index[keys == key][:3]))
                              for key in found[:3])
            tell(f"{file.name}: {many(len(found), 'pair is', 'pairs are')} in several rows"
                 f"{what}, all kept ({file.unit}s {where}{'; …' * (len(found) > 3)})")


def refuse(opened: list[OpenPairs], looks: list[Look], keep: bool, example: str,
           instead: str) -> None:
    """ConnectionDataError if a column is missing, or no row is left, or, unless `keep`, some
    rows are bad: a summary of each file, the first faults, and what to do.

    `example` states what could not be found; `instead` is how to continue with bad rows.
    """
    blocks, left = [], LISTED
    for (file, _, missing), look in zip(opened, looks, strict=True):
        parts = [f"{many(len(missing), 'fault', 'faults')} of the columns"] * bool(missing)
        parts += [f"{many(look.total, 'fault', 'faults')} in {look.bad} of {look.count} rows"
                  ] * bool(look.total)
        if parts:
            shown_faults = (missing + look.faults)[:left]
            more = len(missing) + look.total - len(shown_faults)
            left -= len(shown_faults)
            blocks += [f"{file.name}: {' and '.join(parts)}",
                       *(f"  {sentence(fault, file.unit)}" for fault in shown_faults),
                       *[f"  and {more} more"] * bool(more)]
        elif not look.count:
            blocks.append(f"{file.name}: no row with a pair; expected at least one.")
    if any(pairs.missing for pairs in opened):
        blocks.append(f"Mend the file, or state what is meant, as {example}.")
    elif any(look.bad == look.count for look in looks):
        blocks += ["No row is left; mend the file."] * any(look.bad for look in looks)
    elif any(look.bad for look in looks) and not keep:
        blocks.append(f"Mend these rows, or {instead}.")
    else:
        return
    raise ConnectionDataError("\n".join(blocks))
