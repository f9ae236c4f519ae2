"""Where things lie in the repository, and whether this run is being checked."""

import os
from collections.abc import Callable
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def find_root(package: Path, working: Callable[[], Path]) -> Path:
    """The repository: the folder that `package` is in, unless a wheel was installed there.

    Then it is the repository around the folder that `working` returns, or that folder itself
    if there is none around it: data is looked for there, and ``runs/`` is made there.
    """
    if not any(package.parent.glob(f"{package.name}-*.dist-info")):
        return package.parent
    folder = working()
    for around in (folder, *folder.parents):
        if (around / "pyproject.toml").is_file() and (around / package.name).is_dir():
            return around
    return folder


ROOT = find_root(PACKAGE, Path.cwd)


def being_checked() -> bool:
    """True where ``CONNECTION_CHECK`` is quick or full: outputs are compared, nobody watches.

    Bars are off then, and what is trained goes under ``runs/check/``, so that a check
    never overwrites a model that somebody trained.
    """
    return os.environ.get("CONNECTION_CHECK") in ("quick", "full")


def quick_check() -> bool:
    """True if ``CONNECTION_CHECK`` is quick: trainings that only illustrate are cut short."""
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
