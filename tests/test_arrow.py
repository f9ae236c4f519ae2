"""Files larger than memory: the pairs that memory would hold, from a cache that is whole."""

import codecs
import csv
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from connection_utils import (
    ConnectionBert,
    ConnectionDataError,
    ConnectionDataset,
    TrainingConfig,
    open_connections,
    read_connections,
    train,
)
from connection_utils.dataset import connection_loader
from connection_utils.ground.paths import ROOT, shown
from connection_utils.model_folder.files import load_tokenizer
from connection_utils.pair_files import chunks, reading, texts
from connection_utils.use import arrow

WORDS = "the cat dog sat ran on a mat man woman plays guitar music two in park".split()
ONE = "sentence1,sentence2,score\nthe cat,a dog,0.5\n"


@pytest.fixture
def tokenizer(tiny_folder):
    return load_tokenizer(tiny_folder)


@pytest.fixture(scope="module")
def tiny_template_tokenizer(make_tiny_folder):
    return load_tokenizer(make_tiny_folder())


@pytest.fixture
def opened(tokenizer, tmp_path, monkeypatch):
    """Opens a file three rows at a time, with a cache of the test's own: (pairs, told)."""
    monkeypatch.setattr(chunks, "CHUNK", 3)
    monkeypatch.setattr(arrow, "CHUNK", 3)

    def opened(path, **settings):
        told = []
        settings = {"cache": tmp_path / "cache", "tell": told.append,
                    "tokenizer": tokenizer} | settings
        return open_connections(path, **settings), told

    return opened


@pytest.fixture
def pairs() -> pd.DataFrame:
    """20 different pairs, in random order of lengths."""
    rng = np.random.default_rng(3)

    def text(i: int) -> str:
        return " ".join([*rng.choice(WORDS, rng.integers(1, 12)), f"{i}"])

    return pd.DataFrame({"sentence1": [text(i) for i in range(20)],
                         "sentence2": [text(i) for i in range(20)],
                         "score": rng.random(20).round(3)})


def equal(opened, expected: ConnectionDataset) -> bool:
    return (list(opened) == list(expected) and opened.lengths.tolist() == expected.lengths
            and opened.fingerprint() == expected.fingerprint()
            and opened.pad_token_id == expected.pad_token_id)


# The same pairs as in memory

def as_quoted(pairs, path):
    """With separators, quotes and line ends inside."""
    odd = pairs.assign(sentence2=[f'{text},\n"{text}"\r\n\n;' for text in pairs["sentence2"]])
    odd.to_csv(path, index=False, lineterminator="\r\n")


def as_old_mac(pairs, path):
    path.write_bytes(pairs.to_csv(sep="\t", index=False).replace("\n", "\r").encode())


def as_quoted_tabs(pairs, path):
    odd = pairs.assign(sentence1=[f'the "{text}"' for text in pairs["sentence1"]])
    odd.to_csv(path, sep="\t", index=False, quoting=csv.QUOTE_ALL)


def as_plain_tabs(pairs, path):
    lines = [f'"{a}\tthe\r {b}\t{score}' for a, b, score in pairs.itertuples(index=False)]
    path.write_bytes("\n".join(["sentence1\tsentence2\tscore", *lines]).encode())


def as_the_benchmark(pairs, path):
    lines = [f"main-news\tx\t2012\t{i}\t{score}\t{a}\t{b}" + "\turl\turl" * (i % 3 == 0)
             for i, (a, b, score) in enumerate(pairs.itertuples(index=False))]
    path.write_text("\n".join(lines))


def as_korean(encoding):
    def write(pairs, path):
        pairs = pairs.assign(sentence1=[f"{text} 고양이" for text in pairs["sentence1"]])
        path.write_bytes(pairs.to_csv(index=False).encode(encoding))
    return write


def as_json_of_other_keys(pairs, path):
    rows = [{"id": i, **row} for i, row in enumerate(pairs.to_dict("records"))]
    path.write_text("\n\n".join(map(json.dumps, rows[:-1] + [rows[-1] | {"new": [1]}])))


