"""Scoring a file of any size: every row, in order, with its cosine, and no work twice."""

import csv
import json
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cases import slow

from connection_utils import ConnectionBert, ConnectionDataError, ConnectionScorer, score_file
from connection_utils.commands.score import main
from connection_utils.ground.paths import ROOT
from connection_utils.pair_files.faults import as_options
from connection_utils.pair_files.formats import open_file

ROWS = 5


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five rows at a time, so that a small file has several parts."""
    for module in ("pair_files.formats", "use.file_scoring"):
        monkeypatch.setattr(f"connection_utils.{module}.CHUNK", ROWS)


class Counting(ConnectionScorer):
    """Counts the pairs that it scores."""
    scored = 0

    def __call__(self, batch):
        self.scored += len(batch["sentence1"])
        return super().__call__(batch)


@pytest.fixture
def scorer(tiny_folder: Path) -> Counting:
    return Counting(tiny_folder, device="cpu")


@pytest.fixture
def pairs(make_pairs: Callable[[int], pd.DataFrame]) -> pd.DataFrame:
    """23 pairs with a number of their own, and texts that CSV has to quote."""
    table = make_pairs(23)
    table.loc[3, "sentence1"] = 'he said "sit", twice'
    table.loc[7, "sentence2"] = "one line\nanother\r\nand a third\rone"
    table.loc[11, "sentence1"] = "=SUM(A1:A2) guitar"
    table.insert(0, "id", [f"{row:04d}" for row in range(23)])
    return table


def expected(tiny_folder: Path, pairs: pd.DataFrame) -> np.ndarray:
    return ConnectionBert.from_local(tiny_folder, device="cpu").similarity(
        pairs["sentence1"], pairs["sentence2"])


def silent(*_: object) -> None:
    pass


# What is written

@pytest.mark.parametrize("kind", ["csv", "csv.gz", "tsv", "jsonl", "json", "parquet", "xlsx"])
@pytest.mark.parametrize("out", ["csv", "parquet"])
def test_every_row_in_order_with_all_its_columns(tmp_path, tiny_folder, scorer, pairs, kind,
                                                 out):
    path, result = tmp_path / f"pairs.{kind}", tmp_path / f"scored.{out}"
    if kind == "parquet":
        pairs.to_parquet(path, row_group_size=7)
    elif kind.startswith("json"):
        pairs.to_json(path, orient="records", lines=kind == "jsonl")
    elif kind == "xlsx":             # openpyxl writes a lone carriage return as a line end
        pairs = pairs.replace({"\r\n|\r": "\n", "^=": ""}, regex=True)     # and = as a formula
        pairs.to_excel(path, index=False)
    else:
        pairs.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",",
                     quoting=csv.QUOTE_ALL)
    assert score_file(path, result, scorer, tell=silent) == 23 == scorer.scored
    found = (pd.read_parquet(result) if out == "parquet" else
             pd.read_csv(result, dtype={"id": str}))
    assert list(found) == [*pairs, "cosine"]
    assert found["cosine"].to_numpy() == pytest.approx(expected(tiny_folder, pairs), abs=1e-5)
    for column in ("id", "sentence1", "sentence2"):
        assert found[column].tolist() == pairs[column].tolist()
    assert found["score"].astype(float).tolist() == pairs["score"].tolist()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_parquet_keeps_its_types(tmp_path, scorer, pairs):
    table = pa.table({
        "when": pa.array(range(23), pa.timestamp("us", "Asia/Seoul")),
        "tags": pa.array([[row, None] for row in range(23)], pa.list_(pa.int16())),
        "kind": pa.array(["a", None, "b"] * 7 + ["a", "b"]).dictionary_encode(),
        "sentence1": pairs["sentence1"].tolist(), "sentence2": pairs["sentence2"].tolist()})
    pq.write_table(table, tmp_path / "pairs.parquet")
    score_file(tmp_path / "pairs.parquet", tmp_path / "scored.parquet", scorer, tell=silent)
    found = pq.read_table(tmp_path / "scored.parquet")
    assert found.schema.field("cosine").type == pa.float32()
    assert found.drop_columns("cosine").equals(table)


def test_what_csv_cannot_hold_is_told_before_anything_is_scored(tmp_path, scorer, pairs):
    pq.write_table(pa.table({"tags": [[1]] * 23, "sentence1": pairs["sentence1"].tolist(),
                             "sentence2": pairs["sentence2"].tolist()}),
                   tmp_path / "pairs.parquet")
    with pytest.raises(ConnectionDataError, match="that .csv cannot contain .*in .parquet"):
        score_file(tmp_path / "pairs.parquet", tmp_path / "scored.csv", scorer, tell=silent)
    assert not scorer.scored


def test_columns_are_guessed_and_told_or_stated(tmp_path, scorer, pairs):
    path = tmp_path / "pairs.csv"
    pairs.rename(columns={"sentence1": "question1", "sentence2": "question2"}).drop(
        columns="score").to_csv(path, index=False)
    told = []
    score_file(path, tmp_path / "a.csv", scorer, tell=told.append)
    *told, unread = told
    assert unread.startswith("first 5 rows: ") and "unknown ([UNK])" in unread
    assert told == [f"{path}: sentence1 is 'question1', sentence2 is 'question2' (if it is "
                    "another, state columns=)"]
    score_file(path, tmp_path / "b.csv", scorer, tell=silent,
               columns={"sentence1": "question2", "sentence2": "question1"})
    assert pd.read_csv(tmp_path / "b.csv")["cosine"].to_numpy() == pytest.approx(
        pd.read_csv(tmp_path / "a.csv")["cosine"].to_numpy(), abs=1e-5)


def test_the_benchmarks_own_file(tmp_path, scorer):
    path = tmp_path / "sts-dev.csv"
    path.write_text("main-news\tMSRpar\t2012\t1\t2.5\ta man plays\ttwo dogs\tx\ty\n" * 7)
    score_file(path, tmp_path / "scored.csv", scorer, tell=silent)
    found = pd.read_csv(tmp_path / "scored.csv")
    assert len(found) == 7 and found["sentence2"].eq("two dogs").all()


def test_a_categorical_column_over_several_row_groups(tmp_path, scorer, pairs):
    """Arrow cuts batches where the categories change."""
    pairs["genre"] = [f"genre {row // 4}" for row in range(23)]
    path = tmp_path / "pairs.parquet"
    pairs.astype({"genre": "category"}).to_parquet(path, row_group_size=4)
    assert score_file(path, tmp_path / "scored.parquet", scorer, tell=silent) == 23
    found = pd.read_parquet(tmp_path / "scored.parquet")
    assert found["genre"].tolist() == pairs["genre"].tolist()
    assert found["cosine"].notna().all()


def test_memory_does_not_grow_with_the_rows(tmp_path, monkeypatch):
    """Beyond the first megabyte, which is looked at, a chunk or two are in memory."""
    monkeypatch.setattr("connection_utils.pair_files.formats.CHUNK", 1000)
    peaks = []
    for count in (90_000, 270_000):
        path = tmp_path / f"{count}.csv"
        path.write_text("sentence1,sentence2\n" + "a cat,a dog\n" * count)
        tracemalloc.start()
        for chunk in open_file(path).chunks([0, 1], whole=True):
            assert len(chunk.cells) <= 1000
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


# Bad rows

FAULTY = ('id,sentence1,sentence2\n1,a cat,a dog\n2,,a dog\n3,a cat,"a dog","too ""many"\n'
          '4,a cat,4711\n5,caf\xe9 cat,a dog\n6,a "man,a woman\n7,"a dog" no,a cat\n'
          '8,a dog,a cat\n')


def test_all_bad_rows_are_told_before_anything_is_scored(tmp_path, scorer):
    path, told = tmp_path / "pairs.csv", []
    path.write_bytes(FAULTY.encode("latin-1"))
    with pytest.raises(ConnectionDataError) as error:
        score_file(path, tmp_path / "scored.csv", scorer, tell=told.append, encoding="utf-8")
    assert re.findall(r"^  line (\d)", str(error.value), re.M) == ["3", "4", "6", "8"]
    assert "4 faults in 4 of 8 rows" in str(error.value)
    assert "line 4: found 4 fields, expected 3 as in line 1" in str(error.value)
    assert "1 text is a number" in told[0] and "line 5, column sentence2: '4711'" in told[0]
    assert not scorer.scored and [each.name for each in tmp_path.iterdir()
                                  if "scored" in each.name] == []


@pytest.mark.parametrize("out", ["csv", "parquet"])
def test_bad_rows_keep_their_place_and_their_content(tmp_path, scorer, out):
    path, result, told = tmp_path / "pairs.csv", tmp_path / f"scored.{out}", []
    path.write_bytes(FAULTY.encode("latin-1"))
    assert score_file(path, result, scorer, encoding="utf-8", keep_bad_rows=True,
                      tell=told.append) == 8
    found = (pd.read_csv if out == "csv" else pd.read_parquet)(result)
    assert found["cosine"].notna().tolist() == [True, False, False, True, False, True, False,
                                                True]
    assert found["sentence1"].iloc[4] == "caf\\udce9 cat"              # told as what it was
    assert found["id"].isna().tolist() == [False, False, True, False, False, False, True, False]
    assert found["sentence1"].iloc[2] == '3,a cat,"a dog","too ""many"'  # its line
    assert found["sentence1"].iloc[6] == '7,"a dog" no,a cat'
    assert re.search("4 of 8 rows get no cosine; the first faults: line 3, column sentence1",
                     told[1])


@pytest.mark.parametrize(("content", "message"), [
    ("", "the file is empty"), ("sentence1,sentence2\n", "no row with a pair"),
    ("sentence1,cosine\na,b\n", "expected a column sentence2"),
    ("sentence1,sentence2,cosine\na,b,1\n", "2 columns .* called 'cosine'.*into="),
    ("sentence1,sentence2,id,id\na,b,1,2\n", "2 columns .* called 'id'"),
    ("sentence1,sentence2,id,id,x,x\na,b,1,2,3,4\n", "2 columns .* called 'id'"),
    (b"sentence1,sentence2,caf\xe9\na,b,c\n", "line 1: found 'caf.udce9'.*state encoding=")])
def test_files_that_cannot_be_scored(tmp_path, scorer, content, message):
    (tmp_path / "pairs.csv").write_bytes(
        content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConnectionDataError, match=message):
        score_file(tmp_path / "pairs.csv", tmp_path / "out.csv", scorer, tell=silent)


def test_faults_beyond_those_that_are_listed_are_counted(tmp_path, scorer):
    (tmp_path / "pairs.csv").write_text("sentence1,sentence2\n" + "a,b\n,\x20b\n,c\n" * 100)
    with pytest.raises(ConnectionDataError) as raised:
        score_file(tmp_path / "pairs.csv", tmp_path / "out.csv", scorer, tell=silent)
    assert "200 faults in 200 of 300 rows" in str(raised.value)
    assert "and 150 more" in str(raised.value)


def test_a_key_that_only_a_late_row_has_is_a_column(tmp_path, scorer, pairs):
    rows = pairs.to_dict("records")
    rows[-1]["late"] = "here"
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    score_file(tmp_path / "pairs.jsonl", tmp_path / "out.csv", scorer, tell=silent)
    assert pd.read_csv(tmp_path / "out.csv")["late"].tolist()[-1] == "here"


def test_nothing_is_overwritten(tmp_path, scorer, pairs):
    pairs.to_csv(tmp_path / "pairs.csv", index=False)
    with pytest.raises(FileExistsError, match="pairs.csv exists already"):
        score_file(tmp_path / "pairs.csv", tmp_path / "pairs.csv", scorer)
    with pytest.raises(ValueError, match="ends in .csv or .parquet"):
        score_file(tmp_path / "pairs.csv", tmp_path / "scored.xlsx", scorer)


# Killed, and gone on

SCORE_AND_DIE = """
import json, os, signal, sys, time, traceback
from connection_utils import ConnectionScorer
from connection_utils.pair_files import formats
from connection_utils.use import file_scoring   # once, for all

