"""Lists and shares of labels."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from metrixkit.errors import InputError
from metrixkit.probing import choose_labelled, draw_share


@pytest.fixture
def items() -> pd.DataFrame:
    rows = [(f"train/n0{c}/n0{c}_{i}.JPEG", f"n0{c}") for c in range(3) for i in range(40 if c else 5)]
    return pd.DataFrame(rows, columns=["id", "label"])


def test_shares_are_balanced_and_seeded(items: pd.DataFrame) -> None:
    tenth = choose_labelled("10%", items, seed=0)
    assert tenth["label"].value_counts().to_dict() == {"n00": 1, "n01": 4, "n02": 4}
    assert choose_labelled(" 1 %", items)["label"].value_counts().tolist() == [1, 1, 1]
    assert len(choose_labelled("100%", items)) == len(items)
    assert tenth.equals(choose_labelled("10%", items, seed=0))
    assert not tenth.equals(choose_labelled("10%", items, seed=1))
    turned = items.iloc[::-1].reset_index(drop=True)
    assert set(draw_share(turned, 0.1, 0)["id"]) == set(tenth["id"])
    for bad in ("0%", "101%"):
        with pytest.raises(InputError, match="more than 0 and at most 100"):
            choose_labelled(bad, items)


def test_lists_name_ids_file_names_or_stems(items: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "1percent.txt"
    path.write_text("n02_3.JPEG\n\n train/n00/n00_1.JPEG \nn01_0\n", encoding="utf-8")
    found = choose_labelled(str(path), items)
    assert found["id"].tolist() == ["train/n00/n00_1.JPEG", "train/n01/n01_0.JPEG", "train/n02/n02_3.JPEG"]


def test_bad_lists(items: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    for text, words in (
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("n00_1.JPEG\nn01_99.JPEG\nx\n", r"2 of 3 lines name no .*'n01_99.JPEG'"),
        ("n00_1.JPEG\nn00_1\nn01_1\nn02_1\n", "1 items stand there twice"),
        ("n00_1.JPEG\nn01_1.JPEG\n", "no image of 1 of 3 classes .*'n02'"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=words):
            choose_labelled(str(path), items)
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InputError, match="not text in UTF-16"):
        choose_labelled(str(path), items)
    with pytest.raises(InputError, match="no such file, and no share"):
        choose_labelled(str(tmp_path / "none.txt"), items)
    twins = pd.concat([items, items.assign(id=items["id"].str.replace("train", "more"))], ignore_index=True)
    path.write_text("n00_1.JPEG", encoding="utf-8")
    with pytest.raises(InputError, match="may be 'train/n00/n00_1.JPEG', 'more/n00/n00_1.JPEG'"):
        choose_labelled(str(path), twins)
