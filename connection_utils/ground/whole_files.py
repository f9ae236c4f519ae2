"""Files and folders that are written whole or not at all, and their hashes."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path


def sha256_of(path: str | Path) -> str:
    """The file's SHA-256, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


SEAL = "<!-- Written by a program, which knows its work by the SHA-256 of all above: {} -->"
LITTER = {".DS_Store", "Thumbs.db", ".ipynb_checkpoints"}     # nobody's work


def sealed(text: str) -> str:
    """Markdown `text`, and a last line, not shown, by which `is_sealed` knows it again."""
    return f"{text}{SEAL.format(hashlib.sha256(text.encode()).hexdigest())}\n"


def is_sealed(path: str | Path) -> bool:
    """Whether `sealed` made the file's text. If anybody has changed a sign, it did not."""
    if not Path(path).is_file():
        return False
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    return text == sealed("".join(text.splitlines(keepends=True)[:-1]))


@contextmanager
def write_whole(path: str | Path) -> Iterator[Path]:
    """Yield a scratch path beside `path`; it takes `path`'s place when the block ends well.

    If the block fails, or the process is killed in it, `path` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial",
                                    dir=path.parent)
    os.close(handle)
    scratch = Path(name)
    try:
        yield scratch
        _flush(scratch)
        scratch.chmod(0o644)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def check_replaceable(folder: str | Path, ours: Collection[str]) -> None:
    """Raise FileExistsError if `folder` holds an entry whose name is not in `ours`."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; expected a folder or a new name.")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    others = sorted(names - set(ours) - LITTER)
    if others:
        raise FileExistsError(
            f"{folder} holds files that would be lost: {', '.join(others[:5])}. "
            "Choose a new or an empty folder.")


@contextmanager
def write_folder_whole(folder: str | Path, ours: Collection[str]) -> Iterator[Path]:
    """Yield a scratch folder beside `folder`; it takes its place when the block ends well.

    An existing `folder` is replaced only if `check_replaceable` lets it be. A kill in the
    instant between two renames leaves the old one beside it, whole; `put_back` mends that.
    """
    check_replaceable(folder, ours)
    folder = Path(folder).resolve()         # where a link leads, not the link itself
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial",
                                    dir=folder.parent))
    try:
        yield scratch
        for path in scratch.rglob("*"):
            if path.is_file():
                _flush(path)
        scratch.chmod(0o755)
        old = scratch.with_suffix(".old")
        if folder.exists():
            os.rename(folder, old)
        try:
            os.rename(scratch, folder)
        except OSError:
            if old.exists():
                os.rename(old, folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def put_back(folder: str | Path) -> None:
    """Give `folder` its place again, if `write_folder_whole` was killed between two renames."""
    folder = Path(folder).resolve()
    for old in folder.parent.glob(f".{escape(folder.name)}.*.old"):
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(old, folder)


def clear_leftovers(path: str | Path) -> None:
    """Remove what writers of `path` (a file or a folder) left beside it when they were killed.

    Not while another process may be writing `path`: it would lose what it has written.
    """
    path = Path(path)
    for leftover in path.parent.glob(f".{escape(path.name)}.*.partial"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Make the file's bytes reach the disk before it is renamed into place."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