for module in (formats, file_scoring):
    module.CHUNK = 5

class Slow(ConnectionScorer):
    calls = 0
    def __call__(self, batch):
        self.calls += 1
        if self.calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        print("part", flush=True)
        return super().__call__(batch)

for line in sys.stdin:                                # a process a line
    pairs, out, folder, call, seconds = json.loads(line)
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(120)
        os.dup2(tell, 1)
        try:
            file_scoring.score_file(pairs, out, Slow(folder, device="cpu"))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(tell)
    if seconds is not None:
        os.read(told, 1)                              # it has begun
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.close(told)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


@pytest.fixture(scope="module")
def drive() -> Iterator[Callable[..., int]]:
    """Scores in a process of its own: (tmp_path, model, call, seconds) -> how it ended.

    It kills itself before it scores part `call`, or is killed `seconds` after the first one.
    """
    server = subprocess.Popen([sys.executable, "-c", SCORE_AND_DIE], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)

    def run(folder: Path, model: Path, call: int = 0, seconds: float | None = None) -> int:
        server.stdin.write(json.dumps([str(folder / "pairs.csv"), str(folder / "scored.csv"),
                                       str(model), call, seconds]) + "\n")
        server.stdin.flush()
        answer = server.stdout.readline()
        assert answer, "the server died"
        return int(answer)

    yield run
    server.stdin.close()
    server.wait(30)


