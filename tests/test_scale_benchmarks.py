"""What was measured of several processes and of very many pairs, and what the pages say."""

import json
import re
import sys
from statistics import median

import nbformat
import pytest

from connection_utils.ground.paths import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from cost_as_work_grows import MEET, distinct, scoring, write_pairs
from processes_share_the_work import WAYS
from processes_share_the_work import measure as train_a_little

COMMANDS, KOREAN = (" ".join((ROOT / name).read_text().split())
                    for name in ("docs/commands.md", "docs/korean.md"))


def kept(name: str) -> dict:
    return json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())


def test_each_of_some_texts_meets_each_of_as_many_others(tmp_path):
    path = tmp_path / "pairs.csv"
    for meet in (MEET, 1):
        write_pairs(path, 300, meet)
        rows = [line.split(",") for line in path.read_text().splitlines()[1:]]
        assert [int(row) for row, *_ in rows] == [*range(300)]
        assert len({tuple(pair) for _, *pair in rows}) == 300
        assert all(299 / meet - 3 <= len(set(side)) <= 300 / meet
                   for side in list(zip(*rows))[1:])


@pytest.mark.parametrize("part", [scoring, distinct])
def test_a_file_is_scored_and_looked_at(tmp_path, part):
    found = part(150, tmp_path)
    assert found["rows_in_order"] and found["pairs_per_s"] * found["seconds"] == pytest.approx(150)
    assert 0 <= found["memory_mb"] <= found["peak_mb"] - 100


def test_memory_as_kept_grows_little_with_the_rows():
    _, few, *_, many = found = kept("cost_as_work_grows")["scoring"]
    assert (few["pairs"], many["pairs"]) == (10_000, 1_000_000)
    assert all(size["rows_in_order"] for size in found)
    assert (f"{few['peak_mb']:.0f} MB on 10,000 rows and {many['peak_mb']:.0f} on 1,000,000"
            in COMMANDS)


def test_a_million_pairs_in_memory_as_kept():
    found = kept("cost_as_work_grows")["tokenizing"][-1]
    table = kept("cost_as_work_grows")["reading"][-1]["table_mb"]
    assert found["pairs"] == 1_000_000 and 20 < found["tokens_per_pair"] < 40
    assert found["arrays_mb"] <= found["memory_mb"] <= 200
    assert abs(table / found["arrays_mb"] - 1) < 0.1      # "as much again"
    assert f"{found['arrays_mb']:.0f} MB for a million pairs" in COMMANDS
    assert f"100만 쌍에 {found['arrays_mb']:.0f} MB" in KOREAN
    for page in (COMMANDS, KOREAN):
        assert re.search(rf"{found['arrays_mb'] / 100:.1f} GB\b.*"
                         rf"{found['arrays_mb'] / 10:.0f} GB", page)


def test_a_little_training_is_timed(monkeypatch):
    monkeypatch.setattr("processes_share_the_work.WARM", 1)
    all_weights, frozen = train_a_little(2, False), train_a_little(2, True)
    assert all_weights["pairs_per_s"] > 0
    assert frozen["gradient_mib"] < all_weights["gradient_mib"] < 100


def test_two_processes_as_kept():
    found = kept("processes_share_the_work")
    measured = found["measured"]
    turns = {run["turn"] for run in measured}
    assert len(measured) == len(turns) * 2 * len(WAYS) and len(turns) >= 3
    one, both, together, apart = WAYS
    for freeze, ending in ((False, ""), (True, "_frozen")):
        for name, way, other in (("two_processes_to_1_thread", together, one),
                                 ("two_processes_to_2_threads", together, both),
                                 ("two_trainings_to_2_threads", apart, both)):
            def speed(turn, way):
                (run,) = [run["pairs_per_s"] for run in measured if (
                    run["turn"], run["processes"], run["threads"], run["trainings"],
                    run["freeze_embeddings"]) == (turn, *way, freeze)]
                return run
            ratios = [speed(turn, way) / speed(turn, other) for turn in sorted(turns)]
            ratio = found["ratios"][name + ending]
            assert ratio["turns"] == pytest.approx(ratios)
            assert ratio["median"] == pytest.approx(median(ratios))
    ratio = found["ratios"]["two_processes_to_2_threads"]
    assert (f"{ratio['median']:.2f} times as many pairs per second as one process that used both "
            f"cores (three runs: {min(ratio['turns']):.2f} to {max(ratio['turns']):.2f}") in COMMANDS


def test_notebook_10_says_in_words_what_was_measured():
    said = " ".join(" ".join(cell.source.split()) for cell in nbformat.read(
        ROOT / "notebooks/10_scale_out.ipynb", as_version=4).cells)
    processes, growth = kept("processes_share_the_work"), kept("cost_as_work_grows")
    training, scoring = (found["pairs_per_s"] for found in (
        growth["training"][-1], growth["distinct"]))
    stored, table = growth["tokenizing"][-1], growth["reading"][-1]["table_mb"]
    mib = {run["freeze_embeddings"]: run["gradient_mib"] for run in processes["measured"]}
    apart = processes["ratios"]["two_trainings_to_2_threads"]["median"]
    two = {frozen: processes["ratios"][f"two_processes_to_2_threads{frozen}"]["median"]
           for frozen in ("", "_frozen")}
    peak = [size["peak_mb"] / 1000 for size in growth["scoring"]]
    for words in (
            f"An epoch on a million pairs takes {1e6 / training / 3600:.0f} hours",
            f"scoring ten million takes {1e7 / scoring / 3600:.0f}.",
            f"{apart:.2f} times the pairs of one process with both cores",
            f"{mib[False]:.0f} MiB at every step of 16 pairs",
            f"with frozen embeddings {mib[True]:.0f}",
            f"one core needs {100 * stored['seconds'] / 3600:.0f} hours",
            f"{stored['arrays_mb'] / 1000:.2f} GB per million pairs, so "
            f"{stored['arrays_mb'] / 100:.1f} GB for 10 million and "
            f"{stored['arrays_mb'] / 10:.0f} GB for 100 million.",
            f"the peak rises only from {peak[1]:.2f} to {peak[-1]:.2f} GB",
            f"two processes reach only {two['']:.2f} times the speed of one process "
            f"({two['_frozen']:.2f} with frozen embeddings)",
            f"각각 {table / 10:.0f} GB"):
        assert words in said, words
    assert round(1e8 / training / 86_400 / 7) == 3 and "keeps two cores three weeks busy" in said
