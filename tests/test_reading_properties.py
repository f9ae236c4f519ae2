"""Whatever a file holds: a valid table or ConnectionDataError, no row lost, nothing else."""

import csv
import datetime
import io
import json
import zipfile
from decimal import Decimal
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from cases import FULL
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from connection_utils import ConnectionDataError, read_connections
from connection_utils.pair_files.splitting import pair_keys

HEADER = ["sentence1", "sentence2", "score"]
SUFFIXES = [".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json", ".parquet", ".xlsx", ""]


# 2,600 cases in all, 300 of them in every run; Hypothesis draws the same ones each time.

def cases(count: int) -> settings:
    return settings(max_examples=count if FULL else max(5, count // 9), deadline=None, derandomize=True, database=None,
                    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large,
                                           HealthCheck.filter_too_much])


def outcomes(path: Path, rows: int | None = None, **options) -> pd.DataFrame | None:
    """Read `path` in both ways and check what comes; the table, if there are no bad rows.

    `rows`: how many the file has; each must be in the table or set aside.
    """
    tables = {}
    aside = path.parent / "runs" / "bad_rows" / "elsewhere" / f"{str(path)[1:]}.jsonl"
    for on_bad_rows in ("error", "drop"):
        aside.unlink(missing_ok=True)
        told: list[str] = []
        try:
            table = read_connections(path, on_bad_rows=on_bad_rows, tell=told.append, **options)
        except ConnectionDataError as error:
            str(error).encode()                  # can be printed
            assert len(str(error)) < 60_000
        else:
            check_table(table)
            tables[on_bad_rows] = table
            dropped = [json.loads(line) for line in aside.read_text().splitlines()
                       ] if aside.exists() else []
            assert rows is None or len(table) + len(dropped) == rows
            assert all(entry["faults"] for entry in dropped)
        "\n".join(told).encode()
    if "error" in tables:
        pd.testing.assert_frame_equal(tables["error"], tables["drop"])
    return tables.get("error")


def check_table(table: pd.DataFrame) -> None:
    assert list(table.columns) in (HEADER, [*HEADER, "genre", "source", "year"])
    assert isinstance(table.index, pd.RangeIndex) and len(table) > 0
    assert table["score"].dtype == np.float64
    assert table["score"].between(0, 1).all()
    for name in HEADER[:2]:
        assert table[name].dtype == "str"
        assert all(type(text) is str and text.strip() and "\0" not in text
                   for text in table[name])


# Anything at all

MARKS = [b"", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"PAR1", b"PK\x03\x04",
         b"\xd0\xcf\x11\xe0", b"sentence1,sentence2,score\n", b"sentence1\tsentence2\tscore\n",
         b'{"sentence1":"', b"a\tb\tc\td\t1\te\tf\n", "문장1,문장2,점수\n".encode("cp949")]
PIECES = ["sentence1", "sentence2", "score", "text_a", "question1", "label", ",", ";", "\t",
          '"', '""', "\n", "\r", "\r\n", "0.5", "1", "5", "85%", "nan", "-1", "a", "가", " ",
          "\0", "sep=;\n",
          "{", "}", "[", "]", ":", '{"sentence1": "a", "sentence2": "b", "score": 1}\n',
          "sentence1,sentence2,score\n", "a,b,1\n", "sentence1\tsentence2\tscore\n",
          "a\tb\t1\n", "\\ud800", "\ufeff", "\u2028", "\x85", "🙂", "=1+1", "b,A,1\n"]


@cases(400)
@given(mark=st.sampled_from(MARKS), content=st.binary(max_size=300),
       suffix=st.sampled_from(SUFFIXES))
def test_arbitrary_bytes(drawn_folder, mark, content, suffix):
    path = drawn_folder / f"bytes{suffix}"
    path.write_bytes(mark + content)
    outcomes(path)


@cases(500)
@given(content=st.one_of(st.text(max_size=200),
                         st.lists(st.sampled_from(PIECES), max_size=60).map("".join)),
       suffix=st.sampled_from(SUFFIXES),
       encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "cp949"]))