@pytest.mark.parametrize("part", [slow(1), 3, slow(5)])
def test_after_a_kill_no_part_is_scored_twice(drive, tmp_path, tiny_folder, scorer, pairs,
                                              part):
    pairs.to_csv(tmp_path / "pairs.csv", index=False)
    killed = drive(tmp_path, tiny_folder, part)
    assert killed == -signal.SIGKILL and not (tmp_path / "scored.csv").exists()
    told = []
    assert score_file(tmp_path / "pairs.csv", tmp_path / "scored.csv", scorer,
                      tell=told.append) == 23
    assert scorer.scored == 23 - ROWS * (part - 1)
    assert told[1:] == [f"going on after {ROWS * (part - 1)} of 23 rows"] * (part > 1)
    found = pd.read_csv(tmp_path / "scored.csv")
    assert found["cosine"].to_numpy() == pytest.approx(expected(tiny_folder, pairs), abs=1e-5)
    whole = tmp_path / "whole.csv"
    score_file(tmp_path / "pairs.csv", whole, scorer, tell=silent)
    assert whole.read_bytes() == (tmp_path / "scored.csv").read_bytes()       # bit for bit


@pytest.mark.parametrize("seed", [0, slow(1)])
def test_killed_at_any_moment_it_ends_with_every_row(drive, tmp_path, tiny_folder, scorer,
                                                     make_pairs, seed):
    make_pairs(100).to_csv(tmp_path / "pairs.csv", index=False)
    whole = tmp_path / "whole.csv"
    score_file(tmp_path / "pairs.csv", whole, scorer, tell=silent)
    moments, killed = random.Random(seed), 0
    for _ in range(6):
        end = drive(tmp_path, tiny_folder, seconds=moments.uniform(0, 0.1))
        killed += end == -signal.SIGKILL
        if (tmp_path / "scored.csv").exists():
            break
    else:
        end = 0
        score_file(tmp_path / "pairs.csv", tmp_path / "scored.csv", scorer, tell=silent)
    assert killed and (tmp_path / "scored.csv").read_bytes() == whole.read_bytes()
    # the parts are removed last, so a kill may come between the result and that
    assert end == -signal.SIGKILL or not list(tmp_path.glob(".scored*"))


