"""The kinds of files that people bring: read as they are meant, what was guessed is told."""

import csv
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from connection_utils import ConnectionDataError, read_connections, read_splits
from connection_utils.pair_files.columns import check_cells

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
        table = read_connections(path, tell=lines.append, **options)
        return table, [line.removeprefix(f"{path}: ") for line in lines]

    return read_content


@pytest.fixture
def refused(read) -> Callable[..., str]:
    """Write a file that must be refused; the message's lines after the file's name."""
    def read_content(content: str | bytes, name: str, **options) -> str:
        with pytest.raises(ConnectionDataError) as raised:
            read(content, name, **options)
        return str(raised.value)

    return read_content


def separated(separator: str = ",", table: pd.DataFrame = GOOD, **options) -> str:
    return table.to_csv(sep=separator, index=False, **options)


def lines_of_json(rows: list[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def excel(*sheets: list[list]) -> bytes:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for number, rows in enumerate(sheets):
        sheet = book.create_sheet(f"sheet {number}")
        for row in rows:
            sheet.append(row)
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


def parquet(columns: dict) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


# Every format gives the same table

JSON_ROWS = lines_of_json(GOOD.to_dict("records"))
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
    (JSON_ROWS.replace("\n", "\r\n\r\n"), "a.ndjson", []),
    (JSON_ROWS.encode("utf-8-sig"), "a.txt", []),
    (parquet(GOOD.to_dict("list")), "a.parquet", []),
    (parquet(GOOD.to_dict("list")), "a.csv", []),
    (parquet({"sentence1": pa.array(GOOD["sentence1"]).dictionary_encode(),
              "sentence2": pa.array(GOOD["sentence2"], pa.large_string()),
              "score": pa.array(["0.5", "1", "0", "1e-1"])}), "a.parquet", []),
    (excel([HEADER, *ROWS]), "a.xlsx", ["1 cells begin with = and are read as they are written "
                                       "(if their values are meant, paste them as values)"]),
], ids=["csv", "all quoted", "CRLF", "semicolons", "tabs in csv", "tsv", "tabs in txt",
        "tsv, all quoted", "commas in txt", "a line for Excel", "BOM", "UTF-16 LE",
        "UTF-16 BE", "Excel's text", "jsonl", "ndjson, CRLF", "JSON by content", "parquet",
        "parquet by content", "parquet's other texts", "xlsx"])
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


def test_a_tab_too_many_is_a_bad_row(refused):
    assert "line 3: found 4 fields, expected 3 as in line 1; a text can hold no tab" in refused(
        "sentence1\tsentence2\tscore\na\tb\t1\nc\tc\td\t0\n", "a.tsv")


# Benchmarks as they are distributed: our own sentences in exactly their format

KORSTS = ("genre\tfilename\tyear\tid\tscore\tsentence1\tsentence2\n"
          "main-captions\tMSRvid\t2012test\t0001\t5.000\t고양이가 잔다.\t고양이가 자고 있다.\n"
          'main-news\theadlines\t2015\t0002\t1.200\t"문이 열렸다" 그가 말했다.\t"비가 온다.\n')
GLUE_STSB = ("index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2"
             "\tscore\n0\tmain-captions\tMSRvid\t2012test\t0001\tnone\tnone\tA door opens.\t"
             '"A door\t5.000\n1\tmain-captions\tMSRvid\t2012test\t0004\tnone\tnone\t"All"\t'
             "Rain.\t1.200\n")
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


