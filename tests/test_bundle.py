"""A bundle: packed, carried over, and installed by the real `make` with the network off.

The repository is a small one, with our module, Makefile and pyproject.toml; its wheels are
made here, of what is installed, so that packing needs no network either.
"""

import os
import platform
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distribution, version
from pathlib import Path

import pytest

from connection_utils.commands import bundle
from connection_utils.commands.bundle import SUMS, check, pack
from connection_utils.ground.paths import ROOT
from connection_utils.workshop import assets

pytestmark = pytest.mark.skipif(not shutil.which("git"), reason="git lists what is packed")
COPIED = {"Makefile", "pyproject.toml", "README.md", "LICENSE", ".gitignore"}
WEIGHTS = "transformers/bert/small/model.safetensors"
SETUPTOOLS = f"setuptools-{version('setuptools')}-py3-none-any.whl"
TORCH = "torch-2.13.0+cpu-py3-none-any.whl"
OLDER = "six-1.0-py3-none-any.whl"
NETWORK_OFF = ["unshare", "--map-root-user", "--net", "sh", "-c",
               'ip link set lo up; exec "$@"', "off"]


def make_wheel(shelf, filename):
    """A wheel that holds nothing but its name, its version and what pip asks for."""
    name, number = filename.split("-")[:2]
    with zipfile.ZipFile(shelf / filename, "w") as wheel:
        for file, text in {
                "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n",
                "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
                         "Tag: py3-none-any\n", "RECORD": ""}.items():
            wheel.writestr(f"{name}-{number}.dist-info/{file}", text)


def make_repository(root):
    """A small repository under git: weights and one file of the reader's are ignored."""
    shutil.copytree(ROOT / "connection_utils", root / "connection_utils",
                    ignore=shutil.ignore_patterns("__pycache__"))
    for name in COPIED:
        shutil.copy(ROOT / name, root)
    (root / "requirements.lock").write_text(
        f"setuptools=={version('setuptools')}\nsix==1.0\ntorch==2.13.0\n")
    for name in ("runs/mine.txt", WEIGHTS):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text(f"this is {name}")
    for arguments in (["init", "--quiet"], ["add", "."]):
        subprocess.run(["git", *arguments], cwd=root, check=True)
    return root


@pytest.fixture(scope="module", autouse=True)
def shelf(tmp_path_factory):
    """All the wheels of the small lock, and the one place where pip looks."""
    folder = tmp_path_factory.mktemp("shelf")
    make_wheel(folder, TORCH)
    make_wheel(folder, OLDER)
    with zipfile.ZipFile(folder / SETUPTOOLS, "w") as wheel:      # as it is installed
        for file in distribution("setuptools").files:
            if file.suffix != ".pyc":
                wheel.write(file.locate(), str(file))
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PIP_")]:
            patch.delenv(name)
        patch.setenv("PIP_CONFIG_FILE", os.devnull)
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(folder))
        yield folder


@pytest.fixture
def empty_shelf(tmp_path, monkeypatch):
    """pip finds nothing from here on, but what a test puts into this folder."""
    (tmp_path / "empty shelf").mkdir()
    monkeypatch.chdir(tmp_path / "empty shelf")
    monkeypatch.setenv("PIP_FIND_LINKS", ".")
    return tmp_path / "empty shelf"


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """The repository and its bundle, for tests that change neither."""
    root = make_repository(tmp_path_factory.mktemp("packed") / "repository")
    pack(root / "runs/bundle", root, [WEIGHTS])
    return root, root / "runs/bundle"


@pytest.fixture
def carried(packed, tmp_path):
    """The repository, and its bundle in a place with a space in its name."""
    return packed[0], Path(shutil.copytree(packed[1], tmp_path / "over there"))


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}


def beside(folder):
    return {path.name for path in folder.parent.iterdir()}


def make(*arguments, cwd, before=()):
    bare = {"PATH": os.environ["PATH"], "HOME": str(cwd), "PIP_CONFIG_FILE": os.devnull}
    return subprocess.run([*before, "make", *arguments, f"PYTHON={sys.executable}"], cwd=cwd,
                          env=bare, capture_output=True, text=True)


def test_it_holds_the_repository_its_wheels_and_what_is_added(packed):
    root, folder = packed
    files = content(folder)
    assert COPIED | {"connection_utils/commands/bundle.py", "requirements.lock",
                     WEIGHTS} <= set(files)
    assert all(files[name] == (root / name).read_bytes() for name in files
               if not name.startswith(("wheels/", "BUNDLE", SUMS)))
    assert {name for name in files if name.startswith("wheels/")} == {
        f"wheels/{name}" for name in (SETUPTOOLS, TORCH, OLDER)}
    assert not [name for name in files if name.startswith(("runs/", ".git/"))]
    assert check(folder) == len(files) - 1                        # all but the list itself
    notice = files["BUNDLE.txt"].decode()
    assert "torch 2.13.0+cpu" in notice and "data/README.md" in notice
    assert f"Python 3.11, {platform.system()} {platform.machine()}" in notice


