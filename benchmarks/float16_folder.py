"""Write a model folder again with its weights in float16: half the size, to carry it around.

    python benchmarks/float16_folder.py transformers/bert/all-MiniLM-L6-v2 runs/float16

Everything here loads such a folder as float32, so only the rounding stays: some 1e-4 of a
cosine. The default model's 91 MB become 45 MB.
"""

import argparse
from pathlib import Path

from measuring import shown

from connection_utils import ConnectionBert


def main(arguments: list[str] | None = None) -> None:
    """Read, halve, write; see ``--help``."""
    options = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("model", type=Path, help="a local model folder")
    options.add_argument("folder", type=Path, help="the new folder")
    chosen = options.parse_args(arguments)
    model = ConnectionBert.from_local(chosen.model, device="cpu").half()
    model.save(chosen.folder)
    size = sum(path.stat().st_size for path in chosen.folder.rglob("*") if path.is_file())
    print(f"{shown(chosen.folder)}: {size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