FILES = {
    "comma.csv": lambda pairs, path: pairs.to_csv(path, index=False),
    "semicolon.csv": lambda pairs, path: pairs.to_csv(path, index=False, sep=";"),
    "excel.csv": lambda pairs, path: path.write_text(
        "sep=;\n" + pairs.to_csv(index=False, sep=";")),
    "quoted.csv": as_quoted,
    "tabs.tsv": lambda pairs, path: pairs.to_csv(path, index=False, sep="\t"),
    "old_mac.tsv": as_old_mac,
    "quoted.tsv": as_quoted_tabs,
    "plain.tsv": as_plain_tabs,
    "benchmark.csv": as_the_benchmark,
    "cp949.csv": as_korean("cp949"),
    "mark.csv": as_korean("utf-8-sig"),
    "utf16.csv": as_korean("utf-16"),
    "lines.jsonl": lambda pairs, path: pairs.to_json(path, orient="records", lines=True),
    "keys.jsonl": as_json_of_other_keys,
    "columns.parquet": lambda pairs, path: pairs.assign(more=1).to_parquet(path),
    "groups.parquet": lambda pairs, path: pairs.to_parquet(path, row_group_size=7),
    "names.csv": lambda pairs, path: pairs.rename(columns={
        "sentence1": "Question 1", "sentence2": "question2", "score": "mine"}).to_csv(path),
}


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_the_pairs_that_it_gives_in_memory(
        name, pairs, tmp_path, tokenizer, opened, monkeypatch):
    FILES[name](pairs, tmp_path / name)
    columns = {"score": "mine"} if name == "names.csv" else None
    told_in_memory = []
    expected = read_connections(tmp_path / name, columns, (0, 1), tell=told_in_memory.append)
    assert len(expected) == 20
    found, told = opened(tmp_path / name, columns=columns)
    assert equal(found, ConnectionDataset(expected, tokenizer))
    assert told[:-1] == told_in_memory


def test_chunks_hold_no_more_rows_than_was_said(pairs, tmp_path, opened, monkeypatch):
    sizes = []

    def watched(cells, *more):
        sizes.append(len(cells))
        return check_cells(cells, *more)

    check_cells = arrow.check_cells
    monkeypatch.setattr(arrow, "check_cells", watched)
    for name in ("comma.csv", "lines.jsonl", "columns.parquet"):
        FILES[name](pairs, tmp_path / name)
        opened(tmp_path / name)
    assert sizes == 3 * [3, 3, 3, 3, 3, 3, 2]


def test_scores_go_from_0_to_1_on_the_scale_that_was_stated(pairs, tmp_path, tokenizer, opened):
    path = tmp_path / "pairs.csv"
    pairs.assign(score=[*"12345", *(5 * ["40%", "1e0", "3.5"])]).to_csv(path, index=False)
    expected = read_connections(path, scale=(1, 5), tell=list)
    found, _ = opened(path, scale=(1, 5))
    assert equal(found, ConnectionDataset(expected, tokenizer))
    assert [item["score"] for item in found][:6] == [0, 0.25, 0.5, 0.75, 1, 0.4]


def test_texts_are_cut_to_max_length(pairs, tmp_path, tokenizer, opened):
    pairs.to_csv(tmp_path / "pairs.csv", index=False)
    found, _ = opened(tmp_path / "pairs.csv", max_length=6)
    assert equal(found, ConnectionDataset(pairs, tokenizer, 6)) and found.lengths.max() == 6


def cases(count: int) -> settings:
    """Hypothesis draws the same ones each time."""
    return settings(max_examples=count, deadline=None, derandomize=True, database=None,
                    suppress_health_check=list(HealthCheck))


@cases(200)
@given(st.text(st.sampled_from('a",\n\r '), max_size=60), st.integers(1, 5), st.integers(1, 4))
def test_no_row_is_cut_wherever_a_chunk_ends(text, size, most):
    """Stray quotes included: what a row is never depends on how much was read with it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK", size)
        patch.setattr(texts, "MAX_ROW_LINES", most)
        lines = iter(text.splitlines(keepends=True))
        found = list(chunks._rows(lines, lambda part: texts.quoted_rows(part, ","), most))
        assert str(found) == str(list(texts.quoted_rows(text, ",")))


CELLS = ["a", "the cat", '"', ' "x"', '"a ""b"""', '"l\nm"', "0.5", "1", "0", "50%", "", " ",
         "고양이", "\0", "7", "😀", "sep=;"]


