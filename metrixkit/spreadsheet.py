"""CSV for people: a cell of text is text, also where a spreadsheet would run it as a formula.

Tables that commands of this package read again (``table.csv``, ``masks.csv``) hold ids as they are and do not go
through here.
"""

from __future__ import annotations

import pandas as pd

_FORMULA = ("=", "+", "-", "@", "\t")


def cell(value: object) -> object:
    """Return what a CSV for people holds: a text that a spreadsheet would take for a formula starts with ``'``.

    Numbers, and texts that are numbers (``-0.5``), stay what they are.
    """
    if not isinstance(value, str):
        return value
    text = value.replace("\r", "\\r")  # Python's writer leaves it unquoted, and a line would begin after it
    return text if not text.startswith(_FORMULA) or _is_number(text) else f"'{text}"


def csv_text(table: pd.DataFrame) -> str:
    """Return a table as CSV for people, its texts and column names as :func:`cell` has them."""
    shown = table.rename(columns=cell)
    texts = [column for column, kind in enumerate(shown.dtypes) if kind.kind not in "biufc"]
    for column in texts:
        shown.isetitem(column, [cell(value) for value in shown.iloc[:, column]])
    return str(shown.to_csv(index=False))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