@pytest.mark.parametrize("change", ["pairs", "model", "options"])
def test_parts_of_another_job_are_not_taken(drive, tmp_path, tiny_folder, scorer, pairs, alter,
                                            change):
    path = tmp_path / "pairs.csv"
    pairs.to_csv(path, index=False)
    assert drive(tmp_path, tiny_folder, 3) == -signal.SIGKILL
    if change == "pairs":
        pairs[::-1].to_csv(path, index=False)
    elif change == "model":
        alter.tensors(tiny_folder, lambda tensors: {name: 2 * tensor
                                                    for name, tensor in tensors.items()})
    else:
        scorer.batch_size = 2
    score_file(path, tmp_path / "scored.csv", scorer, tell=silent)
    assert scorer.scored == 23 and not list(tmp_path.glob(".scored*"))


def test_a_full_disk_loses_nothing(tmp_path, scorer, pairs, monkeypatch, capsys, tiny_folder):
    pairs.to_csv(tmp_path / "pairs.csv", index=False)
    whole, calls = pq.write_table, []

    def full(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return whole(*arguments, **options)

    monkeypatch.setattr(pq, "write_table", full)
    command = [str(tmp_path / "pairs.csv"), str(tmp_path / "scored.csv"), "--model",
               str(tiny_folder), "--device", "cpu"]
    with pytest.raises(SystemExit, match="No space left on device. What is scored so far is"):
        main(command)
    main(command)
    said = capsys.readouterr().out
    assert "going on after 10 of 23 rows" in said and "scored  23 pairs into" in said


def test_parts_of_another_result_stay(tmp_path, scorer, pairs):
    """Its name begins with that of this one and a dash."""
    pairs.to_csv(tmp_path / "pairs.csv", index=False)
    other = tmp_path / ".scored.csv-2.csv-0123456789abcdef.parts"
    other.mkdir()
    score_file(tmp_path / "pairs.csv", tmp_path / "scored.csv", scorer, tell=silent)
    assert other.is_dir()


# The command, and the class

def test_the_command_line_names_its_own_options(tmp_path, tiny_folder, capsys):
    path = tmp_path / "pairs.csv"
    path.write_text("a,b\nthe cat,the dog\n")
    command = [str(path), str(tmp_path / "out.csv"), "--model", str(tiny_folder)]
    with pytest.raises(SystemExit) as end:
        main(command)
    assert "expected a column sentence1, or one that --columns names" in str(end.value)
    assert "--columns sentence1=question sentence2=known_issue" in str(end.value)
    main([*command, "--columns", "sentence1=a", "sentence2=b", "--into", "how_connected"])
    assert list(pd.read_csv(tmp_path / "out.csv")) == ["a", "b", "how_connected"]
    with pytest.raises(SystemExit, match="exists already"):
        main([*command, "--columns", "sentence1=a", "sentence2=b"])
    with pytest.raises(SystemExit, match="expected OURS=THEIRS"):
        main([str(path), str(tmp_path / "b.csv"), "--model", str(tiny_folder), "--columns", "a"])
    with pytest.raises(SystemExit, match="cannot be used as a BERT folder"):
        main([str(path), str(tmp_path / "b.csv"), "--model", str(tmp_path)])


def test_what_a_message_suggests_is_an_option(tmp_path, tiny_folder, capsys):
    """Each suggestion, followed, leads to the next one, and at last to the result."""
    path = tmp_path / "pairs.csv"
    path.write_bytes("text_a,text_b\ncaf\xe9 cat,a dog\n,a cat\n".encode("latin-1"))
    command = [str(path), str(tmp_path / "out.csv"), "--model", str(tiny_folder)]
    with pytest.raises(SystemExit, match="state --encoding if the file has another"):
        main(command)
    assert "state --columns)" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="without a cosine .--keep-bad-rows."):
        main([*command, "--encoding", "latin-1"])
    with pytest.raises(SystemExit, match="called 'text_a'.*--into"):
        main([*command, "--encoding", "latin-1", "--keep-bad-rows", "--into", "text_a"])
    main([*command, "--encoding", "latin-1", "--keep-bad-rows"])
    assert pd.read_csv(tmp_path / "out.csv")["cosine"].notna().tolist() == [True, False]


