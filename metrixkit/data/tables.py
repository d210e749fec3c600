"""Tables of whatever form, read as text: "007" stays "007", "NA" stays "NA"."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from metrixkit.data.delimited import SEPARATORS, read_delimited
from metrixkit.data.text_files import listed_lines, text_lines
from metrixkit.errors import InputError, did_you_mean, listed, near_name

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


def read_table(path: str | Path, separator: str | None = None, setting: str = "data.separator") -> pd.DataFrame:
    """Return a table whose cells are all text; an absent cell is the empty text.

    A cell of JSON lines or parquet that holds a list or a mapping stays one, for :func:`texts`; :func:`column` refuses
    it. Whole numbers that parquet keeps as floats are written as whole numbers, as they are in labels.

    Args:
        path: ``.csv``, ``.tsv`` or ``.txt``, ``.parquet``, ``.jsonl`` or ``.ndjson`` (an object a line). See
            :func:`~metrixkit.data.delimited.read_delimited` for text tables.
        separator: Of a text table; None finds it out.
        setting: What names the separator in the command at hand ("data.separator", "--separator"), for messages.

    Returns:
        The columns as they are named in the file, with a RangeIndex.

    Raises:
        InputError: The file is absent, of another form, malformed (with the line), or has no rows.
    """
    path = expand(path)
    if not path.is_file():
        raise InputError(f"the table {path.absolute()} {'is a folder' if path.is_dir() else 'does not exist'}.")
    suffix = path.suffix.lower()
    if suffix in SEPARATORS:
        head, rows = read_delimited(path, separator, setting)
        table = _frame(head, list(zip(*rows, strict=True)) if rows else [() for _ in head], path)
    elif suffix in (".jsonl", ".ndjson"):
        table = _json_lines(path)
    elif suffix == ".parquet":
        table = _parquet(path)
    else:
        raise InputError(f"the table {path} ends in {suffix!r}; tables end in {', '.join(SUFFIXES)}.")
    if table.empty:
        raise InputError(f"the table {path} is empty: it has no rows.")
    return table


def column(
    table: pd.DataFrame, name: str, path: str | Path, setting: str, *, blank: bool = False, named_by: bool = True
) -> list[str]:
    """Return a column of text, stripped.

    Args:
        table: From :func:`read_table`.
        name: The column.
        path: Where the table comes from, for messages.
        setting: The setting that names the column ("data.columns.path"), or what it is, for messages.
        blank: Whether a cell may be empty.
        named_by: Whether `setting` is a setting, by which another column can be named.

    Raises:
        InputError: There is no such column (with those there are), or a cell is empty or holds a list (with its row,
            counted from 1 below the heading).
    """
    cells = _cells(table, name, path, setting, named_by)
    for row, cell in enumerate(cells, start=1):
        if not isinstance(cell, str):
            kind = "a mapping" if isinstance(cell, Mapping) else "a list"
            raise InputError(
                f"{path}, row {row}: column {name!r} ({setting}) holds {kind}, {str(cell)[:60]}; expected one text."
            )
    stripped = [cell.strip() for cell in cells]
    if not blank:
        _refuse_empty(stripped, name, path, setting)
    return stripped


def texts(table: pd.DataFrame, name: str, path: str | Path, setting: str) -> list[list[str]]:
    """Return for each row its texts, one or more: a cell of JSON lines or parquet may hold a list of them.

    Args:
        table: From :func:`read_table`.
        name: The column.
        path: Where the table comes from, for messages.
        setting: As for :func:`column`.

    Raises:
        InputError: As :func:`column`; also a list that is empty or holds something else than text.
    """
    found: list[list[str]] = []
    for row, cell in enumerate(_cells(table, name, path, setting, True), start=1):
        several = cell if isinstance(cell, list) else [cell]
        if not all(isinstance(text, str) for text in several):
            raise InputError(
                f"{path}, row {row}: column {name!r} ({setting}) holds {str(cell)[:60]}; expected a text or a list of "
                "texts."
            )
        found.append([text.strip() for text in several])
    _refuse_empty(["" if not row or "" in row else "x" for row in found], name, path, setting)
    return found


def split_cells(cells: Sequence[str], path: str | Path) -> list[str]:
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


def read_names(path: Path, setting: str) -> list[str]:
    """Return a list of ids: a text file with one a line, or a table with a column ``id`` (else its first column).

    Args:
        path: ``.txt``, or a table.
        setting: What names the file ("--text-ids"), for messages.

    Raises:
        InputError: It is absent or cannot be read.
    """
    if not path.is_file():
        raise InputError(f"{setting} {path}: no such file (looked at {path.absolute()}).")
    if path.suffix.lower() == ".txt":
        return listed_lines(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{setting} {path}: ids come in .txt, one a line, or in a table ({', '.join(SUFFIXES)}).")
    table = read_table(path)
    return column(table, "id" if "id" in table.columns else str(table.columns[0]), path, setting)


def expand(path: str | Path) -> Path:
    """Return a path with ``~`` for the home folder; one that names nobody's home stays as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _cells(table: pd.DataFrame, name: str, path: str | Path, setting: str, named_by: bool) -> list[Any]:
    if name not in table.columns:
        mend = f" Name the right one with {setting}=NAME." if named_by else ""
        if len(table.columns) == 1:
            separator = "--separator" if setting.startswith("--") else "data.separator"
            mend += f" Only one was found: is it the right separator ({separator}=CHARACTER)?"
        raise InputError(
            f"{path} has no column {name!r} ({setting}); it has {listed(map(repr, table.columns))}."
            f"{near_name(name, table.columns)}{mend}"
        )
    cells: list[Any] = table[name].tolist()
    return cells