def test_arbitrary_text(drawn_folder, content, suffix, encoding):
    path = drawn_folder / f"text{suffix}"
    path.write_bytes(content.encode(encoding, "replace"))
    outcomes(path)
    outcomes(path, encoding=encoding)


# Good tables, in every format

def good_texts(signs: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Texts with a letter, so that none is a number or blank."""
    letter = st.sampled_from("abkzßéа가힣中")
    return st.tuples(st.text(signs, max_size=12), letter, st.text(signs, max_size=12)).map(
        "".join)


def tables(texts: st.SearchStrategy[str]) -> st.SearchStrategy[pd.DataFrame]:
    """Tables of different pairs with scores in 0..1."""
    rows = st.lists(st.tuples(texts, texts, st.floats(0, 1)), min_size=1, max_size=6)
    return rows.map(lambda rows: pd.DataFrame(rows, columns=HEADER).astype(
        {"sentence1": "str", "sentence2": "str"})).map(
            lambda table: table[~pair_keys(table).duplicated()].reset_index(drop=True))


SIGNS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
NASTY = st.one_of(SIGNS, st.sampled_from(',;\t"\n\r\'{}[]=%#\\ \u3000'))
KOREAN = st.sampled_from("가거나라마바사아자 abc,;\t\"\n'")      # no two bytes of which are UTF-8
ONE_LINE = st.characters(exclude_categories=["Cs", "Cc"])
XML = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff")


def assert_comes_back(table: pd.DataFrame, path: Path, **options) -> None:
    back = outcomes(path, rows=len(table), **{"scale": (0, 1)} | options)
    pd.testing.assert_frame_equal(back, table, check_exact=True)


@cases(400)
@given(table=tables(good_texts(NASTY)), separator=st.sampled_from(",;\t"),
       suffix=st.sampled_from([".csv", ".tsv", ".txt"]),
       quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
       encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_a_quoted_table_comes_back(drawn_folder, table, separator, suffix, quoting, encoding):
    path = drawn_folder / f"quoted{suffix}"
    with open(path, "w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, delimiter=separator, quoting=quoting)
        writer.writerows([HEADER, *table.itertuples(index=False)])
    assert_comes_back(table, path)


@cases(100)
@given(table=tables(good_texts(KOREAN).map(lambda text: "가" + text.translate(
    str.maketrans("ßéа힣中", "가나다라마")))), separator=st.sampled_from(",;"))
def test_a_korean_table_of_excel_comes_back(drawn_folder, table, separator):
    path = drawn_folder / "korean.csv"
    with open(path, "w", encoding="cp949", newline="") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerows([HEADER, *table.itertuples(index=False)])
    assert_comes_back(table, path)
    assert_comes_back(table, path, encoding="cp949")


@cases(100)
@given(table=tables(good_texts(ONE_LINE).filter(lambda text: not text.startswith('"'))),
       end=st.sampled_from(["\n", "\r\n"]))
def test_an_unquoted_tab_separated_table_comes_back(drawn_folder, table, end):
    path = drawn_folder / "plain.tsv"
    rows = [HEADER, *table.astype({"score": object}).itertuples(index=False)]
    path.write_bytes("".join("\t".join(map(str, row)) + end for row in rows).encode())
    assert_comes_back(table, path)


@cases(150)
@given(table=tables(good_texts(NASTY)), ascii_only=st.booleans(),
       encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_json_lines_come_back(drawn_folder, table, ascii_only, encoding):
    path = drawn_folder / "rows.jsonl"
    path.write_bytes("".join(json.dumps(row, ensure_ascii=ascii_only) + "\n"
                             for row in table.to_dict("records")).encode(encoding))
    assert_comes_back(table, path)


@cases(100)
@given(table=tables(good_texts(NASTY)), compression=st.sampled_from(["snappy", "gzip", "none"]))
def test_parquet_comes_back(drawn_folder, table, compression):
    table.to_parquet(drawn_folder / "rows.parquet", compression=compression)
    assert_comes_back(table, drawn_folder / "rows.parquet")


def write_excel(path: Path, rows: list[list]) -> None:
    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet()
    for row in rows:
        sheet.append(row)
    book.save(path)


@cases(50)
@given(table=tables(good_texts(XML)).map(lambda table: table.round({"score": 6})))
def test_excel_comes_back(drawn_folder, table):      # of a score, openpyxl writes 16 digits
    write_excel(drawn_folder / "rows.xlsx", [HEADER, *table.astype(object).values.tolist()])
    assert_comes_back(table, drawn_folder / "rows.xlsx")


# Tables with anything in their cells: each row is in the table or set aside

TEXT_CELLS = st.one_of(st.text(max_size=5), st.sampled_from(
    ["a", "b", "A ", "nan", "7", "1e5", " ", "", "\u200b", "x\0", "=1+1", "a\tb", "가"]))
SCORE_CELLS = st.one_of(st.sampled_from(
    ["0", "1", "0.5", "5", "50%", "", "x", "nan", "inf", "-1", "1_0", "1e400", "0,5"]),
    st.floats().map(str))
JSON_CELLS = st.recursive(
    st.one_of(TEXT_CELLS, st.none(), st.booleans(), st.floats(), st.integers(),
              st.sampled_from([0, 1, 0.5, "\ud800", "\udcff", 10 ** 400])),
    lambda cells: st.one_of(st.lists(cells, max_size=2),
                            st.dictionaries(st.text(max_size=2), cells, max_size=2)),
    max_leaves=3)


def rows_of(*cells: st.SearchStrategy) -> st.SearchStrategy[list[tuple]]:
    return st.lists(st.tuples(*cells), min_size=1, max_size=8)


@cases(150)
@given(rows=rows_of(TEXT_CELLS, TEXT_CELLS, SCORE_CELLS), separator=st.sampled_from(",;\t"),
       quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
def test_no_row_of_a_csv_is_lost(drawn_folder, rows, separator, quoting):
    path = drawn_folder / "cells.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=separator, quoting=quoting)
        writer.writerows([["id", *HEADER], *([f"row {i}", *row] for i, row in enumerate(rows))])
    outcomes(path, rows=len(rows))


@cases(100)
@given(rows=rows_of(JSON_CELLS, JSON_CELLS, JSON_CELLS),
       keys=st.lists(st.sampled_from([*HEADER, "id"]), min_size=1, max_size=4, unique=True))
def test_no_row_of_json_lines_is_lost(drawn_folder, rows, keys):
    path = drawn_folder / "cells.jsonl"
    path.write_text("".join(json.dumps(
        {key: cell for key, cell in zip(HEADER, row, strict=True) if i or key in keys}) + "\n"
        for i, row in enumerate(rows)))
    outcomes(path, rows=len(rows))


@cases(50)
@given(rows=rows_of(*[st.one_of(
    st.text(XML, max_size=5), st.none(), st.booleans(), st.integers(-9, 9), st.floats(0, 5),
    st.datetimes(datetime.datetime(1950, 1, 1), datetime.datetime(2100, 1, 1)),
    st.sampled_from(["a", "=1+1", "#N/A", "0.5", "85%"]))] * 3))
def test_no_row_of_a_sheet_is_lost(drawn_folder, rows):
    path = drawn_folder / "cells.xlsx"
    write_excel(path, [["id", *HEADER], *([i, *row] for i, row in enumerate(rows))])
    outcomes(path, rows=len(rows))


PARQUET_COLUMNS = st.integers(1, 6).flatmap(lambda count: st.lists(st.one_of(*[
    st.lists(st.one_of(cells, st.none()), min_size=count, max_size=count).map(
        lambda values, kind=kind: pa.array(values, kind))
    for cells, kind in (
        (TEXT_CELLS, pa.string()), (st.sampled_from("abc"), pa.large_string()),
        (st.floats(0, 1), pa.float64()), (st.floats(0, 1, width=32), pa.float32()),
        (st.integers(0, 5), pa.int8()), (st.booleans(), pa.bool_()),
        (st.binary(max_size=3), pa.binary()),
        (st.decimals(0, 1, places=2), pa.decimal128(9, 2)),
        (st.integers(-2 ** 63, 2 ** 63 - 1), pa.timestamp("us")),
        (st.lists(st.integers(0, 3), max_size=2), pa.list_(pa.int64())),
        (st.sampled_from([{"x": 1}, {"x": None}]), pa.struct({"x": pa.int64()})),
        (st.sampled_from("ab"), pa.dictionary(pa.int8(), pa.string())))]),
    min_size=3, max_size=3))


@cases(100)
@given(columns=PARQUET_COLUMNS)
def test_no_row_of_parquet_is_lost(drawn_folder, columns):
    path = drawn_folder / "cells.parquet"
    pq.write_table(pa.table(columns, names=HEADER), path)
    outcomes(path, rows=len(columns[0]))


def test_a_decimal_is_a_score(drawn_folder):
    pq.write_table(pa.table({"sentence1": ["a"], "sentence2": ["b"],
                             "score": [Decimal("0.25")]}), drawn_folder / "decimal.parquet")
    assert outcomes(drawn_folder / "decimal.parquet")["score"].tolist() == [0.25]


# Good files with some bytes changed

GOOD = pd.DataFrame({"sentence1": ["one, two", "가나 다", 'say "no"', "up\ndown", "plain"],
                     "sentence2": ["b", "d", "f", "h", "j"], "score": [0, 0.25, 0.5, 0.75, 1]})


def good_files() -> dict[str, bytes]:
    buffer, sheet = io.BytesIO(), io.BytesIO()
    GOOD.to_parquet(buffer)
    GOOD.to_excel(sheet, index=False)
    sts = "".join(f"genre\tsource\t2012\t{i}\t{i}.5\ttext {i}\tother {i}\n" for i in range(5))
    return {"csv": GOOD.to_csv(index=False).encode(), "parquet": buffer.getvalue(),
            "semicolons.csv": GOOD.to_csv(index=False, sep=";", quoting=csv.QUOTE_ALL).encode(),
            "utf16.txt": GOOD.to_csv(index=False, sep="\t").encode("utf-16"),
            "tsv": GOOD.to_csv(index=False, sep="\t").encode(), "xlsx": sheet.getvalue(),
            "cp949.csv": GOOD.to_csv(index=False).encode("cp949"), "sts.csv": sts.encode(),
            "jsonl": GOOD.to_json(orient="records", lines=True).encode()}


FILES = good_files()
SOME_BYTES = st.one_of(st.binary(min_size=1, max_size=4), st.sampled_from(
    [b'"', b"\n", b"\t", b",", b"\r", b"\0", b"\xff", "가".encode(), b"7", b"nan", b"\\"]))
CHANGES = st.lists(st.tuples(st.sampled_from(["cut", "put", "set", "end", "again"]),
                             st.floats(0, 1, exclude_max=True), SOME_BYTES, st.integers(1, 40)),
                   min_size=1, max_size=4)


def changed(content: bytes, changes: list[tuple[str, float, bytes, int]]) -> bytes:
    for what, share, some, length in changes:
        at = int(share * len(content))
        content = {"cut": content[:at] + content[at + length:],
                   "put": content[:at] + some + content[at:],
                   "set": content[:at] + some + content[at + len(some):],
                   "end": content[:at],
                   "again": content[:at + length] + content[at:]}[what]
    return content


@cases(300)
@given(name=st.sampled_from(sorted(FILES)), changes=CHANGES)
def test_a_good_file_with_some_bytes_changed(drawn_folder, name, changes):
    path = drawn_folder / f"changed.{name}"
    path.write_bytes(changed(FILES[name], changes))
    outcomes(path)


@cases(100)
@given(changes=CHANGES, part=st.sampled_from(
    ["xl/worksheets/sheet1.xml", "xl/workbook.xml", "xl/sharedStrings.xml", "xl/styles.xml"]))
def test_a_sheet_whose_parts_are_changed_inside_a_sound_zip(drawn_folder, changes, part):
    path = drawn_folder / "inside.xlsx"
    with zipfile.ZipFile(io.BytesIO(FILES["xlsx"])) as old, zipfile.ZipFile(path, "w") as new:
        assume(part in old.namelist())
        for name in old.namelist():
            new.writestr(name, changed(old.read(name), changes) if name == part
                         else old.read(name))
    outcomes(path)
