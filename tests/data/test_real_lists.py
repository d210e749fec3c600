"""Every reader on its real list files."""

from __future__ import annotations

import pytest

from metrixkit.data import CUB, SOP, Cars, Images, InShop, Omniglot
from metrixkit.data.decode import decode
from metrixkit.errors import InputError

pytestmark = pytest.mark.data


@pytest.fixture
def only_lists(monkeypatch):
    """Take every listed file for present but the first."""
    monkeypatch.setattr("metrixkit.data.files.present", lambda paths: [False] + [True] * (len(paths) - 1))


def test_cub_first_fifty_classes(shared_data):
    found = CUB(str(shared_data), classes="1-50").read()
    assert found.split_name == "cub-first50-zero-shot"
    assert found.counts() == {"train": 1_402, "test": 1_487}
    assert len(found.part("train").classes()) == len(found.part("test").classes()) == 25
    assert decode(found.paths[0]).shape[0] == 3


def test_cub_whole_with_half_of_the_files_absent(shared_data):
    with pytest.raises(InputError, match=r"8899 of 11788 .*data\.classes=1-50 asks for them"):
        CUB(str(shared_data)).read()


@pytest.mark.usefixtures("only_lists")
@pytest.mark.parametrize(
    ("split", "counts"),
    [("zero-shot", {"train": 5_864, "test": 5_924}), ("classification", {"train": 5_994, "test": 5_794})],
)
def test_cub_lists_have_the_published_counts(shared_data, split, counts):
    found = CUB(str(shared_data), split=split, on_missing="drop").read()
    assert dict(found.expected) == counts
    assert found.dropped == 1
    assert len(found) == 11_787
    if split == "zero-shot":
        assert found.part("train").classes()[-1].startswith("100.")


@pytest.mark.usefixtures("only_lists")
@pytest.mark.parametrize(
    ("split", "counts"),
    [("zero-shot", {"train": 8_054, "test": 8_131}), ("classification", {"train": 8_144, "test": 8_041})],
)
def test_cars_devkit_has_the_published_counts(shared_data, split, counts):
    found = Cars(str(shared_data), split=split, on_missing="drop").read()
    assert dict(found.expected) == counts
    assert len(found) == 16_184
    assert len(found.classes()) == 196
    labels = dict(zip(found.ids, found.labels, strict=True))
    assert labels["cars_train/00002.jpg"] == "003.Acura TL Sedan 2012"
    assert labels["cars_test/08041.jpg"] == "032.BMW X5 SUV 2007"


@pytest.mark.usefixtures("only_lists")
def test_sop_format(shared_data):
    folder = str(shared_data / "sop_format_shoes")
    with pytest.raises(InputError, match="own_lists"):
        SOP(folder).read()
    found = SOP(folder, own_lists=True, on_missing="drop").read()
    assert found.counts() == {"train": 9_130, "test": 9_091}
    assert found.dropped == 1


@pytest.mark.usefixtures("only_lists")
def test_inshop_counts_of_the_published_form(tmp_path):
    parts = {"train": 25_882, "query": 14_218, "gallery": 12_612}
    rows = [f"img/{s}/{k}.jpg      id_{k % 97:08d}    {s}  " for s, n in parts.items() for k in range(n)]
    (tmp_path / "list_eval_partition.txt").write_text(
        "\n".join(["52712", "image_name item_id evaluation_status", *rows])
    )
    found = InShop(str(tmp_path), on_missing="drop").read()
    assert found.counts() == {**parts, "train": 25_881}


def test_omniglot_small(shared_data):
    found = Omniglot(str(shared_data), archives=["small1", "small2"]).read()
    assert len(found) == 4_840
    assert len(found.classes()) == 242
    assert found.items["alphabet"].nunique() == 8
    assert not set(found.part("train").items["alphabet"]) & set(found.part("test").items["alphabet"])
    assert set(found.relations["strokes"]["id"]) == set(found.ids)
    assert decode(found.paths[17]).shape == (3, 105, 105)


def test_folder_of_class_folders(shared_data):
    found = Images(str(shared_data / "tiny-imagenet-20" / "tiny-imagenet-200" / "train")).read()
    assert found.counts() == {"train": 5_000, "test": 5_000}
    assert found.labels[0] == "n01443537/images"
