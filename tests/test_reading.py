"""Files of pairs: read as they are meant, and refused with all their faults and places."""

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from readers import read_both, refuse_both, silent

from connection_utils import ConnectionDataError, find_leaks, read_connections, read_splits
from connection_utils.ground.paths import ROOT
from connection_utils.pair_files.columns import find_scale
from connection_utils.workshop.assets import DEFAULT_DATA

STSB = ROOT / DEFAULT_DATA
HEADER = "sentence1,sentence2,score\n"
QUOTES_NEEDED = "a text with a comma needs double quotes"
STS_EXPECTED = "expected at least 7 (genre, source, year, id, score, sentence1, sentence2)"
ONE_ROW = "main-captions\tMSRvid\t2012test\t0001\t{score}\t{first}\t{second}"


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch) -> Path:
    """The folder that stands for ``runs/``."""
    monkeypatch.setattr("connection_utils.pair_files.faults.runs_folder",
                        lambda: tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def read(tmp_path) -> Callable[..., pd.DataFrame]:
    """Write text, or bytes, to a file and read it."""
    def read_content(content: str | bytes, name: str = "pairs.csv", **options) -> pd.DataFrame:
        return read_both(write(tmp_path / name, content), **{"tell": silent} | options)

    return read_content


@pytest.fixture
def told(read) -> Callable[..., list[str]]:
    """Write text, or bytes, to a file and read it; what was told, without the file's name."""
    def read_content(content: str | bytes, name: str = "pairs.csv", **options) -> list[str]:
        lines: list[str] = []
        read(content, name, tell=lines.append, **options)
        return [line.split(f"{name}: ", 1)[1] for line in lines]

    return read_content


@pytest.fixture
def refused(tmp_path) -> Callable[..., ConnectionDataError]:
    """Write text, or bytes, to a file that must be refused; returns the error."""
    def read_content(content: str | bytes, name: str = "pairs.csv", **options
                     ) -> ConnectionDataError:
        error = refuse_both(write(tmp_path / name, content), **{"tell": silent} | options)
        assert str(error).startswith(str(tmp_path / name))
        return error

    return read_content


@pytest.fixture
def aside(runs, tmp_path) -> Callable[..., list[dict]]:
    """The rows of a file that were set aside."""
    def entries(path: str = "pairs.csv") -> list[dict]:
        path = runs / "bad_rows" / "elsewhere" / f"{str(tmp_path / path)[1:]}.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]

    return entries


@pytest.fixture
def faults(refused) -> Callable[..., list[str]]:
    """Write text, or bytes, to a file that must be refused; the lines that name a fault."""
    def read_content(content: str | bytes, name: str = "pairs.csv", **options) -> list[str]:
        _, *lines, _ = str(refused(content, name, **options)).split("\n")
        assert all(line.startswith("  ") for line in lines)
        return [line.strip() for line in lines]

    return read_content


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def sts(first: str = "a girl", second: str = "a woman", score: str = "2.500") -> str:
    return ONE_ROW.format(first=first, second=second, score=score)


# The STS benchmark's format

def test_sts_rows_are_read_with_score_over_five_and_genre(read):
    table = read(sts() + "\n" + sts("x", "y", "5.000") + "\n" + sts("p", "q", "0") + "\n")
    assert list(table.columns) == \
        ["sentence1", "sentence2", "score", "genre", "source", "year"]
    assert table["score"].tolist() == [0.5, 1.0, 0.0]
    assert table["score"].dtype == "float64"
    assert table.loc[0].tolist() == \
        ["a girl", "a woman", 0.5, "main-captions", "MSRvid", "2012test"]
    assert table.index.tolist() == [0, 1, 2]


def test_sts_quotes_are_text_and_lose_no_row(read):
    texts = ['"Never closed', 'He said "no".', '"all"', 'odd " one', "it's, with comma"]
    table = read("".join(sts(text, "b") + "\n" for text in texts))
    assert table["sentence1"].tolist() == texts


def test_sts_rows_of_nine_columns_keep_the_texts(read):
    table = read(sts() + "\n" + sts("x", "y") + "\thttp://one\thttp://two\n" + sts("p", "q"))
    assert table["sentence1"].tolist() == ["a girl", "x", "p"]
    assert table["sentence2"].tolist() == ["a woman", "y", "q"]


def test_sts_windows_line_ends_are_not_part_of_the_text(read):
    table = read(sts() + "\r\n" + sts("x", "y") + "\r\n")
    assert table["sentence2"].tolist() == ["a woman", "y"]


def test_sts_other_line_separators_inside_a_text_do_not_cut_it(read):
    text = "one\u2028two\x0bthree\x85four"
    assert read(sts(text, "b") + "\n")["sentence1"].tolist() == [text]


@pytest.mark.parametrize(("row", "message"), [
    ("main\tMSRvid\t2012\t1\t2.5\tonly one",
     f"line 2: found 6 tab-separated fields, {STS_EXPECTED}"),
    (sts(first="  "), "line 2, column sentence1: found '  ', expected a text"),
    (sts(second=""), "line 2, column sentence2: found '', expected a text"),
    (sts(score="5.1"), "line 2, column score: found '5.1', expected a number from 0 to 5"),
    (sts(score="n/a"), "line 2, column score: found 'n/a', expected a number from 0 to 5"),
], ids=["too few fields", "blank text", "empty text", "above five", "no number"])
def test_a_faulty_sts_row_is_named(faults, row, message):
    assert faults(sts() + "\n" + row + "\n" + sts() + "\n") == [message]


def test_of_the_sts_files_nothing_is_told_and_no_row_is_lost(told, read):
    content = "".join(sts(score=score) + "\n" for score in ("2.5", "2.5", "1"))
    assert told(content) == []
    assert read(content)["score"].tolist() == [0.5, 0.5, 0.2]


def test_a_stated_scale_holds_for_sts_rows_too(read):
    assert read(sts(score="4") + "\n", scale=(0, 8))["score"].tolist() == [0.5]


def test_seven_columns_with_names_are_no_sts_file(read):
    header = "genre\tfilename\tyear\tid\tscore\tsentence1\tsentence2\n"
    assert list(read(header + sts() + "\n").columns) == ["sentence1", "sentence2", "score"]


# Plain CSV

def test_a_plain_csv_is_read_by_its_header_in_any_order(read):
    table = read("id,score,sentence2,sentence1\n7,0.25,b,a\n8,1,d,c\n")
    assert list(table.columns) == ["sentence1", "sentence2", "score"]
    assert table.values.tolist() == [["a", "b", 0.25], ["c", "d", 1.0]]


def test_a_quoted_text_may_hold_commas_quotes_and_line_ends(read):
    table = read(HEADER + '"one, two","say ""no""",0.5\n"up\ndown",b,1\n')
    assert table["sentence1"].tolist() == ["one, two", "up\ndown"]
    assert table["sentence2"].tolist() == ['say "no"', "b"]


@pytest.mark.parametrize("content", [
    b"\xef\xbb\xbf" + (HEADER + "\uac00\ub098,b,0.5\n").encode(),
    (HEADER + "\uac00\ub098,b,0.5\n").replace("\n", "\r\n").encode(),
    (HEADER + "\n\n\uac00\ub098,b,0.5\n\n").encode(),
    (HEADER + "\uac00\ub098,b,0.5").encode(),
    (HEADER + "\uac00\ub098,b,0.5").encode("utf-16-le"),
    ("\n \n" + HEADER + ",,\n\uac00\ub098,b,0.5\n , ,\n").encode(),
], ids=["BOM, as Excel saves it", "CRLF", "empty lines", "no last line end",
        "UTF-16 without its mark", "empty cells"])
def test_harmless_differences_between_csv_files(read, content):
    assert read(content).values.tolist() == [["\uac00\ub098", "b", 0.5]]


def test_words_that_look_like_missing_values_stay_texts(read):
    """pandas' own reader would turn them into NaN, which the tokenizer cannot take."""
    table = read(HEADER + "NA,null,0.5\nNaN,None,1\n<NA>,inf,0\n")
    assert table["sentence1"].tolist() == ["NA", "NaN", "<NA>"]
    assert table["sentence2"].tolist() == ["null", "None", "inf"]


@pytest.mark.parametrize("separator", ["\\", "/"])
def test_either_slash_separates_the_path(tmp_path, monkeypatch, separator):
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "pairs.csv", HEADER + "a,b,0.5\n")
    monkeypatch.chdir(tmp_path)
    assert len(read_connections(f"data{separator}pairs.csv", tell=silent)) == 1


