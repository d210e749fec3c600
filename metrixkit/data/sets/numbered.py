"""Splits of data sets whose classes are numbered: the first half trains, the second half tests (CUB, Cars)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import pandas as pd

from metrixkit.errors import InputError

NumberedSplit = Literal["zero-shot", "classification"]


def parse_classes(text: str) -> list[int]:
    """Return the sorted class numbers that ``"1-25,30"`` names.

    Raises:
        InputError: It is not a list of numbers and ranges, or a range runs backwards.
    """
    chosen: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if low > high:
            raise InputError(f"data.classes={text!r}: {part!r} is not a class number or a range such as 1-50.")
        chosen.update(range(low, high + 1))
    return sorted(chosen)


def choose_split(
    items: pd.DataFrame,
    split: NumberedSplit,
    classes: str | None,
    published: Mapping[str, Mapping[str, int]],
    name: str,
) -> tuple[pd.DataFrame, str, dict[str, int]]:
    """Return the items of the chosen classes with their column ``split``.

    Args:
        items: All listed items, with the integer columns ``class_id`` (from 1) and ``is_test`` (0 or 1, the published
            classification split). Both are removed.
        split: "zero-shot" gives the first half of the chosen classes, by number, to training and the others to the
            test split; "classification" follows ``is_test``.
        classes: Which classes, None for all; a subset splits its own list in halves and is named so.
        published: Items of each split, for each kind of split of the whole set.
        name: The data set's short name.

    Returns:
        The items, the name of the split, and the published counts (empty for a subset).

    Raises:
        InputError: A class is not listed, fewer than two are chosen for the zero-shot split, or the counts of the
            whole set are not the published ones.
    """
    listed = sorted(set(items["class_id"]))
    chosen = listed if classes is None else parse_classes(classes)
    unknown = sorted(set(chosen) - set(listed))
    if unknown:
        raise InputError(f"{name}: data.classes={classes!r} names class {unknown[0]}; {_span(listed)} are listed.")
    if split == "zero-shot" and len(chosen) < 2:
        raise InputError(f"{name}: data.classes={classes!r} chooses one class; a zero-shot split needs two or more.")
    items = items[items["class_id"].isin(chosen)].reset_index(drop=True)
    training = set(chosen[: len(chosen) // 2])
    in_training = items["class_id"].isin(training) if split == "zero-shot" else items["is_test"] == 0
    items["split"] = ["train" if flag else "test" for flag in in_training]
    items = items.drop(columns=["class_id", "is_test"])
    if classes is not None and chosen != listed:
        return items, _subset_name(name, chosen, split, classes), {}
    expected = dict(published[split])
    check_counts(items, expected, name)
    return items, split, expected


def check_counts(items: pd.DataFrame, expected: Mapping[str, int], name: str) -> None:
    """Refuse lists whose splits do not have the published sizes.

    Raises:
        InputError: They differ; results on them could not be compared.
    """
    found = {split: int((items["split"] == split).sum()) for split in expected}
    if found != dict(expected):
        raise InputError(
            f"{name}: the lists name {found} items, published are {dict(expected)}. They are incomplete or altered: "
            "results on them could not be compared with anybody's; unpack the original lists again."
        )


def _subset_name(name: str, chosen: Sequence[int], split: str, classes: str) -> str:
    if chosen == list(range(1, len(chosen) + 1)):
        return f"{name}-first{len(chosen)}-{split}"
    spelled = re.sub(r"\s", "", classes).replace(",", "+")
    return f"{name}-classes-{spelled}-{split}"


def _span(listed: Sequence[int]) -> str:
    return f"the {len(listed)} classes {listed[0]} to {listed[-1]}"
