"""The set-up's files agree with each other: one lock, one list of what is needed."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import metadata, version

import nbformat
import pytest
import yaml
from cases import slow
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from connection_utils.commands import doctor, score
from connection_utils.ground.paths import ROOT
from connection_utils.workshop.assets import DEFAULT_MODEL

NO_OTHER_PLUGIN = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # of a pytest in a test
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = {canonicalize_name(name): pinned for name, pinned in (
    line.split("==") for line in (ROOT / "requirements.lock").read_text().split())}


def test_the_lock_pins_everything_exactly_and_without_a_local_suffix():
    assert LOCK["torch"] == "2.13.0"
    assert LOCK["transformers"].startswith("5.")
    assert not [pinned for pinned in LOCK.values() if "+" in pinned or "*" in pinned]


def test_the_lock_satisfies_every_direct_dependency():
    direct = PROJECT["dependencies"] + sum(PROJECT["optional-dependencies"].values(), [])
    for requirement in map(Requirement, direct):
        pinned = LOCK[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pinned), requirement


def test_what_is_installed_is_what_the_lock_says():
    for name, pinned in LOCK.items():
        assert version(name).split("+")[0] == pinned, name


def test_the_lock_is_complete():
    """Nothing that an installed package needs is missing from it, or of another version."""
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stdout


def test_every_python_that_we_promise_can_install_the_lock():
    """A package may ask for a later 3.11 than a distribution has: Debian 12's is 3.11.2."""
    oldest = PROJECT["requires-python"].removeprefix(">=") + ".0"
    for name in LOCK:
        asked = metadata(name).get("Requires-Python") or ""
        assert SpecifierSet(asked).contains(oldest), f"{name} asks for {asked}"


def test_conda_takes_the_same_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert pip == {"pip": ["-r requirements.lock", "-e ."]}
    python = next(entry for entry in conda if entry.startswith("python="))
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(
        python.removeprefix("python="))
    assert {entry.split("=")[0] for entry in conda} == {"python", "pip"}


def test_every_import_of_the_module_is_a_direct_dependency():
    given = {"sklearn": "scikit-learn"}
    direct = {canonicalize_name(Requirement(line).name)
              for line in PROJECT["dependencies"]}
    for path in (ROOT / "connection_utils").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))     # code, not what a text shows
        imported = {name.split(".")[0] for node in nodes for name in (
            [each.name for each in node.names] if isinstance(node, ast.Import) else
            [node.module] if isinstance(node, ast.ImportFrom) else [])}
        for name in imported - {"connection_utils"} - sys.stdlib_module_names:
            assert canonicalize_name(given.get(name, name)) in direct, f"{path.name}: {name}"


def test_the_model_folder_never_shadows_the_library():
    assert not list((ROOT / "transformers").glob("**/*.py"))


def test_make_passes_the_readers_choices_on():
    said = subprocess.run(
        ["make", "-n", "-W", "requirements.lock", "run", "MODEL=my model", "DATA=my pairs.csv",
         "READ=--columns 'sentence1=my column' --scale 0 4", "EPOCHS=3",
         "EXTRA_INDEX=file:///wheels"], cwd=ROOT, capture_output=True, text=True).stdout
    assert ('series run --model "my model" --data "my pairs.csv" '
            "--columns 'sentence1=my column' --scale 0 4 --epochs 3") in said
    assert 'install --extra-index-url "file:///wheels" -r requirements.lock' in said


@pytest.mark.parametrize("installed", [True, False])
def test_make_builds_the_pages_with_what_is_there_or_with_little(tmp_path, installed):
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    if installed:
        (tmp_path / ".venv").mkdir()
        (tmp_path / ".venv/.installed").touch()
    said = subprocess.run(["make", "-n", "site"], cwd=tmp_path, capture_output=True,
                          text=True).stdout
    assert f"{'.venv' if installed else '.venv-site'}/bin/python site/build.py" in said
    assert ("requirements.lock sphinx myst-nb" in " ".join(said.replace("\\", "").split())
            ) == (not installed)
    assert "-r requirements.lock" not in said


@pytest.mark.parametrize("target", ["site", "run"])
def test_make_says_what_to_do_if_pip_can_get_nothing(tmp_path, target):
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "requirements.lock").write_text("sphinx==9.0.4\n")
    done = subprocess.run(["make", target, f"PYTHON={sys.executable}"], cwd=tmp_path,
                          capture_output=True, text=True,
                          env=os.environ | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""})
    assert done.returncode
    assert "docs/install.md says what to set" in done.stdout
    assert "PIP_CERT" in (ROOT / "docs" / "install.md").read_text()
    assert not [*tmp_path.glob(".venv*/.installed")]


def test_ci_calls_the_readmes_test_command():
    assert (ROOT / ".ci/run").read_text().splitlines()[-1] == "exec make test"
    assert "\nmake test " in (ROOT / "README.md").read_text()


