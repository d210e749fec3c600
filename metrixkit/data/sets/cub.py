"""CUB-200-2011: 11,788 photographs of 200 bird species (Wah et al., CNS-TR-2011-001, 2011)."""

from __future__ import annotations

from itertools import groupby
from typing import ClassVar

import pandas as pd

from metrixkit.data.files import OnMissing, settle_missing
from metrixkit.data.manifest import Manifest
from metrixkit.data.roots import Source, find_folder
from metrixkit.data.sets.numbered import NumberedSplit, choose_split
from metrixkit.data.sets.text_lists import read_rows, to_number
from metrixkit.errors import InputError

_PUBLISHED = {
    "zero-shot": {"train": 5_864, "test": 5_924},
    "classification": {"train": 5_994, "test": 5_794},
}


class CUB:
    """CUB-200-2011 in its published layout.

    Args:
        root: The folder ``CUB_200_2011`` or the one above it; None searches the data roots.
        split: "zero-shot" trains on classes 1-100 and tests on 101-200, as the papers on metric learning do;
            "classification" is the published ``train_test_split.txt``, whose numbers are not comparable with theirs.
        classes: Class numbers such as "1-50" or "1-25,30"; the chosen ones are split in halves. None takes all 200.
        on_missing: "error" refuses a set with missing files, "drop" leaves the items out and counts them.
        verify: Whether to decode every file while reading, so that broken ones count as missing.
    """

    source: ClassVar[Source] = Source(
        title="CUB-200-2011",
        folders=("CUB_200_2011",),
        markers=("images.txt",),
        origin="CaltechDATA, 'CUB-200-2011' (CUB_200_2011.tgz)",
        card="datasets/cub.md",
    )

    def __init__(
        self,
        root: str | None = None,
        split: NumberedSplit = "zero-shot",
        classes: str | None = None,
        on_missing: OnMissing = "error",
        verify: bool = False,
    ) -> None:
        self.root, self.split, self.classes = root, split, classes
        self.on_missing, self.verify = on_missing, verify

    def read(self) -> Manifest:
        """Return the manifest: ids are the image numbers of ``images.txt``, labels the class folders.

        Raises:
            InputError: The folder or a list is absent or malformed, counts are not the published ones, or files are
                missing.
        """
        folder = find_folder(self.source, self.root)
        number = {image: label for image, label in read_rows(folder / "image_class_labels.txt", 2)}
        training = {image: flag for image, flag in read_rows(folder / "train_test_split.txt", 2)}
        names = {label: name for label, name in read_rows(folder / "classes.txt", 2)}
        rows = []
        for image, name in read_rows(folder / "images.txt", 2):
            if image not in number or image not in training or number[image] not in names:
                raise InputError(f"{folder}: image {image} of images.txt is not in the other lists; unpack them again.")
            label = number[image]
            path = str(folder / "images" / name)
            rows.append((image, path, names[label], to_number(label), 1 - to_number(training[image])))
        items = pd.DataFrame(rows, columns=["id", "path", "label", "class_id", "is_test"])
        items, split_name, expected = choose_split(items, self.split, self.classes, _PUBLISHED, "cub")

        def complete(here: list[bool]) -> str:
            whole = [to_number(label.partition(".")[0]) for label in _complete(items["label"].tolist(), here)]
            span = _ranges(whole)
            return f"Complete are classes {span}; data.classes={span} asks for them." if whole else ""

        items, absent = settle_missing(
            items, self.on_missing, self.verify, f"CUB-200-2011 ({folder})", folder, complete
        )
        return Manifest("cub", split_name, items, folder, len(absent), expected, absent=absent)


def _complete(labels: list[str], here: list[bool]) -> list[str]:
    lacking = {label for label, there in zip(labels, here, strict=True) if not there}
    return sorted(set(labels) - lacking)


def _ranges(numbers: list[int]) -> str:
    runs = [[n for _, n in run] for _, run in groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0])]
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
