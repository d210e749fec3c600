"""Stanford Online Products: 120,053 photographs of 22,634 products (Song et al., CVPR 2016), and lists of its form."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pandas as pd

from metrixkit.data.files import OnMissing, settle_missing
from metrixkit.data.manifest import Manifest
from metrixkit.data.roots import Source, find_folder
from metrixkit.data.sets.numbered import check_counts
from metrixkit.data.sets.text_lists import read_rows
from metrixkit.errors import InputError

_PUBLISHED = {"train": 59_551, "test": 60_502}


class SOP:
    """Stanford Online Products, split by its own lists ``Ebay_train.txt`` and ``Ebay_test.txt``.

    Args:
        root: The folder ``Stanford_Online_Products`` or the one above it; None searches the data roots.
        own_lists: Whether the lists are another data set in the same format: the published counts are then not asked
            for, and the split is named after the folder.
        on_missing: "error" refuses a set with missing files, "drop" leaves the items out and counts them.
        verify: Whether to decode every file while reading, so that broken ones count as missing.
    """

    source: ClassVar[Source] = Source(
        title="Stanford Online Products",
        folders=("Stanford_Online_Products",),
        markers=("Ebay_train.txt",),
        origin="the project page of 'Deep Metric Learning via Lifted Structured Feature Embedding', Stanford",
        card="datasets/sop.md",
    )

    def __init__(
        self,
        root: str | None = None,
        own_lists: bool = False,
        on_missing: OnMissing = "error",
        verify: bool = False,
    ) -> None:
        self.root, self.own_lists, self.on_missing, self.verify = root, own_lists, on_missing, verify

    def read(self) -> Manifest:
        """Return the manifest: ids are image numbers, labels product numbers; the column ``super_class`` is added.

        Raises:
            InputError: The folder or a list is absent or malformed, a product stands in both lists, counts are not
                the published ones, or files are missing.
        """
        folder = find_folder(self.source, self.root)
        items = pd.concat([_list(folder, "train"), _list(folder, "test")], ignore_index=True)
        both = set(items["label"][items["split"] == "train"]) & set(items["label"][items["split"] == "test"])
        if both:
            raise InputError(f"SOP ({folder}): class {min(both)} stands in both lists; training and test must not.")
        expected = {} if self.own_lists else _PUBLISHED
        if not self.own_lists:
            try:
                check_counts(items, expected, "sop")
            except InputError as error:
                raise InputError(f"{error} If the lists are your own, say so: data.own_lists=true.") from None
        split_name = f"{folder.absolute().name}-zero-shot" if self.own_lists else "zero-shot"
        items, absent = settle_missing(items, self.on_missing, self.verify, f"SOP ({folder})", folder)
        return Manifest("sop", split_name, items, folder, len(absent), expected, absent=absent)


def _list(folder: Path, split: str) -> pd.DataFrame:
    rows = read_rows(folder / f"Ebay_{split}.txt", 4, skip=1)
    table = pd.DataFrame(rows, columns=["id", "label", "super_class", "name"], dtype="str")
    table["path"] = [str(folder / name) for name in table["name"]]
    table["split"] = split
    return table.drop(columns="name")