def test_two_workers_keep_each_file_and_what_follows_notebook_03_together(tmp_path):
    """In order, and first: a fixture is made once, and 04 finds the model of 03."""
    shutil.copy(ROOT / "conftest.py", tmp_path)
    test = "import os\n" + "\n".join(
        f"def test_{i}(worker_id): open('log', 'a').write(f'{{worker_id}} {{__name__}} {i}\\n')"
        for i in range(6))
    for name in ("test_a", "test_b", "03_train_siamese_cosine", "08_search_and_match"):
        (tmp_path / f"{name}.py").write_text(test)
    outside = {name: value for name, value in os.environ.items()
               if not name.startswith("PYTEST_")}            # not the worker that runs this
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "xdist.plugin", "-q", "-n", "2", "--dist",
         "loadscope", "--no-loadscope-reorder", "-p", "no:cacheprovider", "-o",
         "python_files=*.py", "."], cwd=tmp_path, text=True, capture_output=True,
        env=outside | NO_OTHER_PLUGIN)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    workers = {name: {worker for worker, file, _ in seen if file == name}
               for name in dict.fromkeys(file for _, file, _ in seen)}
    assert len(workers) == 4 and all(len(each) == 1 for each in workers.values())
    assert workers["03_train_siamese_cosine"] == workers["08_search_and_match"]
    (one,) = workers["03_train_siamese_cosine"]
    order = [(file, number) for worker, file, number in seen if worker == one]
    assert order[:12] == [(file, str(i)) for file in (
        "03_train_siamese_cosine", "08_search_and_match") for i in range(6)]


@pytest.mark.parametrize(("deaths", "passed"), [(2, True), (3, False)])
def test_a_kernel_that_dies_as_it_starts_is_started_again(tmp_path, deaths, passed):
    shutil.copy(ROOT / "conftest.py", tmp_path)
    (tmp_path / "deadly.py").write_text(
        f"from nbval import kernel\nstart, left = kernel.start_new_kernel, [1] * {deaths}\n"
        "def dies(*args, **settings):\n"
        "    if left:\n"
        "        left.pop()\n"
        "        raise RuntimeError('Kernel died before replying to kernel_info')\n"
        "    return start(*args, **settings)\n"
        "kernel.start_new_kernel = dies\n")
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1")]),
                   tmp_path / "a.ipynb")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "nbval.plugin", "-p", "deadly",
         "--nbval", "-q", "-p", "no:cacheprovider", "a.ipynb"], cwd=tmp_path, text=True,
        capture_output=True, env=os.environ | {"PYTHONPATH": str(tmp_path)} | NO_OTHER_PLUGIN)
    assert (done.returncode == 0) == passed, done.stdout + done.stderr


@pytest.mark.parametrize(("thorough", "expected"), [
    ("quick", 1), slow("full", 2)])
def test_a_cell_tagged_slow_waits_for_a_full_check(tmp_path, thorough, expected):
    shutil.copy(ROOT / "conftest.py", tmp_path)
    cells = [nbformat.v4.new_code_cell("1", metadata={"tags": tags}) for tags in ([], ["slow"])]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "nbval.plugin", "--nbval", "--collect-only",
         "-q", "-p", "no:cacheprovider", "a.ipynb"], cwd=tmp_path, text=True,
        capture_output=True, env=os.environ | {"CONNECTION_CHECK": thorough} | NO_OTHER_PLUGIN)
    assert found.stdout.count("a.ipynb::Cell") == expected, found.stdout + found.stderr


def test_jupyterlab_calls_nothing_home():
    overrides = json.loads(
        (ROOT / ".jupyter/labconfig/default_setting_overrides.json").read_text())
    assert overrides["@jupyterlab/apputils-extension:notification"] == {
        "fetchNews": "false", "checkForUpdates": False}
    said = subprocess.run(["make", "-n", "lab"], cwd=ROOT, capture_output=True, text=True)
    assert "JUPYTER_CONFIG_PATH=.jupyter " in said.stdout


def test_make_help_lists_every_command_that_the_readme_names():
    said = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True).stdout
    named = re.findall(r"(?:^|`)make ([\w-]+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert {"run", "lab", "test", "site"} <= set(named)
    for command in named:
        assert re.search(rf"^  {command}\b", said, re.MULTILINE), command


NAMES = ("python3.11", "python3.12", "python3.13", "python3", "python")


@pytest.mark.parametrize(("fits", "taken"), [
    (NAMES, "python3.11"), (("python3.13", "python3"), "python3.13"), (("python",), "python"),
    ((), None)])
def test_make_takes_the_first_python_that_fits_and_says_which(tmp_path, fits, taken):
    """Not one that does not start, as pyenv's other names, or that has no venv."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "bin").mkdir()
    for name in NAMES:
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\nexit {int(name not in fits)}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    ours = {name: value for name, value in os.environ.items()     # not those of `make test`
            if not name.startswith("MAKE") and name != "PYTHON"}
    done = subprocess.run(["make", "-n", "fetch"], cwd=tmp_path, capture_output=True, text=True,
                          env={**ours, "PATH": path})
    if taken is None:
        assert done.returncode and "3.11, 3.12 or 3.13" in done.stderr
        assert "venv" not in done.stdout
    else:
        assert re.search(rf"^{taken} -m venv \.venv$", done.stdout, re.MULTILINE), done
        assert f"({taken}): 2.6 GB" in done.stdout


def test_the_commands_page_shows_what_the_commands_print(tmp_path, capsys):
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    score.main([f"{ROOT / 'data/samples/helpdesk.csv'}", f"{tmp_path / 'scored.csv'}",
                "--device", "cpu", "--model", f"{ROOT / DEFAULT_MODEL}",
                "--columns", "sentence1=question", "sentence2=known_issue"])
    scored = capsys.readouterr().out.replace(f"{tmp_path}", "runs")
    assert scored.count("\n") == 3 and f"\n{scored}```" in page
    with pytest.raises(SystemExit, match="^0$"):
        doctor.main([f"{ROOT / DEFAULT_MODEL}"])
    facts = capsys.readouterr().out.rstrip().split("\n\n")[-1]
    assert "verdict" in facts and f"\n{facts}\n```" in page