@pytest.mark.parametrize("score", ["-0.01", "1.01", "5", "nan", "NaN", "inf", "-inf", "",
                                   "high", "True", "1e400", "1_0", "101%", "0x1"])
def test_a_score_outside_0_to_1_is_named(faults, score):
    assert faults(HEADER + f'a,b,1\nc,d,"{score}"\n', scale=(0, 1)) == \
        [f"line 3, column score: found {score!r}, expected a number from 0 to 1"]


def test_a_decimal_comma_is_told_as_such(faults):
    message, = faults(HEADER + 'a,b,1\nc,d,"0,5"\n')
    assert message.endswith("found '0,5', expected a number from 0 to 1, with a decimal point")


@pytest.mark.parametrize(("content", "message"), [
    (HEADER + 'a,b,1\n,b,1\n', "line 3, column sentence1: found '', expected a text"),
    (HEADER + 'a,b,1\na," ",1\n', "line 3, column sentence2: found ' ', expected a text"),
    (HEADER + 'a,b,1\nc,\u200b,1\n',
     "line 3, column sentence2: found '\\u200b', expected a text"),
    (HEADER + 'a,b,1\nc\0,d,1\n', "line 3, column sentence1: found 'c\\x00', expected a text "
     "without NUL and without halves of characters"),
    (HEADER + 'a,b,1\none, two,b,1\n',
     f"line 3: found 4 fields, expected 3 as in line 1; {QUOTES_NEEDED}"),
    (HEADER + 'a,b\n', f"line 2: found 2 fields, expected 3 as in line 1; {QUOTES_NEEDED}"),
    (HEADER.encode() + b"a,b,1\nc\xff,d,1\n",
     "line 3, column sentence1: found 'c\\udcff' (byte 0xff is not UTF-8), expected a text in "
     "UTF-8; state encoding= if the file has another"),
    (b"\xef\xbb\xbf" + HEADER.encode() + b"a,b,1\n\xffc,d,1\n",
     "line 3, column sentence1: found '\\udcffc' (byte 0xff is not UTF-8), expected a text in "
     "UTF-8; state encoding= if the file has another"),
    (HEADER + 'a,b,1\n"c" d,e,1\n', "line 3: found '\"c\" d,e,1\\n', expected every quote "
     "closed, and doubled inside a quoted text (',' expected after '\"')"),
], ids=["empty text", "blank text", "invisible text", "NUL", "comma without quotes",
        "too few fields", "not UTF-8", "BOM and not UTF-8", "text after a quote"])
