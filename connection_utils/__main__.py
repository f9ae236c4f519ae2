"""python -m connection_utils COMMAND: imports the command asked for, and starts it."""

import argparse
from importlib import import_module

COMMANDS = {
    "finetune": "train a model on pairs of texts, as notebook 03 does",
    "score": "add the cosine of each pair to a file of any size",
    "doctor": "check a local model folder; convert its weights to safetensors",
    "series": "run the notebooks, or fetch the default model and data",
    "bundle": "pack everything for a machine without a network",
}


def main(arguments: list[str] | None = None) -> None:
    """Start the command that the first argument names, with the others."""
    options = argparse.ArgumentParser(
        prog="python -m connection_utils", allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s COMMAND ...", epilog="COMMAND --help lists a command's options.",
        description="\n".join(["commands:", *(f"  {name:<10}{what}"
                                             for name, what in COMMANDS.items())]))
    options.add_argument("command", metavar="COMMAND", choices=COMMANDS, help=argparse.SUPPRESS)
    options.add_argument("rest", nargs=argparse.REMAINDER, metavar="...",
                         help=argparse.SUPPRESS)
    chosen = options.parse_args(arguments)
    import_module(f"connection_utils.commands.{chosen.command}").main(chosen.rest)


if __name__ == "__main__":
    main()
