"""One file for each command of ``python -m connection_utils COMMAND``.

A command line, and what it prints. What needs an installed library is imported when the
command has read its options, so ``--help`` runs on bare Python.
"""

import argparse


def new_parser(command: str, description: str | None, **more: object) -> argparse.ArgumentParser:
    """A parser that shows `description` as it is written and accepts no abbreviated options."""
    return argparse.ArgumentParser(
        prog=f"python -m connection_utils {command}", description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **more)
