"""New photos of known classes as the test split, and training on everything."""

from pathlib import Path

import pandas as pd
import pytest

from metrixkit.data import with_validation
from metrixkit.data.check import check
from metrixkit.data.sets.images import Images
from metrixkit.errors import InputError


@pytest.fixture
def shop(tmp_path):
    """Photos of five products, one of which has a single one."""
    for name, count in (("mug", 10), ("pot", 5), ("pan", 2), ("jug", 3), ("cup", 1)):
        (tmp_path / name).mkdir()
        for i in range(count):
            (tmp_path / name / f"{i}.png").touch()
    return tmp_path


def by_class(part):
    return part.items["label"].value_counts().to_dict()


def test_every_product_stays_in_the_gallery(shop):
    found = Images(str(shop), split="photos").read()
    assert found.split_name == "known-classes-share0.2-seed0"
    assert by_class(found.part("test")) == {"mug": 2, "pot": 1, "pan": 1, "jug": 1}
    assert by_class(found.part("train")) == {"mug": 8, "pot": 4, "pan": 1, "jug": 2, "cup": 1}
    assert found.galleries("test") == ("train",)
    assert found.items.equals(Images(str(shop), split="photos").read().items)
    assert not found.items.equals(Images(str(shop), split="photos", seed=1).read().items)
    assert by_class(Images(str(shop), split="photos", test_share=0.99).read().part("train")) == dict.fromkeys(
        ("mug", "pot", "pan", "jug", "cup"), 1
    )


def test_validation_is_of_photos_too_and_the_test_searches_all_that_is_known(shop):
    found = with_validation(Images(str(shop), split="photos").read(), 0.25, seed=0)
    assert found.held_out == "images"
    assert by_class(found.part("validation")) == {"mug": 2, "pot": 1, "jug": 1}
    assert found.galleries("validation") == ("train",)
    assert found.galleries("test") == ("train", "validation")
    assert by_class(found.part("train", "validation")) == {"mug": 8, "pot": 4, "pan": 1, "jug": 2, "cup": 1}


def test_given_splits_of_known_classes(shop):
    rows = [(f"{n}/{i}.png", n, "test" if i == 0 else "train") for n, c in (("mug", 4), ("pot", 4)) for i in range(c)]
    pd.DataFrame(rows, columns=["path", "label", "split"]).to_csv(shop / "t.csv", index=False)
    found = Images(str(shop), table="t.csv", split="photos").read()
    assert (found.split_name, found.galleries("test")) == ("given-known-classes", ("train",))
    assert Images(str(shop), table="t.csv").read().galleries("test") == ()


def test_training_on_everything(shop):
    for split in ("classes", "photos"):
        found = Images(str(shop), split=split, test_share=0).read()
        assert (found.split_name, found.splits) == ("all-train", ["train"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "photo"}, "data.split='photo' is not known. Did you mean 'photos'"),
        ({"test_share": 1.0}, r"between 0 \(trains on everything\) and 1"),
        ({"test_share": -0.1}, "between 0"),
    ],
)
def test_divisions_that_are_refused(shop, changes, message):
    with pytest.raises(InputError, match=message):
        Images(str(shop), **changes)


def test_photos_of_one_class_are_no_test(tmp_path: Path):
    for name in ("a/0.png", "a/1.png", "b/0.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"fewer than two classes have two.*data\.test_share=0"):
        Images(str(tmp_path), split="photos").read()


def test_check_tells_what_can_be_judged(shop: Path):
    def said(**settings):
        return check(Images(str(shop), **settings).read(), deep=False).render()

    assert "no test split" in said(test_share=0)
    assert "can judge nothing" not in said()
    assert "can judge nothing" not in said(split="photos")  # one new photo of a class is enough: others are searched
    for name in ("pan", "jug"):
        (shop / name).rename(shop.parent / f"{shop.name}-{name}")
    assert "split 'test' has 1 classes in which there is anything to find" in said()
