"""The guard: every committed notebook is executed, whole, clean and really compared."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from connection_utils.ground.paths import ROOT
from connection_utils.workshop.notebooks import parameters_of

NOTEBOOKS = [path for pattern in ("*.ipynb", "solutions/*.ipynb")      # ko/: test_korean
             for path in sorted((ROOT / "notebooks").glob(pattern))]
SERIES = [path for path in NOTEBOOKS if path.parent.name == "notebooks"]
IGNORED = re.compile(r"^# NBVAL_IGNORE_OUTPUT$", re.MULTILINE)
LOCAL = re.compile(r"/home/|/root|/tmp/|/Users/|/work/|[A-Z]:\\|0x[0-9a-f]{6,}|\d{4}-\d\d-\d\d")

notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path):
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


def test_the_core_series_is_there():
    stems = [path.stem for path in NOTEBOOKS]
    assert stems[:4] == ["01_load_local_bert", "02_build_connection_dataset",
                         "03_train_siamese_cosine", "04_similarity_distributions"]


@notebooks
def test_executed_top_to_bottom_in_one_go(path):
    counts = [cell.execution_count for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1)), "run `make execute`"


@notebooks
def test_is_valid_and_small(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert "widgets" not in notebook.metadata
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    assert not any("execution" in cell.metadata for cell in notebook.cells)
    assert path.stat().st_size < 1_500_000
    assert len(notebook.cells) <= 65


@notebooks
def test_has_exactly_one_parameters_cell_of_plain_literals(path):
    tagged = [c for c in code_cells(path) if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1
    for line in tagged[0].source.splitlines():
        value = line.split("=", 1)[1].split("#")[0]
        compile(value.strip(), "literal", "eval")
        assert not re.search(r"[a-zA-Z_]+\(", value), f"not a literal: {line}"


@notebooks
def test_outputs_hold_no_stderr_no_error_and_nothing_local(path):
    """papermill would fail at an error, whatever the tag of its cell says."""
    for cell in code_cells(path):
        assert "raises-exception" not in cell.metadata.get("tags", [])
        for output in cell.outputs:
            assert output.get("name") != "stderr", output
            assert output.output_type != "error", output
            data = dict(output.get("data", {}))
            data.pop("image/png", None)
            said = json.dumps([data, output.get("text"), output.get("traceback")])
            assert not LOCAL.search(said), LOCAL.search(said).group()


@notebooks
def test_pictures_have_alt_text(path):
    for cell in code_cells(path):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                assert len(output.metadata["image/png"]["alt"]) > 30
                assert output.data["text/plain"] == output.metadata["image/png"]["alt"]


@notebooks
def test_code_is_readable(path):
    """88 columns, at most 30 lines a cell, and no last line that nbval runs otherwise."""
    for cell in code_cells(path):
        lines = cell.source.splitlines()
        assert len(lines) <= 30, cell.source
        assert max(map(len, lines)) <= 88, cell.source
        assert not lines[-1].endswith(";"), cell.source


def test_the_way_to_the_first_distribution_is_short():
    """01 to 04: few cells, few words, and headings that begin a Markdown cell."""
    cells = [cell for path in SERIES[:4] for cell in nbformat.read(path, as_version=4).cells]
    texts = [cell.source for cell in cells if cell.cell_type == "markdown"]
    assert len(cells) <= 120
    assert sum(len(text.split()) for text in texts) <= 4500
    assert max(len(cell.source.splitlines()) for cell in cells
               if cell.cell_type == "code") <= 15
    assert next(place for place, cell in enumerate(cells, start=1)
                if "draw_distributions" in cell.source) <= 95
    assert not [text for text in texts if re.search(r"\n##? ", text)]


@notebooks
def test_what_is_not_compared_says_why(path):
    """The reason stands in a comment on its own line below the mark."""
    for cell in code_cells(path):
        if IGNORED.search(cell.source):
            after = cell.source.split("# NBVAL_IGNORE_OUTPUT\n", 1)[1]
            assert after.startswith("# not compared: "), cell.source
        assert "nbval-skip" not in cell.metadata.get("tags", [])
        assert "NBVAL_SKIP" not in cell.source


def test_at_least_80_percent_of_what_cells_print_is_compared():
    """A cell that only draws is left out: nbval compares its alt text, which never changes."""
    printing = [cell for path in NOTEBOOKS for cell in code_cells(path)
                if any("image/png" not in output.get("data", {}) for output in cell.outputs)]
    compared = [cell for cell in printing if not IGNORED.search(cell.source)
                and "nbval-ignore-output" not in cell.metadata.get("tags", [])]
    assert len(compared) >= 0.8 * len(printing), f"{len(compared)} of {len(printing)}"


def test_the_readmes_numbers_are_those_of_notebook_03():
    printed = next(output.text for cell in code_cells(NOTEBOOKS[2]) for output in cell.outputs
                   if "95 % interval" in output.get("text", ""))
    before, after, gain, low, high = re.findall(r"-?\d+\.\d\d", printed)
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert (f"rises from **{before}** to **{after}**, a gain of {gain} (95 % interval {low} to "
            f"{high})") in readme
    assert f"| **this series, notebook 03** | **{after}** |" in readme


def test_the_readmes_table_has_a_row_for_each_notebook():
    """One table: a blank line in it would end it, and the rest would be read as text."""
    table = next(part for part in (ROOT / "README.md").read_text().split("\n\n")
                 if part.startswith("| | what happens"))
    assert re.findall(r"^\| \[\d\d · .*?\]\(notebooks/(\w+)\.ipynb\)", table, re.MULTILINE) == [
        path.stem for path in SERIES]


@notebooks
def test_links_lead_somewhere(path):
    for cell in nbformat.read(path, as_version=4).cells:
        for target in re.findall(r"\]\(([^)#:]+)\)", cell.source) \
                if cell.cell_type == "markdown" else []:
            assert (path.parent / target).exists(), target


def executed(notebook, folder):
    """A copy, run as JupyterLab, VS Code or papermill might: in any working directory."""
    return NotebookClient(notebook, timeout=600, kernel_name="python3", coalesce_streams=True,
                          resources={"metadata": {"path": str(folder)}}).execute()


def test_runs_whatever_the_kernels_working_directory(tmp_path):
    """VS Code starts kernels elsewhere than JupyterLab does."""
    notebook = nbformat.read(NOTEBOOKS[0], as_version=4)
    before = [cell.get("outputs") for cell in notebook.cells]
    after = [cell.get("outputs") for cell in executed(notebook, tmp_path).cells]
    for one, other in zip(before, after, strict=True):
        said, again = ([o.get("text", o.get("data", {}).get("text/plain")) for o in each or []]
                       for each in (one, other))
        assert said == again


def test_04_without_its_model_says_which_notebook_makes_it(tmp_path):
    notebook = nbformat.read(NOTEBOOKS[3], as_version=4)
    for cell in notebook.cells:
        cell.source = re.sub(r"^seed = 12", "seed = 4321", cell.source, flags=re.MULTILINE)
    with pytest.raises(CellExecutionError, match="Run notebook 03 with the same parameters"):
        executed(notebook, tmp_path)


@pytest.mark.parametrize(("dev", "share", "agrees"), [
    (87.69, 1.0, True), (86.9, 1.0, False), (86.9, 0.1, True)])
def test_a_full_check_fails_where_a_training_is_not_what_was_swept(dev, share, agrees,
                                                                   monkeypatch):
    """Notebook 07's own cells, with a result put in: a quick check trains too little to judge."""
    lines = [json.loads(line) for line in (
        ROOT / "benchmarks/results/sweep_choices.jsonl").read_text().splitlines()]
    cells = {cell.id: cell.source for cell in code_cells(SERIES[6])}
    names = {"json": json, "Path": Path, "pd": pd, "np": np, "lines": lines, "share": share,
             "frozen_layers": 5, "data": "data/stsb", "model_dir": lines[0]["run"]["model"],
             "history": SimpleNamespace(best={"dev_spearman": dev / 100})}
    monkeypatch.chdir(ROOT)
    exec(cells["nb07-05"], names)
    exec(cells["nb07-06"], names)
    if agrees:
        exec(cells["nb07-24"], names)
    else:
        with pytest.raises(AssertionError):
            exec(cells["nb07-24"], names)


