"""Score a file of pairs of any size with a local model, from a command line.

    python -m connection_utils score pairs.csv scored.csv --model runs/my_model

PAIRS is CSV, TSV, JSON, JSON Lines (these also compressed, as .gz), Parquet or .xlsx. OUT,
CSV or Parquet by its name, has the same rows in the same order, with all their columns and
one more, the cosine. Some thousand rows are in memory at a time; JSON arrays and .xlsx are
read whole. All rows are checked first, and every fault is reported before an hour is spent.

Scored parts are kept beside OUT until all rows are scored. After a kill the same command
continues with the next part, and OUT appears only at the end, complete. Parts of other pairs,
of another model or of other options are never used.
"""

import argparse
import sys

from connection_utils.commands import add_file_options, ending, new_parser, reading_options
from connection_utils.config import PRECISION_NAMES
from connection_utils.ground.paths import as_path, missing_model, shown
from connection_utils.ground.whole_files import only_writer
from connection_utils.workshop.assets import DEFAULT_MODEL


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    options = new_parser("score", __doc__)
    options.add_argument("pairs", metavar="PAIRS")
    options.add_argument("out", metavar="OUT")
    options.add_argument("--model", default=DEFAULT_MODEL, metavar="FOLDER",
                         help="local model folder (default: %(default)s)")
    add_file_options(options)
    options.add_argument("--keep-bad-rows", action="store_true",
                         help="a bad row keeps its place and its cells, with an empty "
                              "cosine (default: bad rows are an error)")
    options.add_argument("--into", default="cosine", metavar="COLUMN",
                         help="the new column (default: %(default)s)")
    options.add_argument("--batch-size", type=int, default=32, metavar="TEXTS",
                         help="texts that go through the model at once (default: %(default)s)")
    options.add_argument("--device", help="cpu, cuda, cuda:1, mps … (default: the best)")
    options.add_argument("--precision", choices=PRECISION_NAMES, default="fp32",
                         help="of matrix products; bf16 is for GPUs from Ampere on and CPUs "
                              "with AMX or AVX-512-BF16, auto is bf16 on such a GPU (default: "
                              "%(default)s)")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Score a file; see ``--help``."""
    options = parser().parse_args(arguments)
    if missing := missing_model(options.model):
        sys.exit(missing)
    from connection_utils.pair_files.faults import as_options
    from connection_utils.speed.precision import resolved
    from connection_utils.use.file_scoring import score_file
    from connection_utils.use.scorer import ConnectionScorer  # and torch, which takes seconds

    kept = "What is scored so far is kept"
    out = as_path(options.out)
    with (ending(ValueError, OSError, worded=as_options,
                 interrupted=f"interrupted. {kept}: the same command continues."),
          only_writer(out)):
        scorer = ConnectionScorer(options.model, into=options.into,
                                  batch_size=options.batch_size, device=options.device,
                                  precision=options.precision)
        print(f"model   {shown(options.model)} on {scorer.model.device}", flush=True)
        resolved(options.precision, scorer.model.device)       # or refused, before an hour
        try:
            count = score_file(
                options.pairs, out, scorer, keep_bad_rows=options.keep_bad_rows,
                tell=lambda line: print(as_options(line), flush=True),
                **reading_options(options))
        except (FileExistsError, BrokenPipeError):
            raise
        except OSError as error:
            raise OSError(f"{shown(out)} is not written: {error}. {kept}: solve this and run "
                          "the same command again.") from None
        print(f"scored  {count:,} pairs into {shown(out)}")
