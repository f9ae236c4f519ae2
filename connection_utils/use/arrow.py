"""More pairs than fit into memory: tokenised once, into an Arrow cache on disk."""

import copy
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from glob import escape
from itertools import chain
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch.utils.data import Dataset
from transformers import BertTokenizer

from connection_utils.dataset import Item, draw_rows, hash_of
from connection_utils.encoding import tokenize
from connection_utils.ground.paths import as_path, runs_folder, shown
from connection_utils.ground.progress_bar import progress
from connection_utils.ground.whole_files import put_back, sha256_of, write_folder_whole
from connection_utils.pair_files.chunks import CHUNK, read_chunks
from connection_utils.pair_files.columns import (
    COLUMNS,
    EXAMPLE,
    TEXTS,
    as_the_file_says,
    check_cells,
    check_columns,
    check_scale,
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
from connection_utils.pair_files.layout import STS_COLUMNS

try:
    import fcntl
except ImportError:                  # Windows has no such locks
    fcntl = None

FORMAT = 1                           # of the cache; another number makes all be built anew
PAIRS, ABOUT = "pairs.arrow", "about.json"
FEATURES = datasets.Features({name: datasets.List(datasets.Value("int32")) for name in TEXTS}
                             | {"score": datasets.Value("float64")})


class ArrowConnections(Dataset):
    """Pairs as token ids on disk; `train` takes it as it takes a ConnectionDataset.

    ``dataset[i]`` is the same dict, and the same pairs give the same batches, weights and
    fingerprint. What was read stays in the system's file cache, which gives way when memory
    is short. A sample holds 8 bytes a pair.
    """

    def __init__(self, path: str | Path, pad_token_id: int) -> None:
        self._pairs = datasets.Dataset.from_file(str(path))      # mapped, not read
        self._rows: np.ndarray | None = None                     # those of a sample
        self.pad_token_id = pad_token_id

    def __len__(self) -> int:
        return len(self._pairs if self._rows is None else self._rows)

    def __getitem__(self, index: int) -> Item:
        return self._pairs[int(index if self._rows is None else self._rows[index])]

    def sample(self, share: float, seed: int) -> "ArrowConnections":
        """The pairs that `ConnectionDataset.sample` draws."""
        if share == 1:
            return self
        part, rows = copy.copy(self), draw_rows(len(self), share, seed)
        part._rows = rows if self._rows is None else self._rows[rows]
        return part

    def fingerprint(self) -> str:
        """16 digits of a hash of all tokens and scores, those of a ConnectionDataset."""
        rows = range(len(self)) if self._rows is None else self._rows
        parts = (self._pairs[rows[start:start + CHUNK]] for start in range(0, len(rows), CHUNK))
        return hash_of(chain.from_iterable(zip(*map(part.get, COLUMNS)) for part in parts))

    @property
    def lengths(self) -> np.ndarray:
        """The longer sentence's number of tokens, for each pair: int32, 4 bytes a pair."""
        lengths = pc.max_element_wise(*(
            pc.list_value_length(self._pairs.data.column(name)) for name in TEXTS)).to_numpy()
        return lengths if self._rows is None else lengths[self._rows]


def open_connections(path: str | Path, tokenizer: BertTokenizer, max_length: int = 128,
                     columns: Mapping[str, str] | None = None,
                     scale: tuple[float, float] = (0, 1), encoding: str | None = None,
                     on_bad_rows: str = "error", cache: str | Path | None = None,
                     tell: Callable[[str], object] = print) -> ArrowConnections:
    """A file of pairs of any size, tokenised once into a cache on disk.

    CSV, TSV, JSON Lines or Parquet. `columns`, `encoding` and `tell` are as in
    `read_connections`, cells are checked in the same way, and all faults come in one
    ConnectionDataError. As some thousand rows are read at a time, this is less forgiving:

    - `scale` is stated, not found: the STS benchmark's own files want (0, 5).
    - The first megabyte decides on the encoding, the separator, and whether quotes in a
      tab-separated file are part of its texts; the first 4,096 rows of JSON Lines on its keys.
    - A pair that stands in other rows, too, is not noticed.
    - After 5,000 faults reading stops. on_bad_rows="drop" leaves bad rows out, and tells how
      many and the first of them; they are not set aside.

    The cache is a folder in `cache` (None: ``runs/cache/``), named after the file and a hash
    of its content, the tokenizer and these settings. It is taken again until one of them
    changes; older ones stay until you remove them. It is written whole or not at all, and
    takes some 4 bytes a token. A second process waits for the first (not on Windows: there
    open it in one first). OSError, with advice, if it cannot be written.
    """
    path, given, scale = as_path(path), check_columns(columns), check_scale(scale)
    if on_bad_rows not in ("error", "drop"):
        raise ValueError(f"on_bad_rows is {on_bad_rows!r}; expected 'error' or 'drop'")
    if not path.is_file():
        raise ConnectionDataError(f"file not found: {path.absolute()}. data/README.md tells "
                                  "which files are read and where they belong.")
    caches = runs_folder() / "cache" if cache is None else as_path(cache)
    settings = (given, scale, encoding, on_bad_rows == "drop")
    folder = caches / f"{path.name[:40]}-{_key(path, tokenizer, max_length, settings)}"
    about, state = _about(folder), "taken from"
    if about is None:
        with _only_writer(caches, path.name[:40]):
            put_back(folder)
            about = _about(folder)               # another process may just have written it
            if about is None:
                state = "now in"
                about = _build(path, folder, partial(tokenize, tokenizer=tokenizer,
                                                     max_length=max_length), *settings, tell)
    tell(f"{shown(path)}: {about['pairs']:,} pairs" + f", {about['dropped']:,} rows dropped" * (
        about["dropped"] > 0) + f", {state} {shown(folder)}")
    return ArrowConnections(folder / PAIRS, tokenizer.pad_token_id)


# The cache

def _key(path: Path, tokenizer: BertTokenizer, max_length: int, settings: tuple) -> str:
    """16 digits of a hash of all that decides what the cache holds."""
    try:
        content = sha256_of(path)
    except OSError as error:
        raise ConnectionDataError(f"{shown(path)}: {error.strerror or error}.") from None
    rules = json.loads(tokenizer.backend_tokenizer.to_str()) | {
        "truncation": tokenizer.truncation_side, "padding": None}    # not the last call's
    said = json.dumps([FORMAT, content, path.suffix.lower(), rules, max_length, settings],
                      sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def _about(folder: Path) -> dict[str, object] | None:
    """What the cache in `folder` tells of itself; None if it is not there, or not whole."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="ascii"))
        return about if about["sha256"] == sha256_of(folder / PAIRS) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def _only_writer(caches: Path, name: str) -> Iterator[None]:
    """Wait until no other process writes into `caches`, and clear what a killed one left.

    OSError says what to do if it is raised in the block.
    """
    try:
        caches.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            if fcntl:
                handle = os.open(caches, os.O_RDONLY)
                held.callback(os.close, handle)
                with suppress(OSError):              # some network drives have no locks
                    fcntl.flock(handle, fcntl.LOCK_EX)
            for left in caches.glob(f".{escape(name)}-*.partial"):
                shutil.rmtree(left, ignore_errors=True)
            yield
    except OSError as error:
        raise OSError(f"the cache cannot be written to {shown(caches)} "
                      f"({error.strerror or error}); nothing new is kept. Free some space, or "
                      "state cache= with another folder.") from error


def _build(path: Path, folder: Path, encode: Callable[[list[str]], list[list[int]]],
           given: dict[str, str], scale: tuple[float, float], encoding: str | None, drop: bool,
           tell: Callable[[str], object]) -> dict[str, object]:
    """Write the cache, whole or not at all; returns what it tells of itself."""
    name, faults, kept, bad, count = shown(path), [], 0, 0, 0
    with (open(path, "rb") as file, write_folder_whole(folder, (PAIRS, ABOUT)) as scratch,
          progress(None, total=path.stat().st_size, desc="writing the cache", unit="B",
                   unit_scale=True) as bar):
        chunks = read_chunks(path, file, encoding, given.values())
        places, guessed, missing = choose_columns(chunks.header, given)
        names = ", ".join(f"{ours} is {show(theirs)}" for ours, theirs in guessed.items())
        for line in chunks.told + [f"{names} (if it is another, state columns=)"] * bool(names):
            tell(f"{name}: {line}")
        missing = [(chunks.header_line, *fault) for fault in missing]
        wanted = (*COLUMNS, *STS_COLUMNS[:3]) if chunks.headerless else COLUMNS
        places |= {column: STS_COLUMNS.index(column) for column in wanted[len(COLUMNS):]}
        # the format that datasets maps; its own writer is not a public one
        with pa.ipc.new_stream(str(scratch / PAIRS), FEATURES.arrow_schema) as pairs:
            for cells, broken in chunks.read({column: places[column] for column in wanted
                                              if column in places}):
                good, found = check_cells(cells, scale, chunks.encoding)
                found = sorted(as_the_file_says(found, chunks.header, places) + broken,
                               key=lambda fault: fault[0])
                kept, count = kept + len(good), count + len(cells) + len(broken)
                bad += len({line for line, *_ in found})
                faults += found[:MOST - len(faults)]
                if len(good) and not missing and (drop or not faults):
                    pairs.write_table(pa.table(
                        {column: encode(good[column].tolist()) for column in TEXTS}
                        | {"score": good["score"]}, FEATURES.arrow_schema))
                elif len(faults) == MOST and not drop:
                    break
                bar.update(file.tell() - bar.n)
        _refuse(name, chunks.unit, missing, faults, kept, count, drop)
        about = {"pairs": kept, "dropped": bad, "sha256": sha256_of(scratch / PAIRS)}
        (scratch / ABOUT).write_text(json.dumps(about), encoding="ascii")
    if bad:
        first = "; ".join(sentence(fault, chunks.unit) for fault in faults[:3])
        tell(f"{name}: {bad:,} of {count:,} rows dropped; the first faults: {first}")
    return about


def _refuse(name: str, unit: str, missing: list[Fault], faults: list[Fault], kept: int,
            count: int, drop: bool) -> None:
    """ConnectionDataError with all faults, in the words of `read_connections`, if need be."""
    if missing:
        advice = [f"Mend the file, or state what is meant, as {EXAMPLE}."]
    elif not kept:
        advice = ["No row is left; mend the file."] * bool(faults)
    elif faults and not drop:
        advice = ['Mend these rows, or pass on_bad_rows="drop" to go on without them.']
    else:
        return
    everything = missing + faults
    more = [f"There may be more: {MOST:,} faults are kept."] if len(faults) == MOST else []
    said = [report(name, unit, missing, faults, count)] if everything else [
        f"{name}: no row with a pair; expected at least one."]
    raise ConnectionDataError("\n".join(said + more + advice),
                              [(name, *fault) for fault in everything])
