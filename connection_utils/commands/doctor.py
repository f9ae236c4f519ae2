"""Check a local model folder, and report what is wrong with it and what to do.

    python -m connection_utils doctor transformers/bert/bert-base-uncased

A BERT folder has ``config.json`` (the architecture), ``vocab.txt`` or
``tokenizer.json`` (the vocabulary) and ``model.safetensors`` or ``pytorch_model.bin``
(the weights). Most faults of such a folder load without an error, or with an error that
names another cause. The doctor looks for each of them and reports what to do.
"""

import sys

from connection_utils.commands import ending, new_parser


def main(arguments: list[str] | None = None) -> None:
    """Print the report; the exit status is 0 if a model can be loaded, else 1."""
    options = new_parser("doctor", __doc__)
    options.add_argument("folder", metavar="FOLDER", help="local model folder")
    chosen = options.parse_args(arguments)
    from connection_utils.model_folder.check import check_model_dir

    with ending(OSError):
        report = check_model_dir(chosen.folder)
        print(report)
    sys.exit(0 if report.ok else 1)