def test_a_faulty_row_is_named(faults, content, message):
    assert faults(content) == [message]


@pytest.mark.parametrize(("content", "message"), [
    ("", ": the file is empty; expected pairs."),
    (" \n\n", ": the file is empty; expected pairs."),
    (b"\xef\xbb\xbf", ": the file is empty; expected pairs."),
    (HEADER, ": no row with a pair; expected at least one."),
    (HEADER + "\n\n", ": no row with a pair; expected at least one."),
    (HEADER + ",,\n", ": no row with a pair; expected at least one."),
    ('"sentence1,sentence2\na,b\n', ", line 1: found '\"sentence1,sentence2\\n', expected the "
     "names of the columns, every quote closed, and doubled inside a quoted text (unexpected "
     "end of data)."),
], ids=["empty file", "blank file", "only a BOM", "header only", "header and blank lines",
        "header and empty cells", "a header that never ends"])
def test_a_file_without_pairs_is_refused(refused, tmp_path, content, message):
    error = refused(content)
    assert str(error) == f"{tmp_path / 'pairs.csv'}{message}"


def test_line_numbers_stay_right_after_line_ends_inside_quotes(faults):
    rows = '"one\ntwo\nthree",b,1\n\nc,d,0.5\n'          # lines 2 to 4, 5 empty, 6
    assert faults(HEADER + rows + "e,f,7\n", scale=(0, 1)) == \
        ["line 7, column score: found '7', expected a number from 0 to 1"]
    assert faults(HEADER + rows + '"e\nf",g\n')[0].startswith("line 7: found 2 fields")


def test_a_quote_that_is_never_closed_hides_no_other_row(faults, read):
    content = HEADER + 'a,b,1\n"c,d,1\ne,f,0\n'
    assert faults(content) == [
        "line 3: found '\"c,d,1\\n', expected every quote closed, and doubled inside a quoted "
        "text (unexpected end of data)"]
    assert read(content, on_bad_rows="drop")["sentence1"].tolist() == ["a", "e"]


def test_a_stray_quote_does_not_swallow_a_long_file(read):
    """The row would go on to the end of the file, of which each line may begin another."""
    rows = [f"text {i},other {i},{i % 2}\n" for i in range(5000)]
    rows[10] = '"' + rows[10]
    assert len(read(HEADER + "".join(rows), on_bad_rows="drop")) == 4999


