"""Score a file of pairs of any size with a local model, from a command line.

    python -m connection_utils score pairs.csv scored.csv --model runs/my_model

PAIRS is CSV, TSV, JSON Lines or Parquet. OUT, CSV or Parquet by its name, has the same
rows in the same order, with all their columns and one more, the cosine. Some thousand rows
are in memory at a time. All rows are looked at first, and what is wrong with them is told
before an hour is spent on them.

What is done lies in parts beside OUT until all is. After a kill the same command goes on
with the next part, and OUT comes into being at the end, whole. Parts of other pairs, of
another model or of other options are never taken.
"""

import argparse
import sys

from connection_utils.commands import new_parser
from connection_utils.ground.paths import missing_model, shown
from connection_utils.workshop.assets import DEFAULT_MODEL


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    options = new_parser("score", __doc__)
    options.add_argument("pairs", metavar="PAIRS")
    options.add_argument("out", metavar="OUT")
    options.add_argument("--model", default=DEFAULT_MODEL, metavar="FOLDER",
                         help="local model folder (default: %(default)s)")
    options.add_argument("--columns", nargs="+", metavar="OURS=THEIRS", default=[],
                         help="what the file calls sentence1 and sentence2, as "
                              "sentence1=question (default: common names are looked for)")
    options.add_argument("--encoding", help="of a text file (default: found)")
    options.add_argument("--keep-bad-rows", action="store_true",
                         help="a row without two texts stays, with an empty cosine")
    options.add_argument("--into", default="cosine", metavar="COLUMN",
                         help="the new column (default: %(default)s)")
    options.add_argument("--batch-size", type=int, default=32, metavar="TEXTS",
                         help="texts that go through the model at once (default: %(default)s)")
    options.add_argument("--device", help="cpu, cuda, cuda:1, mps … (default: the best)")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Score a file; see ``--help``."""
    options = parser().parse_args(arguments)
    if missing := missing_model(options.model):
        sys.exit(missing)
    from connection_utils.pair_files.columns import stated_columns
    from connection_utils.pair_files.faults import ConnectionDataError
    from connection_utils.use.file_scoring import score_file
    from connection_utils.use.scorer import ConnectionScorer  # and torch, which takes seconds

    try:
        scorer = ConnectionScorer(options.model, into=options.into,
                                  batch_size=options.batch_size, device=options.device)
        print(f"model   {shown(options.model)} on {scorer.model.device}", flush=True)
        count = score_file(options.pairs, options.out, scorer, stated_columns(options.columns),
                           options.encoding, options.keep_bad_rows)
    except ConnectionDataError as error:
        sys.exit(f"{error}\nHere these are --columns, --keep-bad-rows and --into; see --help.")
    except (ValueError, FileExistsError) as error:     # a folder or an option is wrong
        sys.exit(f"{error}")
    except OSError as error:
        sys.exit(f"{shown(options.out)} cannot be written: {error}. What is scored so far is "
                 "kept: mend that, and run the same command again.")
    except KeyboardInterrupt:
        print("interrupted. What is scored so far is kept: the same command goes on.")
        sys.exit(130)
    print(f"scored  {count:,} pairs into {shown(options.out)}")
