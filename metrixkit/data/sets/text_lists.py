"""The list files of published data sets: rows of columns separated by blanks."""

from __future__ import annotations

from pathlib import Path

from metrixkit.data.text_files import text_lines
from metrixkit.errors import InputError


def read_rows(path: Path, columns: int, skip: int = 0, name_column: int = -1) -> list[list[str]]:
    """Return the rows of a list file as strings; blank lines are left out, padding is stripped.

    Args:
        path: The file, UTF-8.
        columns: Columns a row has.
        skip: Lines of heading to leave out.
        name_column: The one column that may hold blanks (a file name): the first (0) or the last (-1).

    Raises:
        InputError: The file is absent, or a row has too few columns; the message names file and line.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing; it belongs to the data set as published, unpack it again.")
    rows = []
    for number, line in enumerate(text_lines(path), start=1):
        text = line.strip()
        if number <= skip or not text:
            continue
        row = text.rsplit(None, columns - 1) if name_column == 0 else text.split(None, columns - 1)
        if len(row) != columns:
            raise InputError(f"{path}, line {number}: expected {columns} columns between blanks, got {text!r}.")
        rows.append([field.strip() for field in row])
    return rows


def to_number(text: str) -> int:
    """Return the whole number that `text` is.

    Raises:
        InputError: It is none.
    """
    if not text.isascii() or not text.isdigit():
        raise InputError(f"expected a whole number in a list file, got {text!r}.")
    return int(text)
