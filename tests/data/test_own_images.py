"""Own data: folders of classes and tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from metrixkit.data import Columns, Images
from metrixkit.data.tables import read_table
from metrixkit.errors import InputError

CLASSES = {"cat": 3, "dog": 3, "owl": 2, "rat": 1}


def picture(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (value, 0, 0)).save(path)


@pytest.fixture
def folders(tmp_path) -> Path:
    for name, count in CLASSES.items():
        for k in range(count):
            picture(tmp_path / "photos" / name / f"{k}.png")
    return tmp_path / "photos"


def table(folder: Path, text: str, name: str = "t.csv") -> Path:
    for k in range(4):
        picture(folder / f"{k}.png")
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_a_folder_per_class_is_split_by_class_with_a_seed(folders):
    (folders / "cat" / "notes.txt").write_text("not an image")
    (folders / ".thumbs").mkdir()
    picture(folders / ".thumbs" / "0.png")
    picture(folders / "cat" / "._0.png")
    found = Images(str(folders)).read()
    assert len(found) == 9
    assert found.ids[0] == "cat/0.png"
    assert not set(found.part("train").labels) & set(found.part("test").labels)
    assert found.split_name == "zero-shot-share0.5-seed0"
    assert found.items.equals(Images(str(folders), seed=0).read().items)
    assert len({tuple(Images(str(folders), seed=s).read().part("test").classes()) for s in range(8)}) > 1


def test_nested_folders_with_one_name_are_two_classes(tmp_path):
    for name in ("a/x", "b/x", "b/y"):
        for k in range(2):
            picture(tmp_path / name / f"{k}.png")
    assert Images(str(tmp_path)).read().classes() == ["a/x", "b/x", "b/y"]


@pytest.mark.parametrize(
    ("one", "other"), [("Cat", "cat"), ("cat", "cat "), ("black cat", "black  cat"), ("caf\u00e9", "cafe\u0301")]
)
def test_two_classes_with_one_name_are_an_error_unless_kept(tmp_path, one, other):
    for name in (one, other, "dog"):
        for k in range(2):
            picture(tmp_path / name / f"{k}.png")
    if len(list(tmp_path.iterdir())) < 3:
        pytest.skip("this file system does not tell the two names apart")
    with pytest.raises(InputError, match="one name in two spellings"):
        Images(str(tmp_path)).read()
    assert len(Images(str(tmp_path), similar_names="keep").read().classes()) == 3


def test_split_folders(tmp_path):
    for split, name in (("train", "cat"), ("val", "dog"), ("query", "owl"), ("gallery", "owl")):
        picture(tmp_path / split / name / "0.png")
    found = Images(str(tmp_path)).read()
    assert found.splits == ["train", "validation", "query", "gallery"]
    assert found.part("query", "gallery").labels == ["owl", "owl"]
    assert found.split_name == "given"
    with pytest.raises(InputError, match="splits are given"):
        Images(str(tmp_path), test_share=0.3).read()


def test_folders_beside_the_splits(tmp_path):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            picture(tmp_path / split / name / "0.png")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "info.txt").write_text("no image")
    found = Images(str(tmp_path)).read()
    assert (found.split_name, found.classes()) == ("given", ["cat", "dog"])
    picture(tmp_path / "thumbnails" / "cat" / "0.png")
    with pytest.raises(InputError, match="test, train look like splits, and 'thumbnails' beside them"):
        Images(str(tmp_path)).read()


def test_classes_that_are_called_like_splits(tmp_path):
    for name in ("train", "test", "car"):  # vehicles, and their tests
        for k in range(2):
            picture(tmp_path / name / f"{k}.png")
    assert Images(str(tmp_path)).read().classes() == ["car", "test", "train"]


def test_query_without_gallery(tmp_path):
    for split in ("train", "query"):
        picture(tmp_path / split / "cat" / "0.png")
    with pytest.raises(InputError, match="none called 'gallery'"):
        Images(str(tmp_path)).read()


def test_images_in_no_class_folder_and_empty_folders(tmp_path):
    with pytest.raises(InputError, match="empty"):
        Images(str(tmp_path)).read()
    picture(tmp_path / "0.png")
    with pytest.raises(InputError, match="lies in no class folder"):
        Images(str(tmp_path)).read()
    with pytest.raises(InputError, match="is not a folder"):
        Images(str(tmp_path / "nowhere")).read()


def test_only_one_image_classes_cannot_be_split(tmp_path):
    for name in "abc":
        picture(tmp_path / name / "0.png")
    with pytest.raises(InputError, match="at least two images; 0 of the 3 classes"):
        Images(str(tmp_path)).read()


def test_a_link_to_a_folder_above_ends(folders):
    (folders / "cat" / "loop").symlink_to(folders, target_is_directory=True)
    assert len(Images(str(folders)).read()) == 9


def test_table_keeps_strings_as_they_are(tmp_path):
    file = table(tmp_path, "file,sku,split\n0.png,007,train\n1.png,NA,train\n2.png,1e5,Test\n3.png,7.10,val\n")
    found = Images(table=str(file), columns=Columns(path="file", label="sku")).read()
    assert found.labels == ["007", "NA", "1e5", "7.10"]
    assert found.items["split"].tolist() == ["train", "train", "test", "validation"]
    assert found.ids == ["0.png", "1.png", "2.png", "3.png"]


@pytest.mark.parametrize("form", ["csv", "semicolon", "tsv", "jsonl", "parquet"])
def test_forms_of_tables(tmp_path, form):
    rows = [("0.png", "007", "x1"), ("1.png", "007", "x2"), ("2.png", "8", "x3"), ("3.png", "8", "x4")]
    separator, name = {"csv": (",", "t.csv"), "semicolon": (";", "t.csv"), "tsv": ("\t", "t.tsv")}.get(form, ("", ""))
    if form == "jsonl":
        text = "\n".join(json.dumps({"path": p, "label": k, "code": c}) for p, k, c in rows)
        file = table(tmp_path, text, "t.jsonl")
    elif form == "parquet":
        pytest.importorskip("pyarrow")
        import pandas as pd

        file = table(tmp_path, "", "t.parquet")
        pd.DataFrame(rows, columns=["path", "label", "code"]).to_parquet(file)
    else:
        lines = [separator.join(row) for row in [("path", "label", "code"), *rows]]
        file = table(tmp_path, "\ufeff" + "\n".join(lines), name)
    settings = {"separator": ";"} if form == "semicolon" else {}
    found = Images(str(tmp_path), table=file.name, columns=Columns(id="code"), **settings).read()
    assert found.ids == ["x1", "x2", "x3", "x4"]
    assert found.labels == ["007", "007", "8", "8"]
    assert found.counts() == {"train": 2, "test": 2}


def test_json_numbers_stay_as_written(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"a": 7.10, "b": 3, "c": true}\n{"a": null}\n')
    assert read_table(tmp_path / "t.jsonl").to_numpy().tolist() == [["7.10", "3", "true"], ["", "", ""]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "path,labels\n0.png,a\n",
            r"has no column 'label' \(data\.columns\.label\); it has 'path', 'labels'\. Did you mean",
        ),
        ("path,label\n0.png,a\n1.png,\n", r"row 2: column 'label' \(data\.columns\.label\) is empty"),
        ("path,label\n0.png,a\n1.png, \n", "row 2"),
        ("path,label\n", "empty: it has no rows"),
        ("", "empty: it has no rows"),
        ("path,label\n0.png,a\n0.png,b\n", r"row 2: '0\.png' stands there for the second time"),
        ("path,label\n0.png,a,b\n", "line 2: 3 cells, the heading has 2 columns"),
        ("path:label\n0.png:a\n", "no column 'path'.*separator"),
        ("path,label,path\n0.png,a,1.png\n", "two columns are called 'path'"),
        ("path,label,split\n0.png,a,tset\n", r"row 1: no split is called 'tset'\. Did you mean 'test'"),
        ("path,label\n0.png,Mug\n1.png,mug\n", "one name in two spellings"),
        ("path,label\n0.png,a\n9.png,a\n", r"1 of 2 listed files .*9\.png: missing"),
    ],
)
def test_tables_that_are_wrong(tmp_path, text, message):
    file = table(tmp_path, text)
    with pytest.raises(InputError, match=message):
        Images(table=str(file)).read()


def test_table_that_is_absent_of_another_form_or_no_text(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        Images(table=str(tmp_path / "no.csv")).read()
    (tmp_path / "t.xlsx").write_text("x")
    with pytest.raises(InputError, match=r"ends in '\.xlsx'"):
        Images(table=str(tmp_path / "t.xlsx")).read()
    (tmp_path / "t.csv").write_bytes(b"path,label\n\xff\xfe,a\n")
    with pytest.raises(InputError, match=r"line 2 \(byte 0xff\): not text in UTF-8"):
        Images(table=str(tmp_path / "t.csv")).read()
    (tmp_path / "t.jsonl").write_text('{"path": "0.png"\n')
    with pytest.raises(InputError, match="line 1: not JSON"):
        Images(table=str(tmp_path / "t.jsonl")).read()


def test_missing_files_of_a_table_are_dropped_and_counted(tmp_path):
    file = table(tmp_path, "path,label\n0.png,a\n1.png,a\n2.png,b\n3.png,b\n9.png,b\n")
    found = Images(table=str(file), on_missing="drop").read()
    assert (len(found), found.dropped) == (4, 1)


def test_settings_that_do_not_apply(tmp_path):
    with pytest.raises(InputError, match=r"data\.root=FOLDER"):
        Images()
    with pytest.raises(InputError, match="belong to a table"):
        Images(str(tmp_path), columns=Columns(label="sku"))
    with pytest.raises(InputError, match="test_share"):
        Images(str(tmp_path), test_share=1.0)
