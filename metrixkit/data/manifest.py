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
        searches: A split of new items of known classes to the splits that it searches ("test": ("train",
            "validation")). "query" searches "gallery"; any other split that is not named searches itself.
        held_out: What was taken out of training as the split "validation": "classes", "images", or "" where the data
            set came with one, or has none.
        passed_over: Names of files and folders beside the items that no item was made of, by reason.

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
    searches: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    held_out: str = ""
    passed_over: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

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

    def galleries(self, split: str) -> tuple[str, ...]:
        """Return the splits that a split searches; none for one that searches itself."""
        named = ("gallery",) if split == "query" else self.searches.get(split, ())
        return tuple(name for name in named if name in self.splits)

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
    """Choose about `share` of the classes, at least two and not all but one, with a seed.

    Classes with two images and more and classes with a single one are drawn apart, so that both sides hold classes
    that can be retrieved whenever the data allow it. Of two or three that can, the smaller side has one: nothing can
    be judged by it, since whatever is found is right.

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
    least = min(2, len(several) // 2)
    count = min(max(round(share * len(several)), least), len(several) - least)
    first = generator.permutation(len(several))[:count]
    second = generator.permutation(len(single))[: round(share * len(single))]
    return {several[i] for i in first} | {single[i] for i in second}


def divisible(labels: list[str]) -> bool:
    """Return whether classes can be divided so that each side has two with at least two items: a side with one would be
    judged perfect whatever the model.
    """
    return bool((pd.Series(labels, dtype="str").value_counts() >= 2).sum() >= 4)
