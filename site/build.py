"""Build the series as pages that need no network: `make site` puts them into runs/site/.

    python site/build.py [FOLDER]

The committed outputs are shown; nothing is executed. The pages take their place when all of
them are made: if a link leads nowhere, or anything else is wrong, the earlier ones stay.
"""

import argparse
import inspect
import itertools
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import connection_utils
from connection_utils.ground.paths import ROOT, shown
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
    """Markdown that lists each public name with its signature and its docstring, by folder."""
    page = ["# The public names", "All are imported from `connection_utils` itself."]
    folders = itertools.groupby(connection_utils._HOME.items(),
                                key=lambda known: known[1].rpartition(".")[0])
    for folder, known in folders:
        page += [f"## `{folder}/`" if folder else "## The lesson"]
        for name, _ in known:
            what = getattr(connection_utils, name)
            kind = ("autoclass" if inspect.isclass(what) else
                    "automodule" if inspect.ismodule(what) else "autofunction")
            page += [f"### `{name}`", "A dictionary: " + ", ".join(f"`{key}`" for key in what)
                     + "." if isinstance(what, dict) else
                     f"```{{eval-rst}}\n.. {kind}:: connection_utils.{name}\n```"]
    return "\n\n".join(page) + "\n"


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
        # In a process of its own: autodoc changes the signatures of what it shows.
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
