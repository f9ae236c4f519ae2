"""The house: which file imports which, what stands on which floor, and how large each room is."""

import ast
import io
import tokenize
from pathlib import Path

PACKAGE = "connection_utils"
# A room imports only rooms below its own floor. The files at the root, the lesson, are one room.
FLOORS = [{"ground"}, {"model_folder", "pair_files", "long_runs", "speed", "workshop"},
          {"lesson"}, {"use"}, {"panels"}, {"commands"}]
EXEMPT = {"__init__", "__main__"}         # lead to every room


def files_of(package: Path) -> dict[str, Path]:
    """Each file's dotted name, as ``bert`` or ``pair_files.reading``; a room's own is its name."""
    return {".".join(path.relative_to(package).with_suffix("").parts).removesuffix(".__init__"):
            path for path in sorted(package.rglob("*.py"))}


def room_of(file: str) -> str:
    """The folder that a file is in; "lesson" at the root."""
    return file.split(".")[0] if "." in file or file in set().union(*FLOORS) else "lesson"


def imports_of(path: Path, files: dict[str, Path], public: dict[str, str]) -> set[str]:
    """The files that the one at `path` imports, inside functions too.

    A name imported from the package itself counts as the file that it comes from.
    """
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{each.name}" for each in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] != PACKAGE:
                continue
            name = name.removeprefix(PACKAGE).removeprefix(".")
            name = public.get(name, name)
            found.add(name if name in files else name.rpartition(".")[0])
    return found


def graph_of(package: Path, public: dict[str, str]) -> dict[str, set[str]]:
    """For each file the files that it imports; the package's own two doors are left out."""
    files = files_of(package)
    return {file: imports_of(path, files, public) for file, path in files.items()
            if file not in EXEMPT}


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
