"""Run one notebook in a fresh kernel, as it is or with parameters, and save it whole."""

import ast
import hashlib
import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from papermill.inspection import inspect_notebook
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from tqdm import tqdm

from connection_utils.ground.paths import PACKAGE, ROOT, as_path, runs_folder, shown
from connection_utils.ground.whole_files import only_writer, sha256_of, write_whole

NOTEBOOKS = ROOT / "notebooks"


class NotebookFailed(RuntimeError):
    """A cell raised an error, or the kernel died."""


def execute(notebook: nbformat.NotebookNode, name: str, target: Path,
            checking: bool = False) -> None:
    """Run `notebook` in a fresh kernel with a line of progress; write it to `target` whole.

    If a cell fails, `target` stays as it was, what ran so far goes to ``runs/failed/``,
    and NotebookFailed names the cell.
    """
    code = sum(cell.cell_type == "code" and bool(cell.source.strip())
               for cell in notebook.cells)
    with tqdm(desc=name, total=code, file=sys.stdout, mininterval=0, miniters=1,
              bar_format="{desc}: cell {n_fmt} of {total_fmt}, {elapsed}") as bar:
        client = NotebookClient(
            notebook, timeout=None, kernel_name="python3", store_widget_state=not checking,
            record_timing=False, coalesce_streams=True,
            resources={"metadata": {"path": str(NOTEBOOKS)}},
            on_cell_execute=lambda **_: bar.update(), extra_arguments=["--log-level=ERROR"])
        try:
            client.execute(env=os.environ | ({"CONNECTION_CHECK": "full"} if checking else {}))
        except (CellExecutionError, DeadKernelError) as error:
            why = ("the kernel died. If memory ran out, a smaller batch_size or model helps."
                   if isinstance(error, DeadKernelError) else f"{error.ename}: {error.evalue}")
            failed = runs_folder() / "failed" / f"{name}.ipynb"
            _write(notebook, failed)
            raise NotebookFailed(f"\n{name}, code cell {bar.n} of {code}: {why}\n"
                                 f"What ran so far is in {shown(failed)}.") from None
    _write(notebook, target)


def parameters_of(path: Path) -> dict[str, object]:
    """The names and values in a notebook's cell tagged ``parameters``."""
    return {name: ast.literal_eval(known["default"])
            for name, known in inspect_notebook(str(path)).items()}


def fingerprint_of(model: str, data: str) -> str:
    """A hash of all that decides the outputs, apart from notebook and parameters."""
    files = sorted(path for path in (*PACKAGE.rglob("*.py"), *PACKAGE.glob("use/*.md"))
                   if ".ipynb_checkpoints" not in path.parts)
    for place in (model, data):
        path = ROOT / as_path(place)
        files += sorted(p for p in (path, *path.glob("*")) if p.is_file())
    return hashlib.sha256("".join(map(sha256_of, files)).encode()).hexdigest()


def _made_from(name: str, given: dict) -> str:
    files = fingerprint_of(given["model_dir"], given["data"])
    said = f"{sha256_of(NOTEBOOKS / f'{name}.ipynb')} {sorted(given.items())} {files}"
    return hashlib.sha256(said.encode()).hexdigest()


def in_place(copy: Path, name: str, given: dict) -> bool:
    """Whether `copy` was executed from today's notebook, module, model, data and parameters."""
    return copy.is_file() and nbformat.read(copy, as_version=4).metadata.get(
        "made_from") == _made_from(name, given)


def execute_copy(name: str, given: dict, copies: Path) -> None:
    """Execute a notebook with the parameters `given` that it has, into the folder `copies`.

    `given` has ``model_dir`` and ``data``, whose files are part of what `in_place` compares.
    OSError if another process is executing it into that folder.
    """
    path = NOTEBOOKS / f"{name}.ipynb"
    known = parameters_of(path)
    notebook = parameterize_notebook(
        load_notebook_node(str(path)), {key: v for key, v in given.items() if key in known})
    notebook.metadata["made_from"] = _made_from(name, given)
    with only_writer(copies / f"{name}.ipynb"):
        execute(notebook, name, copies / f"{name}.ipynb")


def _write(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Save whole, without the kernel's exact Python version."""
    notebook.metadata["language_info"] = {"name": "python"}
    with write_whole(path) as scratch:
        nbformat.write(notebook, scratch)
