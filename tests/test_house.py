"""The module's folders: imports go down, the lesson stays small, and every door opens."""

import ast
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import nbformat
import pytest
from house import DOORS, LAYERS, climbing, files_of, folder_of, graph_of, lines_of_code

import connection_utils
from connection_utils.__main__ import COMMANDS, main
from connection_utils.ground.paths import PACKAGE, ROOT, find_root
from connection_utils.workshop import notebooks

PUBLIC = connection_utils._HOME
FOLDERS = set().union(*LAYERS)
# Lines of code. The limit is on sums: a limit on each file only makes more files.
LESSON, ALL = 850, 3938


def test_imports_go_down_the_layers_inside_functions_too():
    graph = graph_of(PACKAGE, PUBLIC)
    assert {folder_of(file) for file in graph} == FOLDERS
    assert climbing(graph) == []


def test_no_two_files_import_each_other_even_by_way_of_others():
    list(TopologicalSorter(graph_of(PACKAGE, PUBLIC)).static_order())    # raises if they do


@pytest.fixture
def planted(tmp_path):
    """A copy of the module with a line in a function at the end of one of its files."""
    def plant(file: str, line: str) -> Path:
        package = shutil.copytree(PACKAGE, tmp_path / "connection_utils")
        with open(package / file, "a") as changed:
            changed.write(f"\n\ndef planted():\n    {line}\n")
        return package
    return plant


@pytest.mark.parametrize(("file", "line", "expected"), [
    ("ground/paths.py", "from connection_utils import plots", "ground.paths imports plots"),
    ("ground/paths.py", "from connection_utils import train as t",
     "ground.paths imports training"),
    ("ground/paths.py", "import connection_utils.bert as b", "ground.paths imports bert"),
    ("speed/packing.py", "from connection_utils.long_runs import processes",
     "speed.packing imports long_runs.processes"),
    ("losses.py", "from connection_utils.use.runs import save_run", "losses imports use.runs")])
def test_the_guard_sees_an_import_that_goes_up(planted, file, line, expected):
    assert climbing(graph_of(planted(file, line), PUBLIC)) == [expected]


@pytest.mark.parametrize("line", [
    "from ..bert import ConnectionBert", "from . import use", "import connection_utils",
    "import connection_utils as c", "from connection_utils import *",
    "from connection_utils import __main__", "from connection_utils.__main__ import main",
    "import_module('connection_utils.use.runs')"])
def test_the_guard_refuses_an_import_that_hides_what_it_is(planted, line):
    with pytest.raises(AssertionError, match=r"^losses\.py (imports|has|names) "):
        graph_of(planted("losses.py", line), PUBLIC)


def test_the_guard_sees_a_circle(planted):
    package = planted("bert.py", "from connection_utils import spearman")
    with pytest.raises(CycleError):
        list(TopologicalSorter(graph_of(package, PUBLIC)).static_order())


def test_the_lesson_and_the_module_stay_small():
    sizes = {file: lines_of_code(path) for file, path in files_of(PACKAGE).items()}
    assert sum(size for file, size in sizes.items() if folder_of(file) == "lesson") <= LESSON
    assert sum(sizes.values()) <= ALL


def test_lines_of_code_are_those_with_code_on_them(tmp_path):
    (tmp_path / "a.py").write_text(
        '"""A text\nof two lines."""\n\nx = """one\ntwo"""   # three\n# a comment\n\n\n'
        'def f():\n    """A docstring."""\n    return (1,\n            2)\n')
    assert lines_of_code(tmp_path / "a.py") == 5


def test_the_map_fits_on_a_screen_and_names_every_folder_and_file_of_the_lesson():
    page = (PACKAGE / "README.md").read_text()
    order = re.findall(r"^\| `(\w+)\.py`", page, re.MULTILINE)
    assert set(order) == {file for file in files_of(PACKAGE)
                          if folder_of(file) == "lesson"} - DOORS
    assert set(re.findall(r"^\| \d \| `(\w+)/`", page, re.MULTILINE)) == FOLDERS - {"lesson"}
    assert len(page.splitlines()) <= 60
    graph = graph_of(PACKAGE, PUBLIC)                   # no file needs one that comes later
    for place, file in enumerate(order):
        assert not graph[file] & set(order[place:]), file


