"""Tables as people make them: separators, quotes, encodings, lists in cells, and what is refused with its line."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from metrixkit.data.delimited import guess_separator, read_delimited
from metrixkit.data.sets.captions import Captions
from metrixkit.data.sets.ratings import read_ratings
from metrixkit.data.tables import column, read_names, read_table, split_cells, texts
from metrixkit.errors import InputError


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows_of(path: Path, **settings: Any) -> list[list[str]]:
    return [list(row) for row in read_table(path, **settings).itertuples(index=False)]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt"])
def test_the_separator_is_found_out(tmp_path: Path, separator: str, suffix: str) -> None:
    lines = [("path", "label", "price"), ("a.png", "007", "1.5"), ("b.png", "NA", "2")]
    path = write(tmp_path, "t" + suffix, "\n".join(map(separator.join, lines)))
    table = read_table(path)
    assert [list(table.columns), *rows_of(path)] == list(map(list, lines))


@pytest.mark.parametrize(
    ("lines", "usual", "wanted"),
    [
        (["price;label", "1,5;a", "2,5;b"], ",", ";"),  # decimal commas
        (["id,caption", "1,hello", "2,a, b"], ",", ","),  # ragged: the heading decides
        (["id,note", '1,"x;y"', "2,z"], ",", ","),
        (["a;b,c;d", "1;2;3", "1;2;3"], ",", ";"),
        (["caption", "one, two"], ",", ","),
        (["id\tcaption", '1\t"I came', "2\tI saw"], "\t", "\t"),
        ([], ",", ","),
    ],
)
def test_the_separator_cuts_all_lines_alike(lines: list[str], usual: str, wanted: str) -> None:
    assert guess_separator([line + "\n" for line in lines], usual) == wanted


def test_excel_says_its_separator(tmp_path: Path) -> None:
    path = write(tmp_path, "t.csv", "sep=|\r\nid|label\r\n1,5|a\r\n")
    assert rows_of(path) == [["1,5", "a"]]
    with pytest.raises(InputError, match="line 4: 1 cells"):
        read_table(write(tmp_path, "u.csv", "sep=|\r\nid|label\r\n1|a\r\n2\r\n"))


def test_tabs_know_no_quoting(tmp_path: Path) -> None:
    path = write(tmp_path, "t.tsv", 'id\tcaption\n001\t"I came\n002\tI saw\n003\tI won"\n004\t"all"\n')
    assert rows_of(path) == [["001", '"I came'], ["002", "I saw"], ["003", 'I won"'], ["004", '"all"']]


def test_commas_know_quoting_and_lines_are_counted_through_it(tmp_path: Path) -> None:
    text = 'id,caption\n1,"two\nlines, and a ""quote"""\n\n2,x\n'
    assert rows_of(write(tmp_path, "t.csv", text)) == [["1", 'two\nlines, and a "quote"'], ["2", "x"]]
    with pytest.raises(InputError, match=r"line 6: 3 cells, the heading has 2 columns.*--separator=CHARACTER"):
        read_table(write(tmp_path, "u.csv", text + "3,x,y\n"), setting="--separator")
    with pytest.raises(InputError, match=r"line 3: the quotes of a cell do not close"):
        read_table(write(tmp_path, "v.csv", 'id,caption\n1,x\n2,"never\n3,x\n'))


