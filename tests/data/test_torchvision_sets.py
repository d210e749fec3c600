"""The adapter over torchvision.datasets, on small files in the published formats."""

from __future__ import annotations

import hashlib
import json
import pickle
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import loadmat, savemat
from torchvision import datasets

from metrixkit.config import FAMILIES
from metrixkit.data import UNLABELLED, Torchvision, with_held_out
from metrixkit.data.decode import decode
from metrixkit.data.sets import torchvision_sets
from metrixkit.errors import InputError
from metrixkit.schema import build_node, check_node

DRAWS = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("METRIXKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("METRIXKIT_DATA", str(tmp_path))


@pytest.fixture
def small(monkeypatch):
    """Let a set have other sizes and checksums than the published ones."""

    def allow(name, **lists):
        specs = torchvision_sets.SPECS
        monkeypatch.setitem(specs, name, replace(specs[name], expected={}))
        for attribute, value in lists.items():
            monkeypatch.setattr(getattr(datasets, name), attribute, value)

    return allow


def md5(path):
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def write_cifar10(root, images=7):
    """Returns the images as (6, images, 3, 32, 32): five batches and the test batch."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    values = DRAWS.integers(0, 256, (6, images, 3072), dtype=np.uint8)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    for name, batch in zip(names, values, strict=True):
        labels = [i % 3 for i in range(images)]
        (folder / name).write_bytes(pickle.dumps({"data": batch, "labels": labels}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["airplane", "auto mobile", "bird"]}))
    lists = [[name, md5(folder / name)] for name in names]
    meta = {"filename": "batches.meta", "key": "label_names", "md5": md5(folder / "batches.meta")}
    return values.reshape(6, images, 3, 32, 32), {"train_list": lists[:5], "test_list": lists[5:], "meta": meta}


def write_stl10(root, train=6, test=4, unlabeled=5):
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    parts = {}
    for name, count in (("train", train), ("test", test), ("unlabeled", unlabeled)):
        parts[name] = DRAWS.integers(0, 256, (count, 3, 96, 96), dtype=np.uint8)
        (folder / f"{name}_X.bin").write_bytes(parts[name].transpose(0, 1, 3, 2).tobytes())  # columns first
        if name != "unlabeled":
            (folder / f"{name}_y.bin").write_bytes(bytes(1 + i % 2 for i in range(count)))
    (folder / "class_names.txt").write_text("airplane\nbird\n")
    files = {name: [name, md5(folder / name)] for name in (f.name for f in folder.glob("*.bin"))}
    lists = {
        "train_list": [files["train_X.bin"], files["train_y.bin"], files["unlabeled_X.bin"]],
        "test_list": [files["test_X.bin"], files["test_y.bin"]],
    }
    return parts, lists


def decoded(manifest):
    return torch.stack([decode(path) for path in manifest.paths]).numpy()


def test_cifar(tmp_path, small):
    values, lists = write_cifar10(tmp_path)
    small("CIFAR10", **lists)
    found = Torchvision("CIFAR10").read()
    assert (found.name, found.split_name) == ("cifar10", "classification")
    assert found.counts() == {"train": 35, "test": 7}
    assert np.array_equal(decoded(found.part("train")), values[:5].reshape(35, 3, 32, 32))
    assert np.array_equal(decoded(found.part("test")), values[5])
    assert found.labels[:4] == ["airplane", "auto mobile", "bird", "airplane"]
    assert found.ids[0] == "train/0"
    assert found.ids[-1] == "test/6"
    assert with_held_out(found, 0.2, seed=0).counts()["validation"] == 7


def test_what_was_written_is_not_read_again(tmp_path, small, monkeypatch):
    _, lists = write_cifar10(tmp_path)
    small("CIFAR10", **lists)
    first = Torchvision("CIFAR10", root=str(tmp_path / "cifar-10-batches-py")).read()
    monkeypatch.setattr(datasets, "CIFAR10", None)
    assert Torchvision("CIFAR10").read().items.equals(first.items)
    (tmp_path / "cifar-10-batches-py" / "test_batch").touch()  # changed: seen, and read again
    with pytest.raises(InputError, match="'NoneType' object is not callable"):
        Torchvision("CIFAR10").read()


def test_published_counts_and_checksums_are_enforced(tmp_path, small, monkeypatch):
    _, lists = write_cifar10(tmp_path)
    with pytest.raises(InputError, match=r"CIFAR10.*train=True: torchvision cannot read it .*corrupted.*get it again"):
        Torchvision("CIFAR10").read()
    for attribute, value in lists.items():
        monkeypatch.setattr(datasets.CIFAR10, attribute, value)
    with pytest.raises(InputError, match="CIFAR10: the lists name.*35.*published are.*50000"):
        Torchvision("CIFAR10").read()
    assert not list((tmp_path / "cache").glob(".*"))  # nothing half-written


def test_stl10_and_its_unlabelled_part(tmp_path, small):
    parts, lists = write_stl10(tmp_path)
    small("STL10", **lists)
    plain = Torchvision("STL10").read()
    assert plain.counts() == {"train": 6, "test": 4}
    assert not list((tmp_path / "cache").glob("*unlabeled*"))
    found = Torchvision("STL10", unlabeled=True).read()
    assert found.split_name == "classification-with-unlabelled"
    assert found.counts() == {"train": 11, "test": 4}
    train = found.part("train")
    assert train.labels == ["airplane", "bird"] * 3 + [UNLABELLED] * 5
    assert np.array_equal(decoded(train), np.concatenate([parts["train"], parts["unlabeled"]]))
    assert np.array_equal(decoded(found.part("test")), parts["test"])


def test_large_parts_are_written_in_pieces(tmp_path, small, monkeypatch):
    monkeypatch.setattr(torchvision_sets, "_CHUNK", 2)
    parts, lists = write_stl10(tmp_path)
    small("STL10", **lists)
    assert np.array_equal(decoded(Torchvision("STL10").read().part("train")), parts["train"])


def test_classes_in_halves(tmp_path, small):
    _, lists = write_cifar10(tmp_path)
    small("CIFAR10", **lists)
    found = Torchvision("CIFAR10", split="zero-shot").read()
    assert found.split_name == "zero-shot"
    assert found.part("train").classes() == ["airplane"]
    assert found.part("test").classes() == ["auto mobile", "bird"]
    assert len(found) == 42


def write_aircraft(root):
    data = root / "fgvc-aircraft-2013b" / "data"
    (data / "images").mkdir(parents=True)
    (data / "variants.txt").write_text("F/A-18\nBoeing 737-700\n")
    for split, numbers in (("trainval", range(4)), ("test", range(4, 7))):
        lines = [f"{n:07d} {('F/A-18', 'Boeing 737-700')[n % 2]}\n" for n in numbers]
        (data / f"images_variant_{split}.txt").write_text("".join(lines))
        for n in numbers:
            Image.new("RGB", (30, 20), (n, n, n)).save(data / "images" / f"{n:07d}.jpg")


def test_image_files_stay_where_they_are(tmp_path, small):
    write_aircraft(tmp_path)
    small("FGVCAircraft")
    found = Torchvision("FGVCAircraft").read()
    assert found.counts() == {"train": 4, "test": 3}
    assert found.labels[:2] == ["F/A-18", "Boeing 737-700"]
    assert found.ids[0] == "data/images/0000000.jpg"
    assert not (tmp_path / "cache").exists()
    assert Torchvision("FGVCAircraft", split="zero-shot").read().part("train").classes() == ["F/A-18"]
    (tmp_path / found.root / "data" / "images" / "0000002.jpg").unlink()
    with pytest.raises(InputError, match="1 of 7 listed files are missing or broken: data/images/0000002.jpg"):
        Torchvision("FGVCAircraft").read()
    assert Torchvision("FGVCAircraft", on_missing="drop").read().dropped == 1


def write_others(root):
    """One or two images of each split of the sets whose lists are small: label 'b' trains, 'a' and 'b' test."""

    def image(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 10)).save(path)

    food = root / "food-101"
    for split, paths in (("train", {"a": ["a/1"], "b": ["b/1"]}), ("test", {"a": ["a/2"], "b": ["b/2"]})):
        (food / "meta").mkdir(parents=True, exist_ok=True)
        (food / "meta" / f"{split}.json").write_text(json.dumps(paths))
        for path in (p for each in paths.values() for p in each):
            image(food / "images" / f"{path}.jpg")
    dtd = root / "dtd" / "dtd"
    for number, split in enumerate(("train", "val", "test")):
        (dtd / "labels").mkdir(parents=True, exist_ok=True)
        names = [f"{label}/{label}_{number}.jpg" for label in "ab"]
        (dtd / "labels" / f"{split}1.txt").write_text("\n".join(names) + "\n")
        for name in names:
            image(dtd / "images" / name)
    pets = root / "oxford-iiit-pet"
    (pets / "annotations").mkdir(parents=True)
    for number, split in enumerate(("trainval", "test")):
        rows = [f"{breed}_{number} {label} 1 1" for label, breed in enumerate(("big_cat", "pug"), 1)]
        (pets / "annotations" / f"{split}.txt").write_text("\n".join(rows) + "\n")
        for row in rows:
            image(pets / "images" / f"{row.split()[0]}.jpg")
    flowers = root / "flowers-102"
    for number in range(1, 9):
        image(flowers / "jpg" / f"image_{number:05d}.jpg")
    savemat(flowers / "setid.mat", {"trnid": [[1, 4]], "valid": [[2, 3]], "tstid": [[5, 6, 7, 8]]})
    savemat(flowers / "imagelabels.mat", {"labels": [[1, 2] * 4]})
    for split in ("train", "test"):
        pixels = DRAWS.integers(0, 256, (32, 32, 3, 3), dtype=np.uint8)
        savemat(root / f"{split}_32x32.mat", {"X": pixels, "y": np.array([[10], [1], [9]])})


@pytest.mark.parametrize(
    ("name", "counts", "labels"),
    [
        ("Food101", (2, 2), ["a", "b"]),
        ("DTD", (4, 2), ["a", "b", "a", "b"]),
        ("OxfordIIITPet", (2, 2), ["Big Cat", "Pug"]),
        ("Flowers102", (4, 4), ["pink primrose", *["hard-leaved pocket orchid"] * 2, "pink primrose"]),
        ("SVHN", (3, 3), ["0", "1", "9"]),
    ],
)
def test_further_sets(tmp_path, small, monkeypatch, name, counts, labels):
    write_others(tmp_path)
    small(name)
    module = sys.modules[getattr(datasets, name).__module__]
    monkeypatch.setattr(module, "check_integrity", lambda *_: True, raising=False)
    found = Torchvision(name).read()
    assert found.counts() == dict(zip(("train", "test"), counts, strict=True))
    assert found.part("train").labels == labels
    assert {decode(path).ndim for path in found.paths} == {3}
    if name == "SVHN":
        expected = loadmat(tmp_path / "test_32x32.mat")["X"].transpose(3, 2, 0, 1)
        assert np.array_equal(decoded(found.part("test")), expected)


def test_cifar100_has_fine_labels(tmp_path, small):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name in ("train", "test"):
        images = DRAWS.integers(0, 256, (3, 3072), dtype=np.uint8)
        content = {"data": images, "fine_labels": [1, 0, 1], "coarse_labels": [0, 0, 0]}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": ["apple", "bee"], "coarse_label_names": ["x"]}))
    meta = {"filename": "meta", "key": "fine_label_names", "md5": md5(folder / "meta")}
    small(
        "CIFAR100", train_list=[["train", md5(folder / "train")]], test_list=[["test", md5(folder / "test")]], meta=meta
    )
    assert Torchvision("CIFAR100").read().labels == ["bee", "apple", "bee"] * 2


def write_folders(root, classes=("n01", "n02"), train="train", test="val"):
    for folder, count in ((train, 3), (test, 2)):
        for label in classes:
            (root / folder / label).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (9, 8), (i, 0, 0)).save(root / folder / label / f"{label}_{i}.JPEG")
    return root


def test_image_folders(tmp_path):
    write_folders(tmp_path / "mine")
    found = Torchvision("ImageFolder", root=str(tmp_path / "mine")).read()
    assert found.counts() == {"train": 6, "test": 4}
    assert found.ids[0] == "train/n01/n01_0.JPEG"
    assert found.ids[-1] == "val/n02/n02_1.JPEG"
    assert found.classes() == ["n01", "n02"]
    write_folders(tmp_path / "inaturalist", train="2021_train_mini", test="2021_valid")
    assert Torchvision("INaturalist").read().counts() == {"train": 6, "test": 4}
    write_folders(tmp_path / "other", train="fit", test="judge")
    named = Torchvision("ImageFolder", root=str(tmp_path / "other"), train_folder="fit", test_folder="judge")
    assert named.read().counts() == {"train": 6, "test": 4}


def test_an_imagenet_of_other_size_is_refused(tmp_path):
    write_folders(tmp_path / "imagenet")
    with pytest.raises(InputError, match="ImageNet: the lists name.*published are.*1281167"):
        Torchvision("ImageNet").read()


def test_image_folders_that_are_none(tmp_path):
    with pytest.raises(InputError, match="ImageFolder was not found"):
        Torchvision("ImageFolder").read()
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match=r"no folder 'train' in .*split 'train'.*data=images"):
        Torchvision("ImageFolder", root=str(tmp_path / "a")).read()
    (tmp_path / "a" / "train" / "n01").mkdir(parents=True)
    with pytest.raises(InputError, match="is no folder of class folders with images"):
        Torchvision("ImageFolder", root=str(tmp_path / "a")).read()
    root = write_folders(tmp_path / "b")
    (root / "train" / "n03").mkdir()
    Image.new("RGB", (9, 8)).save(root / "train" / "n03" / "x.png")
    with pytest.raises(InputError, match="1 classes stand in one of the two folders only.*'n03', in the training"):
        Torchvision("ImageFolder", root=str(root)).read()


@pytest.mark.parametrize("name", sorted(torchvision_sets.SPECS))
def test_missing_sets_say_what_from_where_and_where_to_put_it(tmp_path, name):
    with pytest.raises(InputError, match=rf"{name} was not found.*Get it from .*{tmp_path.name}.*data.download=true"):
        Torchvision(name).read()


def test_nothing_is_downloaded_unless_asked(tmp_path, small, monkeypatch):
    wanted = []

    def download(self):
        wanted.append(self.root)
        _, lists = write_cifar10(tmp_path / "put")
        for attribute, value in lists.items():
            monkeypatch.setattr(datasets.CIFAR10, attribute, value)
        monkeypatch.setattr(datasets.CIFAR10, "download", lambda self: None)

    small("CIFAR10")
    monkeypatch.setattr(datasets.CIFAR10, "download", download)
    with pytest.raises(InputError, match="was not found"):
        Torchvision("CIFAR10").read()
    assert not wanted
    found = Torchvision("CIFAR10", root=str(tmp_path / "put"), download=True).read()
    assert wanted == [str(tmp_path / "put")]
    assert found.counts() == {"train": 35, "test": 7}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "CIFAR1O"}, "data.dataset='CIFAR1O' is no set it reads. Did you mean 'CIFAR1"),
        ({"dataset": "CIFAR10", "split": "test"}, "data.split='test'"),
        ({"dataset": "CIFAR10", "unlabeled": True}, "data.unlabeled=true is for STL10"),
        ({"dataset": "STL10", "unlabeled": True, "split": "zero-shot"}, "data.unlabeled=true is for STL10"),
        ({"dataset": "ImageNet", "download": True}, "ImageNet is not downloaded"),
        ({"dataset": "CIFAR10", "test_folder": "val"}, "data.train_folder and data.test_folder are for ImageFolder"),
    ],
)
def test_settings_that_contradict(options, message):
    with pytest.raises(InputError, match=message):
        Torchvision(**options)


def test_a_config_names_the_set():
    node = check_node({"name": "torchvision", "dataset": "STL10", "unlabeled": True}, FAMILIES, "data", "data")
    assert isinstance(build_node(node, FAMILIES, "data", "data", provided={}), Torchvision)
    with pytest.raises(InputError, match="data.dataset is missing"):
        check_node({"name": "torchvision"}, FAMILIES, "data", "data")
