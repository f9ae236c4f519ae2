"""The site: built from the committed outputs, complete, and readable with no network at all."""

import importlib.util
import os
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from itertools import groupby
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from test_browser import CHROMIUM, SECONDS, browser, keep  # noqa: F401 (browser: a fixture)

import connection_utils
from connection_utils.ground.paths import ROOT

NOTEBOOKS = [path.relative_to(ROOT) for path in sorted((ROOT / "notebooks").glob("**/*.ipynb"))
             if ".ipynb_checkpoints" not in path.parts]
LOADED = {"src", "srcset", "poster", "data", "background"}   # a browser fetches these by itself


class Page(HTMLParser):
    """A page's tags with their attributes, its ids, and its text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.ids, self.text = [], set(), ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids.add(dict(attributes).get("id"))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder that `make site` makes, elsewhere."""
    folder = tmp_path_factory.mktemp("site") / "pages"
    without = tmp_path_factory.mktemp("without")          # readers need not install these
    for name in ("torch", "transformers", "numpy", "pandas", "matplotlib"):
        (without / f"{name}.py").write_text(f"raise ImportError('the site imports {name}')\n")
    done = subprocess.run([sys.executable, ROOT / "site" / "build.py", folder],
                          capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": f"{without}{os.pathsep}{ROOT}"})
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout == f"Open {folder}/index.html in a browser.\n"
    return folder


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path) for path in site.rglob("*.html")}


def test_every_part_of_the_series_has_its_page(site, pages):
    sources = [*NOTEBOOKS, *(path.relative_to(ROOT) for pattern in (
        "README*.md", "C*.md", "docs/*.md", "transformers/README.md", "data/README.md",
        "data/samples/README.md", "benchmarks/README.md", "connection_utils/README.md")
        for path in ROOT.glob(pattern))]
    assert not {site / source.with_suffix(".html") for source in sources} - set(pages)
    for source in NOTEBOOKS:
        above = source.parent / "README" if "solutions" in source.parts else "index"
        listed = {(site / above).parent / unquote(attributes["href"])
                  for tag, attributes in pages[site / f"{above}.html"].tags if tag == "a"}
        assert site / source.with_suffix(".html") in listed, source


def test_the_module_is_shown_by_its_public_names_not_by_its_files(site, pages):
    assert {path.name for path in (site / "connection_utils").iterdir()} == {
        "README.html", "names.html"}
    names = pages[site / "connection_utils" / "names.html"]
    assert set(connection_utils.__all__) <= {
        id.removeprefix("connection_utils.") for id in names.ids if id} | {
        "LOSSES", "RECIPES", "plots"}
    assert names.text.count("Fine-tune model in place") == 1
    for said in ("paired_cosines", "self"):
        assert not re.search(rf"\b{said}\b[(,]", names.text), said
    for signature in ("spearman(scores: ndarray, cosines: ndarray)", "save(folder: str | Path",
                      "TrainingConfig(epochs, batch_size, ", "'post', 'fast', 'best'",
                      "plots.show(figure"):
        assert re.sub(r"\s", "", signature) in re.sub(r"\s|np\.", "", names.text), signature
    folders = [file.rpartition(".")[0] for file in connection_utils._HOME.values()]
    assert len([*groupby(folders)]) == len({*folders})          # each has one heading
    for name in ("LOSSES", "RECIPES", "plots"):
        assert name.lower() in names.ids, name


def test_korean_pages_and_korean_blocks_say_that_they_are_korean(site, pages):
    """For hyphenation, fonts and screen readers."""
    def languages(name):
        return [attributes["lang"] for _, attributes in pages[site / name].tags
                if "lang" in attributes]

    for name in ("README.ko", "docs/korean", "notebooks/ko/03_train_siamese_cosine"):
        assert languages(f"{name}.html")[0] == "ko", name
    assert languages("notebooks/05_bring_your_own_connections.html") == ["en", "ko", "ko"]


def test_every_link_leads_to_a_page_and_a_place_in_it(site, pages):
    followed = 0
    for path, page in pages.items():
        for tag, attributes in page.tags:
            target = urlsplit(attributes.get("href") or "")
            if tag != "a" or target.scheme in ("http", "https"):
                continue
            assert target.scheme == "", attributes
            place = (path.parent / unquote(target.path)).resolve() if target.path else path
            assert place.is_relative_to(site) and place.is_file(), (path.name, attributes)
            if target.fragment and place in pages:
                assert unquote(target.fragment) in pages[place].ids, (path.name, attributes)
            followed += 1
    assert followed > 20 * len(pages)


def test_nothing_that_a_browser_loads_by_itself_is_on_another_machine(site, pages):
    for path, page in pages.items():
        for tag, attributes in page.tags:
            for name, value in attributes.items():
                if name in LOADED or (name == "href" and tag == "link"):
                    assert urlsplit(value).scheme in ("", "data"), (path.name, attributes)
                    assert not value.startswith("//"), (path.name, attributes)
                    if value and not value.startswith(("data:", "#")):
                        there = path.parent / unquote(urlsplit(value).path)
                        assert there.is_file(), (path.name, value)
    for path in site.rglob("*.css"):
        style = path.read_text(encoding="utf-8")
        assert not re.search(r"(url\(|@import\s)\s*[\"']?(https?:)?//", style), path.name


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebooks_page_holds_its_outputs_and_its_pictures(site, pages, source):
    page = pages[site / source.with_suffix(".html")]
    outputs = [output for cell in nbformat.read(ROOT / source, as_version=4).cells
               for output in cell.get("outputs", [])]
    squeezed = re.sub(r"\s+", "", page.text)
    for output in outputs:
        if output.output_type == "stream":
            assert re.sub(r"\s+", "", output.text) in squeezed, output.text
    wanted = Counter((known["alt"], f"width: {known['width']}px;") for known in (
        output.metadata["image/png"] for output in outputs
        if "image/png" in output.get("data", {})))
    assert Counter((attributes["alt"], attributes["style"]) for tag, attributes in page.tags
                   if tag == "img") == wanted
    assert all(alt.strip() for alt, _ in wanted)


