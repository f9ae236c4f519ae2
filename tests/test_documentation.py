"""Pairs from the documentation of installed libraries."""

import subprocess
import sys
import types
import warnings

import pytest

from connection_utils import documentation_pairs


@pytest.fixture
def library(monkeypatch):
    """A module `toolbox`, and the function that puts a documented name into it."""
    module = types.ModuleType("toolbox")
    module.__all__ = []
    monkeypatch.setitem(sys.modules, "toolbox", module)

    def add(name, doc):
        def thing():
            pass
        thing.__doc__ = doc
        setattr(module, name, thing)
        module.__all__.append(name)

    return add


PROSE = ("Turn a screw until it holds.\n\n"
         "It stops by itself,\nso that no thread is ever\nworn out.")


def rows(pairs):
    return list(pairs.itertuples(index=False, name=None))


def test_a_pair_is_what_a_thing_is_and_its_explanation(library):
    library("screw", PROSE)
    assert rows(documentation_pairs(["toolbox"])) == [
        ("toolbox.screw", "Turn a screw until it holds.",
         "It stops by itself, so that no thread is ever worn out.")]


def test_the_call_that_c_code_writes_first_is_no_text(library):
    library("screw", f"screw(head, /)\n\nscrew(head, until=None)\n\n{PROSE}")
    assert documentation_pairs(["toolbox"])["sentence1"].tolist() == [
        "Turn a screw until it holds."]


@pytest.mark.parametrize("doc", [
    None, "", "Turn a screw until it holds.",
    "Turn a screw until it holds.\n\nParameters\n----------\nhead : its own, of any kind",
    "Turn a screw until it holds.\n\n>>> screw(1, 2, 3, 4) # and so on it goes for long",
    "Turn a screw until it holds.\n\nSee `nail` for the other way to join two boards.",
    "Screw.\n\nIt stops by itself, so that no thread is ever worn out.",
    "Turn a screw until it holds.\n\nToo short for us.",
], ids=["none", "empty", "one", "heading", "code", "markup", "short", "short-explanation"])
def test_what_is_not_two_paragraphs_of_prose_is_left_out(library, doc):
    library("nail", PROSE.replace("screw", "nail"))
    library("screw", doc)
    assert documentation_pairs(["toolbox"])["name"].tolist() == ["toolbox.nail"]


def test_a_module_that_names_nothing_as_public_gives_what_has_no_underscore(library):
    library("screw", PROSE)
    library("_nail", PROSE.replace("screw", "nail"))
    del sys.modules["toolbox"].__all__
    assert documentation_pairs(["toolbox"])["name"].tolist() == ["toolbox.screw"]


def test_a_text_comes_once(library):
    library("screw", PROSE)
    library("screw_again", PROSE)
    library("screw_too", PROSE.replace("Turn a screw", "Fasten a screw"))
    assert documentation_pairs(["toolbox"])["name"].tolist() == ["toolbox.screw"]


def test_the_libraries_here_give_hundreds_of_pairs_and_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pairs = documentation_pairs()
    assert len(pairs) > 300 and pairs.notna().all(axis=None)
    assert pairs["sentence1"].is_unique and pairs["sentence2"].is_unique
    assert {name.split(".")[0] for name in pairs["name"]} == {"numpy", "pandas", "scipy"}
    assert documentation_pairs().equals(pairs)


def test_another_process_finds_the_same():
    here = documentation_pairs().to_csv()
    script = ("from connection_utils import documentation_pairs\n"
              "print(documentation_pairs().to_csv(), end='')")
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          check=True).stdout == here
