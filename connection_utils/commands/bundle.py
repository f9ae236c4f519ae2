"""All that a machine without a network needs, in one folder to carry over.

    python -m connection_utils bundle [FOLDER]     pack it; what `make bundle` starts
    python -m connection_utils bundle --check      at the other end, before installing

The folder holds the repository's files, the wheels of `requirements.lock`, the default model
and data, and the hash of each file. The check runs where nothing is installed yet.
"""

import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from connection_utils.commands import new_parser
from connection_utils.ground.paths import ROOT
from connection_utils.ground.whole_files import (
    check_replaceable,
    clear_leftovers,
    put_back,
    sha256_of,
    write_folder_whole,
)

SUMS, END = "SHA256SUMS", "# end"       # `sha256sum --check` reads it, too; its last line
NOTICE = """The series "How connected are two texts?", for a machine without a network.

For {machine}; {torch}.
Type `make run` in this folder: it checks every file by its hash, then installs from wheels/.
The wheels, the model and the STS texts keep terms of their own (transformers/README.md and
data/README.md): these copies are for you, not to be published.
"""


def pack(folder: str | Path, root: Path, more: list[str], extra_index: str = "") -> str:
    """Write a bundle of the repository at `root` to `folder`, whole or not at all.

    `more` are files beside those of git, from `root`; git's go as they lie there, changes
    included. An earlier bundle is replaced; its wheels are used again if they are whole.
    Returns the machine it is for. FileExistsError if anything else is in `folder`;
    ValueError if git or pip fails.
    """
    folder = Path(folder).resolve()
    put_back(folder)
    clear_leftovers(folder)
    _, sums = _read_sums(folder)
    earlier = sums if _holds_only(folder, {*sums, SUMS}) else {}
    ours = {name.split("/")[0] for name in (*earlier, SUMS)}
    check_replaceable(folder, ours)
    wheels = {name: digest for name, digest in earlier.items() if name.startswith("wheels/")}
    reuse = folder / "wheels" if wheels and not broken(folder, wheels) else None
    with write_folder_whole(folder, ours) as scratch:
        for name in _repository_files(root) + more:
            if (root / name).is_file():
                (scratch / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(root / name, scratch / name)
        _pip_download(root / "requirements.lock", scratch / "wheels", reuse, extra_index)
        names = [path.name for path in (scratch / "wheels").iterdir()]
        machine = " ".join([_this_machine(), *_glibc_of(names)])
        torch = [" ".join(name.split("-")[:2]) for name in names if name.startswith("torch-")]
        (scratch / "BUNDLE.txt").write_text(NOTICE.format(machine=machine, torch=torch[0]))
        lines = [f"{sha256_of(path)}  {path.relative_to(scratch).as_posix()}"
                 for path in sorted(scratch.rglob("*")) if path.is_file()]
        (scratch / SUMS).write_bytes("\n".join([f"# {machine}", *lines, END, ""]).encode())
    return machine


def check(folder: str | Path) -> int:
    """Compare the bundle in `folder` with this machine, then its files with their hashes.

    Returns the number of files. ValueError says which machine it was made for, or which
    files are missing, torn or changed.
    """
    machine, sums = _read_sums(folder)
    if not sums:
        raise ValueError(f"{SUMS} is missing or torn. Copy it again.")
    wanted, _, glibc = machine.partition(" glibc ")
    here, (libc, version) = _this_machine(), platform.libc_ver()
    if here != wanted or (glibc and (libc != "glibc" or _parts(version) < _parts(glibc))):
        raise ValueError(f"This bundle is for  {machine}{' or later' * bool(glibc)}\n"
                         f"here is             {here} {libc} {version}\nMake one on a "
                         "machine like this, or name that Python: make run PYTHON=<name>")
    if problems := broken(folder, sums):
        raise ValueError("Not as they were packed:\n  " + "\n  ".join(problems) + "\nCopy "
                         "them again. (Did you change one yourself? Then take its line out "
                         f"of {SUMS}.)")
    return len(sums)


def broken(folder: str | Path, sums: dict[str, str]) -> list[str]:
    """A line for each file of `sums` (name: SHA-256) that is not whole in `folder`."""
    problems = []
    for name, expected in sums.items():
        path = Path(folder) / name
        try:
            if sha256_of(path) != expected:
                problems.append(f"{name}: other content ({path.stat().st_size:,} bytes)")
        except OSError as error:
            problems.append(f"{name}: {error.strerror}")
    return problems


def _read_sums(folder: str | Path) -> tuple[str, dict[str, str]]:
    """The machine that a bundle is for, and its files' hashes; none if that is not whole."""
    path = Path(folder) / SUMS
    lines = path.read_text("utf-8", "replace").splitlines() if path.is_file() else []
    if len(lines) < 3 or lines[-1] != END:
        return "", {}
    pairs = [line.split("  ", 1) for line in lines[1:-1]]
    return lines[0].removeprefix("# "), {name: digest for digest, name in pairs}


def _holds_only(folder: Path, names: set[str]) -> bool:
    return all(path.relative_to(folder).as_posix() in names or path.suffix == ".pyc"
               for path in folder.rglob("*") if path.is_file())


def _repository_files(root: Path) -> list[str]:
    """What git tracks; where there is no clone (a ZIP, a bundle), what git would take."""
    if not shutil.which("git"):
        raise ValueError("git is not installed; it says which files to pack.")
    listing = ["ls-files", "-z"]
    with tempfile.TemporaryDirectory() as empty:
        if not (root / ".git").exists():
            subprocess.run(["git", "init", "--quiet", "--bare", empty], check=True)
            listing = [f"--git-dir={empty}", f"--work-tree={root}", *listing, "--others",
                       "--exclude-standard"]
        done = subprocess.run(["git", *listing], cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"git lists no files in {root}: {done.stderr.strip()}")
    return done.stdout.split("\0")[:-1]


def _pip_download(lock: Path, wheels: Path, reuse: Path | None, extra_index: str) -> None:
    """The wheels that ``pip install -r lock`` would take here, those in `reuse` first."""
    print(f"wheels: what {lock.name} pins (some minutes the first time)", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--dest",
         str(wheels), "-r", str(lock), *(["--find-links", str(reuse)] if reuse else []),
         *(["--extra-index-url", extra_index] if extra_index else [])], check=False)
    if done.returncode:
        raise ValueError("pip did not fetch every wheel (see above); nothing was written.")


