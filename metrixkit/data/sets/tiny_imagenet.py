"""Tiny-ImageNet: 200 classes of ImageNet at 64 x 64 pixels, 500 + 50 images each (Stanford, CS231n, 2015)."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import ClassVar

import pandas as pd

from metrixkit.data.files import OnMissing, settle_missing
from metrixkit.data.manifest import Manifest
from metrixkit.data.roots import Source, find_folder
from metrixkit.data.sets.numbered import check_counts
from metrixkit.data.sets.text_lists import read_rows
from metrixkit.errors import InputError

_CLASSES = 200
_PUBLISHED = {"train": 100_000, "test": 10_000}
_SUFFIX = ".JPEG"

Row = tuple[str, str, str, str]


class TinyImageNet:
    """Tiny-ImageNet in its published layout, or with the validation images sorted into class folders.

    Training and test share their classes: numbers on it are of classification or of retrieval among known classes, not
    zero-shot. The split "test" holds the published validation images, for the labels of the published test images were
    never released; selection is to be made on held-out training images.

    A folder whose ``wnids.txt`` lists fewer classes is read as it is and named so ("tiny-imagenet-20-classification").

    Args:
        root: The folder ``tiny-imagenet-200`` or the one above it; None searches the data roots.
        on_missing: "error" refuses a set with missing files, "drop" leaves the items out and counts them.
        verify: Whether to decode every file while reading, so that broken ones count as missing.
    """

    source: ClassVar[Source] = Source(
        title="Tiny-ImageNet",
        folders=("tiny-imagenet-200",),
        markers=("wnids.txt",),
        origin="Stanford's course CS231n, 'Tiny ImageNet' (tiny-imagenet-200.zip)",
        card="datasets/tiny_imagenet.md",
    )

    def __init__(self, root: str | None = None, on_missing: OnMissing = "error", verify: bool = False) -> None:
        self.root, self.on_missing, self.verify = root, on_missing, verify

    def read(self) -> Manifest:
        """Return the manifest: ids are file names without ending, labels WordNet ids; column ``name`` from words.txt.

        Raises:
            InputError: The folder or a list is absent or malformed, a listed class has no folder, counts of the whole
                set are not the published ones, or files are missing.
        """
        folder = find_folder(self.source, self.root)
        wnids = [row[0] for row in read_rows(folder / "wnids.txt", 1)]
        repeated = [wnid for wnid, count in Counter(wnids).items() if count > 1]
        if not wnids or repeated:
            problem = f"names {repeated[0]} twice" if repeated else "is empty"
            raise InputError(f"{folder / 'wnids.txt'} {problem}; unpack it again.")
        words = {wnid: name for wnid, name in read_rows(folder / "words.txt", 2)}
        nameless = [wnid for wnid in wnids if wnid not in words]
        if nameless:
            raise InputError(f"{folder / 'words.txt'} has no name for {nameless[0]}; unpack it again.")
        items = pd.DataFrame(
            _training(folder, wnids) + _validation(folder, wnids), columns=["id", "path", "label", "split"]
        )
        items["name"] = items["label"].map(words).astype("str")
        whole = len(wnids) == _CLASSES
        if whole:
            check_counts(items, _PUBLISHED, "tiny-imagenet")
        items, absent = settle_missing(items, self.on_missing, self.verify, f"Tiny-ImageNet ({folder})", folder)
        return Manifest(
            "tiny-imagenet",
            "classification" if whole else f"tiny-imagenet-{len(wnids)}-classification",
            items,
            folder,
            len(absent),
            dict(_PUBLISHED) if whole else {},
            absent=absent,
        )


def _training(folder: Path, wnids: list[str]) -> list[Row]:
    rows = []
    for wnid in wnids:
        place = folder / "train" / wnid
        boxes = place / f"{wnid}_boxes.txt"
        # The list of boxes is the only published list of the training images: with it, a missing one is noticed.
        names = [row[0] for row in read_rows(boxes, 5)] if boxes.is_file() else _images_in(place / "images")
        if not names:
            raise InputError(
                f"{place}: no images, though wnids.txt lists the class. Unpack tiny-imagenet-200.zip again, or name "
                "in wnids.txt those classes only that are here."
            )
        rows += [_row(place / "images" / name, wnid, "train") for name in names]
    return rows


def _validation(folder: Path, wnids: list[str]) -> list[Row]:
    place, listed = folder / "val", folder / "val" / "val_annotations.txt"
    if _images_in(place / "images"):
        if not listed.is_file():
            raise InputError(f"{listed} is missing: it says which class each image of val/images is; unpack it again.")
        rows = read_rows(listed, 6)
        known = set(wnids)
        return [_row(place / "images" / row[0], row[1], "test") for row in rows if row[1] in known]
    found = []
    for wnid in wnids:
        inner = place / wnid / "images"
        names_at = inner if inner.is_dir() else place / wnid
        names = _images_in(names_at)
        if not names:
            raise InputError(
                f"{place}: neither a folder images with val_annotations.txt, as published, nor images of class {wnid} "
                f"in {wnid} or {wnid}/images; unpack tiny-imagenet-200.zip again."
            )
        found += [_row(names_at / name, wnid, "test") for name in names]
    return found


def _row(path: Path, wnid: str, split: str) -> Row:
    return path.name.removesuffix(_SUFFIX), str(path), wnid, split


def _images_in(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if name.endswith(_SUFFIX))
    except (FileNotFoundError, NotADirectoryError):
        return []
