"""Tables of whatever form, read as strings: "007" stays "007", "NA" stays "NA"."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from metrixkit.errors import InputError, did_you_mean

SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
SUFFIXES = (*SEPARATORS, ".parquet", ".jsonl", ".ndjson")
# How people write the splits, in lower case.
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "query": "query",
    "gallery": "gallery",
}


def read_table(path: str | Path, separator: str | None = None) -> pd.DataFrame:
    """Return a table whose cells are all strings; an absent cell is the empty string.

    Args:
        path: ``.csv``, ``.tsv`` or ``.txt`` (tabs), ``.parquet``, ``.jsonl`` or ``.ndjson`` (an object a line).
        separator: Of a text table; None takes the one of the suffix.

    Returns:
        The columns as they are named in the file, with a RangeIndex.

    Raises:
        InputError: The file is absent, of another form, malformed (with the line), or has no rows.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(f"the table {path.absolute()} does not exist.")
    suffix = path.suffix.lower()
    if suffix in SEPARATORS:
        table = _text(path, separator or SEPARATORS[suffix])
    elif suffix in (".jsonl", ".ndjson"):
        table = _json_lines(path)
    elif suffix == ".parquet":
        table = _parquet(path)
    else:
        raise InputError(f"the table {path} ends in {suffix!r}; tables end in {', '.join(SUFFIXES)}.")
    if table.empty:
        raise InputError(f"the table {path} is empty: it has no rows.")
    return table


def column(table: pd.DataFrame, name: str, path: str | Path, setting: str) -> list[str]:
    """Return a column whose cells must not be empty.

    Args:
        table: From :func:`read_table`.
        name: The column.
        path: Where the table comes from, for messages.
        setting: The setting that names the column ("data.columns.path"), for messages.

    Raises:
        InputError: There is no such column (with those there are), or a cell is empty (with its row, counted from 1
            below the heading).
    """
    if name not in table.columns:
        near = did_you_mean(name, table.columns)
        near = near if near.startswith(" Did") else ""
        raise InputError(
            f"{path} has no column {name!r} ({setting}); it has {', '.join(map(repr, table.columns))}.{near} Name the "
            f"right one with {setting}=NAME."
        )
    cells = [str(cell).strip() for cell in table[name]]
    empty = next((row for row, cell in enumerate(cells, start=1) if not cell), None)
    if empty is not None:
        raise InputError(f"{path}, row {empty}: column {name!r} ({setting}) is empty; {cells.count('')} rows lack it.")
    return cells


def split_cells(cells: list[str], path: str | Path) -> list[str]:
    """Return a column of splits in the words of the toolkit.

    Args:
        cells: train, val, test, ... in any case; see `SPLIT_WORDS`.
        path: Where the table comes from, for messages.

    Raises:
        InputError: No split goes by that name; the message holds the row.
    """
    for row, cell in enumerate(cells, start=1):
        if cell.lower() not in SPLIT_WORDS:
            raise InputError(f"{path}, row {row}: no split is called {cell!r}.{did_you_mean(cell, SPLIT_WORDS)}")
    return [SPLIT_WORDS[cell.lower()] for cell in cells]


def _frame(rows: list[Mapping[str, str]] | list[list[str]], columns: Iterable[str], path: Path) -> pd.DataFrame:
    names = list(columns)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{path}: two columns are called {twice[0]!r}.")
    return pd.DataFrame(rows, columns=names, dtype="str").fillna("")


def _text(path: Path, separator: str) -> pd.DataFrame:
    if len(separator) != 1:
        raise InputError(f"data.separator={separator!r} must be one character.")
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, delimiter=separator, strict=True)
            head = [name.strip() for name in next(reader, [])]
            rows = []
            for row in reader:
                if row and len(row) != len(head):
                    raise InputError(
                        f"{path}, line {reader.line_num}: {len(row)} cells, the heading has {len(head)} columns "
                        f"(separator {separator!r}; another one is set with data.separator)."
                    )
                if row:
                    rows.append(row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a text table in UTF-8 ({error}).") from error
    return _frame(rows, head, path)


def _json_lines(path: Path) -> pd.DataFrame:
    rows: list[Mapping[str, str]] = []
    number = 0
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                # Numbers are kept as they are written: 7.10 is not 7.1.
                entry = json.loads(line, parse_int=str, parse_float=str)
                if not isinstance(entry, dict):
                    raise InputError(
                        f"{path}, line {number}: expected an object such as {{'path': ..., 'label': ...}}."
                    )
                rows.append({key: _cell(value) for key, value in entry.items()})
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}, line {max(number, 1)}: not JSON in UTF-8 ({error}).") from error
    return _frame(rows, dict.fromkeys(key for row in rows for key in row), path)


def _parquet(path: Path) -> pd.DataFrame:
    try:
        # The nullable types keep whole numbers whole beside absent cells.
        table = pd.read_parquet(path, dtype_backend="numpy_nullable")
    except ImportError as error:
        raise InputError(f"{path}: reading parquet needs pyarrow (pip install pyarrow), or save it as CSV.") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as parquet ({error}).") from error
    return pd.DataFrame({str(name): [_cell(cell) for cell in table[name]] for name in table.columns}, dtype="str")


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None or value is pd.NA or value != value else str(value)