@pytest.mark.parametrize(("message", "words"), [
    ('or state what is meant, as columns={"sentence1": "question", "score": "grade"} or '
     "scale=(1, 5).", "as --columns sentence1=question score=grade or --scale 1 5."),
    ("state scale=(low, high)", "state --scale low high"),
    ("as encoding='cp949', or", "as --encoding cp949, or"),
    ('pass on_bad_rows="drop" to', "pass --drop-bad-rows to"),
    ('columns={"sentence1": "a question", "score": "c"}',
     "--columns 'sentence1=a question' score=c"),
    ("found 'set scale=3 and columns=no', state encoding=",
     "found 'set scale=3 and columns=no', state --encoding"),
], ids=["columns and scale", "scale", "encoding", "bad rows", "blanks", "own data"])
def test_a_command_line_names_options_in_place_of_parameters(message, words):
    assert words in as_options(message)


def test_it_runs_as_a_program(tmp_path, tiny_folder, pairs):
    pairs.to_csv(tmp_path / "pairs.csv", index=False)
    done = subprocess.run(
        [sys.executable, "-m", "connection_utils", "score", tmp_path / "pairs.csv",
         tmp_path / "scored.parquet", "--model", tiny_folder], capture_output=True, text=True,
        cwd=ROOT, env=os.environ | {"CONNECTION_CHECK": "quick"})
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout.splitlines()[-1].startswith("scored  23 pairs into ")


def test_a_scorer_travels_without_its_model(tiny_folder):
    scorer = ConnectionScorer(tiny_folder, into="near", device="cpu")
    batch = {"sentence1": np.array(["a cat", "a dog"], object),
             "sentence2": ["the cat", "a man"], "n": [1, 2]}
    here = scorer(batch)
    assert list(here) == ["sentence1", "sentence2", "n", "near"]
    assert here["near"].dtype == np.float32
    sent = pickle.dumps(scorer)
    assert len(sent) < 1000
    assert pickle.loads(sent)(batch)["near"].tolist() == here["near"].tolist()
    assert json.loads(json.dumps(scorer.identity())) == pickle.loads(sent).identity()
    assert len(scorer({"sentence1": [], "sentence2": []})["near"]) == 0
