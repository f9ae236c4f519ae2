"""The contrasts of data/samples/behaviour.csv: frozen, and what their kinds promise."""

import re

import pandas as pd

from connection_utils.ground.paths import ROOT
from connection_utils.ground.whole_files import sha256_of

FILE = ROOT / "data" / "samples" / "behaviour.csv"
FROZEN = "9436b8f9193faa634373539443e0504258bbfd4744a9a7bd0399873dcbf335d3"


def words(text):
    return sorted(re.findall(r"[a-z0-9]+", text.lower().replace("'s", "")))


def shared(one, other):
    """Jaccard: the share of the two texts' words that are in both, 0..1."""
    one, other = set(words(one)), set(words(other))
    return len(one & other) / len(one | other)


def test_the_file_is_the_one_that_was_committed_before_any_model_had_scored_it():
    assert sha256_of(FILE) == FROZEN


def test_rows_are_balanced_and_no_text_is_in_two_places():
    rows = pd.read_csv(FILE)
    assert set(rows["kind"].value_counts()) == {17} and len(rows) == 6 * 17
    texts = rows[["sentence", "paraphrase", "changed"]].to_numpy().ravel()
    assert len({*texts}) == len(texts) == 306


def test_shared_words_point_the_wrong_way():
    """So a model that counts them fails: the suite's whole purpose."""
    rows = pd.read_csv(FILE)
    right = sum(shared(row.sentence, row.paraphrase) > shared(row.sentence, row.changed)
                for row in rows.itertuples())
    assert right <= 2
    for row in rows[rows["kind"] == "word order"].itertuples():
        assert words(row.sentence) == words(row.changed), row.sentence
