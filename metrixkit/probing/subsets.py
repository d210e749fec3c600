"""Which labels a semi-supervised evaluation may use: a published list, or a share of each class."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from metrixkit.data.text_files import listed_lines
from metrixkit.errors import InputError, near_name


def choose_labelled(asked: str, items: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return the training items whose labels may be used.

    Args:
        asked: ``1%``, ``10%``, or a file with one item a line, see :func:`read_list`.
        items: Labelled training items (columns id, label).
        seed: Of a share's draw.

    Raises:
        InputError: Neither a share nor a file, or what :func:`read_list` and :func:`draw_share` refuse.
    """
    share = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*%\s*", asked)
    if share:
        return draw_share(items, float(share[1]) / 100, seed)
    if not Path(asked).is_file():
        raise InputError(f"--semi {asked!r}: no such file, and no share such as 1% or 10%.")
    return read_list(Path(asked), items)


def draw_share(items: pd.DataFrame, share: float, seed: int) -> pd.DataFrame:
    """Return about `share` of the items of each class, at least one of each, in their order.

    The draw is a pure function of the ids, the share and the seed.

    Raises:
        InputError: A share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise InputError(f"a share of {100 * share:g} % of the labels: expected more than 0 and at most 100 %.")
    draw = np.random.default_rng(seed)
    # By id, so that the order in which a reader lists its items does not matter.
    ordered = items.sort_values("id", kind="stable")
    chosen: list[int] = []
    for _, own in ordered.groupby("label", sort=True):
        chosen += list(draw.permutation(own.index.to_numpy())[: max(1, round(share * len(own)))])
    return items.loc[sorted(chosen)].reset_index(drop=True)


def read_list(path: Path, items: pd.DataFrame) -> pd.DataFrame:
    """Return the items that a file names, one a line, in the order of `items`.

    A line is an item's id, or the file name in which that id ends, with its suffix or without, if no other item has it:
    the published lists of ImageNet's 1 % and 10 % (``n01440764_10183.JPEG``) name images so. Blank lines do not count.

    Args:
        path: UTF-8 text.
        items: Labelled training items (columns id, label).

    Raises:
        InputError: Unreadable or empty, a line that names no item or several, an item twice, or a class without any.
    """
    wanted = listed_lines(path)
    if not wanted:
        raise InputError(f"{path} is empty: expected one training item a line.")
    ids = list(items["id"])
    exact, short = {name: i for i, name in enumerate(ids)}, _short_names(ids)
    rows: list[int] = []
    unknown: list[str] = []
    for line in wanted:
        found = [exact[line]] if line in exact else short.get(line, [])
        if len(found) > 1:
            both = ", ".join(repr(ids[i]) for i in found[:2])
            raise InputError(f"{path}: {line!r} may be {both}; write ids there.")
        rows += found
        unknown += [] if found else [line]
    if unknown:
        near = near_name(unknown[0], [*ids, *short]) if len(ids) <= 50_000 else ""
        raise InputError(
            f"{path}: {len(unknown)} of {len(wanted)} lines name no labelled training item, the first is "
            f"{unknown[0]!r}.{near} Items have ids such as {ids[0]!r}."
        )
    twice = pd.Series(rows).duplicated()
    if twice.any():
        raise InputError(
            f"{path}: {int(twice.sum())} items stand there twice, the first is {ids[rows[twice.argmax()]]!r}."
        )
    chosen = items.iloc[sorted(rows)].reset_index(drop=True)
    absent = sorted(set(items["label"]) - set(chosen["label"]))
    if absent:
        raise InputError(
            f"{path} names no image of {len(absent)} of {items['label'].nunique()} classes (first: {absent[0]!r}); "
            "what is judged on all of them must have seen each."
        )
    return chosen


def _short_names(ids: list[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for i, name in enumerate(ids):
        path = PurePosixPath(name)
        for short in {path.name, path.stem}:
            found.setdefault(short, []).append(i)
    return found