def test_other_tools_read_the_list_of_hashes(packed):
    done = subprocess.run(["sha256sum", "--check", "--strict", "--quiet", SUMS],
                          cwd=packed[1], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout + done.stderr == ""


@pytest.mark.slow
def test_it_installs_with_the_network_off(carried):
    tried = subprocess.run([*NETWORK_OFF, "ip", "route"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"nobody may take the network away here: {tried.stderr.strip()}")
    assert tried.stdout == ""
    _, folder = carried
    files = len(content(folder)) - 1
    done = make(".venv/.installed", cwd=folder, before=NETWORK_OFF)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"bundle: {files} files, whole\n")
    code = ("from importlib.metadata import version as v; import connection_utils as c; "
            "print(v('torch'), v('setuptools'), v('six'), c.__file__, sep='|')")
    said = subprocess.run([folder / ".venv/bin/python", "-P", "-c", code], cwd=folder.parent,
                          capture_output=True, text=True).stdout.strip().split("|")
    assert said == ["2.13.0+cpu", version("setuptools"), "1.0",
                    str(folder / "connection_utils/__init__.py")]


def test_a_torn_copy_is_told_by_name_before_anything_is_installed(carried):
    _, folder = carried
    wheel = folder / "wheels" / SETUPTOOLS
    wheel.write_bytes(wheel.read_bytes()[:1000])
    (folder / WEIGHTS).unlink()
    torn = folder / "connection_utils/workshop/assets.py"          # in the midst of a word
    torn.write_bytes(torn.read_bytes()[:3000])
    (folder / "connection_utils/use/runs.py").unlink()
    done = make("run", cwd=folder)
    assert done.returncode == 2 and not (folder / ".venv").exists()
    assert "connection_utils/workshop/assets.py: other content (3,000 bytes)\n" in done.stderr
    assert "connection_utils/use/runs.py: No such file or directory\n" in done.stderr
    assert f"wheels/{SETUPTOOLS}: other content (1,000 bytes)\n" in done.stderr
    assert f"{WEIGHTS}: No such file or directory\n" in done.stderr
    assert done.stderr.count(": other content") == 2 and "Copy them again" in done.stderr


@pytest.mark.parametrize("cut", [None, 0, 300])
def test_a_torn_list_of_hashes_is_told(carried, cut):
    path = carried[1] / SUMS
    if cut is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:cut])
    done = make("run", cwd=carried[1])
    assert done.returncode == 2 and not (carried[1] / ".venv").exists()
    assert "SHA256SUMS is missing or torn. Copy it again.\n" in done.stderr


@pytest.mark.parametrize(("what", "here", "said"), [
    ("machine", "riscv64", " riscv64 glibc"),
    ("system", "Plan9", "Plan9 "),
    ("libc_ver", ("glibc", "2.9"), "glibc 2.9"),
    ("libc_ver", ("", ""), f"{platform.machine()} "),
    ("python_version_tuple", ("3", "12", "1"), "here is             Python 3.12, "),
])
def test_another_kind_of_machine_is_told_and_nothing_else(
        carried, monkeypatch, what, here, said):
    path = carried[1] / SUMS
    head, _, rest = path.read_text().partition("\n")
    assert head == f"# Python 3.11, {platform.system()} {platform.machine()}"
    path.write_text(f"{head} glibc 2.10\n{rest}")
    assert check(carried[1])
    (carried[1] / WEIGHTS).unlink()                   # what matters less is not said as well
    monkeypatch.setattr(platform, what, lambda: here)
    with pytest.raises(ValueError) as error:
        check(carried[1])
    assert f"This bundle is for  {head[2:]} glibc 2.10 or later\n" in str(error.value)
    assert said in str(error.value).splitlines()[1] and WEIGHTS not in str(error.value)


def test_the_oldest_glibc_is_that_of_the_wheel_that_asks_for_most():
    assert bundle._glibc_of([
        "a-1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        "b-1-cp311-cp311-manylinux_2_26_x86_64.manylinux_2_9_x86_64.whl",
        "c-1-py3-none-any.whl"]) == ["glibc", "2.17"]


