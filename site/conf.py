"""Sphinx settings of the site; build.py starts Sphinx and says where the sources lie.

Nothing is executed, and no page asks another machine for anything.
"""

import base64
import hashlib
import re
from pathlib import Path

import nbformat
from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx.application import Sphinx

project = "A siamese BERT from your own disk"
language = "en"
root_doc = "README"
extensions = ["myst_nb"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

nb_execution_mode = "off"              # the committed outputs are what is shown
nb_render_error_lexer = "text"         # tracebacks are cut to their last line
nb_ipywidgets_js = {}                  # require.js and the widgets would come from a CDN
myst_update_mathjax = False
html_math_renderer = "mathml"          # browsers draw MathML themselves

default_role = "code"                  # docstrings name things in `single` quotes
add_module_names = toc_object_entries = False

html_theme = "sphinx_book_theme"
html_title = project
html_copy_source = html_use_index = html_domain_indices = False
html_show_copyright = html_show_sphinx = False
html_show_search_summary = False       # browsers let no page opened from disk fetch another
html_context = {"default_mode": "auto"}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "use_download_button": False,
    "navbar_persistent": [],           # the side bar has the search field
    "show_toc_level": 2,
    "max_navbar_depth": 1,             # the module's page lists its names
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}

CONTENTS = "\n\n```{toctree}\n:hidden:\n:glob:\n:caption: %s\n\n%s\n```\n"


def add_contents(app: Sphinx, name: str, text: list[str]) -> None:
    """Lead links to a folder to its README, as in a repository; fill the side bar."""
    text[0] = re.sub(r"\]\(([\w./-]*/)\)", r"](\1README.md)", text[0])
    if name == "connection_utils/README":
        text[0] = text[0].replace("](__init__.py)", "](names.md)") + CONTENTS % ("Names", "names")
    if name != root_doc:
        return
    there = app.env.found_docs
    parts = {
        "Start": ["self", *there & {"docs/install"}],
        "The notebooks": [*sorted(doc for doc in there if re.match(r"notebooks/\d", doc)),
                          *there & {"notebooks/solutions/README"}],
        "How-to": [*sorted(doc for doc in there - {"docs/install"}
                           if doc.startswith("docs/") and not _is_korean(doc)),
                   *sorted(there & {"CONTRIBUTING", "CHANGELOG"})],
        "Reference": [doc for doc in (
            "connection_utils/README", "transformers/README", "data/README",
            "data/samples/README", "benchmarks/README") if doc in there],
        "한국어": sorted(filter(_is_korean, there)),
    }
    text[0] += "".join(CONTENTS % (caption, "\n".join(docs))
                       for caption, docs in parts.items() if docs)


def describe_pictures(app: Sphinx, page: nodes.document) -> None:
    """Give each picture the alt text and the width that its notebook holds.

    MyST-NB names a picture by the hash of its bytes, and drops both.
    """
    path = Path(app.env.doc2path(app.env.docname))
    if path.suffix != ".ipynb":
        return
    known = {}
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                name = hashlib.sha256(base64.b64decode(output.data["image/png"])).hexdigest()
                known[name] = output.metadata["image/png"]
    for picture in page.findall(nodes.image):
        if (said := known.get(Path(picture["uri"]).stem)) is not None:
            picture["alt"], picture["width"] = said["alt"], f"{said['width']}px"


def name_language(app: Sphinx, name: str, template: str, context: dict, page) -> None:
    """Tell browsers and screen readers in which language the page is written."""
    if _is_korean(name):
        context["language"] = "ko"


def name_korean_blocks(app: Sphinx, page: nodes.document) -> None:
    """The same for a Korean block of an English page: docutils knows the class."""
    if not _is_korean(app.env.docname):
        for block in page.findall(lambda node: isinstance(node, (nodes.section,
                                                                 nodes.block_quote))):
            said = block.astext()
            if len(re.findall("[가-힣]", said)) > len(said) / 4:
                block["classes"].append("language-ko")


def _is_korean(name: str) -> bool:
    return name.startswith("notebooks/ko/") or name in ("README.ko", "docs/korean")


def write_math(translator, node: nodes.math | nodes.math_block) -> None:
    display = isinstance(node, nodes.math_block)
    translator.body.append(latex2mathml.tex2mathml(node.astext(), as_block=display))
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    app.add_html_math_renderer("mathml", (write_math, None), (write_math, None))
    app.connect("source-read", add_contents)
    app.connect("doctree-read", describe_pictures)
    app.connect("doctree-read", name_korean_blocks)
    app.connect("html-page-context", name_language)