@cases(60)
@given(st.lists(st.lists(st.sampled_from(CELLS), min_size=3, max_size=3) | st.lists(
    st.sampled_from(CELLS), max_size=4), max_size=8), st.sampled_from(",;\t"),
    st.sampled_from(["\n", "\r\n", "\r"]), st.sampled_from(["utf-8", "utf-16", "cp949"]),
    st.sampled_from([1, 2, 5, 50]))
def test_whatever_stands_in_a_file_is_told_as_in_memory(
        tiny_template_tokenizer, drawn_folder, rows, separator, end, encoding, size):
    """All but pairs that stand there twice."""
    path = drawn_folder / f"pairs.{'tsv' if separator == chr(9) else 'csv'}"
    lines = [separator.join(row) for row in (["sentence1", "sentence2", "score"], *rows)]
    path.write_bytes(end.join(lines).encode(encoding, "replace"))

    def outcome(read):
        try:
            return read()
        except ConnectionDataError as error:
            return str(error).splitlines()[:-1], error.faults.values.tolist()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK", size)
        patch.setattr(reading, "find_repeats", lambda good: good.head(0))
        for choice in ("error", "drop"):
            from_disk = outcome(lambda: open_connections(
                path, tiny_template_tokenizer, on_bad_rows=choice,
                cache=drawn_folder / "cache", tell=list).fingerprint())
            in_memory = outcome(lambda: ConnectionDataset(
                read_connections(path, scale=(0, 1), on_bad_rows=choice, tell=list),
                tiny_template_tokenizer).fingerprint())
            assert from_disk == in_memory


def test_what_is_decided_in_the_beginning_holds_for_all(tmp_path, tokenizer, opened,
                                                        monkeypatch):
    """A character, a row and a surrogate pair lie across the end of the first `HEAD` bytes."""
    monkeypatch.setattr(chunks, "HEAD", 64)
    table = pd.DataFrame({"sentence1": [f"고양이 😀 cat {i}" for i in range(40)],
                          "sentence2": ["the dog"] * 40, "score": [0.5] * 40})
    for cut in range(8):
        for encoding in ("utf-8", "utf-16"):
            path = tmp_path / f"{encoding}{cut}.csv"
            table.rename(columns={"score": "score" + " " * cut}).to_csv(
                path, index=False, encoding=encoding)
            assert equal(opened(path)[0], ConnectionDataset(table, tokenizer))


# ArrowConnections takes ConnectionDataset's place

@pytest.fixture
def both(pairs, tmp_path, tokenizer, opened):
    pairs.to_csv(tmp_path / "pairs.csv", index=False)
    return opened(tmp_path / "pairs.csv")[0], ConnectionDataset(pairs, tokenizer)


def test_an_item_holds_plain_lists_and_a_float(both):
    item = both[0][7]
    assert item == both[1][7] and both[0][-1] == both[1][19]
    assert [type(value) for value in item.values()] == [list, list, float]
    assert type(item["sentence1"][0]) is int and len(both[0]) == 20
    with pytest.raises(IndexError):
        both[0][20]


def test_tokens_and_scores_lie_on_disk_as_was_said(both):
    features = both[0]._pairs.features
    assert features["sentence1"].feature.dtype == "int32"
    assert features["score"].dtype == "float64"
    assert both[0]._pairs.cache_files and both[0].lengths.dtype == np.int32


@pytest.mark.parametrize("share", [1, 1.0, 0.5, 0.26, 1e-9])
def test_a_sample_is_the_one_that_is_drawn_in_memory(both, share):
    mine, theirs = (dataset.sample(share, seed=5) for dataset in both)
    assert equal(mine, theirs) and equal(mine.sample(0.4, 6), theirs.sample(0.4, 6))
    with pytest.raises(IndexError):
        mine[len(mine)]


def test_worker_processes_get_it(both):
    again = pickle.loads(pickle.dumps(both[0].sample(0.5, 3)))
    assert list(again) == list(both[1].sample(0.5, 3))
    alone = connection_loader(both[1], batch_size=4)
    helped = DataLoader(both[0], batch_sampler=connection_loader(both[0], 4).batch_sampler,
                        collate_fn=alone.collate_fn, num_workers=2, timeout=60)
    for one, other in zip(alone, helped, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("bucket", "share"), [(1, 1.0), (5, 0.7)])
