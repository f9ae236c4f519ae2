"""The Korean editions, notebooks/ko/: their code and outputs are the English notebooks'.

    python site/korean.py

Only their Markdown is written there; `make execute` calls this to renew the rest. A Markdown
cell belongs to the English one with its id.
"""

import sys
from pathlib import Path

import nbformat

from connection_utils.ground.paths import ROOT
from connection_utils.ground.whole_files import write_whole

EDITIONS = ROOT / "notebooks" / "ko"


def renewed(edition: Path) -> nbformat.NotebookNode:
    """The English notebook of an edition, with the edition's Markdown.

    Raises ValueError if a Markdown cell is in one of the two only; it names the cell.
    """
    notebook = nbformat.read(edition.parent.parent / edition.name, as_version=4)
    korean = {cell.id: cell.source for cell in nbformat.read(edition, as_version=4).cells
              if cell.cell_type == "markdown"}
    english = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    if odd := {cell.id for cell in english} ^ set(korean):
        raise ValueError(f"{edition.name}: Markdown cells in only one of the two languages: "
                         f"{', '.join(sorted(odd))}. Write them in notebooks/ko/, or delete "
                         "them there.")
    for cell in english:
        cell.source = korean[cell.id]
    return notebook


def main() -> None:
    for edition in sorted(EDITIONS.glob("*.ipynb")):
        try:
            with write_whole(edition) as scratch:
                nbformat.write(renewed(edition), scratch)
        except ValueError as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main()
