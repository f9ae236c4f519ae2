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
NETWORK_OFF = ["unshare", "--map-root-user", "--net", "sh", "-c",
               'ip link set lo up; exec "$@"', "off"]


def make_wheel(shelf, filename):
    """A wheel that has nothing but its name and its version."""
    name, number = filename.split("-")[:2]
    with zipfile.ZipFile(shelf / filename, "w") as wheel:
        for file, text in {
                "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n",
                "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
                         "Tag: py3-none-any\n", "RECORD": ""}.items():
            wheel.writestr(f"{name}-{number}.dist-info/{file}", text)


@pytest.fixture(scope="module", autouse=True)
def shelf(tmp_path_factory):
    """All the wheels of the small lock, and the one place where pip looks."""
    folder = tmp_path_factory.mktemp("shelf")
    make_wheel(folder, TORCH)
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


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A small repository under git: weights and one file of the reader's are ignored."""
    root = tmp_path_factory.mktemp("clone") / "repository"
    shutil.copytree(ROOT / "connection_utils", root / "connection_utils",
                    ignore=shutil.ignore_patterns("__pycache__"))
    for name in COPIED:
        shutil.copy(ROOT / name, root)
    (root / "requirements.lock").write_text(
        f"setuptools=={version('setuptools')}\ntorch==2.13.0\n")
    for name in ("runs/mine.txt", WEIGHTS):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text(f"this is {name}")
    for arguments in (["init", "--quiet"], ["add", "."]):
        subprocess.run(["git", *arguments], cwd=root, check=True)
    return root


@pytest.fixture(scope="module")
def packed(root):
    """The repository's bundle, for tests that do not change it."""
    pack(root / "runs/bundle", root, [WEIGHTS])
    return root / "runs/bundle"


@pytest.fixture
def carried(packed, tmp_path):
    """The bundle in another place, with a space in its name."""
    return Path(shutil.copytree(packed, tmp_path / "over there"))


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}


def make(*arguments, cwd, before=()):
    bare = {"PATH": os.environ["PATH"], "HOME": str(cwd), "PIP_CONFIG_FILE": os.devnull}
    return subprocess.run([*before, "make", *arguments, f"PYTHON={sys.executable}"], cwd=cwd,
                          env=bare, capture_output=True, text=True)


def test_it_has_the_repository_its_wheels_and_what_is_added(root, packed):
    files = content(packed)
    assert COPIED | {"connection_utils/commands/bundle.py", "requirements.lock",
                     WEIGHTS} <= set(files)
    assert all(files[name] == (root / name).read_bytes() for name in files
               if not name.startswith(("wheels/", SUMS)))
    assert {name for name in files if name.startswith("wheels/")} == {
        f"wheels/{name}" for name in (SETUPTOOLS, TORCH)}
    assert not [name for name in files if name.startswith(("runs/", ".git/"))]
    assert check(packed) == len(files) - 1                        # all but the list itself
    machine = f"# Python 3.11, {platform.system()} {platform.machine()}\n"
    assert files[SUMS].decode().startswith(machine)
    done = subprocess.run(["sha256sum", "--check", "--strict", "--quiet", SUMS],
                          cwd=packed, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout + done.stderr == ""


@pytest.mark.slow
def test_it_installs_with_the_network_off(carried):
    tried = subprocess.run([*NETWORK_OFF, "ip", "route"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"nobody may take the network away here: {tried.stderr.strip()}")
    assert tried.stdout == ""
    files = len(content(carried)) - 1
    done = make(".venv/.installed", cwd=carried, before=NETWORK_OFF)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"bundle: {files} files, whole\n")
    code = ("from importlib.metadata import version as v; import connection_utils as c; "
            "print(v('torch'), v('setuptools'), c.__file__, sep='|')")
    said = subprocess.run([carried / ".venv/bin/python", "-I", "-c", code], cwd=carried.parent,
                          capture_output=True, text=True).stdout.strip().split("|")
    assert said == ["2.13.0+cpu", version("setuptools"),
                    str(carried / "connection_utils/__init__.py")]


def test_a_torn_copy_is_reported_by_name_before_anything_is_installed(carried):
    torn = [f"wheels/{SETUPTOOLS}", "connection_utils/workshop/assets.py"]
    gone = ["connection_utils/use/runs.py", WEIGHTS]
    for name in torn:                                    # in the middle of a word, too
        (carried / name).write_bytes((carried / name).read_bytes()[:3000])
    for name in gone:
        (carried / name).unlink()
    done = make("run", cwd=carried)
    assert done.returncode == 2 and not (carried / ".venv").exists()
    reported = [line.strip() for line in done.stderr.splitlines() if line.startswith("  ")]
    assert reported == sorted(torn + gone) and "Copy them again" in done.stderr


@pytest.mark.parametrize("cut", [None, 0, 300])
def test_a_torn_list_of_hashes_is_reported(carried, cut):
    path = carried / SUMS
    if cut is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:cut])
    done = make("run", cwd=carried)
    assert done.returncode == 2 and not (carried / ".venv").exists()
    assert "SHA256SUMS is missing or not whole" in done.stderr


