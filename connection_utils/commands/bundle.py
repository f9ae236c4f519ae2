"""All that a machine without a network needs, in one folder to carry over.

    python -m connection_utils bundle [FOLDER]             pack it, as `make bundle` does
    python -m connection_utils bundle [FOLDER] --check     at the other end, before installing

The folder has the repository's files, the wheels of `requirements.lock`, the default model
and data, and the hash of each file. The check runs where nothing is installed yet.
"""

import platform
import shutil
import subprocess
import sys
from pathlib import Path

from connection_utils.commands import ending, new_parser
from connection_utils.ground.paths import ROOT, shown
from connection_utils.ground.whole_files import clear_leftovers, sha256_of, write_folder_whole

SUMS, END = "SHA256SUMS", "# end"       # `sha256sum --check` reads it, too; its last line
MACHINE = (f"Python {sys.version_info.major}.{sys.version_info.minor}, "
           f"{platform.system()} {platform.machine()}")


def pack(folder: str | Path, root: Path, more: list[str], extra_index: str = "") -> None:
    """Write a bundle of the git clone at `root` to `folder`, whole or not at all.

    `more` are files to add to those that git tracks, relative to `root`. Each file is packed
    as it is on disk, changes included. FileExistsError if anything is in `folder`;
    ValueError if `root` is no git clone, or if git or pip fails.
    """
    clear_leftovers(Path(folder).resolve())
    with write_folder_whole(folder, ours=()) as scratch:
        listed = _run("git", "-C", root, "ls-files", "-z", stdout=subprocess.PIPE)
        if not ((root / ".git").exists() and listed):      # or inside another repository
            raise ValueError(f"{root} is not a git clone, or git tracks no file in it, so what "
                             "to pack is unknown; nothing was written. Pack from a clone, or "
                             "run `git init` and `git add .` in that folder first.")
        for name in listed.split("\0")[:-1] + more:
            if (root / name).is_file():
                (scratch / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(root / name, scratch / name)
        print("wheels: what requirements.lock pins (takes some minutes)", flush=True)
        _run(sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:",
             "--dest", scratch / "wheels", "--requirement", root / "requirements.lock",
             *(["--extra-index-url", extra_index] if extra_index else []))
        sums = [f"{sha256_of(path)}  {path.relative_to(scratch).as_posix()}"
                for path in sorted(scratch.rglob("*")) if path.is_file()]
        (scratch / SUMS).write_bytes("\n".join([f"# {MACHINE}", *sums, END, ""]).encode())


def _run(*command: str | Path, stdout: int | None = None) -> str:
    """What a program prints, if `stdout` is a pipe; ValueError if the program fails."""
    done = subprocess.run(command, stdout=stdout, text=True)
    if done.returncode:
        raise ValueError(f"{' '.join(map(str, command[:4]))} … failed (see above); nothing "
                         "was written. A bundle needs a git clone and a pip index.")
    return done.stdout


def check(folder: Path) -> int:
    """Compare the bundle in `folder` with this machine, then each file with its hash.

    Returns the number of files. ValueError names the machine that the bundle was made for,
    or the files that are missing or changed.
    """
    path = folder / SUMS
    text = path.read_text("utf-8", "replace") if path.is_file() else ""
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < 3 or lines[-1] != END:
        raise ValueError(f"{shown(path)} is missing or not whole. Copy it again.")
    if lines[0] != f"# {MACHINE}":
        raise ValueError(f"This bundle is for {lines[0][2:]}; this machine has {MACHINE}. Make "
                         "one on a machine like this, or name that Python: make run "
                         "PYTHON=<name>")
    sums = [line.split("  ", 1) for line in lines[1:-1]]
    changed = [name for expected, name in sums
               if not (folder / name).is_file() or sha256_of(folder / name) != expected]
    if changed:
        raise ValueError("\n  ".join(["Missing, or not as they were packed:", *changed])
                         + f"\nCopy them again. (If you changed one yourself, delete its line "
                         f"from {SUMS}.)")
    return len(sums)


def main(arguments: list[str] | None = None) -> None:
    """Pack a bundle or check one; see ``--help``."""
    options = new_parser("bundle", __doc__)
    options.add_argument("folder", nargs="?", help="where to pack (default: runs/bundle), or "
                         "the bundle to check (default: the folder of this module)")
    options.add_argument("--extra-index-url", default="", help="for pip: a build of torch")
    options.add_argument("--check", action="store_true", help="is a bundle whole?")
    chosen = options.parse_args(arguments)
    folder = Path(chosen.folder or (ROOT if chosen.check else "runs/bundle"))
    with ending(RuntimeError, ValueError, OSError):     # RuntimeError: an asset's
        if chosen.check:
            print(f"bundle: {check(folder)} files, whole")
            return
        from connection_utils.workshop.assets import DATA, MODEL, fetch_assets

        fetch_assets(MODEL, DATA)
        pack(folder, ROOT, [f"{asset.folder}/{name}" for asset in (MODEL, DATA)
                            for name in asset.files], chosen.extra_index_url)
        size = sum(path.stat().st_size for path in folder.rglob("*"))
        print(f"bundle: {folder}, {size / 1e9:.2f} GB, for {MACHINE}")