def test_a_field_that_csv_refuses_is_one_fault(faults, read):
    content = HEADER + "a,b,1\n" + "long" * 50_000 + ",b,1\nc,d,0\n"
    assert len(read(content)) == 3
    limit = csv.field_size_limit(131_072)
    try:
        message, = faults(content)
    finally:
        csv.field_size_limit(limit)
    assert message.startswith("line 3: found 'longlong") and len(message) < 250
    assert "field larger than field limit (131072)" in message


def test_a_column_that_is_called_line_is_dropped_as_any_other(read, faults):
    content = "line,sentence1,sentence2,score\n1,a,b,0.5\n1,c,d,{score}\n"
    assert read(content.format(score=1)).values.tolist() == [["a", "b", 0.5], ["c", "d", 1.0]]
    assert faults(content.format(score=7), scale=(0, 1)) == \
        ["line 3, column score: found '7', expected a number from 0 to 1"]


# The report

def test_all_faults_are_in_one_report_in_the_order_of_the_file(refused, tmp_path):
    error = refused(HEADER + "a,b,1\n, ,high\nc,d,2\ne,f\nb,A,1\ng,h,0\nh,g,1\n",
                    scale=(0, 1))
    assert str(error) == f"""{tmp_path / 'pairs.csv'}: 5 faults in 3 of 7 rows
  line 3, column sentence1: found '', expected a text
  line 3, column sentence2: found ' ', expected a text
  line 3, column score: found 'high', expected a number from 0 to 1
  line 4, column score: found '2', expected a number from 0 to 1
  line 5: found 2 fields, expected 3 as in line 1; {QUOTES_NEEDED}
Mend these rows, or pass on_bad_rows="drop" to go on without them."""


def test_a_long_report_lists_fifty_and_counts_the_rest(refused):
    error = refused(HEADER + "a,b,1\n" + ",b,1\n" * 80)
    first, *listed, more, last = str(error).split("\n")
    assert first.endswith("pairs.csv: 80 faults in 80 of 81 rows")
    assert len(listed) == 50
    assert more == "  and 30 more"


def test_a_single_fault_is_one(refused):
    assert "pairs.csv: 1 fault in 1 of 2 rows\n" in str(refused(HEADER + "a,b,1\n,b,1\n"))


def test_a_missing_column_hides_no_faulty_row(refused):
    error = refused("sentence1,score\n,1\nb,1\n")
    first, missing, row, last = str(error).split("\n")
    assert first.endswith("1 fault of the columns and 1 fault in 1 of 2 rows")
    assert missing.startswith("  line 1, column sentence2: found 'sentence1', 'score', expect")
    assert row == "  line 2, column sentence1: found '', expected a text"
    assert last.startswith("Mend the file, or state what is meant, as columns={")


def test_a_long_value_is_cut(faults):
    message, = faults(HEADER + "a,b,1\nc,d," + "9" * 50_000 + "x\n")
    assert len(message) < 150


def test_a_name_in_another_encoding_is_a_fault_of_its_line(faults):
    message, = faults("sentence1,sentence2,score,caf\xe9\na,b,1,c\n".encode("latin-1"))
    assert message.startswith("line 1: found 'caf\\udce9' (byte 0xe9 is not UTF-8), expected")
    assert "state encoding=" in message


@pytest.mark.parametrize("name", ["sentence1", "score"])
def test_a_column_that_is_there_twice_is_refused(faults, name):
    message, = faults(f"sentence1,sentence2,score,{name}\na,b,1,1\n")
    assert message.startswith(
        f"line 1, column {name}: found '{name}', '{name}', expected one such column")


# Bad rows that are dropped

BAD_ROWS = HEADER + '"=1+1",b,1\n,b,x\nc,d\n"e\uac00",f,0.5\n'


def test_dropped_rows_are_set_aside_with_what_is_wrong(read, aside):
    assert read(BAD_ROWS, on_bad_rows="drop").values.tolist() == \
        [["=1+1", "b", 1.0], ["e\uac00", "f", 0.5]]
    first, second = aside()
    assert list(first) == ["file", "line", "faults", "row"]
    assert first["line"] == 3 and second["line"] == 4
    assert first["faults"] == ["column sentence1: found '', expected a text",
                               "column score: found 'x', expected a number from 0 to 1"]
    assert first["row"] == {"sentence1": "", "sentence2": "b", "score": "x"}
    assert second["row"] == "c,d"


def test_the_number_of_dropped_rows_is_told_with_the_place(told, runs, tmp_path):
    lines = told(BAD_ROWS, on_bad_rows="drop")
    assert lines[0] == ("2 of 4 rows dropped; they are in "
                        f"{runs}/bad_rows/elsewhere{tmp_path}/pairs.csv.jsonl, with what is "
                        "wrong")
    assert lines[1].startswith("2 pairs; scores from 0.5 to 1")