@pytest.mark.parametrize(("content", "name", "texts", "scores", "told"), [
    (KORSTS, "sts-train.tsv",
     ["고양이가 잔다.", "고양이가 자고 있다.", '"문이 열렸다" 그가 말했다.', '"비가 온다.'], [1, 0.24],
     ["2 pairs; scores from 1.2 to 5, taken as 0..5, the scale of KorSTS"]),
    (GLUE_STSB, "train.tsv", ["A door opens.", '"A door', '"All"', "Rain."], [1, 0.24],
     ["2 pairs; scores from 1.2 to 5, taken as 0..5, the scale of GLUE's STS-B"]),
    (SICK, "SICK.txt", ["A door opens", "A gate opens", "It rains", "A cat naps"], [0.875, 0],
     [GUESS_1_AND_2.format("sentence_A", "sentence_B", "relatedness_score"),
      "2 pairs; scores from 1 to 4.5, taken as 1..5, the scale of SICK"]),
    (SICK_TRAIN, "SICK_train.txt", ["A door opens", "A gate opens", "It rains", "A cat naps"],
     [0.875, 0], [GUESS_1_AND_2.format("sentence_A", "sentence_B", "relatedness_score"),
                  "2 pairs; scores from 1 to 4.5, taken as 1..5, the scale of SICK"]),
    (QUORA, "quora_duplicate_questions.tsv",
     ["How do doors open?", "How does one open a door?", 'What does "rain" mean?',
      "Is it\nraining?", "Who naps?", 'What is a 5" disk?'], [1, 0, 0],
     [GUESS_1_AND_2.format("question1", "question2", "is_duplicate"),
      "3 pairs; scores from 0 to 1, taken as 0..1, the scale of Quora question pairs"]),
    (MRPC, "msr_paraphrase_train.txt",
     ['"It rains," he said.', 'He said it "rains".', '"A door', 'The door" is open.'], [1, 0],
     [GUESS_1_AND_2.format("#1 String", "#2 String", "Quality"),
      "2 pairs; scores from 0 to 1, taken as 0..1, the scale of MRPC"]),
], ids=["KorSTS", "GLUE's STS-B", "SICK", "SICK, a part", "Quora", "MRPC"])
def test_a_benchmark_reads_as_it_is_distributed(read, content, name, texts, scores, told):
    table, lines = read(content, name)
    assert table[["sentence1", "sentence2"]].to_numpy().ravel().tolist() == texts
    assert table["score"].tolist() == pytest.approx(scores)
    assert lines == told


def test_a_benchmarks_repeated_pairs_are_told_and_stay(read):
    """Its scores could not be compared with others' if its test set lost some."""
    again = KORSTS.splitlines()[1] + "\n"
    table, lines = read(KORSTS + again + again.replace("5.000", "2.000"), "sts-test.tsv")
    assert len(table) == 4
    assert lines[0] == ("3 rows hold a pair that stands in another row, too; kept, as they "
                        "belong to KorSTS")


def test_a_benchmarks_scale_does_not_hold_for_another_column(read):
    table, _ = read(KORSTS.replace("year", "mine").replace("2012test", "1").replace(
        "2015", "0"), "a.tsv", columns={"score": "mine"})
    assert table["score"].tolist() == [1, 0]


# Columns

@pytest.mark.parametrize(("first", "second", "score"), [
    ("Sentence1", "SENTENCE2", "Score"), ("sentence_1", "sentence_2", "label"),
    ("Text A", "Text B", "Similarity Score"), ("text-1", "text-2", "similarity"),
    ("question1", "question2", "is_duplicate"), ("premise", "hypothesis", "label"),
    ("query", "passage", "connection"), (" 문장1 ", "문장2", "점수")])
def test_common_names_are_guessed_and_told(read, first, second, score):
    table, lines = read(f"{score},x,{second},{first}\n1,,b,a\n0,,d,c\n", "a.csv")
    assert table.values.tolist() == [["a", "b", 1.0], ["c", "d", 0.0]]
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
     "'connexion', which columns= names; is 'connection' meant?"),
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
    (["85%", 0.5, "0.25"], [0.85, 0.5, 0.25], "0.25 to 0.85, taken as 0..1"),
    (["50%", 1, 5], [0.5, 0, 1], "1 to 5, taken as 1..5"),
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
    ("[1, 2]", "line 2: found '[1, 2]', expected one JSON object a line"),
    ("{bad", "line 2: found '{bad', expected one JSON object a line (Expecting property name"),
    ('{"sentence1": "a", "sentence1": "b"}', "(a key stands there twice)"),
    ('{"sentence1": "a", "score": 1}', "line 2, column sentence2: found None, expected a text"),
    ('{"sentence1": 7, "sentence2": "b", "score": 1}',
     "line 2, column sentence1: found 7, expected a text, not a number"),
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
     "(byte 0xff is not UTF-8), expected text in UTF-8"),
], ids=["a list", "no JSON", "a key twice", "no key", "a number", "a list as text",
        "a truth as text", "a truth as score", "NaN", "an object as score", "half an emoji",
        "a huge number", "too deep", "a stray byte"])
