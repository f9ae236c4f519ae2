"""Run one notebook with parameters in a fresh kernel, through papermill, and save it whole."""

import ast
import hashlib
import sys
from pathlib import Path

import nbformat
from nbclient.exceptions import DeadKernelError
from papermill import PapermillExecutionError, execute_notebook, inspect_notebook

from connection_utils.ground.paths import PACKAGE, ROOT, as_path, runs_folder, shown
from connection_utils.ground.whole_files import only_writer, sha256_of, write_whole

NOTEBOOKS = ROOT / "notebooks"


class NotebookFailed(RuntimeError):
    """A cell raised an error, or the kernel died."""


def parameters_of(path: Path) -> dict[str, object]:
    """The names and values in a notebook's cell tagged ``parameters``."""
    return {name: ast.literal_eval(known["default"])
            for name, known in inspect_notebook(str(path)).items()}


def made_from(name: str, given: dict) -> str:
    """A hash of all that decides outputs: notebook, module, model, data and parameters."""
    paths = [NOTEBOOKS / f"{name}.ipynb", *PACKAGE.rglob("*.py"), *PACKAGE.glob("use/*.md"),
             *PACKAGE.glob("*.mplstyle")]
    for place in (given["model_dir"], given["data"]):
        paths += [ROOT / as_path(place), *(ROOT / as_path(place)).glob("*")]
    files = [sha256_of(path) for path in sorted(paths)
             if path.is_file() and ".ipynb_checkpoints" not in path.parts]
    return hashlib.sha256(repr([files, sorted(given.items())]).encode()).hexdigest()


def in_place(copy: Path, name: str, given: dict) -> bool:
    """Whether `copy` was executed from today's notebook, module, model, data and parameters."""
    return copy.is_file() and nbformat.read(copy, as_version=4).metadata.get(
        "made_from") == made_from(name, given)


def execute_copy(name: str, given: dict, copies: Path) -> None:
    """Execute a notebook with the parameters `given` that it has, into the folder `copies`.

    `given` has ``model_dir`` and ``data``, whose files are part of what `in_place` compares. If
    a cell fails, an earlier copy stays, what ran so far is in ``runs/failed/``, and
    NotebookFailed names the cell. OSError if another process is executing it into that folder.
    """
    path, copy = NOTEBOOKS / f"{name}.ipynb", copies / f"{name}.ipynb"
    made, known = made_from(name, given), parameters_of(path)
    running = runs_folder() / "failed" / f"{copies.name}-{copy.name}"
    running.parent.mkdir(parents=True, exist_ok=True)
    with only_writer(copy):
        try:
            notebook = execute_notebook(
                path, running, {key: v for key, v in given.items() if key in known},
                kernel_name="python3", cwd=NOTEBOOKS, coalesce_streams=True,
                extra_arguments=["--log-level=CRITICAL"],  # it logs its own end as an error
                progress_bar={"desc": name, "file": sys.stdout, "bar_format":
                              "{desc}: cell {n_fmt} of {total_fmt}, {elapsed}"})
        except (PapermillExecutionError, DeadKernelError) as error:
            why = ("the kernel died. If memory ran out, a smaller batch_size or model helps."
                   if isinstance(error, DeadKernelError) else
                   f"code cell {error.exec_count}: {error.ename}: {error.evalue}")
            raise NotebookFailed(f"\n{name}, {why}\nWhat ran so far is in {shown(running)}."
                                 ) from None
        notebook.metadata["made_from"] = made
        with write_whole(copy) as scratch:
            nbformat.write(notebook, scratch)
        running.unlink()