def test_training_on_it_is_bit_equal(both, tiny_folder, pairs, bucket, share):
    config = TrainingConfig(epochs=2, batch_size=3, bucket=bucket, train_share=share)
    trained = []
    for dataset in both:
        model = ConnectionBert.from_local(tiny_folder, device="cpu")
        trained.append((train(model, dataset, pairs.head(9), config).step_losses,
                        model.state_dict()))
    (losses, mine), (expected, theirs) = trained
    assert losses == expected and len(losses) == 2 * -(-round(20 * share) // 3)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_a_checkpoint_made_with_one_goes_on_with_the_other(both, tiny_folder, pairs, tmp_path):
    config = TrainingConfig(epochs=2, batch_size=3, checkpoint_every=2)
    weights = []
    for stop_at, (dataset, resume) in [(99, (both[1], False)), (4, (both[1], False)),
                                       (99, (both[0], True))]:
        model = ConnectionBert.from_local(tiny_folder, device="cpu")
        folder = tmp_path / ("whole" if not weights else "stopped")

        def killed(history):
            if len(history.step_losses) == stop_at:
                raise InterruptedError

        try:
            train(model, dataset, pairs.head(9), replace(config, resume=resume),
                  on_step=killed, checkpoints=folder, tell=list)
        except InterruptedError:
            pass
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])
    assert not all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


# Faults

BAD = {
    "other_names.csv": "Text_A, text_b ,label\nthe cat,a dog,2\n,a mat,0.5\n",
    "cells.csv": "score,sentence1,sentence2\n0.1,the cat,a dog\n\n2,the mat,a dog\n"
                 "0.3,,a man\n0.4,7,two\nhigh,the man,\"a\n\nwoman\"\n0.5,one,two,three\n,,\n"
                 "0.7,music,a\" mat\n0.8,\"park,the dog\n0.9,a cat,the mat\n"
                 "\"0,9\",a,the dog\n",
    "plain.tsv": "sentence1\tsentence2\tscore\nthe cat\ta dog\t0.1\nthe mat\t0.2\n"
                 "a dog\ta\tb\t1\n \ta\t0\nthe\t\"a\t-1\nmusic\t12\tnan\n",
    "no_column.csv": "sentence1,text,score\nthe cat,a dog,0.1\n ,a dog,0.1\na,b,7\nc,d\n",
    "two_columns.csv": "sentence1,sentence2,label,quality\na,b,1,2\n",
    "stray_byte.csv": b"sentence1,sentence2,score\na,b,1\nc\xff,d,0\n" + b"e,f,1\n",
    "broken.jsonl": '{"sentence1": "a", "sentence2": "b", "score": 1}\nnot json\n[1]\n'
                    '{"sentence1": 1, "sentence2": null, "score": "x"}\n\n{"sentence1": "c"}\n'
                    '{"sentence1": "e", "sentence1": "e"}\n',
    "benchmark.csv": "main-news\tx\t2012\t1\t5.0\tthe cat\ta dog\n"
                     "main-news\tx\t2012\t1\t0.5\tthe cat\nmain-news\tx\t2012\t1\t0.1\ta\t \n",
    "only_a_header.csv": "sentence1,sentence2,score\n",
    "nothing_good.csv": "sentence1,sentence2,score\n,,1\n1,2,3\n",
    "empty.csv": "", "blank.jsonl": " \n\n", "header.csv": 'sentence1,"sentence2\nscore\n',
    "nul.csv": "sentence1,sentence2,score\na\0,b,1\n",
}


def told_of(error) -> list[str]:
    """The lines of a message, without the advice that ends it."""
    first, *others = str(error.value).splitlines()
    return [first, *others[:-1]]


@pytest.mark.parametrize("name", BAD)
def test_all_faults_are_told_in_the_words_of_read_connections(name, tmp_path, opened):
    path, content = tmp_path / name, BAD[name]
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConnectionDataError) as expected:
        read_connections(path, scale=(0, 1), tell=list)
    with pytest.raises(ConnectionDataError) as found:
        opened(path)
    assert told_of(found) == told_of(expected)
    pd.testing.assert_frame_equal(found.value.faults, expected.value.faults)
    assert not list((tmp_path / "cache").glob("*/*"))


