"""In-Shop Clothes Retrieval of DeepFashion: 52,712 photographs of 7,982 garments (Liu et al., CVPR 2016)."""

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

_PUBLISHED = {"train": 25_882, "query": 14_218, "gallery": 12_612}
_LISTS = ("list_eval_partition.txt", "Eval/list_eval_partition.txt")


class InShop:
    """In-Shop Clothes, split by ``list_eval_partition.txt`` into training, query and gallery.

    Args:
        root: The folder with the list and ``img/`` (or ``Img/img/``), or the one above it; None searches the data
            roots.
        own_lists: Whether the list is another data set in the same format: the published counts are then not asked
            for, and the split is named after the folder.
        on_missing: "error" refuses a set with missing files, "drop" leaves the items out and counts them.
        verify: Whether to decode every file while reading, so that broken ones count as missing.
    """

    source: ClassVar[Source] = Source(
        title="In-Shop Clothes Retrieval (DeepFashion)",
        folders=("In-shop Clothes Retrieval Benchmark", "In-shop", "inshop", "InShop"),
        markers=_LISTS,
        origin="the DeepFashion page of MMLab, CUHK, 'In-shop Clothes Retrieval Benchmark' (password on request)",
        card="datasets/inshop.md",
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
        """Return the manifest: ids are the listed image names, labels the item ids ("id_00000001").

        Raises:
            InputError: The folder or the list is absent or malformed, counts are not the published ones, or files
                are missing.
        """
        folder = find_folder(self.source, self.root)
        listed = next(folder / name for name in _LISTS if (folder / name).is_file())
        # Columns are padded with several blanks, rows end in blanks.
        rows = read_rows(listed, 3, skip=2, name_column=0)
        items = pd.DataFrame(rows, columns=["id", "label", "split"], dtype="str")
        _check_head(listed, len(items))
        unknown = items[~items["split"].isin(_PUBLISHED)]
        if len(unknown):
            raise InputError(f"{listed}: {unknown['split'].iloc[0]!r} is no status; expected train, query or gallery.")
        expected = {} if self.own_lists else _PUBLISHED
        if not self.own_lists:
            try:
                check_counts(items, expected, "inshop")
            except InputError as error:
                raise InputError(f"{error} If the list is your own, say so: data.own_lists=true.") from None
        # Listed names begin with img/.
        images = folder / "Img" if (folder / "Img" / "img").is_dir() else folder
        items["path"] = [str(images / name) for name in items["id"]]
        split_name = f"{folder.absolute().name}-query-gallery" if self.own_lists else "query-gallery"
        items, absent = settle_missing(items, self.on_missing, self.verify, f"In-Shop ({folder})", folder)
        return Manifest("inshop", split_name, items, folder, len(absent), expected, absent=absent)


def _check_head(listed: Path, rows: int) -> None:
    with listed.open(encoding="utf-8-sig") as lines:
        first = lines.readline().strip()
    if first != str(rows):
        raise InputError(f"{listed}: its first line promises {first} rows, it has {rows}; it is cut short or altered.")
