"""Run one notebook in a fresh kernel, as it is or with parameters, and save it whole."""

import ast
import hashlib
import os
import sys
import threading
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from papermill.inspection import inspect_notebook
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from connection_utils.ground.paths import PACKAGE, ROOT, as_path, runs_folder, shown
from connection_utils.ground.whole_files import sha256_of, write_whole

NOTEBOOKS = ROOT / "notebooks"


class NotebookFailed(RuntimeError):
    """A cell of the series raised an error that was not to be shown."""


def execute(notebook: nbformat.NotebookNode, name: str, target: Path,
            checking: bool = False) -> None:
    """Run `notebook` in a fresh kernel with a line of progress; write it to `target` whole.

    If a cell fails, `target` stays as it was, what ran so far goes to ``runs/failed/``,
    and NotebookFailed names the cell.
    """
    code = sum(cell.cell_type == "code" for cell in notebook.cells)
    done, started = 0, time.monotonic()

    def tell(end="\n"):
        minutes, seconds = divmod(int(time.monotonic() - started), 60)
        line = f"{name}: cell {done} of {code}, {minutes:02d}:{seconds:02d}"
        print(f"\r{line}" if sys.stdout.isatty() else line, end=end, flush=True)

    def count(cell, cell_index):
        nonlocal done
        done += cell.cell_type == "code"

    def keep_telling():                  # in place on a terminal, a line a minute in a log
        while not finished.wait(1 if sys.stdout.isatty() else 60):
            tell(end="" if sys.stdout.isatty() else "\n")

    finished = threading.Event()
    clock = threading.Thread(target=keep_telling, daemon=True)
    clock.start()
    client = NotebookClient(
        notebook, timeout=None, kernel_name="python3", store_widget_state=not checking,
        record_timing=False, coalesce_streams=True,
        resources={"metadata": {"path": str(NOTEBOOKS)}}, on_cell_start=count,
        extra_arguments=["--log-level=ERROR"])
    try:
        client.execute(env=os.environ | ({"CONNECTION_CHECK": "full"} if checking else {}))
    except DeadKernelError:
        raise NotebookFailed(
            f"\n{name}, code cell {done} of {code}: the kernel died, most often for want of "
            "memory. A smaller batch_size or model needs less.") from None
    except CellExecutionError as error:
        failed = runs_folder() / "failed" / f"{name}.ipynb"
        _write(notebook, failed)
        raise NotebookFailed(
            f"\n{name}, code cell {done} of {code}: {error.ename}: {error.evalue}\n"
            f"What ran so far is in {shown(failed)}.") from None
    finally:
        finished.set()
        clock.join()
        tell()
    _write(notebook, target)


def parameters_of(path: Path) -> dict[str, object]:
    """The names and values in a notebook's cell tagged ``parameters``."""
    return {name: ast.literal_eval(known["default"])
            for name, known in inspect_notebook(str(path)).items()}


def fingerprint_of(model: str, data: str) -> str:
    """A hash of all that decides the outputs, apart from notebook and parameters."""
    files = sorted(path for path in PACKAGE.rglob("*.py")
                   if ".ipynb_checkpoints" not in path.parts)
    for place in (model, data):
        path = ROOT / as_path(place)
        files += sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else (
            [path] if path.is_file() else [])
    return hashlib.sha256("".join(map(sha256_of, files)).encode()).hexdigest()


def _made_from(name: str, given: dict, fingerprint: str) -> str:
    source = sha256_of(NOTEBOOKS / f"{name}.ipynb")
    said = f"{source} {sorted(given.items())} {fingerprint}"
    return hashlib.sha256(said.encode()).hexdigest()


def in_place(copy: Path, name: str, given: dict, fingerprint: str) -> bool:
    """Whether `copy` was executed from what now is: notebook, parameters, `fingerprint_of`."""
    if not copy.is_file():
        return False
    made_from = nbformat.read(copy, as_version=4).metadata.get("made_from")
    return made_from == _made_from(name, given, fingerprint)


def execute_copy(name: str, given: dict, fingerprint: str, copies: Path) -> None:
    """Execute a notebook with the parameters `given` that it has, into the folder `copies`."""
    path = NOTEBOOKS / f"{name}.ipynb"
    known = parameters_of(path)
    notebook = parameterize_notebook(
        load_notebook_node(str(path)), {key: v for key, v in given.items() if key in known})
    notebook.metadata["made_from"] = _made_from(name, given, fingerprint)
    execute(notebook, name, copies / f"{name}.ipynb")


def _write(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Save whole, without the kernel's exact Python version."""
    notebook.metadata["language_info"] = {"name": "python"}
    with write_whole(path) as scratch:
        nbformat.write(notebook, scratch)
