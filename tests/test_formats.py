"""The kinds of files that people bring: read as they are meant, what was guessed is told."""

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from readers import read_both, refuse_both, silent, streamed

from connection_utils import read_connections, read_splits
from connection_utils.pair_files.columns import check_cells
from connection_utils.pair_files.formats import CHUNK
from connection_utils.pair_files.texts import HEAD

HEADER = ["sentence1", "sentence2", "score"]
ROWS = [["가나 다라, 마", 'say "no"; now', 0.5], ["up\ndown", "\ttab", 1.0],
        ["'quoted'", "=1+1", 0.0], ["#N/A of it", "naïve 🙂", 0.1]]
GOOD = pd.DataFrame(ROWS, columns=HEADER)
IF_OTHERS = " (if others are possible, state scale=(low, high))"
IF_ANOTHER = " (if it is another, state columns=)"
GUESS_1_AND_2 = "sentence1 is {!r}, sentence2 is {!r}, score is {!r}" + IF_ANOTHER


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch) -> Path:
    """The folder that stands for ``runs/``."""
    monkeypatch.setattr("connection_utils.pair_files.faults.runs_folder",
                        lambda: tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def read(tmp_path) -> Callable[..., tuple[pd.DataFrame, list[str]]]:
    """Write a file and read it: the table, and what was told, without the file's name."""
    def read_content(content: str | bytes, name: str, **options
                     ) -> tuple[pd.DataFrame, list[str]]:
        lines: list[str] = []
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        table = read_both(path, tell=lines.append, **options)
        return table, [line.removeprefix(f"{path}: ") for line in lines]

    return read_content


@pytest.fixture
def refused(tmp_path) -> Callable[..., str]:
    """Write a file that must be refused; the message."""
    def read_content(content: str | bytes, name: str, **options) -> str:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(refuse_both(path, **{"tell": silent} | options))

    return read_content


@pytest.fixture
def aside(runs, tmp_path) -> Callable[[str], list[dict]]:
    """The rows of a file that were set aside."""
    def entries(name: str) -> list[dict]:
        path = runs / "bad_rows" / "elsewhere" / f"{str(tmp_path / name)[1:]}.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]

    return entries


def separated(separator: str = ",", table: pd.DataFrame = GOOD, **options) -> str:
    return table.to_csv(sep=separator, index=False, **options)


def lines_of_json(rows: list[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


FORMULAS = ("=1/2", "=AVERAGE(0,1)")


def excel(*sheets: list[list]) -> bytes:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for number, rows in enumerate(sheets):
        sheet = book.create_sheet(f"sheet {number}")
        for row in rows:
            sheet.append(row)
        for cell in (cell for row in sheet.rows for cell in row if cell.data_type == "f"):
            cell.data_type = "f" if cell.value in FORMULAS else "s"      # or a text, as typed
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


def parquet(columns: dict, **options) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, **options)
    return buffer.getvalue()


# Every format gives the same table

JSON_ROWS = lines_of_json(GOOD.to_dict("records"))
JSON_ARRAY = "\n" + json.dumps(GOOD.to_dict("records"), indent=1, ensure_ascii=False)
SEMICOLONS, TABS = "fields are separated by semicolons", "fields are separated by tabs"
QUOTED = "quotes around fields are no part of the texts, as in CSV"
KOREAN = "is read as cp949, the encoding of Korean Windows (if it is another, state encoding=)"


@pytest.mark.parametrize(("content", "name", "told"), [
    (separated(), "a.csv", []),
    (separated(quoting=csv.QUOTE_ALL), "a.csv", []),
    (separated(lineterminator="\r\n"), "a.csv", []),
    (separated(";"), "a.csv", [SEMICOLONS]),
    (separated("\t"), "a.csv", [TABS, QUOTED]),
    (separated("\t"), "a.tsv", [QUOTED]),
    (separated("\t"), "a.txt", [QUOTED]),
    (separated("\t", quoting=csv.QUOTE_ALL), "a.tsv", [QUOTED]),
    (separated(), "a.txt", ["fields are separated by commas"]),
    ("sep=;\n" + separated(";"), "a.csv", [SEMICOLONS]),
    (separated().encode("utf-8-sig"), "a.csv", []),
    (separated().encode("utf-16"), "a.csv", []),
    (b"\xfe\xff" + separated().encode("utf-16-be"), "a.csv", []),
    (separated("\t").encode("utf-16"), "a.txt", [QUOTED]),
    (JSON_ROWS, "a.jsonl", []),
    (JSON_ARRAY, "a.json", []),
    (gzip.compress(separated().encode()), "a.csv.gz", []),
    (gzip.compress(separated("\t").encode("utf-16")), "a.tsv.gz", [QUOTED]),
    (gzip.compress(JSON_ROWS.encode()), "a.jsonl.gz", []),
    (gzip.compress(JSON_ARRAY.encode()), "a.json.gz", []),
    (gzip.compress(separated().encode()), "a.csv", []),
    (JSON_ROWS.replace("\n", "\r\n\r\n"), "a.ndjson", []),
    (JSON_ROWS.encode("utf-8-sig"), "a.json", []),
    (parquet(GOOD.to_dict("list")), "a.parquet", []),
    (parquet(GOOD.to_dict("list")), "a.csv", []),
    (parquet({"sentence1": pa.array(GOOD["sentence1"]).dictionary_encode(),
              "sentence2": pa.array(GOOD["sentence2"], pa.large_string()),
              "score": pa.array(["0.5", "1", "0", "1e-1"])}), "a.parquet", []),
    (JSON_ROWS, "a.txt", []),
    (gzip.compress(JSON_ROWS.replace("{", "{ ").encode()), "a.gz", []),
    (separated() + ",,\n", "a.csv", []),
    (separated("\t").replace("\n", "\n\t\t\n", 1) + " \t\t\n" * 3, "a.tsv", [QUOTED]),
    (excel([HEADER, *ROWS]), "a.xlsx", []),
], ids=["csv", "all quoted", "CRLF", "semicolons", "tabs in csv", "tsv", "tabs in txt",
        "tsv, all quoted", "commas in txt", "a line for Excel", "BOM", "UTF-16 LE",
        "UTF-16 BE", "Excel's text", "jsonl", "a JSON array", "csv.gz",
        "tsv.gz, UTF-16", "jsonl.gz", "a JSON array, gz", "gz by content", "ndjson, CRLF",
        "JSON Lines in json", "parquet", "parquet by content", "parquet's other texts",
        "JSON Lines in txt", "JSON Lines in gz",
        "a blank row", "blank rows", "xlsx"])
def test_a_good_table_comes_back_from_every_format(read, content, name, told):
    table, lines = read(content, name)
    pd.testing.assert_frame_equal(table, GOOD.astype({"sentence1": "str", "sentence2": "str"}))
    assert lines == [*told, "4 pairs; scores from 0 to 1, taken as 0..1" + IF_OTHERS]


# Encodings

KOREAN_ROWS = "sentence1,sentence2,score\n가나다 라마,b,0.5\n바사,똠방각하,1\n"


def test_a_korean_csv_as_excel_saves_it_is_read_and_told(read):
    table, lines = read(KOREAN_ROWS.encode("cp949"), "a.csv")
    assert table["sentence1"].tolist() == ["가나다 라마", "바사"]
    assert table["sentence2"].tolist() == ["b", "똠방각하"]
    assert lines[0] == KOREAN


def test_utf8_with_stray_bytes_stays_utf8(read):
    content = KOREAN_ROWS.encode().replace("바사".encode(), b"\xb9\xd9\xbb\xe7")    # cp949
    table, lines = read(content, "a.csv", on_bad_rows="drop")
    assert table["sentence1"].tolist() == ["가나다 라마"]
    assert lines[0].startswith("1 of 2 rows dropped")


@pytest.mark.parametrize("content", [
    "sentence1,sentence2,score\nIt\x92s a caf\xe9,b,1\nc,d,0\n",
    "sentence1,sentence2,score\nGr\xfc\xdfe \xc4\xd6\xdc,b,1\nc,d,0\n",
    "sentence1,sentence2,score\nIt\x92s,b,1\nc,d,0\n",
], ids=["apostrophe and accent", "umlauts", "only an apostrophe"])
def test_windows_latin_is_not_taken_for_korean(read, refused, content):
    content = content.encode("latin-1")
    assert "line 2, column sentence1" in refused(content, "a.csv")
    assert "is not UTF-8" in refused(content, "a.csv")
    table, lines = read(content, "a.csv", encoding="cp1252")
    assert len(table) == 2 and len(lines) == 1


@pytest.mark.parametrize("encoding", ["cp949", "euc-kr", "utf-16-le", "utf-8", "utf-16"])
def test_a_stated_encoding_is_taken_and_not_told(read, encoding):
    table, lines = read(KOREAN_ROWS.replace("똠방각하", "각하").encode(encoding), "a.csv",
                        encoding=encoding)
    assert table["sentence1"].tolist() == ["가나다 라마", "바사"]
    assert len(lines) == 1


def test_bytes_outside_a_stated_encoding_are_named_with_it(refused):
    assert "(byte 0xff is not cp949), expected a text in cp949" in refused(
        KOREAN_ROWS.encode("cp949") + b"\xffx,d,1\n", "a.csv", encoding="cp949")


@pytest.mark.parametrize("content", [
    b"\xff\xfe" + KOREAN_ROWS.encode("utf-16-le") + b"x",
    b"\xff\xfe" + KOREAN_ROWS.encode("utf-16-le") + b"\x00\xd8,\0",
], ids=["half a character", "half of a pair"])
def test_broken_utf16_is_an_error_of_the_whole_file(refused, content):
    assert "a.csv: cannot be decoded as UTF-16 (" in refused(content, "a.csv")


# Tab-separated: quoted or not

PLAIN = "quotes around fields are part of the texts"


@pytest.mark.parametrize(("rows", "texts", "told"), [
    ('"Never closed\tb\t1\nc\td\t0\n', ['"Never closed', "c"], PLAIN),
    ('"a" is a letter\tb\t1\nc\td\t0\n', ['"a" is a letter', "c"], PLAIN),
    ('"all"\tb\t1\nc\td\t0\n', ['"all"', "c"], PLAIN),
    ('"say ""no"""\tb\t1\nc\td\t0\n', ['say "no"', "c"], QUOTED),
    ('"say ""no"""\tb\t1\n"c\td\t0\n', ['"say ""no"""', '"c'], PLAIN),
    ('"up\ndown"\tb\t1\nc\td\t0\n', ["up\ndown", "c"], QUOTED),
    ('"a\tb"\tb\t1\nc\td\t0\n', ["a\tb", "c"], QUOTED),
], ids=["never closed", "a word", "whole", "doubled", "doubled, another never closed",
        "line end", "tab"])
def test_whether_tab_separated_text_is_quoted_is_found_and_told(read, rows, texts, told):
    table, lines = read("sentence1\tsentence2\tscore\n" + rows, "a.tsv")
    assert table["sentence1"].tolist() == texts
    assert lines[0] == told


@pytest.mark.parametrize("longer", range(4))
def test_a_quoted_text_that_goes_on_beyond_the_first_megabyte(read, longer):
    """The file's first megabyte, which decides on quotes, ends inside a row."""
    rows = pd.DataFrame({"sentence1": [f"text {i}\nin {'two ' * longer}\nlines" for i in
                                       range(30_000)], "sentence2": "b", "score": 1.0})
    table, lines = read(separated("\t", rows, quoting=csv.QUOTE_ALL), "a.tsv", scale=(0, 1))
    assert table["sentence1"].tolist() == rows["sentence1"].tolist()
    assert lines == [QUOTED]


def test_a_korean_character_that_the_first_megabyte_cuts_in_two(read):
    rows = "".join(f"가나다 {i},라마,1\n" for i in range(70_000))
    for header in ("문장1,문장2,점수\n", "a,문장1,문장2,점수\n"):
        content = (header + rows.replace("가나다", "x,가나다" if "a" in header else "가나다")
                   ).encode("cp949")
        assert len(content) > HEAD
        table, lines = read(content, "a.csv", scale=(0, 1))
        assert len(table) == 70_000 and lines[0] == KOREAN


def test_a_tab_too_many_is_a_bad_row(refused):
    assert "line 3: found 4 fields, expected 3 as in line 1; a text can hold no tab" in refused(
        "sentence1\tsentence2\tscore\na\tb\t1\nc\tc\td\t0\n", "a.tsv")


@pytest.mark.parametrize(("name", "row"), [
    ("a.tsv", "no.\rShe\tb\t1"), ("a.tsv", 'no.\rShe\t"b\t1'),
    ("a.txt", "x\tx\tx\tx\t5\tno.\rShe\tb"),
    ("a.jsonl", '{"sentence1": "no.\\rShe",\r"sentence2": "b", "score": 1}')])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_lone_carriage_return_does_not_end_a_line(read, name, row, end):
    header = "sentence1\tsentence2\tscore" + end if name == "a.tsv" else ""
    table, _ = read(header + (row + end) * 2, name)
    assert table["sentence1"].tolist() == ["no.\rShe"] * 2


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_carriage_returns_end_the_lines_of_a_file_without_other_ends(read, name):
    rows = [["a", "b", 1], ["c", "d", 0]]
    content = {".csv": separated(table=pd.DataFrame(rows, columns=HEADER)),
               ".tsv": separated("\t", pd.DataFrame(rows, columns=HEADER)),
               ".jsonl": lines_of_json([dict(zip(HEADER, row, strict=True)) for row in rows])}
    table, _ = read(content[name[1:]].replace("\n", "\r"), name)
    assert table.values.tolist() == rows


@pytest.mark.parametrize("separator", [",", "\t"])
def test_line_ends_of_an_old_mac_with_others_inside_quotes(read, separator):
    content = separated(separator, quoting=csv.QUOTE_ALL, lineterminator="\r")
    table, _ = read(content, "a.csv")
    assert table["sentence1"].tolist() == GOOD["sentence1"].tolist()


# Benchmarks as they are distributed: our own sentences in exactly their format

KORSTS = ("genre\tfilename\tyear\tid\tscore\tsentence1\tsentence2\n"
          "main-captions\tMSRvid\t2012test\t0001\t5.000\t고양이가 잔다.\t고양이가 자고 있다.\n"
          'main-news\theadlines\t2015\t0002\t0.600\t"문이 열렸다" 그가 말했다.\t"비가 온다.\n')
GLUE_STSB = ("index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2"
             "\tscore\n0\tmain-captions\tMSRvid\t2012test\t0001\tnone\tnone\tA door opens.\t"
             '"A door\t5.000\n1\tmain-captions\tMSRvid\t2012test\t0004\tnone\tnone\t"All"\t'
             "Rain.\t0.600\n")
SICK = ("pair_ID\tsentence_A\tsentence_B\tentailment_label\trelatedness_score\tentailment_AB\t"
        "entailment_BA\tsentence_A_original\tsentence_B_original\tsentence_A_dataset\t"
        "sentence_B_dataset\tSemEval_set\n"
        "1\tA door opens\tA gate opens\tNEUTRAL\t4.5\tA_neutral_B\tB_neutral_A\ta door\t"
        "a gate\tFLICKR\tFLICKR\tTRAIN\n"
        "2\tIt rains\tA cat naps\tNEUTRAL\t1\tA_neutral_B\tB_neutral_A\t"
        "it rains\ta cat\tFLICKR\tFLICKR\tTEST\n")
SICK_TRAIN = ("pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\r\n"
              "1\tA door opens\tA gate opens\t4.5\tNEUTRAL\r\n"
              "2\tIt rains\tA cat naps\t1\tNEUTRAL\r\n")
QUORA = ("id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
         "0\t1\t2\tHow do doors open?\tHow does one open a door?\t1\n"
         '1\t3\t4\t"What does ""rain"" mean?"\t"Is it\nraining?"\t0\n'
         '2\t5\t6\t"Who naps?"\tWhat is a 5" disk?\t0\n')
MRPC = ("\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
        '1\t702876\t702977\t"It rains," he said.\tHe said it "rains".\r\n'
        '0\t21087\t21105\t"A door\tThe door" is open.\r\n')


KLUE = json.dumps([
    {"guid": f"klue-sts-v1_dev_{row:05}", "source": "airbnb-rtt", "sentence1": first,
     "sentence2": second, "labels": {"label": round(score, 1), "real-label": score,
                                     "binary-label": int(score > 3)},
     "annotators": {"agreement": "0:2:3:3:0", "annotations": {"annotator-1": 3}}}
    for row, (first, second, score) in enumerate([
        ("고양이가 잔다.", "고양이가 자고 있다.", 3.7), ("비가 온다.", "눈이 온다.", 0.0)])],
    ensure_ascii=False, indent=1)


@pytest.mark.parametrize(("content", "name", "texts", "scores", "told"), [
    (KORSTS, "sts-train.tsv",
     ["고양이가 잔다.", "고양이가 자고 있다.", '"문이 열렸다" 그가 말했다.', '"비가 온다.'], [1, 0.12],
     [PLAIN, "2 pairs; scores from 0.6 to 5, taken as 0..5" + IF_OTHERS]),
    (GLUE_STSB, "train.tsv", ["A door opens.", '"A door', '"All"', "Rain."], [1, 0.12],
     [PLAIN, "2 pairs; scores from 0.6 to 5, taken as 0..5" + IF_OTHERS]),
    (SICK, "SICK.txt", ["A door opens", "A gate opens", "It rains", "A cat naps"], [0.875, 0],
     [GUESS_1_AND_2.format("sentence_A", "sentence_B", "relatedness_score"),
      "2 pairs; scores from 1 to 4.5, taken as 1..5" + IF_OTHERS]),
    (SICK_TRAIN, "SICK_train.txt", ["A door opens", "A gate opens", "It rains", "A cat naps"],
     [0.875, 0], [GUESS_1_AND_2.format("sentence_A", "sentence_B", "relatedness_score"),
                  "2 pairs; scores from 1 to 4.5, taken as 1..5" + IF_OTHERS]),
    (QUORA, "quora_duplicate_questions.tsv",
     ["How do doors open?", "How does one open a door?", 'What does "rain" mean?',
      "Is it\nraining?", "Who naps?", 'What is a 5" disk?'], [1, 0, 0],
     [QUOTED, GUESS_1_AND_2.format("question1", "question2", "is_duplicate"),
      "3 pairs; scores from 0 to 1, taken as 0..1" + IF_OTHERS]),
    (MRPC, "msr_paraphrase_train.txt",
     ['"It rains," he said.', 'He said it "rains".', '"A door', 'The door" is open.'], [1, 0],
     [PLAIN, GUESS_1_AND_2.format("#1 String", "#2 String", "Quality"),
      "2 pairs; scores from 0 to 1, taken as 0..1" + IF_OTHERS]),
    (KLUE, "klue-sts_dev.json",
     ["고양이가 잔다.", "고양이가 자고 있다.", "비가 온다.", "눈이 온다."], [0.74, 0],
     ["score is 'labels.real-label'" + IF_ANOTHER,
                 "2 pairs; scores from 0 to 3.7, taken as 0..5" + IF_OTHERS]),
], ids=["KorSTS", "GLUE's STS-B", "SICK", "SICK, a part", "Quora", "MRPC", "KLUE-STS"])
def test_a_benchmark_reads_as_it_is_distributed(read, content, name, texts, scores, told):
    table, lines = read(content, name)
    assert table[["sentence1", "sentence2"]].to_numpy().ravel().tolist() == texts
    assert table["score"].tolist() == pytest.approx(scores)
    assert lines == told


def test_a_stated_column_may_be_a_path_into_nested_fields(read):
    table, lines = read(KLUE, "a.json", columns={"score": "labels.binary-label"}, scale=(0, 1))
    assert table["score"].tolist() == [1, 0] and lines == []


# Columns

@pytest.mark.parametrize(("first", "second", "score"), [
    ("Sentence1", "SENTENCE2", "Score"), ("sentence_1", "sentence_2", "label"),
    ("Text A", "Text B", "Similarity Score"), ("text-1", "text-2", "similarity"),
    ("question1", "question2", "is_duplicate"), ("premise", "hypothesis", "label"),
    ("query", "passage", "connection"), (" 문장1 ", "문장2", "점수")])
def test_common_names_are_guessed_and_told(read, first, second, score):
    table, lines = read(f"{score},x,{second},{first}\n1,,b,a\n0.5,,d,c\n", "a.csv")
    assert table.values.tolist() == [["a", "b", 1.0], ["c", "d", 0.5]]
    assert lines[0] == GUESS_1_AND_2.format(first.strip(), second, score)


def test_our_own_names_win_and_are_not_told(read):
    table, lines = read("text1,Sentence1,sentence1,sentence2,score,label\nx,y,a,b,1,7\n",
                        "a.csv")
    assert table.values.tolist() == [["a", "b", 1.0]]
    assert len(lines) == 1


def test_columns_names_what_the_file_has_and_the_rest_is_looked_for(read):
    table, lines = read("question,text2,connection,score\na,b,1,0.5\n", "a.csv",
                        columns={"sentence1": "question", "score": "connection"})
    assert table.values.tolist() == [["a", "b", 1.0]]
    assert lines[0] == "sentence2 is 'text2' (if it is another, state columns=)"


def test_a_column_with_a_separator_in_its_name_can_be_named(read):
    table, _ = read("a question, in short;an answer, if any;a score, maybe\na;b;1\n", "a.csv",
                    columns={"sentence1": "a question, in short", "score": "a score, maybe",
                             "sentence2": "an answer, if any"})
    assert table.values.tolist() == [["a", "b", 1.0]]


@pytest.mark.parametrize(("header", "columns", "message"), [
    ("question,known_issue,score", None,
     "line 1, column sentence1: found 'question', 'known_issue', 'score', expected a column "
     "sentence1, or one that columns= names\n"),
    ("sentence1,text2,premise,query,sentence_b,score", None,
     "line 1, column sentence2: found 'text2', 'sentence_b', expected one such column, or "
     "one that columns= names\n"),
    ("sentence1,sentence2,label,quality", None,
     "line 1, column score: found 'label', 'quality', expected one such column"),
    ("sentence1,sentence2,connection", {"score": "connexion"},
     "line 1, column score: found 'sentence1', 'sentence2', 'connection', expected the column "
     "'connexion', which columns= names\n"),
    ("sentence1,sentence2,", {"score": "points"},
     "expected the column 'points', which columns= names\n"),
    ("a cat,a dog,0.5", None, "; if these are a pair already, put a line of names above it"),
    (",".join(f"column {i}" for i in range(500)), None, "'column 29' and 470 more, expected"),
], ids=["none", "two texts", "two scores", "a typing error", "not there", "no names",
        "many"])
def test_columns_that_are_not_found_are_told_with_what_is_there(refused, header, columns,
                                                                 message):
    row = ",".join("a" for _ in header.split(","))
    assert message in refused(f"{header}\n{row}\n", "a.csv", columns=columns)


def test_all_columns_that_are_missing_stand_in_one_report(refused):
    message = refused("a,b,c\nd,e,1\n", "a.csv")
    assert "a.csv: 3 faults of the columns\n" in message
    assert message.endswith(
        'Mend the file, or state what is meant, as columns={"sentence1": "question", '
        '"sentence2": "known_issue", "score": "connection"} or scale=(1, 5).')


# Scales

def scored(scores: list) -> str:
    return "sentence1,sentence2,score\n" + "".join(
        f"text {i},other {i},{score}\n" for i, score in enumerate(scores))


@pytest.mark.parametrize(("scores", "expected", "scale"), [
    ([0, 1, 0, 1], [0, 1, 0, 1], "0 to 1, taken as 0..1"),
    ([0.2, 0.4], [0.2, 0.4], "0.2 to 0.4, taken as 0..1"),
    ([-1, 0, 1], [0, 0.5, 1], "-1 to 1, taken as -1..1"),
    ([1, 2, 5], [0, 0.25, 1], "1 to 5, taken as 1..5"),
    ([0.5, 2, 5], [0.1, 0.4, 1], "0.5 to 5, taken as 0..5"),
    ([0, 7, 85, 100], [0, 0.07, 0.85, 1], "0 to 100, taken as 0..100"),
    (["85%", "7 %", "0%"], [0.85, 0.07, 0], "0 to 85, taken as 0..100"),
    ([" 1 ", "1e0", "+0.5"], [1, 1, 0.5], "0.5 to 1, taken as 0..1"),
])
def test_a_scale_is_found_and_told(read, scores, expected, scale):
    table, lines = read(scored(scores), "a.csv")
    assert table["score"].tolist() == pytest.approx(expected)
    assert lines == [f"{len(scores)} pairs; scores from {scale}{IF_OTHERS}"]


@pytest.mark.parametrize(("scores", "found"), [
    ([0, 7], "0 to 7"), ([1, 10], "1 to 10"), ([-3, 3], "-3 to 3"), ([0, 1000], "0 to 1000"),
    ([1, 2, 3, 4, 5, 6, 7], "1 to 7"), ([-5, 50], "-5 to 50")])
def test_a_scale_that_nobody_knows_is_asked_for(refused, scores, found):
    message = refused(scored(scores), "a.csv")
    assert (f"column score: found scores from {found}, expected 0..1, -1..1, 0..5, 1..5 or "
            "percent; for others state scale=(low, high)") in message


def test_percent_signs_in_some_of_the_scores_are_not_guessed_at(read, refused):
    """0.25 beside 85% may be a quarter, or a quarter of a percent."""
    scores = ["85%", 0.5, "0.25"]
    assert ("column score: found 1 of 3 scores with a % sign, expected all of them or none; to "
            "read them as they are, state scale=") in refused(scored(scores), "a.csv")
    table, _ = read(scored(scores), "a.csv", scale=(0, 100))
    assert table["score"].tolist() == pytest.approx([0.85, 0.005, 0.0025])


def test_a_few_scores_outside_the_scale_of_the_others_are_bad_rows(refused):
    message = refused(scored([1, 2, 3, 4, 5] * 4 + [55]), "a.csv")
    assert "1 fault in 1 of 21 rows" in message
    assert "line 22, column score: found '55', expected a number from 1 to 5" in message


def test_a_stated_scale_is_taken_and_nothing_told(read, refused):
    table, lines = read(scored([1, 4, 7]), "a.csv", scale=(1, 7))
    assert table["score"].tolist() == [0, 0.5, 1]
    assert lines == []
    assert "found '7', expected a number from 0 to 5" in refused(scored([1, 7]), "a.csv",
                                                                 scale=[0, 5])


# JSON Lines

@pytest.mark.parametrize(("line", "message"), [
    ("[1, 2]", "line 2: found [1, 2], expected one JSON object per line"),
    ("{bad", "line 2: found '{bad', expected one JSON object per line (Expecting property name"),
    ('{"sentence1": "a", "score": 1}', "line 2, column sentence2: found None, expected a text"),
    ('{"sentence1": ["a"], "sentence2": "b", "score": 1}',
     "line 2, column sentence1: found ['a'], expected a text"),
    ('{"sentence1": "a", "sentence2": true, "score": 1}',
     "line 2, column sentence2: found True, expected a text"),
    ('{"sentence1": "a", "sentence2": "b", "score": true}',
     "line 2, column score: found True, expected a number from 0 to 1"),
    ('{"sentence1": "a", "sentence2": "b", "score": NaN}',
     "line 2, column score: found nan, expected a number from 0 to 1"),
    ('{"sentence1": "a", "sentence2": "b", "score": {"x": 1}}',
     "line 2, column score: found {'x': 1}, expected a number from 0 to 1"),
    ('{"sentence1": "cut \\ud83d", "sentence2": "b", "score": 1}',
     "line 2, column sentence1: found 'cut \\ud83d', expected a text without NUL and without "
     "halves of characters"),
    ('{"sentence1": "a", "sentence2": "b", "score": ' + "9" * 5000 + "}", "line 2"),
    ("[" * 100_000, "line 2: found '[[["),
    (b'{"sentence1": "a\xff", "sentence2": "b", "score": 1}',
     "(byte 0xff is not UTF-8), expected a text in UTF-8"),
    ('{"sentence1": "a", "sentence2": "b", "score": 1, "score": 0}',
     "line 2: found '{\"sentence1\": "),
    ('{"sentence1": "a", "sentence2": "b", "score": 1, "more": {"x": 1, "x": 2}}',
     "expected one JSON object per line (the key 'x' is there twice)"),
    ('{"sentence1": "a", "sentence2": "b", "score": 1, "x.y": 1, "x": {"y": 2}}',
     "(the key 'x.y' is there twice)"),
    ('{"a":' * 990 + "1" + "}" * 990, "line 2: found '{\"a\":{"),
], ids=["a list", "no JSON", "no key", "a list as text",
        "a truth as text", "a truth as score", "NaN", "an object as score", "half an emoji",
        "a huge number", "too deep", "a stray byte", "a key twice", "a nested key twice",
        "a key and a path", "too deep for paths"])
def test_a_faulty_line_of_json_is_named(refused, line, message):
    good = '{"sentence1": "x", "sentence2": "y", "score": 0}\n'
    line = line.encode() if isinstance(line, str) else line
    text = refused(good.encode() + line + b"\n" + good.replace("x", "z").encode(), "a.jsonl")
    assert "a.jsonl: 1 fault in 1 of 3 rows" in text
    assert message in text


@pytest.mark.parametrize(("content", "message"), [
    ('[{"sentence1": "a"},\n {"sentence1": "b"', "line 2 column"),
    ('[1, {"sentence1": "a", "sentence2": "b", "score": 1}]',
     "row 1: found 1, expected one JSON object per row"),
    ('[{"sentence1": "a", "sentence2": "b", "score": 1, "score": 0}]',
     "the key 'score' is there twice)"),
    ("[" * 100_000, "Expected one JSON array of objects"),
], ids=["cut", "a number among objects", "a key twice", "too deep"])
def test_a_faulty_json_array_is_refused(refused, content, message):
    assert message in refused(content, "a.json")


# Texts that are numbers

@pytest.mark.parametrize(("content", "name", "place"), [
    ("sentence1,sentence2,score\nSix times seven?,42,1\n-1.5e3,b,0\n", "a.csv",
     "line 2, column sentence2: '42'"),
    (lines_of_json([dict(zip(HEADER, row, strict=True)) for row in (
        ["Six times seven?", 42, 1], ["-1.5e3", "b", 0])]), "a.jsonl",
     "line 1, column sentence2: 42"),
    (excel([HEADER, ["Six times seven?", 42, 1], ["-1.5e3", "b", 0]]), "a.xlsx",
     "row 2, column sentence2: 42"),
    (parquet({"sentence1": ["Six times seven?", "-1.5e3"], "sentence2": ["42", "b"],
              "score": [1, 0]}), "a.parquet", "row 1, column sentence2: '42'"),
], ids=["csv", "jsonl", "xlsx", "parquet"])
def test_a_text_that_is_a_number_is_kept_and_told(read, content, name, place):
    table, lines = read(content, name, scale=(0, 1))
    assert table["sentence1"].tolist() == ["Six times seven?", "-1.5e3"]
    assert table["sentence2"].tolist() == ["42", "b"]
    line, = lines
    assert "2 texts are numbers, kept as text" in line and place in line


# Excel

@pytest.mark.parametrize(("row", "message"), [
    ([None, "b", 1], "row 3, column sentence1: found None, expected a text"),
    (["a", True, 1], "row 3, column sentence2: found True, expected a text"),
    (["a", pd.Timestamp(2024, 1, 2), 1],
     "row 3, column sentence2: found datetime.datetime(2024, 1, 2, 0, 0), expected a text"),
    (["a", "b", True], "row 3, column score: found True, expected a number from 0 to 1"),
    (["a", "b", "=1/2"], "row 3, column score: found None, expected a number from 0 to 1"),
    (["a", "b"], "row 3, column score: found None, expected a number from 0 to 1"),
], ids=["nothing", "a truth", "a date", "a truth as score", "a formula without a value",
        "no score"])
def test_a_faulty_row_of_a_sheet_is_named_by_its_row(refused, row, message):
    text = refused(excel([HEADER, ["x", "y", 0], row]), "a.xlsx")
    assert "1 fault in 1 of 2 rows" in text and message in text


def test_empty_rows_and_other_columns_of_a_sheet_do_no_harm(read, refused):
    rows = [[], ["id", *HEADER, None], [], [1, "a", "b", 1, None, "note"], [],
            [2, "c", "d", "0.5"], [None] * 5 + ["a note beside the table"]]
    table, lines = read(excel(rows), "a.xlsx")
    assert table.values.tolist() == [["a", "b", 1.0], ["c", "d", 0.5]]
    assert lines[0] == "cells right of the header are left out: 2"
    rows[5][1] = None
    assert "row 6, column sentence1: found None" in refused(excel(rows), "a.xlsx")


def test_the_first_sheet_is_read_and_more_are_told(read):
    table, lines = read(excel([HEADER, ["a", "b", 1]], [["other"]]), "a.xlsx")
    assert len(table) == 1
    assert lines[0] == "the first of 2 sheets is read, 'sheet 0'"


def test_a_sheet_whose_stated_size_is_wrong_is_read_whole(read):
    """Some programs write a size of one cell; openpyxl would read no more."""
    content, buffer = excel([HEADER, ["a", "b", 1], ["c", "d", 0]]), io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        for part in old.namelist():
            new.writestr(part, old.read(part).replace(b'ref="A1:C3"', b'ref="A1"'))
    assert buffer.getvalue() != content
    assert len(read(buffer.getvalue(), "a.xlsx")[0]) == 2


def test_of_a_formula_the_value_is_read_that_its_program_saved(read):
    """As the mean of several people's scores; openpyxl itself saves none."""
    content, buffer = excel([HEADER, ["a", "b", "=AVERAGE(0,1)"], ["c", "d", 1]]), io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        for part in old.namelist():
            new.writestr(part, re.sub(rb"</f><v */>|</f><v></v>", b"</f><v>0.5</v>",
                                      old.read(part)))
    assert read(buffer.getvalue(), "a.xlsx")[0]["score"].tolist() == [0.5, 1]


def test_a_dropped_formula_is_set_aside_as_text_that_no_spreadsheet_evaluates(read, aside):
    read(excel([HEADER, ["a", "b", 1], ['=HYPERLINK("x")', pd.Timestamp(2024, 1, 2), 1]]),
         "a.xlsx", on_bad_rows="drop")
    entry, = aside("a.xlsx")
    assert entry["row"] == {"sentence1": '=HYPERLINK("x")', "score": 1,
                            "sentence2": "datetime.datetime(2024, 1, 2, 0, 0)"}


def zipped(**parts: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in parts.items():
            file.writestr(name, content)
    return buffer.getvalue()


STRICT = b'<workbook xmlns="http://purl.oclc.org/ooxml/spreadsheetml/main"/>'


@pytest.mark.parametrize(("content", "name", "message"), [
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1 rest", "a.xls", "an old or an encrypted Excel file"),
    (zipped(**{"train.csv": b"x"}), "a.zip", "Unpack a zip archive"),
    (zipped(**{"content.xml": b"x"}), "a.xlsx", "save OpenDocument or Strict Open XML as .xlsx"),
    (zipped(**{"content.xml": b"x"}), "a.ods", "save OpenDocument or Strict Open XML as .xlsx"),
    (excel([HEADER]).replace(b"PK\x01\x02", b"PK\x01X", 1), "a.xlsx", "cannot be read as Excel"),
    (zipped(**{"xl/workbook.xml": STRICT}), "a.xlsx", "Strict Open XML"),
    (excel([HEADER])[:-30], "a.xlsx", "cannot be read as Excel (BadZipFile"),
    (b"sentence1,sentence2,score\na,b,1\n", "a.xlsx", "not that of a .xlsx file"),
    (b"<table>", "a.xls", "not that of a .xls file"),
    (b"PAR1 cut", "a.parquet", "cannot be read as Parquet"),
    (b"text", "a.parquet", "not that of a .parquet file"),
    (gzip.compress(b"PAR1"), "a.parquet.gz", "cannot be read as Parquet"),
    (bz2.compress(b"sentence1,sentence2\n"), "a.csv.bz2", "compressed with bzip2"),
    (lzma.compress(b"sentence1,sentence2\n"), "a.csv.xz", "compressed with xz"),
    (b"(\xb5/\xfd rest", "a.csv.zst", "compressed with zstd"),
    (b"SQLite format 3\0 rest", "a.db", "a database"),
    (b"ARROW1\0\0 rest", "a.arrow", "an Arrow file"),
    (gzip.compress(b"sentence1,sentence2\n" * 99)[:-20], "a.csv.gz", "cannot be read"),
    (gzip.compress(b"")[:10] + b"\xff" * 99, "a.csv.gz", "cannot be read"),
], ids=["xls", "zip", "OpenDocument", "ods", "damaged", "strict", "cut", "CSV as xlsx",
        "HTML as xls", "cut parquet", "text as parquet", "gzipped parquet", "bzip2", "xz", "zstd",
        "SQLite", "Arrow", "cut gz", "damaged gz"])
def test_what_is_no_spreadsheet_is_told_with_what_to_save(refused, content, name, message):
    assert message in refused(content, name)


# Parquet

@pytest.mark.parametrize(("columns", "message"), [
    ({"sentence1": ["x", None], "sentence2": ["y", "b"], "score": [0, 1]},
     "row 2, column sentence1: found None, expected a text"),
    ({"sentence1": ["x", "a"], "sentence2": ["y", "b"], "score": [0.0, None]},
     "row 2, column score: found None, expected a number from 0 to 1"),
    ({"sentence1": ["x", "a"], "sentence2": ["y", "b"], "score": [0.0, float("nan")]},
     "row 2, column score: found nan, expected a number"),
], ids=["no text", "no score", "NaN"])
def test_a_faulty_row_of_parquet_is_named_by_its_number(refused, columns, message):
    text = refused(parquet(columns), "a.parquet")
    assert "1 fault in 1 of 2 rows" in text and message in text


def test_parquet_types_that_hold_no_text_are_refused(refused):
    text = refused(parquet({"sentence1": [b"x"], "sentence2": [["y"]], "score": [True]}),
                   "a.parquet")
    assert "2 faults in 1 of 1 rows" in text
    assert "found b'x', expected a text" in text


def test_other_parquet_columns_do_no_harm(read, aside):
    columns = {"vector": [[0.1, 0.2], [0.3]], "when": pa.array([0, 9], pa.timestamp("us")),
               "sentence1": ["a", ""], "sentence2": ["b", "d"], "score": pa.array([1, 0])}
    table, _ = read(parquet(columns), "a.parquet", on_bad_rows="drop")
    assert table.values.tolist() == [["a", "b", 1.0]]
    entry, = aside("a.parquet")
    assert entry["line"] == 2 and entry["row"]["sentence2"] == "d"


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_columns_of_equal_and_of_no_names_are_set_aside_apart(aside, tmp_path, suffix):
    header, path = ["note", *HEADER, "", "note", ""], tmp_path / f"a.{suffix}"
    good, bad = ["", "x", "y", "0", "", "", ""], ["p", "", "b", "1", "q", "r", "s"]
    if suffix == "csv":
        path.write_text("\n".join(map(",".join, (header, good, bad))))
    else:
        pq.write_table(pa.table(list(map(list, zip(good, bad, strict=True))), header), path)
    read_connections(path, on_bad_rows="drop", tell=silent)
    entry, = aside(f"a.{suffix}")
    assert entry["row"] == dict(zip(
        ["note (column 1)", *HEADER, "(column 5)", "note (column 6)", "(column 7)"], bad,
        strict=True))


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_bad_row_of_many_is_set_aside_with_all_its_columns(read, aside, suffix):
    """It is in one part of the file, and its last column may be in that row alone."""
    rows = [dict(zip(HEADER, (f"a {row}", f"b {row}", 1.0), strict=True))
            for row in range(CHUNK + 9)]
    rows[-1] |= {"sentence1": "", "note": "late"}
    table = pd.DataFrame(rows)
    content = {"jsonl": lines_of_json(rows),
               "parquet": parquet(table.astype(object).where(table.notna(), None))}[suffix]
    kept, _ = read(content, f"a.{suffix}", on_bad_rows="drop")
    assert len(kept) == CHUNK + 8
    entry, = aside(f"a.{suffix}")
    assert entry["row"] == rows[-1]


# Splits, and parts

def test_the_three_splits_may_be_of_any_format(tmp_path):
    rows = [[f"text {i}", f"other {i}", i / 10] for i in range(9)]
    (tmp_path / "train.jsonl").write_text(lines_of_json(
        [dict(zip(HEADER, row, strict=True)) for row in rows[:3]]))
    (tmp_path / "validation.xlsx").write_bytes(excel([HEADER, *rows[3:6]]))
    (tmp_path / "test.parquet").write_bytes(parquet(
        dict(zip(HEADER, zip(*rows[6:], strict=True), strict=True))))
    lines: list[str] = []
    splits = read_splits(tmp_path, tell=lines.append)
    assert {name: pairs["score"].tolist() for name, pairs in splits.items()} == \
        {"train": [0, 0.1, 0.2], "dev": [0.3, 0.4, 0.5], "test": [0.6, 0.7, 0.8]}
    assert lines[0].endswith("validation.xlsx: taken as dev")


def test_a_chunk_of_rows_is_checked_alone_with_its_own_lines():
    """What a reader of files that do not fit into memory builds on."""
    cells = pd.DataFrame([["a", "b", "3"], ["", "d", "1"], ["e", "f", "2"]], columns=HEADER,
                         index=[100, 101, 105], dtype=object)
    good, faults, _ = check_cells(cells, scale=(1, 5))
    assert good.index.tolist() == [100, 105]
    assert good["score"].tolist() == [0.5, 0.25]
    assert faults == [(101, "sentence1", "''", "a text")]


def test_a_fault_names_the_column_as_the_file_does(refused):
    """That is where a reader will look; what is not in the file has only our name."""
    columns = {"sentence1": "question", "sentence2": "known_issue", "score": "grade"}
    message = refused("question, known_issue ,grade\n,a dog,9\nthe cat, ,high\n", "a.csv",
                      columns=columns, scale=(0, 4))
    for said in ("line 2, column question: found ''", "line 2, column grade: found '9'",
                 "line 3, column known_issue: found ' '", "line 3, column grade: found 'high'"):
        assert said in message
    assert "sentence1" not in message and "score" not in message
    assert "column quality: found scores from 6 to 10" in refused(
        "text1,text2,quality\nthe cat,a dog,6\na mat,a man,10\n", "a.csv")


# What people call a table of pairs

PAIR = {"sentence1": ["a", "b", "c"], "sentence2": ["x", "y", "z"]}
PRETTY = [{"sentence1": a, "sentence2": b, "score": score} for a, b, score in zip(
    *PAIR.values(), (0, 0.5, 1), strict=True)]


@pytest.mark.parametrize(("content", "name"), [
    ("sentence1,sentence2,score,,\na,x,0,,\nb,y,0.5,,\nc,z,1,,\n", "a.csv"),
    ("sentence1,sentence2,score\na,x,0,,\nb,y,0.5, ,\nc,z,1\n", "a.csv"),
    ("\n".join(json.dumps(each, indent=2) for each in PRETTY), "a.json"),
    (" \n".join(json.dumps(each, indent=2) for each in PRETTY), "a.jsonl"),
    ("".join(json.dumps(each, indent=1) for each in PRETTY), "a.json"),
    (json.dumps(PRETTY, indent=2), "a.json"),
], ids=["empty columns", "longer rows", "pretty JSON", "pretty JSON Lines", "no end",
        "a pretty array"])
def test_it_is_read_as_meant(read, content, name):
    table, _ = read(content.encode(), name)
    assert table["score"].tolist() == [0, 0.5, 1]


@pytest.mark.parametrize(("content", "name"), [
    (b"sentence1,sentence2,label\na,x,True\nb,y,FALSE\nc,z, true \n", "a.csv"),
    (parquet({**PAIR, "label": [True, False, True]}), "a.parquet"),
    (excel([["sentence1", "sentence2", "label"], ["a", "x", True], ["b", "y", False],
            ["c", "z", True]]), "a.xlsx"),
], ids=["CSV", "Parquet", "Excel"])
def test_true_and_false_are_1_and_0_where_there_is_nothing_else(read, content, name):
    table, _ = read(content, name)
    assert table["score"].tolist() == [1, 0, 1]


def test_empty_columns_at_the_end_are_scored(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("sentence1,sentence2,score,,\na,x,0,,\nb,y,0.5,,\n")
    pairs, table = streamed(path)
    assert pairs == [("a", "x"), ("b", "y")]
    assert list(table.columns)[:5] == ["sentence1", "sentence2", "score", "column 4", "column 5"]


def test_an_error_of_a_spreadsheet_is_no_text(refused):
    text = refused(b"sentence1,sentence2,score\na,#N/A,0\n#REF!,y,0.5\nc,#n/a,1\nd,z,1\n",
                   "a.csv")
    assert "line 4, column sentence2: found '#n/a'" in text
    assert "line 2, column sentence2: found '#N/A'" in text and "spreadsheet's error" in text
    assert "line 3, column sentence1: found '#REF!'" in text


def test_a_date_after_the_year_9999_is_set_aside_with_its_row(read, aside):
    table = pa.table({**PAIR, "score": [0.0, 1.0, None],
                      "when": pa.array([400_000_000_000] * 3, pa.timestamp("s"))})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    assert len(read(buffer.getvalue(), "a.parquet", on_bad_rows="drop")) == 2
    entry, = aside("a.parquet")
    assert entry["row"]["sentence1"] == "c" and entry["row"]["when"].startswith("14645-")


def test_of_parquet_only_the_columns_of_the_pairs_are_decoded(tmp_path, monkeypatch):
    """A column of embeddings beside them may be a hundred times as large."""
    asked, iterate = [], pq.ParquetFile.iter_batches

    def seen(self, *given, **named):
        asked.append(named["columns"])
        return iterate(self, *given, **named)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", seen)
    (tmp_path / "a.parquet").write_bytes(parquet(
        {"vector": [[0.5] * 9] * 2, "sentence1": ["a", "b"], "sentence2": ["c", "d"],
         "score": [0.0, 1.0]}))
    read_connections(tmp_path / "a.parquet", tell=[].append)
    assert asked and all("vector" not in columns for columns in asked)