# Names

def test_every_public_name_leads_to_something_with_a_docstring():
    for name in connection_utils.__all__:
        what = getattr(connection_utils, name)
        assert what if isinstance(what, dict) else what.__doc__, name
        if isinstance(what, type):              # Python writes one for a dataclass without
            assert not what.__doc__.startswith(f"{name}("), name
    with pytest.raises(AttributeError, match="nonsense"):
        connection_utils.nonsense  # noqa: B018


def test_no_public_name_is_a_files_name_too():
    """Importing the file would put it in the name's place."""
    assert set(connection_utils.__all__) & {path.stem for path in PACKAGE.iterdir()} == {"plots"}
    assert {name for name, home in PUBLIC.items() if home == name} == {"plots"}   # on purpose


def test_notebooks_import_public_names_alone():
    for path in (ROOT / "notebooks").glob("**/*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            for place, names in re.findall(
                    r"^from connection_utils(\S*) import (\([^)]*\)|.*)$",
                    cell.source if cell.cell_type == "code" else "", re.MULTILINE):
                names = {name.split()[0] for name in names.strip("()").split(",")}
                assert not place and names <= {*connection_utils.__all__}, (path.name, names)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the module from a wheel, and nothing else of the repository."""
    wheels, place = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("installed")
    sources = tmp_path_factory.mktemp("sources")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    shutil.copytree(PACKAGE, sources / PACKAGE.name,
                    ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    for arguments in (["wheel", "--no-deps", "--no-build-isolation", "-w", wheels, sources],
                      ["install", "--no-deps", "--no-index", "--find-links", wheels, "--target",
                       place, "connection-utils"]):
        done = subprocess.run([*pip, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return place


ALL_NAMES = """
import connection_utils, os
for name in connection_utils.__all__:
    getattr(connection_utils, name)
from connection_utils.ground.paths import PACKAGE, ROOT, shown
from connection_utils.workshop.notebooks import made_from
print(PACKAGE, ROOT, connection_utils.runs_folder(), shown("data/stsb"), sep="|")
print(len(made_from("none", {"model_dir": "no-model", "data": "no-data"})))
"""


def test_a_wheel_outside_the_checkout_has_every_name_and_works_where_it_is_called(
        installed, tmp_path):
    environment = {name: value for name, value in os.environ.items()
                   if name != "CONNECTION_CHECK"} | {"PYTHONPATH": str(installed)}
    for folder, root in ((tmp_path, tmp_path), (ROOT / "notebooks", ROOT)):
        done = subprocess.run([sys.executable, "-P", "-c", ALL_NAMES], cwd=folder,
                              env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        paths, digits = done.stdout.splitlines()
        assert paths.split("|") == [str(installed / "connection_utils"), str(root),
                                    str(root / "runs"), "data/stsb" if root == tmp_path
                                    else str(folder / "data/stsb").removeprefix(f"{ROOT}/")]
        assert digits == "64"
    assert {path.name for path in installed.iterdir()} == {
        "connection_utils", next(installed.glob("*.dist-info")).name}


def test_the_repository_is_found_from_the_package_or_from_the_working_folder(tmp_path):
    package, here = tmp_path / "place" / "connection_utils", lambda: tmp_path
    (package.parent / "connection_utils-0.1.0.dist-info").mkdir(parents=True)
    assert find_root(package, lambda: ROOT / "notebooks" / "solutions") == ROOT
    assert find_root(package, here) == tmp_path
    (package.parent / "connection_utils-0.1.0.dist-info").rmdir()
    assert find_root(package, here) == package.parent         # a copy without pyproject.toml
    assert find_root(PACKAGE, lambda: 1 / 0) == ROOT          # a deleted working folder is fine


def test_editing_any_file_of_the_module_makes_executed_copies_stale(tmp_path, monkeypatch):
    package = shutil.copytree(PACKAGE, tmp_path / "connection_utils")
    monkeypatch.setattr(notebooks, "PACKAGE", package)
    made = partial(notebooks.made_from, "none", {"model_dir": "no-model", "data": "no-data"})
    seen = {made()}
    for file in ("losses.py", "pair_files/columns.py", "panels/knobs.py"):
        with open(package / file, "a") as changed:
            changed.write("# changed\n")
        seen.add(made())
    (package / "use" / "new.py").write_text("NEW = 1\n")
    seen.add(made())
    assert len(seen) == 5
    (package / ".ipynb_checkpoints").mkdir()                  # JupyterLab's, of a file opened
    (package / ".ipynb_checkpoints" / "bert-checkpoint.py").touch()
    assert made() in seen


# Commands

BARE = """
import sys
sys.path.insert(0, sys.argv[1])
from connection_utils.__main__ import COMMANDS, main
commands = [[name] for name in COMMANDS] + [["series", verb] for verb in (
    "fetch", "run", "sweep")]