def test_a_faulty_line_of_json_is_named(refused, line, message):
    good = '{"sentence1": "x", "sentence2": "y", "score": 0}\n'
    line = line.encode() if isinstance(line, str) else line
    text = refused(good.encode() + line + b"\n" + good.replace("x", "z").encode(), "a.jsonl")
    assert "a.jsonl: 1 fault in 1 of 3 rows" in text
    assert message in text


def test_texts_that_are_numbers_are_texts_where_cells_have_types(read):
    table, _ = read(lines_of_json([dict(zip(HEADER, ["2024", "7", "0.5"], strict=True))]),
                    "a.jsonl")
    assert table.values.tolist() == [["2024", "7", 0.5]]


def test_lines_with_ever_other_keys_are_refused(refused):
    rows = [{f"key {i}": i} for i in range(300)]
    assert "300 different keys in 300 lines" in refused(lines_of_json(rows), "a.jsonl")


def test_a_json_list_over_many_lines_is_told_line_by_line(refused):
    text = json.dumps([dict(zip(HEADER, row, strict=True)) for row in ROWS], indent=1)
    assert "expected one JSON object a line" in refused(text, "a.json")


# Excel

@pytest.mark.parametrize(("row", "message"), [
    ([7, "b", 1], "row 3, column sentence1: found 7, expected a text, not a number"),
    ([None, "b", 1], "row 3, column sentence1: found None, expected a text"),
    (["a", True, 1], "row 3, column sentence2: found True, expected a text"),
    (["a", pd.Timestamp(2024, 1, 2), 1],
     "row 3, column sentence2: found datetime.datetime(2024, 1, 2, 0, 0), expected a text"),
    (["a", "b", True], "row 3, column score: found True, expected a number from 0 to 1"),
    (["a", "b", "=1/2"], "row 3, column score: found '=1/2', expected a number from 0 to 1"),
    (["a", "b"], "row 3, column score: found None, expected a number from 0 to 1"),
], ids=["a number", "nothing", "a truth", "a date", "a truth as score", "a formula as score",
        "no score"])
def test_a_faulty_row_of_a_sheet_is_named_by_its_row(refused, row, message):
    text = refused(excel([HEADER, ["x", "y", 0], row]), "a.xlsx")
    assert "1 fault in 1 of 2 rows" in text and message in text


def test_empty_rows_and_other_columns_of_a_sheet_do_no_harm(read, refused):
    rows = [[], ["id", *HEADER, None], [], [1, "a", "b", 1, None, "note"], [],
            [2, "c", "d", "0.5"], [None] * 5 + ["a note beside the table"]]
    table, _ = read(excel(rows), "a.xlsx")
    assert table.values.tolist() == [["a", "b", 1.0], ["c", "d", 0.5]]
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


def test_a_dropped_formula_is_set_aside_as_text_that_no_spreadsheet_evaluates(read, runs):
    read(excel([HEADER, ["a", "b", 1], ['=HYPERLINK("x")', pd.Timestamp(2024, 1, 2), 1]]),
         "a.xlsx", on_bad_rows="drop")
    entry = json.loads((runs / "bad_rows" / "a.xlsx.jsonl").read_text())
    assert entry["row"] == {"sentence1": '=HYPERLINK("x")', "score": 1,
                            "sentence2": "datetime.datetime(2024, 1, 2, 0, 0)"}


