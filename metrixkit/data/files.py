"""Listed files that are missing or broken: one error for all of them, or left out and counted."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import pandas as pd

from metrixkit.data.decode import decode
from metrixkit.errors import InputError

OnMissing = Literal["error", "drop"]


def present(paths: list[str]) -> list[bool]:
    """Return for each path whether it is a file. Lists each folder once, which a stat a file would not."""
    folders: dict[str, set[str]] = {}
    here = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = _files_in(folder)
        here.append(name in folders[folder])
    return here


def _files_in(folder: str) -> set[str]:
    try:
        with os.scandir(folder or ".") as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def readable(reference: str) -> str | None:
    """Return None if the image can be decoded, else why not."""
    try:
        decode(reference)
    except (InputError, OSError) as error:
        return str(error)
    return None


def settle_missing(
    items: pd.DataFrame,
    on_missing: OnMissing,
    verify: bool,
    where: str,
    hint: Callable[[list[bool]], str] | None = None,
) -> tuple[pd.DataFrame, int]:
    """Return the items whose files are there, and how many were left out.

    Args:
        items: The listed items, with a column ``path``.
        on_missing: "error" refuses a list with missing or broken files, "drop" leaves those items out.
        verify: Whether to decode every file as well, which takes a minute for some 60,000 photographs; else a broken
            file shows itself when it is first read.
        where: The data set, for messages.
        hint: Called with what is there, item by item, when files are missing; returns a sentence that may help.

    Raises:
        InputError: Files are missing or broken and `on_missing` is "error", or nothing is left. It counts them and
            names the first five.
    """
    if items.empty:
        raise InputError(f"{where} is empty: its lists name no item.")
    paths = items["path"].tolist()
    good = present(paths)
    missing = [path for path, there in zip(paths, good, strict=True) if not there]
    reasons = [f"{path} (missing)" for path in missing]
    if verify:
        with ThreadPoolExecutor() as pool:
            faults = list(pool.map(lambda path, there: readable(path) if there else None, paths, good))
        reasons += [f"{path} ({fault})" for path, fault in zip(paths, faults, strict=True) if fault is not None]
        good = [there and fault is None for there, fault in zip(good, faults, strict=True)]
    if not reasons:
        return items, 0
    if on_missing == "drop" and any(good):
        return items[good].reset_index(drop=True), len(reasons)
    first = "; ".join(reasons[:5]) + ("; ..." if len(reasons) > 5 else "")
    more = " " + hint(good) if hint and missing else ""
    remedy = " Restore them, or leave them out with data.on_missing=drop." if any(good) else " Not one can be read."
    counted = f"{len(reasons)} of {len(items)} listed files are missing or broken"
    raise InputError(f"{where}: {counted}: {first}.{more}{remedy}")
