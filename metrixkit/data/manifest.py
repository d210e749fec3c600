"""What a reader hands on: one row per item, the split it stands in, and what else is known about the items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from metrixkit.errors import InputError, did_you_mean

COLUMNS = ("id", "path", "label", "split")
SPLITS = ("train", "validation", "test", "query", "gallery")


@dataclass(frozen=True, eq=False)
class Manifest:
    """The items of a data set. Immutable: every change makes a new one.

    Attributes:
        name: The data set ("cub").
        split_name: Which split of it ("zero-shot", "cub-first50-zero-shot"); goes into every result file.
        items: One row per item with a RangeIndex and the columns ``id``, ``path``, ``label``, ``split``, all of them
            str, ids unique. ``path`` is what ``decode`` understands: a file, ``archive.zip!member`` or
            ``array.npy#17``. ``split`` is one of "train", "validation", "test", "query", "gallery". Readers may add
            columns (``face``, ``alphabet``).
        root: The folder that the items were read from.
        dropped: Listed rows that were left out because their files are missing or broken.
        absent: What was left out, a line each: file and reason.
        expected: Published number of items per split, before anything was dropped; empty when unknown.
        relations: Further tables about the items, each with an ``id`` column (``strokes``).

    Raises:
        InputError: No items, a missing column, a column that does not hold strings, an id given twice, an empty
            label, or a split of another name.
    """

    name: str
    split_name: str
    items: pd.DataFrame
    root: Path
    dropped: int = 0
    expected: Mapping[str, int] = field(default_factory=dict)
    relations: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    absent: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        where = f"data set {self.name!r} ({self.root})"
        missing = [column for column in COLUMNS if column not in self.items.columns]
        if missing:
            raise InputError(f"{where}: the items lack the columns {missing}; there are {list(self.items.columns)}.")
        if self.items.empty:
            raise InputError(f"{where} is empty: not one item was found.")
        for column in COLUMNS:
            kind = pd.api.types.infer_dtype(self.items[column], skipna=False)
            if kind != "string" or self.items[column].isna().any():
                held = "absent" if kind == "string" else kind
                raise InputError(f"{where}: column {column!r} must hold strings only, it holds {held} values.")
            empty = self.items[column] == ""
            if empty.any():
                raise InputError(f"{where}: column {column!r} is empty in item {int(np.argmax(empty.to_numpy()))}.")
        twice = self.items["id"].duplicated()
        if twice.any():
            first = self.items["id"][twice].iloc[0]
            raise InputError(f"{where}: ids must be unique, {int(twice.sum())} stand there again (first: {first!r}).")
        other = sorted(set(self.items["split"]) - set(SPLITS))
        if other:
            raise InputError(f"{where}: no split is called {other[0]!r}.{did_you_mean(other[0], SPLITS)}")
        if not isinstance(self.items.index, pd.RangeIndex) or self.items.index.start != 0:
            object.__setattr__(self, "items", self.items.reset_index(drop=True))

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.items)

    @property
    def ids(self) -> list[str]:
        """The id of each item, in order."""
        return [str(value) for value in self.items["id"]]

    @property
    def labels(self) -> list[str]:
        """The class name of each item, in order."""
        return [str(value) for value in self.items["label"]]

    @property
    def paths(self) -> list[str]:
        """What ``decode`` reads for each item, in order."""
        return [str(value) for value in self.items["path"]]

    @property
    def splits(self) -> list[str]:
        """The splits that have items, in the order train, validation, test, query, gallery."""
        present = set(self.items["split"])
        return [split for split in SPLITS if split in present]

    def classes(self) -> list[str]:
        """Return the distinct labels, sorted."""
        return sorted(set(self.labels))

    def counts(self) -> dict[str, int]:
        """Return the number of items of each split that has any."""
        found = self.items["split"].value_counts()
        return {split: int(found[split]) for split in self.splits}

    def part(self, *splits: str) -> Manifest:
        """Return the items of the named splits, in their order, with a RangeIndex again.

        Args:
            *splits: One or more of :attr:`splits`.

        Raises:
            InputError: No split was named, or a named one has no items.
        """
        absent = [split for split in splits if split not in self.splits]
        if absent or not splits:
            wanted = absent[0] if absent else "(none named)"
            raise InputError(f"data set {self.name!r} has no items in split {wanted!r}; it has {self.splits}.")
        items = self.items[self.items["split"].isin(splits)].reset_index(drop=True)
        kept = set(items["id"])
        return replace(
            self,
            items=items,
            expected={split: n for split, n in self.expected.items() if split in splits},
            relations={
                name: table[table["id"].isin(kept)].reset_index(drop=True) for name, table in self.relations.items()
            },
        )


def split_classes(labels: list[str], share: float, seed: int, *, where: str) -> set[str]:
    """Choose about `share` of the classes, at least one and not all, with a seed.

    Classes with two images and more and classes with a single one are drawn apart, so that both sides hold classes
    that can be retrieved whenever the data allow it.

    Args:
        labels: The label of each item.
        share: Share of the classes to choose, in (0, 1).
        seed: The choice is a pure function of the set of classes, their sizes, `share` and `seed`.
        where: What is being split, for messages.

    Returns:
        The chosen classes.

    Raises:
        InputError: `share` lies outside (0, 1), or fewer than two classes have two images and more.
    """
    if not 0.0 < share < 1.0:
        raise InputError(f"{where}: the share of classes must lie between 0 and 1 (both excluded), it is {share}.")
    sizes = pd.Series(labels, dtype="str").value_counts()
    several = sorted(str(name) for name in sizes.index[sizes >= 2])
    single = sorted(str(name) for name in sizes.index[sizes < 2])
    if len(several) < 2:
        raise InputError(
            f"{where}: classes are divided as wholes, and each side needs a class with at least two images; "
            f"{len(several)} of the {len(sizes)} classes have that many. Add images, or give the split yourself."
        )
    generator = np.random.default_rng(seed)
    first = generator.permutation(len(several))[: min(max(round(share * len(several)), 1), len(several) - 1)]
    second = generator.permutation(len(single))[: round(share * len(single))]
    return {several[i] for i in first} | {single[i] for i in second}


def with_validation(manifest: Manifest, share: float, seed: int) -> Manifest:
    """Move whole training classes to the split "validation", for model selection on classes never trained on.

    A manifest that has validation items already stays as it is, as does every one when `share` is 0.

    Args:
        manifest: Its split "train" is divided.
        share: Share of the training classes to move, in [0, 1).
        seed: The classes moved are a pure function of the training classes, `share` and `seed`.

    Returns:
        The manifest with the split "validation"; the order of the items is kept.

    Raises:
        InputError: `share` lies outside [0, 1), there is no split "train", or one side would hold no class with at
            least two images.
    """
    if "validation" in manifest.splits or share == 0:
        return manifest
    moved = split_classes(manifest.part("train").labels, share, seed, where=f"validation classes of {manifest.name!r}")
    items = manifest.items.copy()
    items.loc[(items["split"] == "train") & items["label"].isin(moved), "split"] = "validation"
    # The published count of "train" no longer says anything about what is in it.
    return replace(manifest, items=items, expected={k: n for k, n in manifest.expected.items() if k != "train"})
