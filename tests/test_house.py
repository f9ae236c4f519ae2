"""The module's rooms: imports go down, the lesson stays small, and every door opens."""

import ast
import os
import re
import shutil
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter

import nbformat
import pytest
from house import EXEMPT, FLOORS, files_of, graph_of, lines_of_code, room_of

import connection_utils
from connection_utils.__main__ import COMMANDS, main
from connection_utils.ground.paths import PACKAGE, ROOT, find_root
from connection_utils.workshop import notebooks

PUBLIC = connection_utils._HOME
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# Lines of code. The limit is on sums: one on each file only makes more files.
LESSON, ALL = 850, 5100


def climbing(graph: dict[str, set[str]]) -> list[str]:
    """The imports that do not go down: up, or across to another room of the same floor."""
    return [f"{file} imports {other}" for file, others in graph.items() for other in others
            if room_of(other) != room_of(file) and FLOOR[room_of(other)] >= FLOOR[room_of(file)]]


def test_imports_go_down_the_floors_inside_functions_too():
    graph = graph_of(PACKAGE, PUBLIC)
    assert {room_of(file) for file in graph} == set(FLOOR)
    assert climbing(graph) == []


def test_no_two_files_import_each_other_even_by_way_of_others():
    list(TopologicalSorter(graph_of(PACKAGE, PUBLIC)).static_order())    # raises if they do


@pytest.mark.parametrize(("file", "line", "expected"), [
    ("ground/paths.py", "from connection_utils import plots", "ground.paths imports plots"),
    ("ground/paths.py", "from connection_utils import train", "ground.paths imports training"),
    ("ground/paths.py", "import connection_utils.bert", "ground.paths imports bert"),
    ("speed/packing.py", "from connection_utils.long_runs import processes",
     "speed.packing imports long_runs.processes"),
    ("losses.py", "from connection_utils.use.runs import save_run", "losses imports use.runs")])
def test_the_guard_sees_an_import_in_a_function(tmp_path, file, line, expected):
    package = shutil.copytree(PACKAGE, tmp_path / "connection_utils")
    with open(package / file, "a") as changed:
        changed.write(f"\n\ndef climb():\n    {line}\n")
    assert climbing(graph_of(package, PUBLIC)) == [expected]


def test_the_guard_sees_a_circle(tmp_path):
    package = shutil.copytree(PACKAGE, tmp_path / "connection_utils")
    with open(package / "bert.py", "a") as changed:
        changed.write("\n\ndef circle():\n    from connection_utils import spearman\n")
    with pytest.raises(CycleError):
        list(TopologicalSorter(graph_of(package, PUBLIC)).static_order())


def test_the_lesson_and_the_module_stay_small():
    sizes = {file: lines_of_code(path) for file, path in files_of(PACKAGE).items()}
    assert sum(size for file, size in sizes.items()
               if room_of(file) == "lesson" and file not in EXEMPT) <= LESSON
    assert sum(sizes.values()) <= ALL


def test_lines_of_code_are_those_with_code_on_them(tmp_path):
    (tmp_path / "a.py").write_text(
        '"""A text\nof two lines."""\n\nx = """one\ntwo"""   # three\n# a comment\n\n\n'
        'def f():\n    """A docstring."""\n    return (1,\n            2)\n')
    assert lines_of_code(tmp_path / "a.py") == 5


def test_the_map_names_every_room_and_every_file_of_the_lesson():
    page = (PACKAGE / "README.md").read_text()
    lesson = {file for file in files_of(PACKAGE) if room_of(file) == "lesson" and file
              and file not in EXEMPT}
    assert set(re.findall(r"`(\w+)/`", page)) == set(FLOOR) - {"lesson"}
    assert set(re.findall(r"`(\w+)\.py`", page)) == {"__init__"} | lesson


# Names

def test_every_public_name_leads_to_something_with_a_docstring():
    for name in connection_utils.__all__:
        assert getattr(connection_utils, name).__doc__, name
    with pytest.raises(AttributeError, match="nonsense"):
        connection_utils.nonsense  # noqa: B018


def test_no_public_name_is_a_files_name_too():
    """Importing the file would put it in the name's place."""
    assert set(connection_utils.__all__) & {path.stem for path in PACKAGE.iterdir()} == {"plots"}
    whole = {name for name, home in PUBLIC.items() if home.split(".")[-1] == name}
    assert whole == {"plots", "processes"}                  # these two are files on purpose


def test_notebooks_import_from_the_package_alone():
    for path in (ROOT / "notebooks").glob("**/*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":
                assert not re.search(r"(from|import) connection_utils\.", cell.source), path.name


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
from connection_utils.workshop.notebooks import fingerprint_of
print(PACKAGE, ROOT, connection_utils.runs_folder(), shown("data/stsb"), sep="|")
print(len(fingerprint_of("no-model", "no-data")))
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
    elsewhere = tmp_path / "site-packages" / "connection_utils"
    assert find_root(PACKAGE, tmp_path) == ROOT
    assert find_root(elsewhere, ROOT / "notebooks" / "solutions") == ROOT
    assert find_root(elsewhere, tmp_path) == tmp_path


def test_editing_any_file_of_the_module_makes_executed_copies_stale(tmp_path, monkeypatch):
    package = shutil.copytree(PACKAGE, tmp_path / "connection_utils")
    monkeypatch.setattr(notebooks, "PACKAGE", package)
    seen = {notebooks.fingerprint_of("no-model", "no-data")}
    for file in ("losses.py", "pair_files/columns.py", "panels/knobs.py"):
        with open(package / file, "a") as changed:
            changed.write("# changed\n")
        seen.add(notebooks.fingerprint_of("no-model", "no-data"))
    (package / "use" / "new.py").write_text("NEW = 1\n")
    assert len(seen | {notebooks.fingerprint_of("no-model", "no-data")}) == 5


# Commands

BARE = """
import sys
sys.path.insert(0, sys.argv[1])
from connection_utils.__main__ import COMMANDS, main
commands = [[name] for name in COMMANDS] + [["series", verb] for verb in (
    "fetch", "run", "sweep", "execute")]
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
    assert done.stdout.count("usage: python -m connection_utils") == 10
    assert "checked: " in done.stdout and "SHA256SUMS" in done.stdout
    for name, what in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(what)}$", done.stdout, re.MULTILINE)


def test_each_command_is_a_file_of_its_own():
    commands = {path.stem for path in (PACKAGE / "commands").glob("*.py")} - {"__init__"}
    assert commands == set(COMMANDS)


@pytest.mark.parametrize("arguments", [
    "finetune --recip fast", "finetune --dat x.csv", "finetune --learning 1e-5",
    "score a.csv b.csv --mod x", "doctor x --to-safe", "bundle --che", "series run --mod x",
    "series sweep epochs 1 --dat x", "series execute --onl 03"])
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


def test_the_module_is_started_by_one_name():
    """Ray and worker processes pickle by module path, so nothing is defined in __main__."""
    tree = ast.parse((PACKAGE / "__main__.py").read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    for name in COMMANDS:
        done = subprocess.run([sys.executable, "-m", f"connection_utils.commands.{name}"],
                              cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout + done.stderr == "", name
    pages = [*ROOT.glob("*.md"), ROOT / "Makefile", *ROOT.glob("[dnbtcs]*/**/*.md"),
             *ROOT.glob("notebooks/**/*.ipynb"), *ROOT.glob("[bct]*/**/*.py")]
    for page in pages:
        assert not re.search(rf"connection_utils\.({'|'.join(COMMANDS)})\b",
                             page.read_text(encoding="utf-8")), page.name
