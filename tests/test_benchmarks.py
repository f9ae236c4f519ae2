"""The scripts in benchmarks/: what they compute from what was measured."""

import json
import math
import subprocess
import sys

import pytest

from connection_utils.workspace import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import compare_sentence_transformers as compare  # noqa: E402


def turn(ours, theirs):
    """A turn in which ours does `ours` pairs a second, and theirs `theirs`."""
    def trained(speed, memory, spearman):
        return {"pairs_per_s": speed, "seconds": 100 / speed, "peak_memory_mib": memory,
                "test_spearman": spearman}

    return {"ours": trained(ours, 500, 85), "theirs": trained(theirs, 1000, 84),
            "ours_frozen": trained(ours + 10, 400, 86),
            "theirs_by_length": trained(theirs + 5, 1000, 84),
            "encode_ours": {"sentences_per_s": 300}, "encode_theirs": {"sentences_per_s": 200},
            "quality_ours": trained(ours, 500, 86), "quality_theirs": trained(theirs, 1000, 85)}


def test_ratios_are_formed_within_a_turn_ours_over_theirs():
    """A machine that slows down from one turn to the next slows both."""
    found = compare.ratios([turn(40, 20), turn(20, 10), turn(60, 20)])
    assert found["train_pairs_per_s_ratio"] == {"median": 2.0, "min": 2.0, "max": 3.0}
    assert found["train_pairs_per_s_ratio_with_options"]["max"] == 3.5
    assert found["train_pairs_per_s_ratio_theirs_by_length"]["min"] == pytest.approx(4 / 3)
    assert found["encode_sentences_per_s_ratio"]["median"] == 1.5
    assert found["peak_memory_ratio"]["median"] == 0.5
    assert found["time_to_quality_ratio"]["median"] == 0.5
    assert (found["spearman_ours"]["median"], found["spearman_theirs"]["median"]) == (85, 84)


def test_a_quality_that_is_not_reached_takes_for_ever():
    """A faster run to a worse model would be no time to quality at all."""
    missed = turn(40, 20)
    missed["quality_ours"]["test_spearman"] = 84.99
    found = compare.ratios([turn(40, 20), missed, turn(40, 20)])["time_to_quality_ratio"]
    assert found == {"median": 0.5, "min": 0.5, "max": math.inf}


def test_both_train_on_the_same_pairs_of_all_genres():
    one, same = (compare._splits(300, 4)["train"] for _ in range(2))
    assert one.equals(same) and len(one) == 300 and one["genre"].nunique() == 3
    assert not one.equals(compare._splits(300, 5)["train"])


@pytest.mark.parametrize("task", ["ours", "theirs", "theirs_by_length", "encode_ours",
                                  "encode_theirs"])
def test_a_task_measures_in_a_process_of_its_own(task):
    found = compare.measure(task, pairs=32, seed=1)
    assert all(value > 0 for value in found.values())
    if not task.startswith("encode"):
        assert found["pairs_per_s"] * found["seconds"] == pytest.approx(32)
        assert 60 < found["test_spearman"] < 95 and found["peak_memory_mib"] > 100


def test_help_says_how_it_is_measured():
    said = subprocess.run([sys.executable, compare.__file__, "--help"], capture_output=True,
                          text=True).stdout
    assert "--pairs" in said and "--repeats" in said and "process of its own" in said


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").glob("*.json")),
                         ids=lambda path: path.stem)
def test_kept_results_tell_command_machine_and_versions(path):
    kept = json.loads(path.read_text())
    assert kept["command"].startswith("python benchmarks/") and kept["date"]
    assert kept["machine"]["cpu"] and kept["machine"]["versions"]["torch"].startswith("2.13")
    assert compare.ratios(kept["turns"]) == {
        name: value for name, value in kept.items()
        if name not in ("command", "date", "machine", "turns")}
