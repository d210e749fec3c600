"""The manifest: what it accepts, parts of it, validation classes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from metrixkit.data import Manifest, with_validation
from metrixkit.errors import InputError


def manifest(labels: str = "aabbccdde", splits: str = "rrrrrrrrt", **changes) -> Manifest:
    names = {"r": "train", "t": "test", "q": "query", "g": "gallery", "v": "validation"}
    items = pd.DataFrame(
        {
            "id": [f"i{k}" for k in range(len(labels))],
            "path": [f"{k}.png" for k in range(len(labels))],
            "label": list(labels),
            "split": [names[s] for s in splits],
        }
    )
    for column, values in changes.items():
        items[column] = values
    return Manifest("toy", "zero-shot", items, Path("toy"), expected={"train": 8, "test": 1})


def test_views_are_lists_of_strings_in_order():
    toy = manifest()
    assert len(toy) == 9
    assert toy.labels == list("aabbccdde")
    assert toy.ids[:2] == ["i0", "i1"]
    assert toy.paths[-1] == "8.png"
    assert toy.classes() == list("abcde")
    assert toy.counts() == {"train": 8, "test": 1}


def test_part_keeps_rows_order_relations_and_expected_counts():
    toy = manifest("abab", "rtrt")
    toy = Manifest(
        "toy", "s", toy.items, toy.root, expected={"train": 2, "test": 2}, relations={"x": toy.items[["id"]]}
    )
    part = toy.part("test")
    assert part.ids == ["i1", "i3"]
    assert list(part.items.index) == [0, 1]
    assert part.expected == {"test": 2}
    assert part.relations["x"]["id"].tolist() == ["i1", "i3"]
    assert toy.part("test", "train").ids == toy.ids


def test_part_that_has_no_items_says_which_there_are():
    with pytest.raises(InputError, match=r"no items in split 'query'; it has \['train', 'test'\]"):
        manifest().part("query")
    with pytest.raises(InputError, match="none named"):
        manifest().part()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": ["x"] * 9}, "ids must be unique"),
        ({"label": [1] * 9}, "must hold strings only, it holds integer"),
        ({"label": ["a"] * 8 + [None]}, "must hold strings only"),
        ({"label": ["a"] * 8 + [""]}, "'label' is empty in item 8"),
        ({"split": ["trian"] * 9}, r"no split is called 'trian'\. Did you mean 'train'"),
    ],
)
def test_bad_items_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        manifest(**changes)


def test_empty_and_incomplete_items_are_refused():
    items = manifest().items
    with pytest.raises(InputError, match="is empty"):
        Manifest("toy", "s", items.iloc[:0], Path("toy"))
    with pytest.raises(InputError, match=r"lack the columns \['label'\]"):
        Manifest("toy", "s", items.drop(columns="label"), Path("toy"))


def test_filtered_items_get_a_range_index_again():
    items = manifest().items
    again = Manifest("toy", "s", items[items["label"] == "c"], Path("toy"))
    assert list(again.items.index) == [0, 1]


def test_validation_takes_whole_training_classes_with_a_seed():
    toy = manifest("aabbccddeeff", "rrrrrrrrrrtt")
    split = with_validation(toy, 0.4, seed=3)
    train, validation = (set(split.part(s).labels) for s in ("train", "validation"))
    assert len(validation) == 2
    assert train | validation == set("abcde")
    assert not train & validation
    assert split.part("test").ids == toy.part("test").ids
    assert split.ids == toy.ids
    assert "train" not in split.expected
    assert split.items.equals(with_validation(toy, 0.4, seed=3).items)
    assert any(not split.items.equals(with_validation(toy, 0.4, seed=s).items) for s in range(8))
    assert toy.splits == ["train", "test"], "the original is untouched"


def test_validation_leaves_a_given_one_alone():
    toy = manifest("aabbcc", "rrrrvv")
    assert with_validation(toy, 0.5, seed=0) is toy
    assert with_validation(manifest(), 0.0, seed=0).splits == ["train", "test"]


@pytest.mark.sample(20)
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("share", [0.01, 0.1, 0.99])
def test_both_sides_hold_two_classes_with_two_images_however_many_are_single(seed, share):
    split = with_validation(manifest("aabbccddefghijklm", "r" * 17), share, seed=seed)
    assert split.held_out == "classes"
    assert not split.galleries("validation")
    for part in ("train", "validation"):
        assert (split.part(part).items["label"].value_counts() >= 2).sum() >= 2


def test_a_sixth_of_six_classes_is_two():
    split = with_validation(manifest("aabbccddeeff", "r" * 12), 0.2, seed=0)
    assert len(set(split.part("validation").labels)) == 2


@pytest.mark.parametrize("labels", ["aaaabbbb", "aaabbbccc", "aaabbbccdefg"])
def test_where_classes_are_too_few_images_are_held_out_and_search_the_others(labels):
    whole = manifest(labels, "r" * len(labels))
    split = with_validation(whole, 0.2, seed=0)
    assert split.held_out == "images"
    assert split.galleries("validation") == ("train",)
    held, kept = (set(split.part(part).labels) for part in ("validation", "train"))
    assert len(held) >= 2
    assert held <= kept == set(labels)


@pytest.mark.parametrize("labels", ["aabcd", "aaaaa", "abcd"])
def test_where_nothing_can_be_held_out_nothing_is(labels):
    whole = manifest(labels, "r" * len(labels))
    assert with_validation(whole, 0.5, seed=0) is whole


@pytest.mark.parametrize("share", [1.0, -0.1, float("nan")])
def test_shares_that_cannot_be_are_refused(share):
    with pytest.raises(InputError, match="between 0 and 1"):
        with_validation(manifest("aabbccdd", "r" * 8), share, seed=0)