def _this_machine() -> str:
    python = ".".join(platform.python_version_tuple()[:2])
    return f"Python {python}, {platform.system()} {platform.machine()}"


def _glibc_of(wheels: list[str]) -> list[str]:
    """``["glibc", "2.28"]``: the oldest that they all run with; [] if none names one."""
    oldest = [min(map(int, found)) for name in wheels
              if (found := re.findall(r"manylinux_2_(\d+)_", name))]
    return ["glibc", f"2.{max(oldest)}"] if oldest else []


def _parts(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def main(arguments: list[str] | None = None) -> None:
    options = new_parser("bundle", __doc__)
    options.add_argument("folder", nargs="?", default="runs/bundle", help="where to")
    options.add_argument("--extra-index-url", default="", help="for pip: a build of torch")
    options.add_argument("--check", action="store_true", help="is this folder's bundle whole?")
    chosen = options.parse_args(arguments)
    try:
        if chosen.check:
            print(f"bundle: {check(ROOT)} files, whole")
            return
        from connection_utils.workshop.assets import DATA, MODEL, fetch_assets

        fetch_assets(MODEL, DATA)
        more = [f"{asset.folder}/{name}" for asset in (MODEL, DATA) for name in asset.files]
        machine = pack(chosen.folder, ROOT, more, chosen.extra_index_url)
        size = sum(path.stat().st_size for path in Path(chosen.folder).rglob("*"))
        print(f"bundle: {chosen.folder}, {size / 1e9:.2f} GB, for {machine}")
    except (RuntimeError, ValueError, OSError) as error:      # RuntimeError: an asset's
        sys.exit(str(error))