def test_faults_in_parquet_are_told_by_row(pairs, tmp_path, opened):
    path = tmp_path / "pairs.parquet"
    pairs.assign(sentence1=[None, *pairs["sentence1"][1:]],
                 score=[*pairs["score"][:-1], 9.0]).to_parquet(path)
    with pytest.raises(ConnectionDataError) as expected:
        read_connections(path, scale=(0, 1), tell=list)
    with pytest.raises(ConnectionDataError, match="row 20, column score") as found:
        opened(path)
    assert told_of(found) == told_of(expected)
    for missing in (["score"], ["score", "sentence1", "sentence2"]):
        pairs.assign(other="a").drop(columns=missing).to_parquet(path)
        with pytest.raises(ConnectionDataError) as expected:
            read_connections(path, scale=(0, 1), tell=list)
        with pytest.raises(ConnectionDataError) as found:
            opened(path)
        assert told_of(found) == told_of(expected)


@pytest.mark.parametrize("name", ["cells.csv", "broken.jsonl"])
def test_bad_rows_can_be_dropped(name, tmp_path, tokenizer, opened):
    path = tmp_path / name
    path.write_text(BAD[name])
    expected = read_connections(path, scale=(0, 1), on_bad_rows="drop", tell=list)
    found, told = opened(path, on_bad_rows="drop")
    assert equal(found, ConnectionDataset(expected, tokenizer))
    if name == "cells.csv":
        assert told[-2] == (f"{shown(path)}: 7 of 10 rows dropped; the first faults: line 4, "
                            "column score: found '2', expected a number from 0 to 1; line 5, "
                            "column sentence1: found '', expected a text; line 6, column "
                            "sentence1: found '7', expected a text, not a number")
        assert told[-1].startswith(f"{shown(path)}: 3 pairs, 7 rows dropped, now in ")


def test_reading_stops_after_the_faults_that_are_kept(tmp_path, opened, monkeypatch):
    monkeypatch.setattr(arrow, "MOST", 4)
    path = tmp_path / "pairs.csv"
    path.write_text("sentence1,sentence2,score\n" + "".join(
        f"the cat,dog,{i}\n" for i in range(1, 100)))
    with pytest.raises(ConnectionDataError, match="There may be more: 4 faults") as error:
        opened(path)
    assert error.value.faults["line"].tolist() == [3, 4, 5, 6]
    assert "4 faults in 4 of 6 rows" in str(error.value)
    found, told = opened(path, on_bad_rows="drop")
    assert len(found) == 1 and "98 of 99 rows dropped" in told[-2]


def test_a_pair_that_stands_there_twice_is_taken_twice(tmp_path, opened):
    path = tmp_path / "pairs.csv"
    path.write_text(ONE + 2 * "the cat,a dog,0.1\n")
    assert [item["score"] for item in opened(path)[0]] == [0.5, 0.1, 0.1]


@pytest.mark.parametrize(("name", "content", "said"), [
    ("pairs.xlsx", b"PK\x03\x04", "holds a million rows at most.*use read_connections"),
    ("pairs.xls", b"\xd0\xcf\x11\xe0", "use read_connections"),
    ("pairs.csv", b"PK\x03\x04", "use read_connections"),
    ("pairs.parquet", b"no", "not the content of a .parquet"),
    ("pairs.parquet", b"PAR1 broken PAR1", "cannot be read as Parquet"),
    ("pairs.csv", codecs.BOM_UTF16_LE + ONE.encode("utf-16-le") + b"x", "decoded as UTF-16"),
    ("pairs.csv", ONE.encode("utf-16-le"), "found NUL bytes.*encoding='utf-16-le'"),
    ("pairs.csv", b"a" * 5000, "a line of 4,096 characters or more"),
    ("pairs.jsonl", b"".join(b'{"%d": 1}\n' % i for i in range(400)), "different keys"),
], ids=lambda value: str(value)[:20])
def test_what_is_no_file_of_pairs_is_refused_by_name(name, content, said, tmp_path, opened,
                                                     monkeypatch):
    monkeypatch.setattr(chunks, "LONGEST", 4096)
    monkeypatch.setattr(chunks, "CHUNK", 1000)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConnectionDataError, match=said) as error:
        opened(tmp_path / name)
    assert shown(tmp_path / name) in str(error.value)
    assert not list((tmp_path / "cache").glob("*"))