def zipped(**parts: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in parts.items():
            file.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize(("content", "name", "message"), [
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1 rest", "a.xls", "an old or an encrypted Excel file"),
    (zipped(text=b"x"), "a.zip", "cannot be read as Parquet or Excel"),
    (zipped(text=b"x"), "a.xlsx", "cannot be read as Parquet or Excel"),
    (excel([HEADER])[:-30], "a.xlsx", "cannot be read as Parquet or Excel (BadZipFile"),
    (b"sentence1,sentence2,score\na,b,1\n", "a.xlsx", "not that of a .xlsx file"),
    (b"<table>", "a.xls", "not that of a .xls file"),
    (b"PAR1 cut", "a.parquet", "cannot be read as Parquet or Excel"),
    (b"text", "a.parquet", "not that of a .parquet file"),
], ids=["xls", "zip", "no workbook", "cut", "CSV as xlsx", "HTML as xls", "cut parquet",
        "text as parquet"])
def test_what_is_no_spreadsheet_is_told_with_what_to_save(refused, content, name, message):
    text = refused(content, name)
    assert message in text
    assert text.endswith("Save it as .xlsx, or as CSV in UTF-8.")


def test_a_sheet_that_unpacks_to_gigabytes_is_refused(refused, monkeypatch):
    monkeypatch.setattr("connection_utils.pair_files.tables.MAX_UNPACKED", 1 << 20)
    assert "unpacks to more than" in refused(zipped(bomb=bytes(2 << 20)), "a.xlsx")


# Parquet

@pytest.mark.parametrize(("columns", "message"), [
    ({"sentence1": ["x", None], "sentence2": ["y", "b"], "score": [0, 1]},
     "row 2, column sentence1: found <NA>, expected a text"),
    ({"sentence1": ["x", "a"], "sentence2": ["y", "b"], "score": [0.0, None]},
     "row 2, column score: found <NA>, expected a number from 0 to 1"),
    ({"sentence1": ["x", "a"], "sentence2": ["y", "b"], "score": [0.0, float("nan")]},
     "row 2, column score: found nan, expected a number"),
], ids=["no text", "no score", "NaN"])
def test_a_faulty_row_of_parquet_is_named_by_its_number(refused, columns, message):
    text = refused(parquet(columns), "a.parquet")
    assert "1 fault in 1 of 2 rows" in text and message in text


def test_parquet_types_that_hold_no_text_are_refused(refused):
    text = refused(parquet({"sentence1": [b"x"], "sentence2": [["y"]], "score": [True]}),
                   "a.parquet")
    assert "3 faults in 1 of 1 rows" in text
    assert "found b'x', expected a text" in text


def test_other_parquet_columns_do_no_harm(read, runs):
    far = pa.array([0, 2 ** 62], pa.timestamp("us"))           # beyond Python's year 9999
    columns = {"vector": [[0.1, 0.2], [0.3]], "when": far,
               "sentence1": ["a", ""], "sentence2": ["b", "d"], "score": pa.array([1, 0])}
    table, _ = read(parquet(columns), "a.parquet", on_bad_rows="drop")
    assert table.values.tolist() == [["a", "b", 1.0]]
    entry = json.loads((runs / "bad_rows" / "a.parquet.jsonl").read_text())
    assert entry["line"] == 2 and entry["row"]["sentence2"] == "d"


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
    cells = pd.DataFrame([["a", "b", "3"], ["", "d", "1"], ["e", "f", "50%"]], columns=HEADER,
                         index=[100, 101, 105], dtype=object)
    good, faults = check_cells(cells, scale=(1, 5))
    assert good.index.tolist() == [100, 105]
    assert good["score"].tolist() == [0.5, 0.5]
    assert faults == [(101, "sentence1", "''", "a text")]


def test_a_fault_names_the_column_as_the_file_does(refused):
    """That is where a reader will look; what is not in the file has only our name."""
    columns = {"sentence1": "question", "sentence2": "known_issue", "score": "grade"}
    message = refused("question, known_issue ,grade\n,a dog,9\nthe cat,7,high\n", "a.csv",
                      columns=columns, scale=(0, 4))
    for said in ("line 2, column question: found ''", "line 2, column grade: found '9'",
                 "line 3, column known_issue: found '7'", "line 3, column grade: found 'high'"):
        assert said in message
    assert "sentence1" not in message and "score" not in message
    assert "column quality: found scores from 6 to 10" in refused(
        "text1,text2,quality\nthe cat,a dog,6\na mat,a man,10\n", "a.csv")
