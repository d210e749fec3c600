"""Listed files that are missing or broken: one error for all of them, or left out and counted."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import pandas as pd

from metrixkit.data.decode import decode, heif_missing
from metrixkit.data.image_files import HEIF_SUFFIXES
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
            return {entry.name for entry in entries if _is_file(entry)}
    except OSError:
        return set()


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link that leads to itself
        return False


def why_absent(path: str) -> str:
    """Return in a word or two why there is no file at `path`."""
    if os.path.isdir(path):
        return "a folder"
    if os.path.exists(path):
        return "not a regular file"
    if os.path.islink(path):
        return f"a link to nothing ({os.readlink(path)})"
    return "missing"


def unreadable(reference: str) -> str | None:
    """Return why an image cannot be decoded, or None if it can."""
    try:
        decode(reference)
    except (InputError, OSError) as error:
        return str(error)
    return None


def _is_heif(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in HEIF_SUFFIXES


def settle_missing(
    items: pd.DataFrame,
    on_missing: OnMissing,
    verify: bool,
    where: str,
    root: Path,
    hint: Callable[[list[bool]], str] | None = None,
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the items whose files are there, and a line of file and reason for each that was left out.

    Args:
        items: The listed items, with a column ``path``.
        on_missing: "error" refuses a list with missing or broken files, "drop" leaves those items out.
        verify: Whether to decode every file as well, which takes a minute for some 60,000 photographs; else a broken
            file shows itself when it is first read.
        where: The data set, for messages.
        root: Files below it are named without it.
        hint: Called with what is there, item by item, when files are missing; returns a sentence that may help.

    Raises:
        InputError: Files are missing or broken and `on_missing` is "error", or nothing of a split is left. It counts
            them and names the first five.
    """
    if items.empty:
        raise InputError(f"{where} is empty: its lists name no item.")
    paths = items["path"].tolist()
    here = present(paths)
    faults = [None if there else why_absent(path) for path, there in zip(paths, here, strict=True)]
    undecodable = heif_missing() if any(_is_heif(path) for path in paths) else None
    if undecodable:
        faults = [fault or (undecodable if _is_heif(path) else None) for path, fault in zip(paths, faults, strict=True)]
    if verify:
        with ThreadPoolExecutor() as pool:
            faults = list(pool.map(lambda path, fault: fault or unreadable(path), paths, faults))
    absent = tuple(
        f"{path.removeprefix(f'{root}{os.sep}')}: {fault}" for path, fault in zip(paths, faults, strict=True) if fault
    )
    if not absent:
        return items, ()
    kept = items[[fault is None for fault in faults]].reset_index(drop=True)
    emptied = sorted(set(items["split"]) - set(kept["split"])) if "split" in items.columns else []
    if on_missing == "drop" and len(kept) and not emptied:
        return kept, absent
    message = f"{where}: {len(absent)} of {len(items)} listed files are missing or broken: " + "; ".join(absent[:5])
    message += "; ... " if len(absent) > 5 else ". "
    if hint and not all(here) and any(here):
        message += hint(here) + " "
    if kept.empty:
        message += "Not one can be read."
    elif emptied:
        message += f"Nothing of the split {emptied[0]!r} is left, so they cannot be dropped; restore them."
    else:
        message += "Restore them, or leave them out with data.on_missing=drop."
    raise InputError(message)
