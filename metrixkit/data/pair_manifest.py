"""Matched texts and items: what a video-text reader hands on, and where each item's modalities lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from metrixkit.data.manifest import SPLITS
from metrixkit.errors import InputError, did_you_mean

# How the cell of a modality is to be read: a clip, a picture, an array of features, or the text that stands there.
KINDS = ("video", "image", "features", "text")


@dataclass(frozen=True, eq=False)
class PairManifest:
    """Items with one column a modality, and the texts that belong to them. Immutable.

    An item (a video, mostly) may have several texts; a text belongs to one item. Items may also stand without any text
    at all: then the modalities of an item are what is matched with one another.

    Attributes:
        name: The data set ("msrvtt").
        split_name: Which protocol of it ("1k-A-9k"); goes into every result file.
        items: One row an item, with a RangeIndex and the str columns ``id`` (unique), ``split``, and one column for
            each of `modalities`. A cell holds a reference: a path, ``video.mp4#t=10,20``, ``array.npy#17``,
            ``file.npz#key``, or for the kind "text" the text itself. A blank cell: that modality is missing. Readers
            may add columns (``label``, ``category``).
        texts: One row a text, with a RangeIndex and the str columns ``id`` (unique), ``caption``, ``item`` (an id of
            `items`), ``split`` (that of the item). A column ``features`` holds references to features of the texts.
            May have no rows.
        modalities: Column of `items` to its kind: "video", "image", "features" or "text". The order is that of
            ``Batch.mask``.
        root: The folder that the lists were read from.
        dropped: Listed items left out because something of theirs is missing or broken.
        expected: Published number of items per split, before anything was dropped; empty when unknown.
        absent: What was left out or is blank, a line each: item and reason.
        held_out: What was taken out of training as the split "validation": "classes", "items", or "".
        unused: Videos or features that lie there and that no item names, sorted.

    Raises:
        InputError: No items, a missing column, ids given twice, an empty caption, a text without its item or with
            another split than its item, or a split or kind of another name.
    """

    name: str
    split_name: str
    items: pd.DataFrame
    texts: pd.DataFrame
    modalities: Mapping[str, str]
    root: Path
    dropped: int = 0
    expected: Mapping[str, int] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    held_out: str = ""

    def __post_init__(self) -> None:
        where = f"data set {self.name!r} ({self.root})"
        if self.items.empty:
            raise InputError(f"{where} is empty: not one item was found.")
        for kind in self.modalities.values():
            if kind not in KINDS:
                raise InputError(f"{where}: no kind of modality is called {kind!r}.{did_you_mean(kind, KINDS)}")
        _check(self.items, "items", ("id", "split"), tuple(self.modalities), where)
        _check(self.texts, "texts", ("id", "caption", "item", "split"), (), where)
        other = sorted(set(self.items["split"]) - set(SPLITS))
        if other:
            raise InputError(f"{where}: no split is called {other[0]!r}.{did_you_mean(other[0], SPLITS)}")
        split_of = dict(zip(self.items["id"], self.items["split"], strict=True))
        for text, item, split in zip(self.texts["id"], self.texts["item"], self.texts["split"], strict=True):
            if item not in split_of:
                raise InputError(f"{where}: the caption {text!r} belongs to the item {item!r}, which is not listed.")
            if split_of[item] != split:
                raise InputError(
                    f"{where}: the caption {text!r} stands in split {split!r}, its item {item!r} in {split_of[item]!r}."
                )
        for name in ("items", "texts"):
            object.__setattr__(self, name, getattr(self, name).reset_index(drop=True))

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.items)

    @property
    def ids(self) -> list[str]:
        """The id of each item, in order."""
        return [str(value) for value in self.items["id"]]

    @property
    def captions(self) -> tuple[str, ...]:
        """Each text, in order."""
        return tuple(str(value) for value in self.texts["caption"])

    @property
    def item_of_text(self) -> NDArray[np.int64]:
        """(number of texts,) the row of each text's item."""
        row = {key: i for i, key in enumerate(self.items["id"])}
        return np.array([row[key] for key in self.texts["item"]], dtype=np.int64)

    @property
    def present(self) -> NDArray[np.bool_]:
        """(number of items, number of modalities) which are there."""
        columns = [(self.items[name] != "").to_numpy() for name in self.modalities]
        return np.array(columns, dtype=bool).reshape(len(columns), len(self.items)).T

    @property
    def splits(self) -> list[str]:
        """The splits that have items, in the order train, validation, test, query, gallery."""
        here = set(self.items["split"])
        return [split for split in SPLITS if split in here]

    def counts(self) -> dict[str, int]:
        """Return the number of items of each split that has any."""
        found = self.items["split"].value_counts()
        return {split: int(found[split]) for split in self.splits}

    def text_counts(self) -> dict[str, int]:
        """Return the number of texts of each split that has items."""
        found = self.texts["split"].value_counts()
        return {split: int(found.get(split, 0)) for split in self.splits}

    def part(self, *splits: str) -> PairManifest:
        """Return the items of the named splits and their texts.

        Args:
            *splits: One or more of :attr:`splits`.

        Raises:
            InputError: No split was named, or a named one has no items.
        """
        absent = [split for split in splits if split not in self.splits]
        if absent or not splits:
            wanted = absent[0] if absent else "(none named)"
            raise InputError(f"data set {self.name!r} has no items in split {wanted!r}; it has {self.splits}.")
        return replace(
            self,
            items=self.items[self.items["split"].isin(splits)],
            texts=self.texts[self.texts["split"].isin(splits)],
            expected={split: n for split, n in self.expected.items() if split in splits},
        )