for command in [[]] + commands:
    try:
        main([*command, "--help"])
    except SystemExit as left:
        assert left.code == 0
try:
    main(["bundle", "--check"])
except SystemExit as left:
    print("checked:", left.code)
"""


def test_help_and_the_check_of_a_bundle_run_on_bare_python(tmp_path):
    """The Makefile calls the check before anything is installed."""
    done = subprocess.run([sys.executable, "-I", "-S", "-c", BARE, str(ROOT)],
                          cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: python -m connection_utils") == 9
    assert "checked: " in done.stdout and "SHA256SUMS" in done.stdout
    for name, what in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(what)}$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_only_the_command_that_is_asked_for_is_imported(command):
    code = (f"import sys\nfrom connection_utils.__main__ import main\ntry:\n    "
            f"main(['{command}', '--help'])\nexcept SystemExit:\n    print(*sys.modules)")
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True,
                          text=True)
    modules = done.stdout.splitlines()[-1].split()
    assert [name for name in modules if name.startswith("connection_utils.commands.")] == [
        f"connection_utils.commands.{command}"]


def test_each_command_is_a_file_of_its_own():
    commands = {path.stem for path in (PACKAGE / "commands").glob("*.py")} - {"__init__"}
    assert commands == set(COMMANDS)


@pytest.mark.parametrize("arguments", [
    "finetune --recip fast", "finetune --dat x.csv", "finetune --learning 1e-5",
    "score a.csv b.csv --mod x", "doctor x --to-safe", "bundle --che", "series run --mod x",
    "series sweep epochs 1 --dat x"])
def test_an_abbreviated_option_is_refused(capsys, arguments):
    """It would be read as another option once there are two that begin so."""
    with pytest.raises(SystemExit) as left:
        main(arguments.split())
    assert left.value.code == 2
    assert "unrecognized arguments: --" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["finetun"], ["--model", "x"]])
def test_what_is_no_command_is_refused(capsys, arguments):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    said = capsys.readouterr().err
    assert left.value.code == 2 and "COMMAND" in said


def test_a_wrong_recipe_is_reported_by_the_command(capsys):
    with pytest.raises(SystemExit):
        main(["finetune", "--recipe", "grandma"])
    assert "python -m connection_utils finetune: error:" in capsys.readouterr().err


def test_nothing_is_defined_in_main():
    """Ray and worker processes pickle by module path, and __main__ is another one there."""
    tree = ast.parse((PACKAGE / "__main__.py").read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


def test_no_page_names_a_file_or_a_command_that_has_moved():
    known = {file.split(".")[0] for file in files_of(PACKAGE)} | {*connection_utils.__all__} | {
        "_HOME", "__all__"}
    pages = [*ROOT.glob("*.*"), ROOT / "Makefile", ROOT / ".ci/run",
             *(ROOT / "notebooks").glob("**/*.ipynb"),
             *(path for folder in ("benchmarks", "connection_utils", "data", "docs", "site",
                                   "tests", "transformers") for kind in ("md", "py")
               for path in (ROOT / folder).glob(f"**/*.{kind}"))]
    for page in pages:
        if page.is_file() and page != Path(__file__):
            text = page.read_text(encoding="utf-8")
            assert {*re.findall(r"\bconnection_utils\.(\w+)", text)} <= known, page
            for file in re.findall(r"\bconnection_utils/([\w/]+\.py)\b", text):
                assert (PACKAGE / file).is_file() or file == "nowhere.py", (page, file)
