"""Tables as text: cells between commas, semicolons, tabs or bars, found out by one function for everybody."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from metrixkit.data.text_files import text_lines
from metrixkit.errors import InputError

SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
CANDIDATES = (",", ";", "\t", "|")
SAMPLE = 64  # lines that are looked at to find the separator
LONGEST = 2**31 - 1  # of a cell: Python's own limit, 128 KB, is below what people keep in one

_EXCEL = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)


def read_delimited(path: Path, separator: str | None, setting: str) -> tuple[list[str], list[list[str]]]:
    """Return the heading and the rows of a text table.

    Cells between tabs are taken as they stand: such tables know no quoting. Elsewhere a cell may stand in double quotes
    and hold separators, line ends and quotes written twice. Blank lines are left out.

    Args:
        path: The file.
        separator: One character, or ``tab``; None finds it by :func:`guess_separator`, or takes that of a first
            line ``sep=;`` as Excel writes it.
        setting: What names the separator ("data.separator", "--separator"), for messages.

    Raises:
        InputError: As :func:`~metrixkit.data.text_files.text_lines`; a separator that is none; a line with another
            number of cells than the heading; a quote that is not closed.
    """
    lines = text_lines(path, newline="")
    first = next(lines, "")
    told = _EXCEL.fullmatch(first)
    before = 1 if told else 0
    if told is None:
        lines = itertools.chain([first], lines)
    sample = list(itertools.islice(lines, SAMPLE + 1))
    if separator is not None:
        separator = _one_character(separator, setting)
    elif told is not None:
        separator = told[1]
    else:
        separator = guess_separator(sample, SEPARATORS[path.suffix.lower()])
    csv.field_size_limit(LONGEST)
    numbered = _rows(itertools.chain(sample, lines), separator, path, before)
    head = [name.strip() for _, name_row in itertools.islice(numbered, 1) for name in name_row]
    rows = []
    for line, row in numbered:
        if len(row) != len(head):
            held = "" if separator == "\t" else ", and a cell that holds it stands in double quotes"
            raise InputError(
                f"{path}, line {line}: {len(row)} cells, the heading has {len(head)} columns (the separator is "
                f"{separator!r}; another one is set with {setting}=CHARACTER{held})."
            )
        rows.append(row)
    return head, rows


def guess_separator(lines: Iterable[str], usual: str = ",") -> str:
    """Return what separates the cells of a text table.

    It is the character that cuts heading and first rows into equally many cells, two or more: the usual one if it does,
    else the first of comma, semicolon, tab and bar. Where rows are ragged, it is what the heading holds.

    Args:
        lines: The first ones, heading first; all that is looked at.
        usual: The separator that the file's suffix stands for.
    """
    sample = [line for line in lines if line.strip()]
    head = sample[0] if sample else ""
    order = [usual, *(other for other in CANDIDATES if other != usual)]
    for separator in order:
        if separator in head and _even(sample, separator):
            return separator
    return next((separator for separator in order if separator in head), usual)


def _even(sample: list[str], separator: str) -> bool:
    """Return whether a separator cuts all lines of a sample into as many cells as the first, two or more."""
    csv.field_size_limit(LONGEST)
    try:
        rows = [row for row in csv.reader(sample, **_dialect(separator)) if row]
    except csv.Error:
        return False
    if len(sample) > SAMPLE and len(rows) > 2:
        rows.pop()  # a cell of several lines may be cut by the end of the sample
    return len(rows[0]) > 1 and all(len(row) == len(rows[0]) for row in rows)


def _dialect(separator: str) -> dict:
    return {"delimiter": separator, "quoting": csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL}


def _rows(lines: Iterable[str], separator: str, path: Path, before: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each row begins, counted from 1, and its cells."""
    reader = csv.reader(lines, strict=separator != "\t", **_dialect(separator))
    line = before + 1
    try:
        for row in reader:
            if row and (len(row) > 1 or row[0].strip()):
                yield line, row
            line = before + reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{path}, line {line}: the quotes of a cell do not close ({error}). A cell in double quotes ends with one, "
            'and a quote inside it is written twice ("").'
        ) from error


def _one_character(separator: str, setting: str) -> str:
    separator = "\t" if separator in ("\\t", "tab") else separator
    if len(separator) != 1 or separator in '\r\n"':
        raise InputError(f"{setting}={separator!r}: expected one character, such as ';' (or \\t for a tab).")
    return separator
