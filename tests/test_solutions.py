"""The guard of the exercises: each has a solution that ran, with a prediction and a remark."""

import re

import nbformat
import pytest

from connection_utils.ground.paths import ROOT

SERIES = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


def test_there_is_a_notebook_of_solutions_for_each_and_none_without():
    folder = ROOT / "notebooks" / "solutions"
    assert len(SERIES) >= 10
    assert [path.name for path in sorted(folder.glob("*.ipynb"))] == [
        f"{path.stem[:2]}_solutions.ipynb" for path in SERIES]


@pytest.mark.parametrize("path", SERIES, ids=lambda path: path.stem)
def test_the_three_exercises_are_solved(path):
    """In a notebook that links back, each with a prediction, code that ran and a remark."""
    solutions = path.parent / "solutions" / f"{path.stem[:2]}_solutions.ipynb"
    cells = nbformat.read(solutions, as_version=4).cells
    closing = nbformat.read(path, as_version=4).cells[-1].source
    kinds = re.findall(r"^[123]\. \*(\w+)\*: ", closing, re.MULTILINE)
    assert kinds == ["Predict", "Modify", "Extend"]
    assert f"](solutions/{solutions.name})" in closing
    starts = [i for i, cell in enumerate(cells) if cell.source.startswith("## ")]
    for number, (kind, start, end) in enumerate(zip(kinds, starts, [*starts[1:], None]), 1):
        section = cells[start:end]
        assert section[0].source.startswith(f"## {number} {kind}: ")
        assert re.search(r"^\*\*Exercise\.\*\* .*^\*\*Predict first\.\*\* ", section[0].source,
                         re.MULTILINE | re.DOTALL)
        assert any(cell.cell_type == "code" and cell.outputs for cell in section)
        assert [part for cell in section[1:] if cell.cell_type == "markdown"
                for part in cell.source.split("\n\n") if not part.startswith("Back to ")]
    assert len(starts) == 3
    for cell in (cells[0], cells[-1]):
        assert f"](../{path.name})" in cell.source