def test_a_second_run_replaces_what_was_set_aside(read, runs, aside):
    read(BAD_ROWS, on_bad_rows="drop")
    read(HEADER + "a,b,1\nc,,0\n", on_bad_rows="drop")
    entry, = aside()
    assert entry["line"] == 3
    assert not list((runs / "bad_rows").rglob(".*"))


def test_files_of_one_name_keep_their_bad_rows_apart(read, aside, tmp_path):
    (tmp_path / "other").mkdir()
    read(BAD_ROWS, on_bad_rows="drop")
    read(HEADER + "a,b,1\nc,,0\n", "other/pairs.csv", on_bad_rows="drop")
    assert len(aside()) == 2 and len(aside("other/pairs.csv")) == 1


def test_a_file_of_the_repository_has_its_bad_rows_under_its_path(runs):
    path = "data/samples/helpdesk_with_faults.csv"
    read_connections(ROOT / path, on_bad_rows="drop", tell=silent, columns={
        "sentence1": "question", "sentence2": "known_issue"}, scale=(0, 4))
    assert (runs / "bad_rows" / f"{path}.jsonl").is_file()


def test_a_path_that_goes_up_leaves_its_bad_rows_under_runs(tmp_path, monkeypatch, runs, aside):
    monkeypatch.setattr("connection_utils.ground.paths.ROOT", tmp_path / "deep" / "er")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    write(tmp_path / "pairs.csv", BAD_ROWS)
    read_connections(tmp_path / "deep/er/../../pairs.csv", on_bad_rows="drop", tell=silent)
    assert len(aside()) == 2


def test_rows_without_cells_and_bytes_are_set_aside_as_they_are(read, aside):
    read(HEADER.encode() + b'a,b,1\n"c\nc",d,1,"e",f\n\xff,g,1\n', on_bad_rows="drop")
    first, second = aside()
    assert first["row"] == '"c\nc",d,1,"e",f'
    assert second["row"]["sentence1"] == "\udcff"


def test_nothing_is_written_without_bad_rows_or_into_the_readers_folder(read, runs, tmp_path):
    read(HEADER + "a,b,1\n", on_bad_rows="drop")
    assert not runs.exists()
    read(BAD_ROWS, on_bad_rows="drop")
    assert {path.name for path in tmp_path.iterdir()} == {"pairs.csv", "runs"}


def test_a_file_of_nothing_but_bad_rows_is_an_error_all_the_same(refused):
    message = str(refused(HEADER + ",b,1\na,,1\n", on_bad_rows="drop"))
    assert "2 faults in 2 of 2 rows" in message
    assert message.endswith("No row is left; mend the file.")


@pytest.mark.parametrize("option", [
    {"on_bad_rows": "warn"}, {"on_bad_rows": None}, {"scale": (1, 0)}, {"scale": (0, 0)},
    {"scale": (0, float("inf"))}, {"scale": (0, float("nan"))}, {"scale": (0,)},
    {"scale": "01"}, {"scale": 5}, {"scale": (-1e308, 1e308)},
    {"columns": ["a", "b", "c"]}, {"columns": {"text": "a"}},
    {"columns": {"score": 3}}, {"columns": {"sentence1": "a", "sentence2": "a"}},
], ids=repr)
def test_an_option_that_cannot_be_meant_is_a_value_error(read, option):
    with pytest.raises(ValueError, match="expected") as raised:
        read(HEADER + "a,b,1\n", **option)
    assert not isinstance(raised.value, ConnectionDataError)
    name, = option
    assert name in str(raised.value)


@pytest.mark.parametrize("name", ["utf-9", "hex"])
def test_an_encoding_that_python_does_not_know_is_told(refused, name):
    said = str(refused(HEADER + "a,b,1\n", encoding=name))
    assert f"cannot be decoded as {name}" in said and "encoding='cp949'" in said


# Repeated pairs

def test_repeated_pairs_are_told_and_kept(read, told):
    """The STS benchmark's own training file has some, and they may be meant."""
    content = HEADER + 'a,b,1\nc,d,0\n" B ",A,1.0\na,b,1e0\ne,f,1\nf,e,1\ng,h,0\nh,g,1\n'
    assert len(read(content)) == 8
    assert told(content, scale=(0, 1)) == [
        "2 pairs are in several rows, all kept (lines 2 and 4 and 5; 6 and 7)",
        "1 pair is in several rows with different scores, all kept (lines 8 and 9)"]