def test_a_second_call_takes_the_wheels_that_are_there(carried, empty_shelf):
    root, folder = carried
    torch = (folder / "wheels" / TORCH).read_bytes()
    lock = root / "requirements.lock"
    before = lock.read_text()
    lock.write_text(before.replace("six==1.0\n", ""))
    try:
        pack(folder, root, [])
    finally:
        lock.write_text(before)
    assert {path.name for path in (folder / "wheels").iterdir()} == {SETUPTOOLS, TORCH}
    assert (folder / "wheels" / TORCH).read_bytes() == torch
    assert not (folder / WEIGHTS).exists() and check(folder)
    assert beside(folder) == {folder.name, empty_shelf.name}


def test_a_torn_wheel_is_not_taken_again(carried):
    root, folder = carried
    (folder / "wheels" / TORCH).write_bytes(b"half")
    pack(folder, root, [WEIGHTS])
    assert content(folder) == content(root / "runs/bundle")


def test_where_pip_finds_no_wheel_the_earlier_bundle_stays_as_it_was(
        carried, empty_shelf, capfd):
    root, folder = carried
    (folder / "wheels" / TORCH).unlink()              # so that none of them is used again
    before = content(folder)
    with pytest.raises(ValueError, match="pip did not fetch every wheel"):
        pack(folder, root, [WEIGHTS])
    assert "No matching distribution found for" in capfd.readouterr().err
    assert content(folder) == before and beside(folder) == {folder.name, empty_shelf.name}


@pytest.mark.parametrize("name", ["my_pairs.csv", "data/my_pairs.csv"])
def test_what_is_no_bundles_is_never_replaced(carried, name):
    root, folder = carried
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("mine")
    before = content(folder)
    with pytest.raises(FileExistsError, match="holds files that would be lost"):
        pack(folder, root, [WEIGHTS])
    assert content(folder) == before
    with pytest.raises(FileExistsError, match="holds files that would be lost"):
        pack(root, root, [])
    assert (root / "runs/mine.txt").exists()


def test_a_downloaded_zip_gives_the_same_bundle_and_so_does_a_bundle(
        carried, tmp_path, monkeypatch):
    root, folder = carried
    unzipped = Path(shutil.copytree(root, tmp_path / "zip", ignore=shutil.ignore_patterns(
        ".git", "bundle")))
    leftover = tmp_path / ".other.x.partial"
    leftover.mkdir()                                  # of a call that was killed
    pack(tmp_path / "other", unzipped, [WEIGHTS])
    assert content(tmp_path / "other") == content(folder) and not leftover.exists()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PIP_FIND_LINKS", "wheels")    # as the Makefile has it
    pack(tmp_path / "third", folder, [WEIGHTS])
    assert content(tmp_path / "third") == content(folder)


def test_an_index_of_the_readers_own_is_asked_for_the_build_of_torch(
        packed, tmp_path, empty_shelf, shelf, monkeypatch):
    page = tmp_path / "index/torch/index.html"
    page.parent.mkdir(parents=True)
    make_wheel(page.parent, "torch-2.13.0+cu130-py3-none-any.whl")
    page.write_text('<a href="torch-2.13.0+cu130-py3-none-any.whl">torch</a>')
    for name in (SETUPTOOLS, OLDER):
        shutil.copy(shelf / name, empty_shelf)
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "none").as_uri())
    pack(tmp_path / "bundle", packed[0], [], extra_index=(tmp_path / "index").as_uri())
    assert "torch 2.13.0+cu130" in (tmp_path / "bundle/BUNDLE.txt").read_text()


def test_the_model_and_the_data_are_put_in_place_first_or_told(tmp_path, monkeypatch):
    root = make_repository(tmp_path / "repository")
    done = subprocess.run([sys.executable, "-m", "connection_utils", "bundle"], cwd=root,
                          capture_output=True, text=True)
    assert done.returncode == 1 and not (root / "runs/bundle").exists()
    assert done.stderr.startswith("The default model all-MiniLM-L6-v2 is not in place.")
    calls = []
    monkeypatch.setattr(assets, "fetch_assets", lambda *wanted: calls.append(wanted))
    monkeypatch.setattr(bundle, "pack", lambda *wanted: calls.append(wanted) or "here")
    bundle.main([str(tmp_path / "to"), "--extra-index-url", "file:///index"])
    assert calls[0] == (assets.MODEL, assets.DATA)
    assert calls[1] == (str(tmp_path / "to"), ROOT, [
        *(f"{assets.DEFAULT_MODEL}/{name}" for name in assets.MODEL.files),
        *(f"{assets.DEFAULT_DATA}/{name}" for name in assets.DATA.files)], "file:///index")


def test_make_checks_a_bundle_and_nothing_else(packed):
    said = [make("-n", "-W", "requirements.lock", "bundle", "TO=a stick", "EXTRA_INDEX=x",
                 cwd=folder).stdout for folder in packed]
    assert 'connection_utils bundle "a stick" --extra-index-url "x"' in said[0]
    assert ["bundle --check" in each for each in said] == [False, True]
