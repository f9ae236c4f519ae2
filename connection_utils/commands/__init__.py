"""One file for each command of ``python -m connection_utils COMMAND``.

A command line, and what it prints. What needs an installed library is imported when the
command has read its options, so ``--help`` runs on bare Python.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

READING = ("columns", "scale", "encoding", "on_bad_rows")


def new_parser(command: str, description: str, **more: object) -> argparse.ArgumentParser:
    """A parser that shows `description` as it is written and accepts no abbreviated options."""
    return argparse.ArgumentParser(
        prog=f"python -m connection_utils {command}", description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **more)


@contextmanager
def ending(*errors: type[Exception], worded: Callable[[str], str | int] = str,
           interrupted: str = "interrupted") -> Iterator[None]:
    """The end of a command: `errors` in the block are one message, which `worded` may change.

    Ctrl-C prints `interrupted` and exits with status 130. If nobody reads the output any more
    (``| head -1``), the status is 141, as for other programs. Characters that the output's
    encoding does not have are printed as escapes.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        yield
        print(end="", flush=True)
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        for stream in (sys.stdout, sys.stderr):      # or Python fails at its exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        sys.exit(141)
    except errors as error:
        sys.exit(worded(f"{error}"))


def add_file_options(options: argparse._ActionsContainer) -> None:
    """Add the options for a file's columns and encoding; `reading_options` returns them."""
    options.add_argument("--columns", nargs="+", metavar="OURS=THEIRS", default=[],
                         help="what the file calls sentence1, sentence2 and score, as "
                              "sentence1=question (default: common names are looked for)")
    options.add_argument("--encoding", help="of a text file, as cp1252 (default: detected)")


def add_reading_options(options: argparse._ActionsContainer) -> None:
    """Add all options that state how to read pairs; `reading_options` returns them."""
    add_file_options(options)
    options.add_argument("--scale", nargs=2, type=float, metavar=("LOW", "HIGH"),
                         help="lowest and highest possible score (default: detected)")
    options.add_argument("--drop-bad-rows", dest="on_bad_rows", action="store_const",
                         const="drop", help="leave them out; runs/bad_rows/ keeps a copy")


def reading_options(chosen: argparse.Namespace) -> dict[str, object]:
    """Those of the `READING` options that were given, as arguments of `read_connections`.

    ValueError if ``--columns`` is not OURS=THEIRS.
    """
    odd = [each for each in chosen.columns if "=" not in each]
    if odd:
        raise ValueError(f"--columns {odd[0]}: expected OURS=THEIRS, as sentence1=question")
    stated = vars(chosen) | {"columns": dict(each.split("=", 1) for each in chosen.columns)}
    return {name: stated[name] for name in READING if stated.get(name)}