def pairs_with_validation(manifest: PairManifest, share: float, seed: int) -> PairManifest:
    """Move training items with all their texts to the split "validation", all parts of a recording together.

    A manifest that has validation items already stays as it is, as does every one when `share` is 0.

    Args:
        manifest: Its split "train" is divided.
        share: Share of the training items to move, in [0, 1); at least two move and one stays.
        seed: The items moved are a pure function of the training ids, `share` and `seed`.

    Raises:
        InputError: `share` lies outside [0, 1), or two items cannot be held out with one left: one alone would be found
            whatever the model.
    """
    if not 0.0 <= share < 1.0:
        raise InputError(f"evaluation.validation={share}: expected a share in [0, 1).")
    if "validation" in manifest.splits or share == 0:
        return manifest
    train = manifest.part("train").items
    source_of = dict(zip(train["id"], sources_of(train, list(manifest.modalities)), strict=True))
    sources = sorted(set(source_of.values()))
    order = [sources[i] for i in np.random.default_rng(seed).permutation(len(sources))]
    count, moved = min(max(round(share * len(sources)), 1), len(sources) - 1), set[str]()
    while count < len(sources):
        moved = {item for item, source in source_of.items() if source in order[:count]}
        if len(moved) > 1:
            break
        count += 1
    if count == len(sources) or len(moved) < 2:
        what = "one training item, or stretches of one video" if len(sources) < 2 else f"{len(train)} training items"
        raise InputError(
            f"{manifest.name!r} has {what}; none can be held out for validation, which takes two and leaves one. Add "
            "items, give the split yourself, or set evaluation.validation=0, which keeps the last epoch."
        )
    items, texts = manifest.items.copy(), manifest.texts.copy()
    items.loc[items["id"].isin(moved), "split"] = "validation"
    texts.loc[texts["item"].isin(moved), "split"] = "validation"
    # The published count of "train" no longer says anything about what is in it.
    expected = {split: n for split, n in manifest.expected.items() if split != "train"}
    return replace(manifest, items=items, texts=texts, expected=expected, held_out="items")


def sources_of(items: pd.DataFrame, modalities: Sequence[str]) -> list[str]:
    """Return of what recording each item is a part: its column ``video_id`` where there is one, the file of whose
    stretches (``video.mp4#t=10,20``) it is one, or itself.
    """
    if "video_id" in items.columns:
        return items["video_id"].astype(str).tolist()
    found = items["id"].astype(str).tolist()
    for name in modalities:
        for place, cell in enumerate(items[name].astype(str)):
            file, stretch, _ = cell.partition("#t=")
            if stretch:
                found[place] = file
    return found


def _check(table: pd.DataFrame, what: str, filled: tuple[str, ...], blank: tuple[str, ...], where: str) -> None:
    for column in (*filled, *blank):
        if column not in table.columns:
            raise InputError(f"{where}: the {what} lack the column {column!r}; there are {list(table.columns)}.")
        if len(table) and pd.api.types.infer_dtype(table[column], skipna=False) != "string":
            raise InputError(f"{where}: column {column!r} of the {what} must hold strings only.")
        empty = table[column].str.strip() == "" if len(table) and column in filled else None
        if empty is not None and empty.any():
            raise InputError(
                f"{where}: column {column!r} is empty in row {int(np.argmax(empty.to_numpy()))} of {what}."
            )
    twice = table["id"].duplicated()
    if twice.any():
        raise InputError(
            f"{where}: ids of {what} must be unique, {int(twice.sum())} stand there again "
            f"(first: {table['id'][twice].iloc[0]!r})."
        )
