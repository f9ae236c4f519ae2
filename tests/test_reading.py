"""Files of pairs: read as they are meant, and refused with file, line and column."""

from pathlib import Path

import pandas as pd
import pytest

from connection_utils import ConnectionDataError, find_leaks, read_connections, read_splits
from connection_utils.assets import DEFAULT_DATA
from connection_utils.workspace import ROOT

STSB = ROOT / DEFAULT_DATA
HEADER = "sentence1,sentence2,score\n"
COLUMN_EXPECTED = ("Expected a comma-separated file with the columns sentence1, sentence2, "
                   "score.")
QUOTES_NEEDED = "A text with a comma needs double quotes around it."
STS_EXPECTED = "expected at least 7 (genre, source, year, id, score, sentence1, sentence2)."
ONE_ROW = "main-captions\tMSRvid\t2012test\t0001\t{score}\t{first}\t{second}"


@pytest.fixture
def read(tmp_path):
    """Write text, or bytes, to a file and read it."""
    def read_content(content: str | bytes) -> pd.DataFrame:
        return read_connections(write(tmp_path / "pairs.csv", content))

    return read_content


@pytest.fixture
def refused(tmp_path):
    """Write text, or bytes, to a file that must be refused; returns the message's end."""
    def read_content(content: str | bytes) -> str:
        path = write(tmp_path / "pairs.csv", content)
        with pytest.raises(ConnectionDataError) as raised:
            read_connections(path)
        message = str(raised.value)
        assert message.startswith(str(path))
        return message.removeprefix(str(path))

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
     f", line 2: 6 tab-separated fields, {STS_EXPECTED}"),
    (sts(first="  "), ", line 2, column sentence1: found '  ', expected a text."),
    (sts(second=""), ", line 2, column sentence2: found '', expected a text."),
    (sts(score="5.1"), ", line 2, column score: found '5.1', expected a number from 0 to 5."),
    (sts(score="n/a"), ", line 2, column score: found 'n/a', expected a number from 0 to 5."),
], ids=["too few fields", "blank text", "empty text", "above five", "no number"])
def test_a_faulty_sts_row_is_named(refused, row, message):
    assert refused(sts() + "\n" + row + "\n" + sts() + "\n") == message


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
], ids=["BOM, as Excel saves it", "CRLF", "empty lines", "no last line end"])
def test_harmless_differences_between_csv_files(read, content):
    assert read(content).values.tolist() == [["\uac00\ub098", "b", 0.5]]


def test_words_that_look_like_missing_values_stay_texts(read):
    """pandas' own reader would turn them into NaN, which the tokenizer cannot take."""
    table = read(HEADER + "NA,null,0.5\nNaN,None,1\n1,2.0,0\n")
    assert table["sentence1"].tolist() == ["NA", "NaN", "1"]
    assert table["sentence2"].tolist() == ["null", "None", "2.0"]


@pytest.mark.parametrize("separator", ["\\", "/"])
def test_either_slash_separates_the_path(tmp_path, monkeypatch, separator):
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "pairs.csv", HEADER + "a,b,0.5\n")
    monkeypatch.chdir(tmp_path)
    assert len(read_connections(f"data{separator}pairs.csv")) == 1


@pytest.mark.parametrize("score", ["-0.01", "1.01", "5", "nan", "NaN", "inf", "-inf", "",
                                   "high", "0,5", "True", "1e400"])
def test_a_score_outside_0_to_1_is_named(refused, score):
    message = refused(HEADER + f'a,b,1\nc,d,"{score}"\n')
    assert message == \
        f", line 3, column score: found {score!r}, expected a number from 0 to 1."


@pytest.mark.parametrize(("content", "message"), [
    ("text1,sentence2,score\na,b,1\n",
     ", line 1: column sentence1 is missing; the header holds text1, sentence2, score. "
     + COLUMN_EXPECTED),
    ("sentence1;sentence2;score\na;b;1\n",
     ", line 1: column sentence1, sentence2, score is missing; the header holds "
     "sentence1;sentence2;score. " + COLUMN_EXPECTED),
    (HEADER + ',b,1\n', ", line 2, column sentence1: found '', expected a text."),
    (HEADER + 'a,b,1\na," ",1\n', ", line 3, column sentence2: found ' ', expected a text."),
    (HEADER + 'a,b,1\none, two,b,1\n',
     f", line 3: 4 fields, the header has 3. {QUOTES_NEEDED}"),
    (HEADER + 'a,b\n',
     f", line 2: 2 fields, the header has 3. {QUOTES_NEEDED}"),
    ("", ": the file is empty; expected pairs."),
    (" \n\n", ": the file is empty; expected pairs."),
    (b"\xef\xbb\xbf", ": the file is empty; expected pairs."),
    (HEADER, ": no row with a pair; expected at least one."),
    (HEADER + "\n\n", ": no row with a pair; expected at least one."),
    (HEADER.encode() + b"a,b,1\nc\xff,d,1\n",
     ", line 3: byte 0xff is not UTF-8. Save the file as UTF-8."),
    (HEADER.encode() + "\uac00,b,1\n".encode("cp949"),
     ", line 2: byte 0xb0 is not UTF-8. Save the file as UTF-8."),
    (b"\xef\xbb\xbf" + HEADER.encode() + b"\xff,b,1\n",
     ", line 2: byte 0xff is not UTF-8. Save the file as UTF-8."),
], ids=["missing column", "semicolons", "empty text", "blank text", "comma without quotes",
        "too few fields", "empty file", "blank file", "only a BOM", "header only",
        "header and blank lines", "not UTF-8", "Excel's Korean CSV", "BOM and not UTF-8"])
