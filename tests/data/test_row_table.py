"""The table beside an array: its rows, its splits, and the options that its messages name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metrixkit.data.row_table import read_row_table
from metrixkit.errors import InputError
from metrixkit.evaluate import main as evaluate
from metrixkit.judging.pair_files import read_pair_table


def test_rows_are_text_with_what_nobody_told_empty(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("label;split;sku\n007;Val;a\n7;GALLERY;b\n")
    found = read_row_table(path, 2, "label", more=[("sku", "--group-by")])
    assert found.to_dict("list") == {
        "id": ["0", "1"],
        "label": ["007", "7"],
        "path": ["", ""],
        "split": ["validation", "gallery"],
        "sku": ["a", "b"],
    }
    assert read_row_table(path, 2, "class", labelled=False)["label"].tolist() == ["", ""]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,split\na,query\nb,galery\n", "row 2: no split is called 'galery'. Did you mean 'gallery'"),
        ("label,split\na,query\nb,\n", "row 2: no split is called ''"),
        ("label\na\n", "1 rows, but there are 2 embeddings"),
        ("class\na\nb\n", r"no column 'label' \(--label\); it has 'class'.*--separator"),
        ("id,label\n,a\n1,b\n", "row 1: column 'id' .* is empty"),
        ("id,label\n0,a\n1,b,c\n", "line 3: 3 cells.*--separator=CHARACTER"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_row(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_row_table(tmp_path / "t.csv", 2, "label")


def test_a_misspelt_split_takes_no_row_out_of_an_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "E.npz", rows=np.random.default_rng(0).standard_normal((12, 8)))
    words = [
        "--embeddings",
        str(tmp_path / "E.npz"),
        "--table",
        str(tmp_path / "T.csv"),
        "--separator",
        ":",
        "evaluation.recall_at=[1]",
    ]
    rows = [f"{i}:{i % 3}:{'query' if i % 2 else 'gallery'}" for i in range(12)]
    (tmp_path / "T.csv").write_text("\n".join(["id:label:split", *rows]))
    assert evaluate(words) == 0
    assert "6 queries against a gallery of 6" in capsys.readouterr().out
    rows[4] = "4:1:galery"
    (tmp_path / "T.csv").write_text("\n".join(["id:label:split", *rows]))
    assert evaluate(words) == 2
    assert "row 5: no split is called 'galery'" in capsys.readouterr().err


def test_numbers_with_leading_zeros_are_names_of_videos(tmp_path: Path) -> None:
    path = tmp_path / "P.csv"
    path.write_text("video\n002\n000\n000\n001\n")
    videos, ids, note = read_pair_table(path, None, None, (4, 3))
    assert (videos, ids) == (["002", "000", "000", "001"], ["002", "000", "001"])
    assert "--video-ids says otherwise" in note
    path.write_text("video\n2\n0\n0\n1\n")
    assert read_pair_table(path, None, None, (4, 3))[1:] == (["0", "1", "2"], "")


def test_pairs_that_do_not_fit_name_the_option(tmp_path: Path) -> None:
    path = tmp_path / "P.csv"
    path.write_text("text,video\na,va\nb,vb\n")
    with pytest.raises(InputError, match="--pairs .*text '0' has no row.*other names are given by --text-ids"):
        read_pair_table(path, None, None, (2, 2))
    with pytest.raises(InputError, match=r"--pairs .*text 'b' belongs to video 'vb', .*--video-ids"):
        read_pair_table(path, ["a", "b"], ["va", "vc"], (2, 2))
    path.write_text("text,video\na,va\na,vb\n")
    with pytest.raises(InputError, match="--pairs .*row 2: text 'a' stands there twice"):
        read_pair_table(path, ["a", "b"], None, (2, 2))