def test_another_kind_of_machine_is_named_first(carried, monkeypatch):
    (carried / WEIGHTS).unlink()
    monkeypatch.setattr(bundle, "MACHINE", "Python 3.12, Plan9 riscv64")
    with pytest.raises(ValueError, match="for Python 3.11, .* has Python 3.12, Plan9 riscv64"):
        check(carried)


def test_blank_lines_in_the_list_of_hashes_do_not_matter(carried):
    text = (carried / SUMS).read_text()
    (carried / SUMS).write_text(text.replace("\n", "\n\n"))
    assert check(carried) == len(content(carried)) - 1


def test_the_bundle_that_is_named_is_the_one_that_is_checked(carried, monkeypatch, capsys):
    monkeypatch.setattr(bundle, "ROOT", carried.parent / "elsewhere")
    bundle.main([str(carried), "--check"])
    assert capsys.readouterr().out == f"bundle: {len(content(carried)) - 1} files, whole\n"
    (carried / WEIGHTS).unlink()
    with pytest.raises(SystemExit, match=WEIGHTS):
        bundle.main([str(carried), "--check"])
    with pytest.raises(SystemExit, match="elsewhere.*SHA256SUMS is missing or not whole"):
        bundle.main(["--check"])


def test_what_a_killed_call_left_is_cleared(root, tmp_path):
    (tmp_path / ".to.0a1b.partial/wheels").mkdir(parents=True)
    (tmp_path / ".other.0a1b.partial").mkdir()
    pack(tmp_path / "to", root, [])
    assert {path.name for path in tmp_path.iterdir()} == {"to", ".other.0a1b.partial"}


@pytest.mark.parametrize("why", ["no wheel", "no clone", "in another clone", "nothing added",
                                 "not empty"])
def test_what_cannot_be_packed_leaves_everything_as_it_was(root, tmp_path, monkeypatch, capfd,
                                                           why):
    if why == "no wheel":
        monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
        error, said = ValueError, "No matching distribution found for"
    elif why != "not empty":
        root = shutil.copytree(root, tmp_path / "zip", ignore=shutil.ignore_patterns(".git"))
        error, said = ValueError, "not a git repository" if why == "no clone" else "git add"
        if why != "no clone":
            subprocess.run(["git", "init", "--quiet"], check=True,
                           cwd=root if why == "nothing added" else tmp_path)
    else:
        (tmp_path / "to").mkdir()
        (tmp_path / "to/my_pairs.csv").touch()
        error, said = FileExistsError, "my_pairs.csv"
    before = content(tmp_path)
    with pytest.raises(error) as raised:
        pack(tmp_path / "to", root, [WEIGHTS])
    assert said in f"{raised.value}{capfd.readouterr().err}"
    assert content(tmp_path) == before and (why == "not empty") == (tmp_path / "to").exists()


def test_an_index_of_the_readers_own_is_asked_for_the_build_of_torch(
        root, tmp_path, shelf, monkeypatch):
    page = tmp_path / "index/torch/index.html"
    page.parent.mkdir(parents=True)
    make_wheel(page.parent, "torch-2.13.0+cu130-py3-none-any.whl")
    page.write_text('<a href="torch-2.13.0+cu130-py3-none-any.whl">torch</a>')
    shutil.copy(shelf / SETUPTOOLS, tmp_path)
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "none").as_uri())
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    pack(tmp_path / "bundle", root, [], extra_index=(tmp_path / "index").as_uri())
    assert (tmp_path / "bundle/wheels/torch-2.13.0+cu130-py3-none-any.whl").exists()


def test_the_model_and_the_data_are_put_in_place_first_or_asked_for(root, tmp_path,
                                                                    monkeypatch):
    done = subprocess.run([sys.executable, "-m", "connection_utils", "bundle", "to"], cwd=root,
                          capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ""})
    assert done.returncode == 1 and not (root / "to").exists()
    assert done.stderr.startswith("The default model all-MiniLM-L6-v2 is not in place")
    calls = []
    monkeypatch.setattr(assets, "fetch_assets", lambda *wanted: calls.append(wanted))
    monkeypatch.setattr(bundle, "pack", lambda *wanted: calls.append(wanted))
    bundle.main([str(tmp_path / "to"), "--extra-index-url", "file:///index"])
    assert calls[0] == (assets.MODEL, assets.DATA)
    assert calls[1] == (tmp_path / "to", ROOT, [
        *(f"{assets.DEFAULT_MODEL}/{name}" for name in assets.MODEL.files),
        *(f"{assets.DEFAULT_DATA}/{name}" for name in assets.DATA.files)], "file:///index")


def test_make_checks_a_bundle_and_nothing_else(root, packed):
    said = [make("-n", "-W", "requirements.lock", "bundle", "TO=a stick", "EXTRA_INDEX=x",
                 cwd=folder).stdout for folder in (root, packed)]
    assert 'connection_utils bundle "a stick" --extra-index-url "x"' in said[0]
    assert ["bundle --check" in each for each in said] == [False, True]
