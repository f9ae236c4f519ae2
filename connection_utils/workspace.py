"""Where things lie in the repository, and whether this run is being checked."""

import os
import threading
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

ROOT = Path(__file__).resolve().parents[1]


def being_checked() -> bool:
    """True where ``CONNECTION_CHECK`` is quick or full: outputs are compared, nobody watches.

    Bars are off then, and what is trained goes under ``runs/check/``, so that a check
    never overwrites a model that somebody trained.
    """
    return os.environ.get("CONNECTION_CHECK") in ("quick", "full")


def quick_check() -> bool:
    """True where ``CONNECTION_CHECK`` is quick: a training that only illustrates is cut short."""
    return os.environ.get("CONNECTION_CHECK") == "quick"


def runs_folder() -> Path:
    """The folder for all that runs leave behind (ignored by git)."""
    return ROOT / "runs" / ("check" if being_checked() else "")


def as_path(path: str | Path) -> Path:
    """`path` with either slash between its parts, as the original post writes it."""
    return Path(str(path).replace("\\", "/")).expanduser()


def shown(path: str | Path) -> str:
    """`path` as a reader should see it: relative to the repository where it is inside."""
    path = as_path(path).absolute()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)


def missing_model(folder: str | Path) -> str | None:
    """What to tell where no folder `folder` is; None where there is one."""
    path = as_path(folder)
    if path.is_dir():
        return None
    found = "it is a file" if path.exists() else "folder not found"
    return (f"{found}: {path.absolute()}. Expected a folder with config.json, vocab.txt and "
            "model.safetensors or pytorch_model.bin. Nothing is ever fetched from a model hub: "
            "transformers/README.md tells how to bring a model by hand.")


def progress(iterable: Iterable, **options) -> tqdm:
    """A tqdm bar over `iterable`, for whoever watches.

    Silent while the run is being checked, in all but one of the processes that torchrun
    started, and in other threads than the main one: a panel shows the progress of what it
    started in a place of its own.
    """
    unseen = (being_checked() or os.environ.get("RANK", "0") != "0"
              or threading.current_thread() is not threading.main_thread())
    return tqdm(iterable, disable=unseen or None, **options)


def prepare_notebook() -> None:
    """The first call of every notebook: same folder, same style, same quiet everywhere.

    The working directory becomes the repository's root, so that ``data/stsb`` means the
    same in JupyterLab, VS Code, papermill and nbval. While the run is being checked,
    tracebacks are cut to their last line, as the lines above it hold local paths.
    """
    from IPython import get_ipython

    from connection_utils import plots

    os.chdir(ROOT)
    plots.use_style()
    pd.set_option("display.precision", 2)
    shell = get_ipython()
    if shell is not None and being_checked():
        shell.InteractiveTB.set_mode(mode="Minimal")
