"""The module's folders: which file imports which, in which layer it is, and how large it is."""

import ast
import io
import re
import tokenize
from pathlib import Path

PACKAGE = "connection_utils"
# A file imports from its own folder and from lower layers. The root, the lesson, is one folder.
LAYERS = [{"ground"}, {"model_folder", "pair_files", "long_runs", "speed", "workshop"},
          {"lesson"}, {"use"}, {"panels"}, {"commands"}]
DOORS = {"__init__", "__main__"}         # lead everywhere


def files_of(package: Path) -> dict[str, Path]:
    """Each file by its dotted name, as ``bert`` or ``pair_files.reading``.

    A folder's own file has the folder's name.
    """
    return {".".join(path.relative_to(package).with_suffix("").parts).removesuffix(".__init__"):
            path for path in sorted(package.rglob("*.py"))
            if ".ipynb_checkpoints" not in path.parts}


def folder_of(file: str) -> str:
    """The folder that a file is in; "lesson" at the root."""
    return file.split(".")[0] if "." in file or file in set().union(*LAYERS) else "lesson"


def imports_of(path: Path, files: dict[str, Path], public: dict[str, str]) -> set[str]:
    """The files that the one at `path` imports, inside functions too.

    A name imported from the package itself counts as the file that it comes from. AssertionError
    for an import that hides what it is: relative, of the whole package, or by a string.
    """
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
            assert PACKAGE not in names, f"{path.name} imports the whole package"
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name} has a relative import"
            names = [f"{node.module}.{each.name}" for each in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not re.fullmatch(rf"{PACKAGE}(\.\w+)+", node.value), (
                f"{path.name} names {node.value} in a string")
        for name in names:
            if name.split(".")[0] != PACKAGE:
                continue
            name = name.removeprefix(f"{PACKAGE}.")
            assert name != "*" and name.split(".")[0] not in DOORS, f"{path.name} imports {name}"
            name = public.get(name, name)
            found.add(name if name in files else name.rpartition(".")[0])
    return found


def graph_of(package: Path, public: dict[str, str]) -> dict[str, set[str]]:
    """For each file the files that it imports; the package's two doors are left out."""
    files = files_of(package)
    return {file: imports_of(path, files, public) for file, path in files.items()
            if file not in DOORS}


def climbing(graph: dict[str, set[str]]) -> list[str]:
    """The imports that do not go down: up, or across to another folder of the same layer."""
    layer = {folder: number for number, folders in enumerate(LAYERS) for folder in folders}
    return [f"{file} imports {other}" for file, others in graph.items() for other in others
            if folder_of(other) != folder_of(file)
            and layer[folder_of(other)] >= layer[folder_of(file)]]


def lines_of_code(path: Path) -> int:
    """Lines with code on them: no docstrings, no comments, no blank lines."""
    text = path.read_text()
    without = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT,
               tokenize.DEDENT, tokenize.ENDMARKER}
    lines = {line for token in tokenize.generate_tokens(io.StringIO(text).readline)
             if token.type not in without for line in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
                node, clean=False) is not None:
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)
