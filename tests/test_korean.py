"""What is told in Korean says the same as the English beside it."""

import importlib.util
import json
import re
from pathlib import Path

import nbformat
import pytest

from connection_utils.ground.paths import ROOT

PAGES = ("README.md", "docs/install.md", "docs/commands.md", "CONTRIBUTING.md",
         "docs/troubleshooting.md", "benchmarks/README.md", "data/README.md",
         "data/samples/README.md")
ENGLISH = "\n\n".join((ROOT / name).read_text(encoding="utf-8") for name in PAGES)
KOREAN_PAGES = ("README.ko.md", "docs/korean.md")      # they have some of each
KOREAN = "\n\n".join((ROOT / name).read_text(encoding="utf-8") for name in KOREAN_PAGES)
EDITIONS = sorted((ROOT / "notebooks" / "ko").glob("*.ipynb"))
NOTEBOOKS = [path for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
             if path.name not in [edition.name for edition in EDITIONS]]
# Korean counts in ten thousands, and writes fractions in digits and a duration as one word
SAID = {"10억": "billion", "1억": "100 million", "100만": "million", "5분의 1": "a fifth",
        "10분의 9": "nine tenths", "10분의 1": "one tenth", "약 6분": "six minutes"}
UNITS = [(r"(\d+) min (\d+) s\b", r"\1분 \2초"), (r"(\d+) min\b", r"\1분"),
         (r"(\d+) s\b", r"\1초"), (r"(\d) %", r"\1%")]
NUMBER = re.compile(r"(?<![\w.])(?<!\d,)\d+(?:,\d{3})*(?:\.\d+)?%?(?![\d])")
OPENING = re.compile(r"^> \*\*[^*]*[가-힣][^*]*\*\*.*(?:\n>.*)*", re.MULTILINE)
CLOSING = re.compile(r"^### .*[가-힣].*\n\n(?:.+\n?)+", re.MULTILINE)


def numbers(text):
    """Every number in a text, in order; a percentage keeps its sign."""
    text = re.sub(r"(?<=\S)\n(?=\S)", " ", text)
    for korean, english in SAID.items():
        text = text.replace(korean, english)  # what is left as a word has no digit
    for english, korean in UNITS:
        text = re.sub(english, korean, text)
    return NUMBER.findall(re.sub(r"\]\([^)]*\)", "]", text))


def all_told(korean, english):
    """Whether each number of a Korean text, word or digits, is in the English one."""
    flat, told = (" ".join(text.split()) for text in (english, korean))
    words = [word for digits, word in SAID.items() if digits in told]
    return (not set(numbers(korean)) - set(numbers(english))
            and all(word in flat for word in words))


def rows(text):
    """The numbers of each table row that holds any."""
    return [found for line in text.splitlines() if line.startswith("| ")
            for found in [numbers(line)] if found]


def test_numbers_are_read_whole():
    assert numbers("1,000,000쌍에서 95 %, 2.43–4.97, 5분 52초, 10억 쌍, ± 0.19") == [
        "1,000,000", "95%", "2.43", "4.97", "5", "52", "0.19"]
    assert not all_told("10억 쌍", "a million pairs") and not all_told("82.3", "82.03")
    assert numbers("| 5 min 52 s |") == numbers("| 5분 52초 |") == ["5", "52"]


def test_the_korean_readme_has_no_number_of_its_own():
    assert len(numbers(KOREAN)) > 100
    assert all_told(KOREAN, ENGLISH), set(numbers(KOREAN)) - set(numbers(ENGLISH))


def test_each_row_of_its_tables_is_a_row_of_the_english_ones():
    assert len(rows(KOREAN)) > 15
    for row in rows(KOREAN):
        assert row in rows(ENGLISH), row


def test_the_table_of_notebooks_is_the_same():
    """The same notebooks in the same order, with the same runtimes."""
    row = re.compile(r"^\| \[(\d\d) · .*?\]\((notebooks/[\w/]+\.ipynb)\) \|.*\| (.+) \|$",
                     re.MULTILINE)
    english = [(number, link, numbers(took)) for number, link, took in row.findall(ENGLISH)]
    assert english and english == [
        (number, link.replace("/ko/", "/"), numbers(took))
        for number, link, took in row.findall(KOREAN)]
    assert KOREAN.count("](notebooks/ko/0") == len(EDITIONS)


def test_it_names_no_other_make_commands():
    def commands(text):
        return set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE))

    assert {"run", "test", "lab", "site", "sweep", "bundle"} <= commands(KOREAN)
    assert commands(KOREAN) <= commands(ENGLISH)