@pytest.mark.parametrize(("live", "quick", "agrees"), [
    (83.0, False, True), (82.0, False, False), (82.0, True, True)])
def test_a_full_check_fails_where_the_live_run_of_06_is_off(live, quick, agrees):
    cell = next(cell for cell in code_cells(SERIES[5]) if cell.id == "nb06-22")
    names = {"model_dir": "m", "lines": [{"run": {"model": "m"}}], "data": "data/stsb",
             "swept": pd.Series([83.2, 82.8, 83.0]), "live": live, "live_pairs": 150,
             "quick_check": lambda: quick}
    if agrees:
        exec(cell.source, names)
    else:
        with pytest.raises(AssertionError):
            exec(cell.source, names)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "given", "said"), [
    ("06_why_fine_tune", {"live_pairs": 40},
     r"tiny_bert( +-?\d+\.\d\d){2}\nother_bert( +-?\d+\.\d\d){2}"),
    ("07_choose_pooling_and_loss", {"frozen_layers": 1}, "1 layers frozen, trained here: dev"),
], ids=["06", "07"])
def test_06_and_07_take_another_model_through_papermill(tiny_folder, tmp_path, name, given,
                                                        said):
    """Another model is measured here and now, and not held against the default's sweep."""
    other = shutil.copytree(tiny_folder, tmp_path / "other_bert")
    given = {"model_dir": str(tiny_folder), "other_model": str(other)} | given
    path = NOTEBOOKS[0].with_name(f"{name}.ipynb")
    copy = executed(parameterize_notebook(load_notebook_node(str(path)), {
        key: value for key, value in given.items() if key in parameters_of(path)}), tmp_path)
    texts = [output.get("text") or output.data.get("text/plain", "")
             for cell in copy.cells for output in cell.get("outputs", [])]
    assert any(re.search(said, text) for text in texts)
    assert not any("within the spread" in text for text in texts)