def test_a_separator_that_is_given(tmp_path: Path) -> None:
    path = write(tmp_path, "t.csv", "a:b\n1:2\n")
    assert rows_of(path, separator=":") == [["1", "2"]]
    assert rows_of(write(tmp_path, "u.csv", "a\tb\n1\t2\n"), separator="\\t") == [["1", "2"]]
    with pytest.raises(InputError, match=r"--separator='::': expected one character"):
        read_table(path, "::", "--separator")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_marks_of_unicode_files(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path, "t.csv", "id,label\r\n1,café\r\n".encode(encoding))
    assert rows_of(path) == [["1", "café"]]
    assert read_names(write(tmp_path, "n.txt", "a\r\n\r\nb".encode(encoding)), "--text-ids") == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "id,label\n1,caf\u00e9\n".encode("latin-1"), r"line 2 \(byte 0xe9\): not text in UTF-8"),
        ("t.csv", "id,label\n1,a\n".encode("utf-16-le"), "line 1: holds NUL characters. Is it UTF-16"),
        ("t.csv", "id,label\n1,a\0\n", "line 2: holds NUL"),
        ("t.csv", "id,id\n1,2\n", "two columns are called 'id'"),
        ("t.csv", "id,,\n1,2,3\n", "several columns with cells have no name"),
        ("t.jsonl", "[" * 100_000, "line 1: lists or objects are nested too deeply"),
        ("t.jsonl", '{"a": 1}\n{"a": ', "line 2: not JSON"),
        ("t.jsonl", '{"a": 1, "a": 2}', "line 1: not JSON .*'a' stands twice"),
        ("t.jsonl", "[1]", "line 1: expected an object"),
        ("t.jsonl", '{"a": "x"}\n\n{"a": "\\ud800"}', "line 3: .*no text in Unicode"),
        ("t.jsonl", '{"a\\ud800": 1}', "line 1: .*no text in Unicode"),
        ("t.jsonl", '{"a": "x\\u0000"}', "line 1: .*NUL"),
        ("t.parquet", "PAR1", "cannot be read as parquet"),
        ("t.xlsx", "PK", "tables end in"),
    ],
)
def test_other_files_are_refused_with_their_line(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_table(write(tmp_path, name, content))


@pytest.mark.parametrize("count", [3_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_long_cells_and_many_columns(tmp_path: Path, count: int) -> None:
    assert len(rows_of(write(tmp_path, "t.csv", "id,caption\n1," + "word " * 40_000 + "\n"))[0][1]) == 200_000
    names = [f"c{i}" for i in range(count)]
    table = read_table(write(tmp_path, "w.csv", ",".join(names) + "\n" + ",".join("1" for _ in names) + "\n"))
    assert table.shape == (1, count)
    with pytest.raises(InputError, match=f"and {count - 40:,} more") as caught:
        column(table, "label", "w.csv", "--label")
    assert len(str(caught.value)) < 1000


def test_a_spreadsheet_s_empty_columns_go(tmp_path: Path) -> None:
    assert list(read_table(write(tmp_path, "t.csv", "id,label,,\n1,a,,\n2,b,,\n")).columns) == ["id", "label"]
    assert list(read_table(write(tmp_path, "u.csv", ",label\n0,a\n")).columns) == ["", "label"]  # pandas' index


LISTED = [{"id": "1", "caption": ["one", "uno"], "n": 7.10}, {"id": "2", "caption": ["two"], "n": None}]


def listed_file(folder: Path, form: str) -> Path:
    if form == "jsonl":
        return write(folder, "t.jsonl", "\n".join(map(json.dumps, LISTED)))
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(arrow.Table.from_pylist(LISTED), folder / "t.parquet")
    return folder / "t.parquet"


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_list_is_several_captions_and_else_an_error(tmp_path: Path, form: str) -> None:
    path = listed_file(tmp_path, form)
    table = read_table(path)
    assert texts(table, "caption", path, "data.columns.caption") == [["one", "uno"], ["two"]]
    assert texts(table, "id", path, "data.columns.id") == [["1"], ["2"]]
    assert table["n"].tolist() == ["7.1", ""]
    with pytest.raises(InputError, match=r"row 1: column 'caption' \(--label\) holds a list, \['one', 'uno'\]"):
        column(table, "caption", path, "--label")
    for name in ("1", "2"):
        write(tmp_path, f"{name}.mp4", "x")
    found = Captions(str(path), videos=str(tmp_path)).read()
    assert found.texts["caption"].tolist() == ["one", "uno", "two"]
    assert found.texts["item"].tolist() == ["1", "1", "2"]


def test_empty_lists_of_captions_are_empty_cells(tmp_path: Path) -> None:
    path = write(
        tmp_path, "t.jsonl", '{"id": 1, "caption": ["a"]}\n{"id": 2, "caption": []}\n{"id": 3, "caption": [1, [2]]}'
    )
    table = read_table(path)
    with pytest.raises(InputError, match="row 3: .*expected a text or a list of texts"):
        texts(table, "caption", path, "data.columns.caption")
    with pytest.raises(InputError, match="row 2: .*is empty; 1 rows"):
        texts(table.head(2), "caption", path, "data.columns.caption")


def test_parquet_keeps_what_numbers_are(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {
        "id": arrow.array([2**64 - 1, 7], arrow.uint64()),
        "float": arrow.array([3.0, None]),
        "share": arrow.array([0.5, float("nan")]),
        "bytes": arrow.array([b"a", b"b"]),
        "yes": arrow.array([True, None]),
        "class": arrow.array(["x", "y"]).dictionary_encode(),
        "__index_level_0__": arrow.array([4, 5]),
    }
    parquet.write_table(arrow.table(columns), tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    assert table.to_dict("list") == {
        "id": [str(2**64 - 1), "7"],
        "float": ["3", ""],
        "share": ["0.5", ""],
        "bytes": ["a", "b"],
        "yes": ["true", ""],
        "class": ["x", "y"],
    }


def test_blanks_around_a_cell_are_none_of_it(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("file,label\na.png, red\nb.png,red \n")
    assert column(read_table(path), "label", path, "data.columns.label") == ["red", "red"]


def test_split_words(tmp_path: Path) -> None:
    assert split_cells(["Train", "VAL", "gallery"], "t.csv") == ["train", "validation", "gallery"]
    for word in ("galery", ""):
        with pytest.raises(InputError, match=f"t.csv, row 2: no split is called '{word}'"):
            split_cells(["train", word], "t.csv")


def test_a_missing_column_is_told_by_its_setting(tmp_path: Path) -> None:
    path = write(tmp_path, "t.csv", "path:lable\na:b\n")
    with pytest.raises(InputError, match=r"--label=NAME.*--separator=CHARACTER"):
        column(read_table(path), "label", path, "--label")
    path = write(tmp_path, "u.csv", "path,lable\na,b\n")
    with pytest.raises(InputError, match=r"\(data.columns.label\).*Did you mean 'lable'"):
        column(read_table(path), "label", path, "data.columns.label")


def test_ratings_between_semicolons_and_bad_lines_of_dat(tmp_path: Path) -> None:
    assert len(read_ratings(write(tmp_path, "r.csv", "user;item;rating\n01;a;4\n1;a;3.5\n"))) == 2
    with pytest.raises(InputError, match="line 2: expected user::item::rating"):
        read_ratings(write(tmp_path, "r.dat", "1::2::3::4\n1::2\n"))


@pytest.mark.slow
def test_what_the_csv_module_writes_is_what_is_read(tmp_path: Path) -> None:
    from hypothesis import given, settings
    from hypothesis import strategies as st

    cell = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=6)
    wide = st.integers(2, 4).flatmap(lambda n: st.lists(st.lists(cell, min_size=n, max_size=n), min_size=1, max_size=5))

    @settings(max_examples=30, deadline=None)
    @given(wide, st.sampled_from(",;|"))
    def check(rows: list[list[str]], separator: str) -> None:
        text = io.StringIO()
        writer = csv.writer(text, delimiter=separator, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerows([[f"c{i}" for i in range(len(rows[0]))], *rows])
        assert read_delimited(write(tmp_path, "t.csv", text.getvalue()), None, "--separator")[1] == rows

    check()