def test_a_faulty_csv_is_named(refused, content, message):
    assert refused(content) == message


def test_line_numbers_stay_right_after_line_ends_inside_quotes(refused):
    rows = '"one\ntwo\nthree",b,1\n\nc,d,0.5\n'          # lines 2 to 4, 5 empty, 6
    assert refused(HEADER + rows + "e,f,7\n").startswith(", line 7, column score: found '7'")
    assert refused(HEADER + rows + '"e\nf",g\n').startswith(", line 7: 2 fields")


def test_a_quote_that_is_never_closed_is_refused(refused):
    message = refused(HEADER + 'a,b,1\n"c,d,1\ne,f,1\n')
    assert message.startswith(", line ")
    assert "unexpected end of data" in message


def test_all_rows_with_the_same_fault_are_counted(refused):
    message = refused(HEADER + "a,b,1\nc,d,2\ne,f,3\ng,h,4\n")
    assert message == (", line 3, column score: found '2', expected a number from 0 to 1. "
                       "2 more rows have the same fault.")


def test_a_column_that_is_called_line_is_dropped_as_any_other(read, refused):
    content = "line,sentence1,sentence2,score\n1,a,b,0.5\n1,c,d,{score}\n"
    assert read(content.format(score=1)).values.tolist() == [["a", "b", 0.5], ["c", "d", 1.0]]
    assert refused(content.format(score=7)) == \
        ", line 3, column score: found '7', expected a number from 0 to 1."


@pytest.mark.parametrize("name", ["sentence1", "score"])
def test_a_column_that_is_there_twice_is_refused(refused, name):
    message = refused(f"sentence1,sentence2,score,{name}\na,b,1,1\n")
    assert message.startswith(", line 1")
    assert name in message


@pytest.mark.parametrize("path", ["nowhere.csv", "."])
def test_a_missing_file_is_told_with_its_absolute_path(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConnectionDataError, match="file not found") as raised:
        read_connections(path)
    assert str(tmp_path / path) in str(raised.value)
    assert "data/README.md" in str(raised.value)


# The real files

@pytest.mark.parametrize(("name", "rows"), [("train", 5749), ("dev", 1500), ("test", 1379)])
def test_the_real_files_lose_no_row(name, rows):
    table = read_connections(STSB / f"sts-{name}.csv")
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
    splits = read_splits(STSB)
    assert list(splits) == ["train", "dev", "test"]
    assert {name: len(pairs) for name, pairs in splits.items()} == \
        {"train": 5725, "dev": 1497, "test": 1379}
    assert find_leaks(splits).empty


@pytest.mark.parametrize("prefix", ["", "sts-"])
def test_a_folder_of_three_files_is_read_without_leaks(tmp_path, prefix):
    write_splits(tmp_path, prefix)
    splits = read_splits(tmp_path)
    assert {name: pairs["sentence1"].tolist() for name, pairs in splits.items()} == \
        {"train": ["a", "g"], "dev": ["c", "m"], "test": ["F", "y"]}


def test_keep_leaks_leaves_the_splits_as_given(tmp_path):
    write_splits(tmp_path)
    splits = read_splits(tmp_path, keep_leaks=True)
    assert {name: len(pairs) for name, pairs in splits.items()} == \
        {"train": 4, "dev": 3, "test": 2}


@pytest.mark.parametrize("name", ["dev", "test"])
def test_a_split_that_cannot_rank_is_refused_before_any_training(tmp_path, name):
    write_splits(tmp_path)
    write(tmp_path / f"{name}.csv", HEADER + "m,n,1\nq,r,1\n")
    with pytest.raises(ConnectionDataError, match=f"all 2 pairs of {name} have the score 1"):
        read_splits(tmp_path)


def test_a_split_of_which_nothing_is_left_is_named(tmp_path):
    write_splits(tmp_path)
    write(tmp_path / "train.csv", HEADER + "y,z,1\nm,n,1\n")
    with pytest.raises(ConnectionDataError, match="nothing is left of train"):
        read_splits(tmp_path)


def test_one_file_is_split_by_the_seed(tmp_path, make_pairs):
    path = tmp_path / "pairs.csv"
    make_pairs(100).to_csv(path, index=False)
    splits = read_splits(path, seed=1)
    assert list(splits) == ["train", "dev", "test"]
    assert sum(map(len, splits.values())) == 100
    assert find_leaks(splits).empty
    for name, pairs in read_splits(path, seed=1).items():
        pd.testing.assert_frame_equal(pairs, splits[name])
    assert not read_splits(path, seed=2)["test"].equals(splits["test"])


def test_an_empty_folder_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(ConnectionDataError) as raised:
        read_splits(tmp_path)
    message = str(raised.value)
    assert f"{tmp_path} holds no file at all" in message
    assert "expected train.csv, dev.csv and test.csv" in message
    assert "make run" in message


def test_a_folder_without_dev_is_refused_with_what_it_holds(tmp_path):
    write_splits(tmp_path)
    (tmp_path / "dev.csv").unlink()
    with pytest.raises(ConnectionDataError, match="holds test.csv, train.csv; expected"):
        read_splits(tmp_path)


def test_a_faulty_file_in_a_folder_is_named(tmp_path):
    write_splits(tmp_path)
    write(tmp_path / "dev.csv", HEADER + "a,b,9\n")
    with pytest.raises(ConnectionDataError, match="dev.csv, line 2, column score"):
        read_splits(tmp_path)


def test_a_missing_path_is_refused(tmp_path):
    with pytest.raises(ConnectionDataError, match="file not found"):
        read_splits(tmp_path / "nowhere")