def test_a_bad_row_repeats_nothing(faults, told):
    content = HEADER + "a,b,1\na,b,7\na,b,x\n"
    assert len(faults(content, scale=(0, 1))) == 2
    assert "several" not in told(content, scale=(0, 1), on_bad_rows="drop")[0]


def test_the_benchmarks_own_training_file_under_another_name(tmp_path):
    """It has repeated pairs, some with different scores, and texts of digits."""
    own = pd.read_csv(STSB / "sts-train.csv", sep="\t", header=None, quoting=3,
                      usecols=[4, 5, 6], names=range(9), keep_default_na=False)
    own.to_csv(tmp_path / "mine.csv", index=False, header=["score", "text_a", "text_b"])
    lines: list[str] = []
    assert len(read_connections(tmp_path / "mine.csv", tell=lines.append)) == 5749
    assert "pairs are in several rows, all kept" in "\n".join(lines)
    assert "in several rows with different scores" in "\n".join(lines)


def test_a_tab_inside_a_text_makes_no_pair_of_another(read):
    assert len(read(HEADER + 'a\tb,c,1\na,b\tc,1\n')) == 2


# Paths, and the real files

@pytest.mark.parametrize(("path", "what"), [
    ("nowhere.csv", "file not found"), (".", "expected a file, but this is a folder")])
def test_a_missing_file_is_told_with_its_absolute_path(tmp_path, monkeypatch, path, what):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConnectionDataError, match=what) as raised:
        read_connections(path)
    assert str(tmp_path / path) in str(raised.value)
    assert "data/README.md" in str(raised.value)


@pytest.mark.parametrize(("name", "rows"), [("train", 5749), ("dev", 1500), ("test", 1379)])
def test_the_real_files_lose_no_row(name, rows):
    table = read_connections(STSB / f"sts-{name}.csv", tell=pytest.fail)
    assert len(table) == rows
    assert (table["score"].min(), table["score"].max()) == (0, 1)
    assert {"main-captions", "main-news"} <= set(table["genre"]) \
        <= {"main-captions", "main-news", "main-forum", "main-forums"}
    assert table.notna().all(axis=None)
    assert (table[["sentence1", "sentence2"]].map(len) > 0).all(axis=None)


# read_splits

def write_splits(folder: Path, prefix: str = "") -> None:
    """Nine pairs: one of test's is in dev and train too, and one of dev's is in train."""
    rows = {"train": "a,b,1\nD,c,0.5\nf,e,0\ng,h,1\n", "dev": "c,d,0.5\nE,f,0\nm,n,1\n",
            "test": "F,E,0\ny,z,1\n"}
    for name, text in rows.items():
        write(folder / f"{prefix}{name}.csv", HEADER + text)


def test_the_real_splits_have_no_leak_and_test_is_whole():
    splits = read_splits(STSB, tell=pytest.fail)
    assert list(splits) == ["train", "dev", "test"]
    assert {name: len(pairs) for name, pairs in splits.items()} == \
        {"train": 5725, "dev": 1497, "test": 1379}
    assert find_leaks(splits).empty


@pytest.mark.parametrize("prefix", ["", "sts-"])
def test_a_folder_of_three_files_is_read_without_leaks(tmp_path, prefix):
    write_splits(tmp_path, prefix)
    splits = read_splits(tmp_path, tell=silent)
    assert {name: pairs["sentence1"].tolist() for name, pairs in splits.items()} == \
        {"train": ["a", "g"], "dev": ["c", "m"], "test": ["F", "y"]}


def test_leaks_are_told_for_each_split(tmp_path):
    write_splits(tmp_path)
    lines: list[str] = []
    read_splits(tmp_path, tell=lines.append)
    said = "dropped, as the same pairs are in a later split, too"
    assert lines[3:] == [f"{tmp_path}: {rows} {said}"
                         for rows in ("2 rows of train", "1 row of dev")]


def test_keep_leaks_leaves_the_splits_as_given(tmp_path):
    write_splits(tmp_path)
    lines: list[str] = []
    splits = read_splits(tmp_path, keep_leaks=True, tell=lines.append)
    assert {name: len(pairs) for name, pairs in splits.items()} == \
        {"train": 4, "dev": 3, "test": 2}
    assert not any("dropped" in line for line in lines)


