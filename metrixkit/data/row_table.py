"""The table beside an array of embeddings: row i of the one tells of row i of the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from metrixkit.data.tables import column, read_table, split_cells
from metrixkit.errors import InputError


def read_row_table(
    path: str | Path,
    count: int,
    label: str,
    separator: str | None = None,
    *,
    labelled: bool = True,
    more: Sequence[tuple[str, str]] = (),
) -> pd.DataFrame:
    """Return what a table says of `count` rows, in columns id, label, path, split and `more`, all text.

    Args:
        path: CSV, TSV, parquet or JSON lines. Its columns ``id``, ``path`` and ``split`` are taken where they are
            there; without ``id`` rows are named by their number. A column ``split`` that is empty as a whole is none.
        count: Embeddings there are.
        label: The label column (``--label``).
        separator: Of a text table (``--separator``); None finds it out.
        labelled: Whether labels must be there.
        more: Further columns, each with the option that names it.

    Returns:
        "" stands for what nobody told.

    Raises:
        InputError: The table is absent or has another length; a column is missing; a cell is empty or holds a list; a
            split is unknown. The message names the row.
    """
    table = read_table(path, separator, "--separator")
    if len(table) != count:
        raise InputError(f"{path} has {len(table)} rows, but there are {count} embeddings: row i must tell of row i.")
    blank = [""] * count
    found = {"id": [str(i) for i in range(count)], "label": blank, "path": blank, "split": blank}
    if labelled or label in table.columns:
        found["label"] = column(table, label, path, "--label")
    if "id" in table.columns:
        found["id"] = column(table, "id", path, "names of the rows", named_by=False)
    if "path" in table.columns:
        found["path"] = column(table, "path", path, "files", blank=True, named_by=False)
    if "split" in table.columns:
        words = column(table, "split", path, "splits", blank=True, named_by=False)
        found["split"] = split_cells(words, path) if any(words) else words
    for name, option in more:
        if name not in found:
            found[name] = column(table, name, path, option)
    return pd.DataFrame(found, dtype="str")