def _refuse_empty(cells: Sequence[str], name: str, path: str | Path, setting: str) -> None:
    empty = next((row for row, cell in enumerate(cells, start=1) if not cell), None)
    if empty is not None:
        raise InputError(
            f"{path}, row {empty}: column {name!r} ({setting}) is empty; {list(cells).count('')} rows lack it."
        )


def _frame(names: Iterable[str], cells_of: Sequence[Sequence[Any]], path: Path) -> pd.DataFrame:
    """Return a table of columns; a column without a name and without a cell, as spreadsheets leave them, goes."""
    kept = [(name, cells) for name, cells in zip(names, cells_of, strict=True) if name or any(cells)]
    twice = [name for name, count in Counter(name for name, _ in kept).items() if count > 1]
    if twice:
        what = f"two columns are called {twice[0]!r}" if twice[0] else "several columns with cells have no name"
        raise InputError(f"{path}: {what}.")
    # One block for all columns: thousands of them, each by itself, take seconds.
    grid = np.empty((len(kept), len(kept[0][1]) if kept else 0), dtype=object)
    for row, (_, cells) in zip(grid, kept, strict=True):
        row[:] = np.fromiter(cells, dtype=object, count=len(cells))
    columns = [name for name, _ in kept]
    nested = {name for name, cells in kept if not all(isinstance(cell, str) for cell in cells)}
    if not nested:
        return pd.DataFrame(grid.T, columns=columns, dtype="str")
    return pd.DataFrame(grid.T, columns=columns).astype({name: "str" for name in columns if name not in nested})


def _json_lines(path: Path) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(text_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            # Numbers are kept as they are written: 7.10 is not 7.1.
            entry = json.loads(
                line, parse_int=str, parse_float=str, parse_constant=_constant, object_pairs_hook=_object
            )
        except RecursionError:
            raise InputError(f"{where}: lists or objects are nested too deeply; a row is one flat object.") from None
        except ValueError as error:
            raise InputError(f"{where}: not JSON ({error}).") from error
        if not isinstance(entry, dict):
            raise InputError(f'{where}: expected an object such as {{"path": ..., "label": ...}}.')
        rows.append({_cell(key, where): _cell(value, where) for key, value in entry.items()})
    names = list(dict.fromkeys(key for row in rows for key in row))
    return _frame(names, [[row.get(name, "") for row in rows] for name in names], path)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"{twice!r} stands twice in one object")
    return found


def _constant(word: str) -> str | None:
    return None if word == "NaN" else word


def _parquet(path: Path) -> pd.DataFrame:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(f"{path}: reading parquet needs pyarrow (pip install pyarrow), or save it as CSV.") from error
    try:
        # By pyarrow and not by pandas, which makes floats of whole numbers beside absent cells and of lists arrays.
        found = parquet.ParquetFile(path).read()
        columns = [column.to_pylist() for column in found.columns]
    except (OSError, ValueError, OverflowError, pyarrow.ArrowException) as error:
        raise InputError(f"{path} cannot be read as parquet ({str(error)[:200]}).") from error
    # What pandas keeps of an index without a name says nothing about the rows.
    kept = [i for i, name in enumerate(found.column_names) if not name.startswith("__index_level_")]
    cells = [[_cell(value, f"{path}, row {row}") for row, value in enumerate(columns[i], start=1)] for i in kept]
    return _frame([found.column_names[i] for i in kept], cells, path)


def _cell(value: Any, where: str) -> Any:
    """Return a value as text; lists and mappings hold such."""
    if value is None or value != value:
        return ""
    if isinstance(value, list | tuple):
        return [_cell(inner, where) for inner in value]
    if isinstance(value, Mapping):
        return {_cell(key, where): _cell(inner, where) for key, inner in value.items()}
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    try:
        text = value.decode("utf-8") if isinstance(value, bytes) else str(value)
        if not text.isascii():
            text.encode("utf-8")
    except (UnicodeEncodeError, UnicodeDecodeError) as error:
        raise InputError(f"{where}: {ascii(value)[:60]} is no text in Unicode ({error.reason}).") from error
    if "\0" in text:
        raise InputError(f"{where}: {text[:60]!r} holds a NUL character.")
    return text
