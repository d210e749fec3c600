"""Held-out training images: of every class, a pure function of ids, share and seed."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from metrixkit.data import UNLABELLED, Manifest, with_held_out
from metrixkit.data.held_out import share_of_each_class
from metrixkit.errors import InputError


def manifest(sizes, shuffled=False, test=3):
    rows = [(f"{label}/{i}", f"{label}/{i}.png", label, "train") for label, n in sizes.items() for i in range(n)]
    rows += [(f"test/{i}", f"t{i}.png", "a", "test") for i in range(test)]
    items = pd.DataFrame(rows, columns=["id", "path", "label", "split"])
    if shuffled:
        items = items.sample(frac=1, random_state=1).reset_index(drop=True)
    return Manifest("made-up", "classification", items, Path(), expected={"train": 1, "test": test})


def moved(found):
    return {i for i, split in zip(found.ids, found.items["split"], strict=True) if split == "validation"}


def test_a_share_of_every_class_is_moved():
    before = manifest({"a": 40, "b": 10, "c": 2, "d": 3, "e": 1})
    found = with_held_out(before, 0.2, seed=4)
    held = found.part("validation").items["label"].value_counts().to_dict()
    assert held == {"a": 8, "b": 2, "c": 1, "d": 1}
    assert found.ids == before.ids
    assert found.counts() == {"train": 44, "validation": 12, "test": 3}
    assert found.expected == {"test": 3}
    assert with_held_out(before, 0.99, seed=0).part("train").items["label"].value_counts().min() == 1


def test_a_class_is_never_held_out_whole():
    ids, labels = [f"{label}{i}" for label in "ab" for i in range(3)], ["a"] * 3 + ["b"] * 3
    moved = share_of_each_class(ids, labels, 0.99, seed=0)
    assert sorted(name[0] for name in moved) == ["a", "a", "b", "b"]


def test_order_and_other_classes_change_nothing():
    sizes = {"a": 30, "b": 30}
    once = moved(with_held_out(manifest(sizes), 0.3, seed=2))
    assert once == moved(with_held_out(manifest(sizes, shuffled=True), 0.3, seed=2))
    more = moved(with_held_out(manifest({**sizes, "aa": 9}), 0.3, seed=2))
    assert once == {i for i in more if not i.startswith("aa/")}
    assert once != moved(with_held_out(manifest(sizes), 0.3, seed=3))
    assert {int(i.split("/")[1]) for i in once if i[0] == "a"} != {int(i.split("/")[1]) for i in once if i[0] == "b"}


def test_unlabelled_images_stay():
    found = with_held_out(manifest({"a": 10, UNLABELLED: 50}), 0.5, seed=0)
    assert found.part("validation").items["label"].tolist() == ["a"] * 5


def test_nothing_to_do():
    plain = manifest({"a": 10})
    assert with_held_out(plain, 0, seed=0) is plain
    once = with_held_out(plain, 0.1, seed=0)
    assert with_held_out(once, 0.5, seed=1) is once


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_shares_that_are_none(share):
    with pytest.raises(InputError, match="share must lie between"):
        with_held_out(manifest({"a": 10}), share, seed=0)


def test_single_images_only():
    with pytest.raises(InputError, match="not one class has two labelled training images"):
        with_held_out(manifest({"a": 1, "b": 1, UNLABELLED: 9}), 0.1, seed=0)
