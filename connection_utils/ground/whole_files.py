"""Files and folders that are written whole or not at all, and their hashes."""

import hashlib
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from uuid import uuid4


def sha256_of(path: str | Path) -> str:
    """The file's SHA-256, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


LITTER = {".DS_Store", "Thumbs.db", ".ipynb_checkpoints"}     # file managers' and JupyterLab's


@contextmanager
def write_whole(path: str | Path) -> Iterator[Path]:
    """Yield a scratch path beside `path`; it takes `path`'s place when the block ends well.

    If the block fails, or the process is killed in it, `path` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = _beside(path)
    try:
        yield scratch
        _flush(scratch)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def check_replaceable(folder: str | Path, ours: Collection[str]) -> None:
    """Raise an OSError if `write_folder_whole` could not put a new folder in `folder`'s place.

    FileExistsError if `folder` is a file, a mount point (which cannot be renamed) or contains
    an entry whose name is not in `ours`. Otherwise it is tried: a scratch folder is made, and
    renames are done as `write_folder_whole` does them. If that fails, PermissionError or
    another OSError says why. All is then as it was before.
    """
    place = Path(folder).resolve()          # where a link leads, not the link itself
    if os.path.ismount(place):
        raise FileExistsError(f"{folder} is a mount point, which cannot be replaced. Choose a "
                              "new folder inside it.")
    if place.exists() and not place.is_dir():
        raise FileExistsError(f"{folder} is a file; expected a folder or a new name.")
    names = {path.name for path in place.iterdir()} if place.exists() else set()
    others = sorted(names - set(ours) - LITTER)
    if others:
        raise FileExistsError(
            f"{folder} holds files that would be lost: {', '.join(others[:5])}. "
            "Choose a new or an empty folder.")
    new = [each for each in place.parents if not each.exists()]
    scratch = _beside(place)
    there, away = (place, scratch.with_suffix(".old")) if place.exists() else (scratch, place)
    try:
        scratch.mkdir(parents=True)
        os.rename(there, away)
        os.rename(away, there)
    except OSError as error:
        raise type(error)(f"{folder} cannot be written: {error}. Choose another.") from None
    finally:
        for made in (scratch, *new):
            with suppress(OSError):
                made.rmdir()


@contextmanager
def only_writer(path: str | Path) -> Iterator[None]:
    """In the block, this process alone may write `path`, a file or a folder.

    The lock is a file beside `path` whose name is longer than that of any scratch file. The
    operating system releases it when the process ends, even if the process is killed.
    OSError, with what to do, if another process is in such a block, or if no file can be made
    there.
    """
    from filelock import FileLock  # here: a bundle is checked on bare Python

    path = Path(path).resolve()
    beside = path.with_name(f".{path.name}.being-written-by-one-process-at-a-time.lock")
    lock = FileLock(beside, blocking=False)
    try:
        beside.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        why = "another process is writing it" if isinstance(error, TimeoutError) else error
        raise OSError(f"{path} cannot be written: {why}. Choose another name.") from None
    try:
        yield
    finally:
        with suppress(OSError):              # Windows removes it when it is released
            beside.unlink()
        lock.release()


@contextmanager
def write_folder_whole(folder: str | Path, ours: Collection[str]) -> Iterator[Path]:
    """Yield a scratch folder beside `folder`; it takes its place when the block ends well.

    An existing `folder` is replaced only if `check_replaceable` allows it. A kill in the
    instant between two renames leaves the old folder beside its place, whole; the next call
    or `put_back` returns it there.
    """
    put_back(folder)
    check_replaceable(folder, ours)
    folder = Path(folder).resolve()
    scratch = _beside(folder)
    scratch.mkdir(parents=True)
    try:
        yield scratch
        for path in scratch.rglob("*"):
            if path.is_file():
                _flush(path)
        if folder.exists():
            os.rename(folder, scratch.with_suffix(".old"))
        os.rename(scratch, folder)
    finally:
        put_back(folder)
        shutil.rmtree(scratch, ignore_errors=True)


def put_back(folder: str | Path) -> None:
    """Return the old folder of an unfinished `write_folder_whole` to its place.

    If the new folder is in that place already, the old one is removed.
    """
    folder = Path(folder).resolve()
    for old in folder.parent.glob(f".{escape(folder.name)}.*.old"):
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(old, folder)


def clear_leftovers(path: str | Path) -> None:
    """Tidy up what writers of `path` (a file or a folder) left beside it when they were killed.

    Do not call it while another process may be writing `path`: its scratch would be removed.
    """
    path = Path(path).resolve()
    put_back(path)
    for leftover in path.parent.glob(f".{escape(path.name)}.*.partial"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    """A new scratch name in the folder of `path`."""
    return path.with_name(f".{path.name}.{uuid4().hex}.partial")


def _flush(path: Path) -> None:
    """Make the file's bytes reach the disk before it is renamed into place."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