def test_a_scale_is_found_over_the_three_files_together(tmp_path):
    """A test file without low scores must not get another scale than train."""
    for name, scores in (("train", (0, 3, 5)), ("dev", (0, 1)), ("test", (1, 5))):
        write(tmp_path / f"{name}.csv", HEADER + "".join(
            f"{name} a{i},{name} b{i},{score}\n" for i, score in enumerate(scores)))
    lines: list[str] = []
    splits = read_splits(tmp_path, tell=lines.append)
    assert splits["dev"]["score"].tolist() == [0, 0.2]
    assert splits["test"]["score"].tolist() == [0.2, 1]
    assert all("taken as 0..5 (" in line for line in lines) and len(lines) == 3
    stated = read_splits(tmp_path, scale=(0, 10), tell=pytest.fail)
    assert stated["test"]["score"].tolist() == [0.1, 0.5]


def test_all_faults_of_the_three_files_stand_in_one_report(tmp_path):
    write_splits(tmp_path)
    write(tmp_path / "dev.csv", HEADER + "a,,0\nb,c,0\n")
    write(tmp_path / "test.csv", HEADER + "a,c,0\nb, ,0\n")
    with pytest.raises(ConnectionDataError) as raised:
        read_splits(tmp_path, tell=silent)
    assert "dev.csv: 1 fault in 1 of 2 rows\n  line 2, column sentence2" in str(raised.value)
    assert "test.csv: 1 fault in 1 of 2 rows\n  line 3, column sentence2" in str(raised.value)


def test_columns_and_dropping_reach_the_three_files(tmp_path, runs):
    for name in ("train", "dev", "test"):
        write(tmp_path / f"{name}.csv", f"q,a,label\n{name} 1,x,0.5\n{name} 2,y,1\n,z,1\n")
    splits = read_splits(tmp_path, columns={"sentence1": "q", "sentence2": "a"},
                         on_bad_rows="drop", tell=silent)
    assert [len(pairs) for pairs in splits.values()] == [2, 2, 2]
    assert len(list((runs / "bad_rows").rglob("*.jsonl"))) == 3


def test_a_compressed_dev_is_dev(tmp_path):
    write_splits(tmp_path)
    write(tmp_path / "dev.csv.gz", gzip.compress((tmp_path / "dev.csv").read_bytes()))
    (tmp_path / "dev.csv").unlink()
    lines: list[str] = []
    read_splits(tmp_path, tell=lines.append)
    assert not any("taken as dev" in line for line in lines)


@pytest.mark.parametrize("name", ["validation", "valid"])
def test_dev_may_have_another_name_which_is_told(tmp_path, name):
    write_splits(tmp_path)
    (tmp_path / "dev.csv").rename(tmp_path / f"{name}.csv")
    lines: list[str] = []
    assert len(read_splits(tmp_path, tell=lines.append)["dev"]) == 2
    assert lines[0] == f"{tmp_path / name}.csv: taken as dev"


def test_two_files_for_one_split_are_refused(tmp_path):
    write_splits(tmp_path)
    write(tmp_path / "train.jsonl", "{}")
    with pytest.raises(ConnectionDataError, match="train.csv, train.jsonl; .* for train"):
        read_splits(tmp_path, tell=silent)


@pytest.mark.parametrize("name", ["dev", "test"])
def test_a_split_that_cannot_rank_is_refused_before_any_training(tmp_path, name):
    write_splits(tmp_path)
    write(tmp_path / f"{name}.csv", HEADER + "m,n,1\nq,r,1\n")
    with pytest.raises(ConnectionDataError, match=f"all 2 pairs of {name} have the score 1"):
        read_splits(tmp_path, tell=silent)


def test_a_split_of_which_nothing_is_left_is_named(tmp_path):
    write_splits(tmp_path)
    write(tmp_path / "train.csv", HEADER + "y,z,1\nm,n,1\n")
    with pytest.raises(ConnectionDataError, match="nothing is left of train"):
        read_splits(tmp_path, tell=silent)


def test_one_file_is_split_by_the_seed(tmp_path, make_pairs):
    path = tmp_path / "pairs.csv"
    make_pairs(100).to_csv(path, index=False)
    splits = read_splits(path, seed=1, tell=silent)
    assert list(splits) == ["train", "dev", "test"]
    assert sum(map(len, splits.values())) == 100
    assert find_leaks(splits).empty
    for name, pairs in read_splits(path, seed=1, tell=silent).items():
        pd.testing.assert_frame_equal(pairs, splits[name])
    assert not read_splits(path, seed=2, tell=silent)["test"].equals(splits["test"])


def test_an_empty_folder_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(ConnectionDataError) as raised:
        read_splits(tmp_path)
    message = str(raised.value)
    assert f"{tmp_path} contains no file at all" in message
    assert "train.csv, dev.csv and test.csv" in message
    assert "make run" in message