def test_a_panel_shows_a_picture_and_a_table_where_nobody_watches():
    """Its static twin; a widget without a kernel would be an error message."""
    panels = [cell for path in NOTEBOOKS for cell in code_cells(path)
              if cell.source.splitlines()[-1] == "panel"]
    assert len(panels) >= 2
    for cell in panels:
        kinds = [set(output.data) for output in cell.outputs]
        assert kinds == [{"image/png", "text/plain"}, {"text/html", "text/plain"}]


def test_the_comparison_bites(tmp_path):
    """A changed text and a changed table in a copy of notebook 02: both cells fail, no other."""
    notebook = nbformat.read(SERIES[1], as_version=4)
    cut = next(i for i, c in enumerate(notebook.cells) if "## 3 " in c.source)
    notebook.cells = notebook.cells[:cut]              # this part takes seconds
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    text = next(o for o in outputs if o.output_type == "stream")
    table = next(o for o in outputs if "5749" in o.get("data", {}).get("text/html", ""))
    assert "1.25 tokens per word" in text.text
    text.text = text.text.replace("1.25 tokens", "1.26 tokens")
    table.data["text/html"] = table.data["text/html"].replace("5749", "5748")
    nbformat.write(notebook, tmp_path / "copy.ipynb")
    bitten = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "nbval.plugin", "--nbval", "-c",
         str(ROOT / "pyproject.toml"), "-q", "-p", "no:cacheprovider", "--rootdir",
         str(tmp_path), "copy.ipynb"], capture_output=True, text=True, cwd=tmp_path,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})
    assert bitten.returncode == 1 and "2 failed" in bitten.stdout, bitten.stdout
    assert "1.26 tokens" in bitten.stdout and "5748" in bitten.stdout