def test_both_readmes_lead_to_each_other_and_every_link_somewhere():
    assert ENGLISH.splitlines()[2] == "[한국어](README.ko.md)"       # below the title
    assert KOREAN.splitlines()[2] == "[English](README.md)"
    for name in KOREAN_PAGES:
        page = ROOT / name
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), target


def test_the_other_commands_are_those_of_the_english_one():
    """A command is copied from either page, so each line in a block is in both."""
    def commands(text):
        blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        return {line.split("#")[0].strip() for block in blocks for line in block.splitlines()}

    korean = commands(KOREAN)
    assert len(korean) > 10 and ".venv/bin/python -m connection_utils doctor FOLDER" in korean
    of_a_sentence = {"make run MODEL=transformers/bert/my-korean-bert DATA=data/korsts"}
    assert all(f"`{command}`" in ENGLISH for command in of_a_sentence)
    assert korean - of_a_sentence <= commands(ENGLISH)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_opens_and_closes_in_korean_too(path):
    """With no number that the notebook itself does not show."""
    cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    first, last = ("".join(cells[place]["source"]) for place in (0, -1))
    opening, closing = OPENING.search(first), CLOSING.search(last)
    assert opening and closing, path.name
    shown = first.replace(opening.group(), "") + last.replace(closing.group(), "")
    for cell in cells[1:-1]:
        shown += "\n" + "".join(cell["source"])
        for output in cell.get("outputs", []):
            shown += "\n" + "".join(output.get("text", [])) + "".join(
                output.get("data", {}).get("text/plain", []))
    for block in (opening.group(), closing.group()):
        assert len(re.findall(r"[가-힣]", block)) > 80
        assert all_told(block, shown), (path.name, set(numbers(block)) - set(numbers(shown)))


editions = pytest.mark.parametrize("edition", EDITIONS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def renewed():
    spec = importlib.util.spec_from_file_location("korean", ROOT / "site" / "korean.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.renewed


def test_01_to_04_have_a_korean_edition():
    assert [path.stem[:2] for path in EDITIONS] == ["01", "02", "03", "04"]


@editions
def test_an_edition_has_the_code_and_the_outputs_of_its_english_twin(edition, renewed):
    assert nbformat.read(edition, as_version=4) == renewed(edition), "run site/korean.py"


@editions
def test_a_markdown_cell_without_its_twin_is_named(edition, renewed, tmp_path):
    (tmp_path / "ko").mkdir()
    (tmp_path / edition.name).write_bytes((edition.parent.parent / edition.name).read_bytes())
    notebook = nbformat.read(edition, as_version=4)
    missing = notebook.cells.pop(-1).id
    nbformat.write(notebook, tmp_path / "ko" / edition.name)
    with pytest.raises(ValueError, match=f"{edition.stem}.*: {missing}\\."):
        renewed(tmp_path / "ko" / edition.name)


@editions
def test_an_edition_is_korean_with_the_numbers_headings_and_names_of_its_twin(edition):
    """Korean may have more numbers in digits: English writes some as words."""
    def parts(text, kind):
        return sorted(" ".join(part.split()) for part in re.findall(kind, text, re.MULTILINE))

    english = {cell.id: cell.source for cell in nbformat.read(
        edition.parent.parent / edition.name, as_version=4).cells}
    for cell in nbformat.read(edition, as_version=4).cells:
        if cell.cell_type == "markdown":
            there = english[cell.id]
            assert len(re.findall("[가-힣]", cell.source)) > len(cell.source) / 6, cell.id
            longer, ours = (set(re.findall(r"\d+\.\d+|\d{3,}", text.replace(",", "")))
                            for text in (there, cell.source))
            assert longer <= ours, (cell.id, longer - ours)
            for kind in (r"^#+ ", r"^\|", r"^\d\. ", r"^\$\$"):
                assert parts(cell.source, kind) == parts(there, kind), (cell.id, kind)
            assert {*parts(cell.source, r"`[^`]+`")} == {*parts(there, r"`[^`]+`")}, cell.id


def test_every_link_of_an_edition_leads_somewhere_and_both_languages_to_each_other():
    for edition in EDITIONS:
        twin = edition.parent.parent / edition.name
        for page, other in ((edition, f"(../{edition.name})"), (twin, f"(ko/{edition.name})")):
            cells = nbformat.read(page, as_version=4).cells
            assert other in cells[0].source
            for cell in cells:
                if cell.cell_type == "markdown":
                    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", cell.source):
                        assert (page.parent / target).exists(), (page.name, target)
