"""Tiny-ImageNet in its two layouts, whole and in part, and on real files."""

from __future__ import annotations

import shutil

import pytest
import torch
from PIL import Image

from metrixkit.data import DATASETS, TinyImageNet, with_held_out
from metrixkit.data.decode import decode
from metrixkit.errors import InputError

WNIDS = ["n02", "n01", "n03"]


def write(folder, wnids=WNIDS, train=4, val=2, boxes=True, images=True):
    """The published layout, with empty files where `images` is False."""
    folder.mkdir(parents=True)
    (folder / "wnids.txt").write_text("\n".join(wnids) + "\n")
    (folder / "words.txt").write_text("".join(f"{w}\tthing {w}, Res {w}\n" for w in [*wnids, "n99"]))
    lines, rows = [], 0
    for wnid in wnids:
        place = folder / "train" / wnid / "images"
        place.mkdir(parents=True)
        names = [f"{wnid}_{i}.JPEG" for i in range(train)]
        if boxes:
            (place.parent / f"{wnid}_boxes.txt").write_text("".join(f"{n}\t0\t1\t62\t63\n" for n in names))
        for name in names:
            picture(place / name, images)
        for _ in range(val):
            lines.append(f"val_{rows}.JPEG\t{wnid}\t0\t1\t62\t63\n")
            rows += 1
    (folder / "val" / "images").mkdir(parents=True)
    for number in range(rows):
        picture(folder / "val" / "images" / f"val_{number}.JPEG", images)
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    return folder


def picture(path, real):
    if real:
        Image.new("L" if path.stem.endswith("1") else "RGB", (64, 64), 90).save(path, "JPEG")
    else:
        path.touch()


def test_the_published_layout(tmp_path):
    folder = write(tmp_path / "tiny-imagenet-200")
    found = TinyImageNet(str(tmp_path), verify=True).read()
    assert found.name == "tiny-imagenet"
    assert found.split_name == "tiny-imagenet-3-classification"
    assert found.counts() == {"train": 12, "test": 6}
    assert found.expected == {}
    assert found.dropped == 0
    assert found.root == folder
    first = found.items.iloc[0].to_dict()
    assert first["id"] == "n02_0"
    assert first["label"] == "n02"
    assert first["name"] == "thing n02, Res n02"
    assert sorted(set(found.part("test").labels)) == sorted(set(found.part("train").labels)) == sorted(WNIDS)
    assert dict(zip(found.part("test").ids, found.part("test").labels, strict=True))["val_3"] == "n01"
    assert found.classes() == sorted(WNIDS)


@pytest.mark.parametrize("inner", ["", "images"])
@pytest.mark.parametrize("leftover", [False, True])
def test_validation_images_sorted_into_class_folders(tmp_path, inner, leftover):
    folder = write(tmp_path / "tiny-imagenet-200", boxes=False)
    expected = TinyImageNet(str(folder)).read()
    labels = dict(zip(expected.ids, expected.labels, strict=True))
    for image in (folder / "val" / "images").iterdir():
        place = folder / "val" / labels[image.stem] / inner
        place.mkdir(parents=True, exist_ok=True)
        image.rename(place / image.name)
    if not leftover:
        (folder / "val" / "val_annotations.txt").unlink()
        (folder / "val" / "images").rmdir()
    found = TinyImageNet(str(folder)).read()
    assert dict(zip(found.ids, found.labels, strict=True)) == labels
    assert found.counts() == expected.counts()


def test_counts_of_the_whole_set_are_enforced(tmp_path):
    write(tmp_path / "tiny-imagenet-200", [f"n{i:03d}" for i in range(200)], train=2, val=1, images=False)
    with pytest.raises(InputError, match="tiny-imagenet: the lists name.*400.*published are.*100000"):
        TinyImageNet(str(tmp_path)).read()


def test_missing_files_are_one_error_or_left_out(tmp_path):
    folder = write(tmp_path / "tiny-imagenet-200")
    (folder / "train" / "n01" / "images" / "n01_2.JPEG").unlink()
    (folder / "val" / "images" / "val_0.JPEG").write_bytes(b"no picture")
    with pytest.raises(InputError, match="1 of 18 listed files are missing or broken: train/n01/images/n01_2.JPEG"):
        TinyImageNet(str(folder)).read()
    found = TinyImageNet(str(folder), on_missing="drop", verify=True).read()
    assert found.dropped == 2
    assert found.counts() == {"train": 11, "test": 5}


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (
            lambda f: shutil.rmtree(f),
            "Tiny-ImageNet was not found.*CS231n.*tiny-imagenet-200.*datasets/tiny_imagenet.md",
        ),
        (lambda f: shutil.rmtree(f / "train" / "n01"), "n01: no images, though wnids.txt lists the class"),
        (lambda f: (f / "words.txt").unlink(), "words.txt is missing"),
        (lambda f: (f / "words.txt").write_text("n02\ta\n"), "words.txt has no name for n01"),
        (lambda f: (f / "val" / "val_annotations.txt").unlink(), "val_annotations.txt is missing: it says which class"),
        (lambda f: shutil.rmtree(f / "val"), "neither a folder images with val_annotations.txt"),
        (lambda f: (f / "wnids.txt").write_text(""), "wnids.txt is empty"),
        (lambda f: (f / "wnids.txt").write_text("n01\nn01\n"), "wnids.txt names n01 twice"),
        (lambda f: (f / "val" / "val_annotations.txt").write_text("val_0.JPEG n01\n"), "line 1: expected 6 columns"),
    ],
)
def test_what_is_missing_is_named(tmp_path, breaks, message):
    breaks(write(tmp_path / "tiny-imagenet-200"))
    with pytest.raises(InputError, match=message):
        TinyImageNet(str(tmp_path)).read()


@pytest.mark.data
def test_twenty_real_classes(shared_data):
    found = DATASETS["tiny_imagenet"](root=str(shared_data / "tiny-imagenet-20")).read()
    assert found.counts() == {"train": 10_000, "test": 1_000}
    assert found.split_name == "tiny-imagenet-20-classification"
    assert set(found.part("train").items["label"].value_counts()) == {500}
    assert set(found.part("test").items["label"].value_counts()) == {50}
    assert found.items.set_index("id")["name"]["n01443537_0"] == "goldfish, Carassius auratus"
    held = with_held_out(found, 0.1, seed=0)
    assert held.counts() == {"train": 9_000, "validation": 1_000, "test": 1_000}
    grey = 0
    for path in found.paths[::40]:
        with Image.open(path) as image:
            grey += image.mode == "L"
        decoded = decode(path)
        assert decoded.shape == (3, 64, 64)
        assert decoded.dtype == torch.uint8
    assert grey >= 1