def test_the_other_pages_pictures_have_words_too(site, pages):
    pictures = [attributes for path, page in pages.items() for tag, attributes in page.tags
                if tag == "img" and "notebooks" not in path.relative_to(site).parts]
    assert len(pictures) >= 2
    assert all(len(picture.get("alt") or "") > 20 for picture in pictures)


def test_is_light_enough_to_carry(site):
    assert sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) < 10e6


def test_a_failed_build_leaves_the_earlier_site(tmp_path, capfd):
    spec = importlib.util.spec_from_file_location("site_build", ROOT / "site" / "build.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    source, folder = tmp_path / "source", tmp_path / "pages"
    (source / "connection_utils").mkdir(parents=True)
    (source / "connection_utils" / "losses.py").write_text('"""What is made small."""\n')
    (source / "connection_utils" / "README.md").write_text("# The module\n")
    front = source / "README.md"

    front.write_text("# One\n\n[Made small](connection_utils/losses.py)\n")
    script.build(folder, source)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert b"Made small" in before[folder / "index.html"]
    assert b'href="connection_utils/README.html"' in before[folder / "index.html"]

    front.write_text("# Two\n\n[Nowhere](connection_utils/nowhere.py)\n")
    with pytest.raises(RuntimeError, match="pages is as it was. Mend what is named above"):
        script.build(folder, source)
    assert re.search(r"README\.md:3: WARNING: .*connection_utils/nowhere\.py",
                     capfd.readouterr().err)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pages", "source"]

    front.write_text("# Three\n")
    script.build(folder, source)
    assert "Three" in (folder / "index.html").read_text()

    (source / "my_notes.txt").write_text("nobody else has them")
    with pytest.raises(FileExistsError, match="files that would be lost: README.md, conn"):
        script.build(source, source)
    assert (source / "my_notes.txt").is_file()


@pytest.fixture
def page(browser):  # noqa: F811
    """A page opened from the disk, that notes every error and every request to elsewhere."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000},
                                  color_scheme="light")
    page = context.new_page()
    page.errors, page.strangers = [], []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("console", lambda message: page.errors.append(message.text)
            if message.type in ("error", "warning") else None)
    page.on("request", lambda request: page.strangers.append(request.url)
            if urlsplit(request.url).scheme not in ("file", "data") else None)
    page.set_default_timeout(20 * SECONDS)
    yield page
    context.close()
    assert page.errors == []
    assert page.strangers == []


in_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@in_chromium
def test_from_the_disk_search_finds_a_notebook(page, site):
    page.goto(f"file://{site}/index.html")
    page.get_by_role("heading", name=re.compile("How connected are two texts")).wait_for()
    assert page.locator("article img").first.evaluate("image => image.naturalWidth") > 500
    keep(page, "site_front")
    page.locator(".bd-sidebar-primary .search-button__button").click()
    field = page.locator("#pst-search-dialog input")
    field.fill("rectangle")
    field.press("Enter")
    hit = page.locator("#search-results a", has_text="02 · Build the connection dataset")
    hit.first.wait_for()
    assert page.locator("#search-results li").count() < 20          # not simply every page
    hit.first.click()
    page.get_by_role("heading", name=re.compile("^02 · ")).wait_for()
    assert urlsplit(page.url).path.endswith("/02_build_connection_dataset.html")
    shown = [cell for cell in nbformat.read(
        ROOT / "notebooks/02_build_connection_dataset.ipynb", as_version=4).cells
        if cell.get("outputs")]
    assert page.locator("div.cell_output").count() == len(shown) >= 8


@in_chromium
@pytest.mark.slow
def test_from_the_disk_dark_mode_and_formulas(page, site):
    def background():
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    page.goto(f"file://{site}/notebooks/03_train_siamese_cosine.html")
    formula = page.locator("math").first
    assert formula.bounding_box()["height"] > 30                   # drawn, not its source
    assert background() == "rgb(255, 255, 255)"
    page.locator(".theme-switch-button:visible").click()
    page.locator(".theme-change-button[data-mode=dark]:visible").click()
    assert max(map(int, re.findall(r"\d+", background()))) < 60
    page.goto(f"file://{site}/notebooks/04_similarity_distributions.html")
    assert max(map(int, re.findall(r"\d+", background()))) < 60    # and it stays
    keep(page, "site_dark")


@in_chromium
@pytest.mark.slow
def test_from_the_disk_on_a_phone_nothing_sticks_out(page, site):
    page.set_viewport_size({"width": 390, "height": 844})
    for name in ("index", "data/README", "transformers/README",
                 "notebooks/04_similarity_distributions"):
        page.goto(f"file://{site}/{name}.html")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
        keep(page, f"site_phone_{name.replace('/', '_')}")
