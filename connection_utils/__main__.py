"""python -m connection_utils COMMAND: imports the command asked for, and starts it."""

import argparse
import sys
from importlib import import_module

from connection_utils.commands import ending, new_parser

COMMANDS = {
    "finetune": "train a model on pairs of texts, as notebook 03 does",
    "score": "add the cosine of each pair to a file of any size",
    "doctor": "check a local model folder, and report what is wrong with it",
    "series": "run the notebooks, or fetch the default model and data",
    "bundle": "pack everything for a machine without a network",
}


def main(arguments: list[str] | None = None) -> None:
    """Start the command that the first argument names, with the others."""
    arguments = sys.argv[1:] if arguments is None else arguments
    lines = [f"  {name:<10}{what}" for name, what in COMMANDS.items()]
    options = new_parser("COMMAND ...", "\n".join(["commands:", *lines]), usage="%(prog)s",
                         epilog="COMMAND --help lists a command's options.")
    options.add_argument("command", metavar="COMMAND", choices=COMMANDS, help=argparse.SUPPRESS)
    command = options.parse_args(arguments[:1]).command
    with ending():
        import_module(f"connection_utils.commands.{command}").main(arguments[1:])


if __name__ == "__main__":
    main()
