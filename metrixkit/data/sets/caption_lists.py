"""The list files of published video-text sets: tables that may be cut by semicolons, JSON, lists of ids, counts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from metrixkit.data.tables import read_table
from metrixkit.data.text_files import listed_lines
from metrixkit.errors import InputError


def find_file(folder: Path, *names: str) -> Path | None:
    """Return the first of the files that lies in `folder` or in one directly below it, or None."""
    places = [folder, *sorted(entry for entry in folder.iterdir() if entry.is_dir())]
    return next((place / name for name in names for place in places if (place / name).is_file()), None)


def need_file(folder: Path, *names: str) -> Path:
    """Return the first of the files that is there, as :func:`find_file` does.

    Raises:
        InputError: None is.
    """
    found = find_file(folder, *names)
    if found is None:
        raise InputError(
            f"{folder / names[0]} is missing{''.join(f' (or {name})' for name in names[1:])}; it belongs to the data "
            "set as published, get it again."
        )
    return found


def read_list(path: Path, *columns: str) -> pd.DataFrame:
    """Return a published table with at least these columns, whatever separates its cells.

    Raises:
        InputError: As :func:`~metrixkit.data.tables.read_table`, or a column is absent.
    """
    table = read_table(path)
    for name in columns:
        if name not in table.columns:
            raise InputError(f"{path} has no column {name!r}; it has {', '.join(map(repr, table.columns))}.")
    return table


def read_ids(path: Path) -> list[str]:
    """Return a list of ids, one a line, or those of a JSON array; blank lines are left out.

    Raises:
        InputError: Absent, or an id stands twice.
    """
    ids = list(map(str, read_json(path, list))) if path.suffix.lower() == ".json" else listed_lines(path)
    refuse_twice(ids, path)
    return ids


def read_json(path: Path, kind: type) -> Any:
    """Return what a JSON file holds, which must be a `kind`.

    Raises:
        InputError: Absent, not JSON, or something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing.") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not JSON ({error}).") from error
    if not isinstance(found, kind):
        raise InputError(f"{path}: expected a JSON {kind.__name__}, got {type(found).__name__}.")
    return found


def refuse_twice(ids: Sequence[str], path: Path) -> None:
    """Raise InputError for an id that stands twice in a list."""
    seen: set[str] = set()
    for key in ids:
        if key in seen:
            raise InputError(f"{path}: {key!r} stands there twice.")
        seen.add(key)


def no_captions(items: Sequence[str], captions: Mapping[str, Sequence[str]], path: Path) -> None:
    """Raise InputError where listed videos have no captions."""
    bare = [key for key in items if not captions.get(key)]
    if bare:
        raise InputError(
            f"{path}: {len(bare):,} of {len(items):,} listed videos have no caption: {', '.join(bare[:5])}."
        )


def enforce_counts(found: Mapping[str, int], published: Mapping[str, int], what: str, path: Path) -> None:
    """Raise InputError where a list does not have its published length.

    Args:
        found: Split to count.
        published: The same; splits that were not read do not matter.
        what: What is counted ("videos").
        path: Where the lists lie.
    """
    for split, count in found.items():
        if count != published.get(split, count):
            raise InputError(
                f"{path}: the split {split!r} has {count:,} {what}, published are {published[split]:,}. A list is cut "
                "or another version; if it is a subset of your own, say so: data.counts=false."
            )


def choose_splits(wanted: Sequence[str] | None, offered: Sequence[str], name: str) -> list[str]:
    """Return the splits to read: those wanted, in the order they are offered.

    Raises:
        InputError: One is wanted that is not offered.
    """
    if wanted is None:
        return list(offered)
    for split in wanted:
        if split not in offered:
            raise InputError(f"{name}: no split is called {split!r} (data.splits); there are {', '.join(offered)}.")
    if not wanted:
        raise InputError(f"{name}: data.splits is empty; there are {', '.join(offered)}.")
    return [split for split in offered if split in wanted]