def test_a_damaged_row_group_in_the_midst_is_told(pairs, tmp_path, opened):
    path = tmp_path / "pairs.parquet"
    pairs.to_parquet(path, row_group_size=5, compression="gzip")
    content = bytearray(path.read_bytes())
    middle = len(content) // 3
    content[middle:middle + 40] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(ConnectionDataError, match="cannot be read as Parquet"):
        opened(path)


@pytest.mark.parametrize(("settings", "said"), [
    ({"on_bad_rows": "skip"}, "expected 'error' or 'drop'"), ({"scale": (1, 0)}, "scale is"),
    ({"columns": ["a"]}, "expected a mapping"),
    ({"encoding": "klingon"}, "expected a text encoding"),
    ({"encoding": "base64"}, "expected a text encoding")], ids=str)
def test_settings_that_mean_nothing_are_refused(settings, said, tmp_path, opened):
    (tmp_path / "pairs.csv").write_text(ONE)
    with pytest.raises(ValueError, match=said):
        opened(tmp_path / "pairs.csv", **settings)


def test_a_missing_file_and_a_place_that_takes_no_cache_are_named(tmp_path, opened):
    with pytest.raises(ConnectionDataError, match="file not found: .*none.csv"):
        opened(tmp_path / "none.csv")
    (tmp_path / "pairs.csv").write_text(ONE)
    with pytest.raises(OSError, match="cannot be written to .*state cache="):
        opened(tmp_path / "pairs.csv", cache=tmp_path / "pairs.csv")


def test_a_full_disk_leaves_nothing_and_is_told_with_advice(tmp_path, opened, monkeypatch):
    (tmp_path / "pairs.csv").write_text(ONE)

    def full(path):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("connection_utils.ground.whole_files._flush", full)
        with pytest.raises(OSError, match="No space left on device.*Free some space"):
            opened(tmp_path / "pairs.csv")
    assert not list((tmp_path / "cache").iterdir())
    assert len(opened(tmp_path / "pairs.csv")[0]) == 1


# The cache