def test_a_folder_without_dev_is_refused_with_what_it_holds(tmp_path):
    write_splits(tmp_path)
    (tmp_path / "dev.csv").unlink()
    with pytest.raises(ConnectionDataError, match="contains test.csv, train.csv; .* for dev"):
        read_splits(tmp_path)


def test_a_faulty_file_in_a_folder_is_named(tmp_path):
    write_splits(tmp_path)
    write(tmp_path / "dev.csv", HEADER + "a,b,x\nc,d,1\n")
    with pytest.raises(ConnectionDataError, match=r"dev.csv: 1 fault .*\n  line 2, column s"):
        read_splits(tmp_path, tell=silent)


def test_a_missing_path_is_refused(tmp_path):
    with pytest.raises(ConnectionDataError, match="file not found"):
        read_splits(tmp_path / "nowhere")


# What the scores mean

@pytest.mark.parametrize(("scores", "scale"), [
    ([0, 1], (0, 1)), ([1], (0, 1)), ([0.2, 0.9], (0, 1)), ([-1, 0, 1], (-1, 1)),
    ([-1, 0], (-1, 1)),
    ([0, 1, 2, 3, 4, 5], (0, 5)), ([0, 5], (0, 5)), ([1, 2, 3, 4, 5], (1, 5)),
    ([1, 1.5, 3], (1, 5)), ([0, 2.4], (0, 5)), ([0, 50, 100], (0, 100)),
    (["10%", "30%"], (0, 100)), (list(range(0, 90, 7)), (0, 100))])
def test_a_scale_is_found_where_it_can_mean_nothing_else(scores, scale):
    assert find_scale(scores * 3) == (scale, [])


@pytest.mark.parametrize(("scores", "values"), [
    ([0, 1, 2], "0, 1, 2"),                     # NLI: 0 is entailment
    (["0", "2", "1.0"], "0, 1, 2"), ([1, 2], "1, 2"), ([1, 2, 3], "1, 2, 3"),
    ([0, 1, 2, 3], "0, 1, 2, 3"), ([0, 1, 2, 3, 4], "0, 1, 2, 3, 4"), ([2, 3, 4], "2, 3, 4"),
    ([10, 20, 30], "10, 20, 30")])
def test_a_few_whole_numbers_that_may_be_classes_are_shown_and_not_guessed(scores, values):
    scale, fault = find_scale(scores * 3)
    (_, column, found, expected), = fault
    assert scale is None and column == "score"
    assert found == f"only the values {values}" and "scale=(low, high)" in expected


@pytest.mark.parametrize(("name", "scores", "scale"), [
    ("label", [0, 1], None), ("Label", ["1", "2", "3", "4", "5"], None), ("label", [1], None),
    ("gold_label", [0, 1], None), ("labels", [0, 2], None), ("label", [0.5, 4.2], (0, 5)),
    ("label", ["True", "False"], (0, 1)), ("label", [], None),
    ("label", ["", 0, 1], None), ("label", [None, "0", "1"], None),
    ("label", ["", "True"], (0, 1)),
    ("is_duplicate", [0, 1], (0, 1)), ("labels.real-label", [0, 5], (0, 5))])
def test_whole_numbers_called_label_are_never_guessed(name, scores, scale):
    """0 is entailment in RTE and QNLI."""
    found, fault = find_scale(scores * 3, name)
    assert found == scale and bool(fault) == (scale is None and bool(scores))


@pytest.mark.parametrize(("scores", "scale"), [
    (["True", "False"] * 4, (0, 5)), (["True", "False"] * 4, (-1, 1)),
    (["True", "False"] * 2048 + [0, 1.5, 2.5, 5] * 5, None)],
    ids=["0..5", "-1..1", "in a part of the file"])
def test_true_and_false_are_no_scores_of_another_scale(tmp_path, scores, scale):
    path = write(tmp_path / "a.csv", "sentence1,sentence2,score\n" + "".join(
        f"a {i},b {i},{score}\n" for i, score in enumerate(scores)))
    with pytest.raises(ConnectionDataError, match="line 2, column score: found 'True'"):
        read_connections(path, scale=scale, tell=silent)


def test_the_labels_of_an_nli_file_are_not_taken_for_scores(tmp_path):
    path = write(tmp_path / "nli.csv", "premise,hypothesis,label\n" + "".join(
        f"a {i},b {i},{i % 3}\n" for i in range(12)))
    with pytest.raises(ConnectionDataError) as raised:
        read_connections(path, tell=silent)
    for words in ("column label", "0, 1, 2", "classes", "scale=(low, high)"):
        assert words in str(raised.value)
    assert read_connections(path, scale=(0, 2), tell=silent)["score"].max() == 1
