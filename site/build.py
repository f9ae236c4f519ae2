"""Build the series as pages that need no network: `make site` puts them into runs/site/.

    python site/build.py [FOLDER]

The committed outputs are shown; nothing is executed. The pages take their place when all of
them are made: if a link leads nowhere, or anything else is wrong, the earlier ones stay.
"""

import argparse
import ast
import itertools
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import connection_utils
from connection_utils.ground.paths import PACKAGE, ROOT, shown
from connection_utils.ground.whole_files import clear_leftovers, write_folder_whole

HERE = Path(__file__).resolve().parent
SHOWN = ("README*.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*", "transformers/README.md",
         "data/README.md", "data/samples/*", "notebooks/*.ipynb", "notebooks/*.png",
         "notebooks/ko/*.ipynb", "notebooks/solutions/*.ipynb",
         "benchmarks/README.md", "benchmarks/*.png", "benchmarks/results/*",
         "connection_utils/README.md")
UNUSED = ("**/*.map", "_static/locales/**/*.*", "_static/*.html")   # the theme's
MARK = ".site"                   # stands in what this script made, so that it may be replaced


def collect(sources: Path, root: Path = ROOT) -> None:
    """Copy what the site shows from the repository `root`, each file to its own place.

    The module is shown by its public names, on a page of their own.
    """
    for pattern in SHOWN:
        for path in root.glob(pattern):
            place = sources / path.relative_to(root)
            place.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix in (".md", ".ipynb"):
                place.write_text(_without_sources(path), encoding="utf-8")
            else:
                shutil.copyfile(path, place)
    if (solutions := sources / "notebooks" / "solutions").is_dir():
        shutil.copyfile(HERE / "solutions.md", solutions / "README.md")
    if (module := sources / "connection_utils").is_dir():
        (module / "names.md").write_text(names_page(), encoding="utf-8")


def _without_sources(page: Path) -> str:
    """The page's text; a link to a file of the module leads to the module's page instead."""
    return re.sub(r"\]\(([\w./-]*connection_utils/)([\w/]+\.py)\)", lambda link: (
        f"]({link[1]}README.md)" if (page.parent / link[1] / link[2]).is_file() else link[0]),
        page.read_text(encoding="utf-8"))


def names_page() -> str:
    """Markdown that lists each public name with its signature and its docstring, by folder.

    It is made from the source, and imports none of it: pages can be built without PyTorch.
    """
    page = ["# The public names", "All are imported from `connection_utils` itself."]
    folders = itertools.groupby(connection_utils._HOME.items(),
                                key=lambda known: known[1].rpartition(".")[0])
    for folder, known in folders:
        page += [f"## `{folder}/`" if folder else "## The lesson"]
        for name, file in known:
            lines = "\n".join(_described(name, PACKAGE / f"{file.replace('.', '/')}.py"))
            page += [f"### `{name}`", f"```{{eval-rst}}\n{lines}\n```"]
    return "\n\n".join(page) + "\n"


def _described(name: str, file: Path) -> Iterator[str]:
    """reStructuredText lines about one public name that is defined in `file`."""
    source = ast.parse(file.read_text(encoding="utf-8"))
    yield ".. py:currentmodule:: connection_utils"
    if name == file.stem:                                # all functions of the file
        yield from ("", ast.get_docstring(source), "")
        for node in source.body:
            if isinstance(node, ast.FunctionDef) and node.name not in connection_utils.__all__:
                yield from _entry("function", node, f"{name}.{_call(node)}")
    for node in source.body:
        match node:
            case ast.FunctionDef(name=known) if known == name:
                yield from _entry("function", node, _call(node))
            case ast.ClassDef(name=known) if known == name:
                yield from _entry("class", node, _made_by(node))
                for each in node.body:
                    if isinstance(each, ast.FunctionDef):
                        yield from _method(each)
            case (ast.Assign(targets=[ast.Name(id=known)], value=ast.Dict(keys=keys))
                  | ast.AnnAssign(target=ast.Name(id=known), value=ast.Dict(keys=keys))
                  ) if known == name:
                known = ", ".join(f"``{ast.unparse(key)}``" for key in keys)
                yield from ("", f"A dictionary: {known}.")


def _entry(kind: str, node: ast.FunctionDef | ast.ClassDef, signature: str, *options: str,
           margin: str = "") -> Iterator[str]:
    """A directive for a name with a docstring; nothing for a private one or without any."""
    if (said := ast.get_docstring(node)) and not node.name.startswith("_"):
        lines = [f".. py:{kind}:: {signature}", *(f"   :{each}:" for each in options), "",
                 textwrap.indent(said, "   ")]
        yield from ("", textwrap.indent("\n".join(lines), margin), "")


def _method(node: ast.FunctionDef) -> Iterator[str]:
    marks = {ast.unparse(each) for each in node.decorator_list}
    if "property" in marks:
        return _entry("property", node, node.name, margin="   ")
    return _entry("method", node, _call(node, bound="staticmethod" not in marks),
                  *marks & {"classmethod", "staticmethod"}, margin="   ")


def _call(node: ast.FunctionDef, bound: bool = False) -> str:
    """``name(a: int, b: str = 'c') -> float``; without self if it is `bound`."""
    given = ast.unparse(node.args)
    given = given.partition(", ")[2] if bound else given
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{node.name}({given}){returns}"


def _made_by(node: ast.ClassDef) -> str:
    """What an object is made from: the arguments of __init__, or the fields of a dataclass."""
    for each in node.body:
        if isinstance(each, ast.FunctionDef) and each.name == "__init__":
            each.name, each.returns = node.name, None
            return _call(each, bound=True)
    fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
    return f"{node.name}({', '.join(ast.unparse(each.target) for each in fields)})"


def build(folder: Path, root: Path = ROOT) -> None:
    """Make the site of the repository `root` in `folder`, whole or not at all.

    Raises FileExistsError if `folder` holds something else, RuntimeError if Sphinx warns.
    """
    clear_leftovers(folder)
    ours = {path.name for path in folder.glob("*")} if (folder / MARK).is_file() else set()
    with (tempfile.TemporaryDirectory(prefix="site-") as scratch,
          write_folder_whole(folder, ours) as pages):
        sources = Path(scratch) / "sources"
        collect(sources, root)
        command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", HERE, "-d",
                   f"{scratch}/read", sources, pages]
        if subprocess.run(command, check=False).returncode != 0:
            raise RuntimeError(f"the site is not built; {shown(folder)} is as it was. "
                               "Mend what is named above, and call it again.")
        shutil.copyfile(pages / "README.html", pages / "index.html")
        for path in (path for pattern in UNUSED for path in pages.glob(pattern)):
            path.unlink()
        (pages / MARK).touch()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("folder", nargs="?", type=Path, default=ROOT / "runs" / "site")
    folder = options.parse_args().folder
    try:
        build(folder)
    except (OSError, RuntimeError) as error:
        sys.exit(str(error))
    print(f"Open {shown(folder)}/index.html in a browser.")


if __name__ == "__main__":
    main()