@pytest.fixture
def path(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text(ONE + "".join(f"the man,dog {i},0.{i}\n" for i in range(10)))
    return path


def caches(tmp_path):
    return sorted((tmp_path / "cache").iterdir())


def test_it_is_taken_again_and_one_line_tells_so(path, tmp_path, opened):
    first, told = opened(path)
    (folder,) = caches(tmp_path)
    assert told == [f"{shown(path)}: 11 pairs, now in {shown(folder)}"]
    written = (folder / "pairs.arrow").stat().st_mtime_ns
    again, told = opened(path)
    assert told == [f"{shown(path)}: 11 pairs, taken from {shown(folder)}"]
    assert (folder / "pairs.arrow").stat().st_mtime_ns == written
    assert caches(tmp_path) == [folder] and list(again) == list(first)
    moved = shutil.copytree(folder, tmp_path / "elsewhere" / folder.name)
    assert "taken from" in opened(path, cache=moved.parent)[1][0]


def test_it_is_built_anew_when_anything_that_decides_it_changes(
        path, tmp_path, opened, tiny_folder, alter, tiny_vocab):
    opened(path)
    path.write_text(path.read_text().replace("0.9", "0.8"))              # of the same size
    changes = [{}, {"max_length": 64}, {"scale": (0, 2)}, {"on_bad_rows": "drop"},
               {"encoding": "utf-8"}, {"columns": {"score": "score"}}]
    alter.vocab(tiny_folder, tiny_vocab + ["music"])
    changes.append({"tokenizer": load_tokenizer(tiny_folder)})
    (tiny_folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    changes.append({"tokenizer": load_tokenizer(tiny_folder)})
    for count, settings in enumerate(changes, start=2):
        assert "now in" in opened(path, **settings)[1][-1], settings
        assert len(caches(tmp_path)) == count
        assert "taken from" in opened(path, **settings)[1][-1], settings


def test_what_the_tokenizer_was_called_with_before_plays_no_part(path, opened, tokenizer):
    opened(path)
    tokenizer(["a", "the cat"], truncation=True, max_length=3, padding=True)
    assert "taken from" in opened(path)[1][0]


def damages():
    def truncated(folder):
        os.truncate(folder / "pairs.arrow", 700)

    def flipped(folder):
        content = bytearray((folder / "pairs.arrow").read_bytes())
        content[len(content) // 2] ^= 1
        (folder / "pairs.arrow").write_bytes(content)

    return [truncated, flipped, lambda folder: (folder / "pairs.arrow").unlink(),
            lambda folder: (folder / "about.json").unlink(),
            lambda folder: (folder / "about.json").write_text("[1]"),
            lambda folder: (folder / "about.json").write_text('{"pairs": '), shutil.rmtree]


@pytest.mark.parametrize("damage", damages(), ids=range(len(damages())))
def test_a_damaged_one_is_noticed_and_built_anew(path, tmp_path, opened, damage):
    first = list(opened(path)[0])
    (folder,) = caches(tmp_path)
    damage(folder)
    again, told = opened(path)
    assert "now in" in told[0] and list(again) == first
    assert caches(tmp_path) == [folder] and "taken from" in opened(path)[1][0]


BUILD = """
import os, signal, sys
from connection_utils.pair_files import chunks
from connection_utils.use import arrow
from connection_utils.model_folder.files import load_tokenizer
chunks.CHUNK = 3
calls, tokenize = [], arrow.tokenize
def killed(*texts, **settings):
    calls.append(1)
    if len(calls) == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
    return tokenize(*texts, **settings)
arrow.tokenize = killed
arrow.open_connections(sys.argv[2], load_tokenizer(sys.argv[1]), cache=sys.argv[3])
"""


def in_a_process(*arguments, code=BUILD, **settings):
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT,
                          capture_output=True, text=True, **settings)


@pytest.mark.slow
def test_a_build_that_is_killed_leaves_no_cache_and_the_next_call_builds_it(
        path, tmp_path, opened, tiny_folder):
    done = in_a_process(tiny_folder, path, tmp_path / "cache", 5)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (left,) = caches(tmp_path)
    assert left.name.endswith(".partial") and (left / "pairs.arrow").exists()
    path.write_text(path.read_text() + "a,b,1\n")              # another key, and yet it goes
    found, told = opened(path)
    assert "now in" in told[0] and len(found) == 12
    (folder,) = caches(tmp_path)
    assert folder != left


@pytest.mark.slow
@pytest.mark.skipif(arrow.fcntl is None, reason="no locks")
def test_two_processes_that_open_a_file_at_once_both_get_it(path, tmp_path, tiny_folder):
    processes = [subprocess.Popen([sys.executable, "-c", BUILD, tiny_folder, path,
                                   tmp_path / "cache", "0"], cwd=ROOT, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                 for _ in range(2)]
    said = sorted(process.communicate(timeout=120)[0] for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert "now in" in said[0] and len(caches(tmp_path)) == 1
    assert "taken from" in said[1]


def test_nothing_goes_to_the_home_folder_or_out_of_the_machine(path, tmp_path, tiny_folder):
    home = tmp_path / "home"
    home.mkdir()
    code = ("import socket\n"
            "def refused(*_, **__): raise SystemExit('a socket was opened')\n"
            "socket.socket.connect = socket.getaddrinfo = refused\n") + BUILD
    names = ("HF_HOME", "HF_DATASETS_CACHE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
    done = in_a_process(tiny_folder, path, tmp_path / "cache", 0, code=code, env={
        name: value for name, value in os.environ.items() if name not in names
    } | {"HOME": str(home)})
    assert done.returncode == 0, done.stderr
    assert not list(home.rglob("*")) and len(caches(tmp_path)) == 1


def test_it_lies_under_runs_if_nothing_else_is_said(path, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(arrow, "runs_folder", lambda: tmp_path / "runs")
    monkeypatch.setattr(chunks, "CHUNK", 3)
    open_connections(path, tokenizer, tell=list)
    (folder,) = (tmp_path / "runs" / "cache").iterdir()
    assert folder.name.startswith("pairs.csv-") and len(folder.name) == len("pairs.csv-") + 16
