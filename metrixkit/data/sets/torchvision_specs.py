"""What the adapter must know of each set of torchvision: its folder, its parts, its published sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Spec:
    """One set of torchvision.

    Attributes:
        folder: The folder below torchvision's root in which it lies, "" for the root itself.
        markers: A file or folder in `folder`, by which it is recognised.
        origin: Where to get it, in words.
        parts: Split to the calls that make it, each the settings of torchvision's class; one part may have several.
        expected: Published images of each split.
        arrays: Whether it lies in a few files of many images, which are written once as an array; else in image files.
        unlabeled: The call that makes its images without labels, None where it has none.
        unlabeled_count: How many these are.
    """

    folder: str
    markers: tuple[str, ...]
    origin: str
    parts: Mapping[str, tuple[Mapping[str, Any], ...]]
    expected: Mapping[str, int]
    arrays: bool = False
    unlabeled: Mapping[str, Any] | None = None
    unlabeled_count: int = 0


@dataclass(frozen=True)
class FolderSpec:
    """A set that is two folders of class folders.

    Attributes:
        title: What it is, for messages.
        origin: Where to get it, in words.
        folders: Names of the folder that holds both, below a data root.
        train: Names of the training folder, the first that is there is taken.
        test: Names of the test folder.
        expected: Published images of each split, where it is one set.
    """

    title: str
    origin: str
    folders: tuple[str, ...]
    train: tuple[str, ...]
    test: tuple[str, ...]
    expected: Mapping[str, int] = field(default_factory=dict)


_BY_FLAG = {"train": ({"train": True},), "test": ({"train": False},)}
_BY_NAME = {"train": ({"split": "train"},), "test": ({"split": "test"},)}
_WITH_VALIDATION = {"train": ({"split": "train"}, {"split": "val"}), "test": ({"split": "test"},)}
_TRAINVAL = {"train": ({"split": "trainval"},), "test": ({"split": "test"},)}

SPECS: dict[str, Spec] = {
    "CIFAR10": Spec(
        "cifar-10-batches-py",
        ("batches.meta",),
        "Alex Krizhevsky's page 'The CIFAR-10 dataset' (cifar-10-python.tar.gz)",
        _BY_FLAG,
        {"train": 50_000, "test": 10_000},
        arrays=True,
    ),
    "CIFAR100": Spec(
        "cifar-100-python",
        ("meta",),
        "Alex Krizhevsky's page 'The CIFAR-100 dataset' (cifar-100-python.tar.gz)",
        _BY_FLAG,
        {"train": 50_000, "test": 10_000},
        arrays=True,
    ),
    "STL10": Spec(
        "stl10_binary",
        ("train_X.bin",),
        "Adam Coates's page 'STL-10 dataset' at Stanford (stl10_binary.tar.gz)",
        _BY_NAME,
        {"train": 5_000, "test": 8_000},
        arrays=True,
        unlabeled={"split": "unlabeled"},
        unlabeled_count=100_000,
    ),
    "SVHN": Spec(
        "",
        ("train_32x32.mat", "test_32x32.mat"),
        "Stanford's page 'The Street View House Numbers' (train_32x32.mat, test_32x32.mat)",
        _BY_NAME,
        {"train": 73_257, "test": 26_032},
        arrays=True,
    ),
    "FGVCAircraft": Spec(
        "fgvc-aircraft-2013b",
        ("data/variants.txt",),
        "Oxford's VGG group, 'FGVC-Aircraft' (fgvc-aircraft-2013b.tar.gz)",
        _TRAINVAL,
        {"train": 6_667, "test": 3_333},
    ),
    "Food101": Spec(
        "food-101",
        ("meta/train.json",),
        "ETH Zurich, 'Food-101' (food-101.tar.gz)",
        _BY_NAME,
        {"train": 75_750, "test": 25_250},
    ),
    "Flowers102": Spec(
        "flowers-102",
        ("setid.mat",),
        "Oxford's VGG group, '102 Category Flower Dataset' (102flowers.tgz, imagelabels.mat, setid.mat)",
        _WITH_VALIDATION,
        {"train": 2_040, "test": 6_149},
    ),
    "DTD": Spec(
        "dtd",
        ("dtd/labels/train1.txt",),
        "Oxford's VGG group, 'Describable Textures Dataset' (dtd-r1.0.1.tar.gz)",
        _WITH_VALIDATION,
        {"train": 3_760, "test": 1_880},
    ),
    "OxfordIIITPet": Spec(
        "oxford-iiit-pet",
        ("annotations/trainval.txt",),
        "Oxford's VGG group, 'The Oxford-IIIT Pet Dataset' (images.tar.gz, annotations.tar.gz)",
        _TRAINVAL,
        {"train": 3_680, "test": 3_669},
    ),
}

FOLDERS: dict[str, FolderSpec] = {
    "ImageFolder": FolderSpec(
        "a folder of class folders for each split", "your own images", ("ImageFolder",), ("train",), ("test", "val")
    ),
    "ImageNet": FolderSpec(
        "ImageNet (ILSVRC 2012), unpacked into train/WNID and val/WNID",
        "the ImageNet site, after registration",
        ("imagenet", "ImageNet", "ILSVRC2012"),
        ("train",),
        ("val",),
        {"train": 1_281_167, "test": 50_000},
    ),
    "INaturalist": FolderSpec(
        "iNaturalist 2021, unpacked",
        "the iNaturalist competition's page (train.tar.gz or train_mini.tar.gz, val.tar.gz)",
        ("inaturalist", "iNaturalist", "inat2021"),
        ("2021_train", "2021_train_mini", "train", "train_mini"),
        ("2021_valid", "val"),
    ),
}
