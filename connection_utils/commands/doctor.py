"""Check a local model folder, and say what is wrong with it and what to do.

    python -m connection_utils doctor transformers/bert/bert-base-uncased
    python -m connection_utils doctor transformers/bert/bert-base-uncased --to-safetensors

A BERT folder holds ``config.json`` (the architecture), ``vocab.txt`` or
``tokenizer.json`` (the vocabulary) and ``model.safetensors`` or ``pytorch_model.bin``
(the weights). Most things that go wrong with one load without an error, or with an error
that names another cause; each is looked for here and answered with what to do.
"""

import sys

from connection_utils.commands import new_parser
from connection_utils.ground.paths import shown


def main(arguments: list[str] | None = None) -> None:
    """Print the report; the exit status is 0 if a model can be loaded, else 1."""
    options = new_parser("doctor", __doc__)
    options.add_argument("folder", metavar="FOLDER", help="local model folder")
    options.add_argument("--to-safetensors", action="store_true",
                         help="write pytorch_model.bin as model.safetensors beside it, "
                              "and compare the two bit for bit; nothing is deleted")
    chosen = options.parse_args(arguments)
    from connection_utils.model_folder.check import check_model_dir
    from connection_utils.model_folder.convert import convert_to_safetensors
    from connection_utils.model_folder.files import ModelFolderError

    try:
        report = check_model_dir(chosen.folder)
        print(report)
        if report.ok and chosen.to_safetensors:
            path = convert_to_safetensors(chosen.folder)
            print(f"written        {shown(path)}: {len(report.tensors)} tensors, "
                  f"{path.stat().st_size:,} bytes; read back, each is equal to that of "
                  "pytorch_model.bin bit for bit.\nYou may delete pytorch_model.bin now.")
    except (ModelFolderError, OSError) as error:
        sys.exit(f"{error}")
    sys.exit(0 if report.ok else 1)
