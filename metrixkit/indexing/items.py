"""Where the images of indexed items lie: ``items.csv`` (id, path, split) in the index's folder, beside its versions.

It is replaced whole. Rows are found by id, so a row too many does no harm: a change writes them before the version that
needs them, and takes them out after the last version that did. A reader of either version thus finds all of its items.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from metrixkit.data.tables import read_table
from metrixkit.errors import InputError
from metrixkit.files import refuse_leading_out, write_text
from metrixkit.retrieval.index import store

ITEMS = "items.csv"
COLUMNS = ["id", "path", "split"]


def read_items(folder: Path) -> pd.DataFrame:
    """Return id, path and split of the items, all text; empty where nobody told.

    Raises:
        InputError: The file is no such table.
    """
    if not (folder / ITEMS).exists():
        return pd.DataFrame(columns=COLUMNS, dtype="str")
    items = read_table(folder / ITEMS)
    if list(items.columns) != COLUMNS:
        raise InputError(
            f"{folder / ITEMS} has the columns {', '.join(items.columns)}, expected {', '.join(COLUMNS)}. Delete it; "
            "the index works without, but shows no pictures."
        )
    return items


def keep_items(folder: Path, items: pd.DataFrame) -> None:
    """Add rows, or replace those of the same ids. Paths become absolute, so that they hold from everywhere."""
    more = items[COLUMNS].astype("str")
    more["path"] = [os.path.abspath(path) if path else "" for path in more["path"]]
    refuse_leading_out(folder, (folder / ITEMS,))
    with store.alone(folder):
        before = read_items(folder)
        _write(folder, pd.concat([before[~before["id"].isin(set(more["id"]))], more], ignore_index=True))


def prune_items(folder: Path, ids: Collection[str]) -> None:
    """Keep the rows of these ids only."""
    refuse_leading_out(folder, (folder / ITEMS,))
    with store.alone(folder):
        before = read_items(folder)
        kept = before[before["id"].isin(set(ids))]
        if len(kept) < len(before):
            _write(folder, kept)


def _write(folder: Path, items: pd.DataFrame) -> None:
    if items.empty:
        (folder / ITEMS).unlink(missing_ok=True)
        return
    write_text(folder / ITEMS, items.to_csv(index=False))
