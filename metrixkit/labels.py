"""Labels and ids of whatever origin as one thing: whole numbers, or text that stays what it is."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from metrixkit.errors import InputError

_INT64 = 2**63
_ONE = (str, bytes, int, float, bool, type(None))  # types that hold one value


def read_labels(values: Any, name: str) -> np.ndarray:
    """Return labels or ids as a (n,) int64 or unicode array; two values that differ stay different.

    Text is kept as it is ("007" is not 7). Whole numbers of any type are int64 where all of them fit, else their
    digits: ids of 64 bits without a sign and floats beyond 2^63 are text. Bytes are read as UTF-8.

    Args:
        values: Tensor, array, series, list or tuple of n integers, whole floats, strings or bytes.
        name: What the caller calls them, for messages.

    Raises:
        InputError: Not one-dimensional; a value that is missing (None, NaN), a fraction, infinite, no UTF-8, ends in a
            NUL, or is something else. The message names its position.
    """
    array = _as_array(values, name)
    if array.ndim != 1:
        raise InputError(f"{name}: expected one value an item (one dimension), found shape {array.shape}.")
    kind = array.dtype.kind
    if kind in "iub":
        return array.astype(np.int64) if kind != "u" or array.max(initial=0) < _INT64 else array.astype(str)
    if kind == "f":
        if bool(((array == np.floor(array)) & (np.abs(array) < _INT64)).all()):
            return array.astype(np.int64)
        return _one_by_one(array.tolist(), name)
    if kind in "USOT":
        return _one_by_one(array.tolist(), name)
    raise InputError(f"{name}: expected integers or strings, found {array.dtype}.")


def refuse_two_forms(names: Iterable[str], what: str) -> None:
    """Raise InputError where two names look alike and are different characters: one in NFC, one in NFD, say.

    Args:
        names: Any text; repetitions do not matter.
        what: What they are, for the message ("labels").
    """
    seen: dict[str, str] = {}
    for name in names:
        if not name.isascii():
            other = seen.setdefault(unicodedata.normalize("NFC", name), name)
            if other != name:
                raise InputError(
                    f"{what}: {other!a} and {name!a} are one name ({name!r}) in two Unicode forms. File names "
                    "made on a Mac are decomposed (NFD), typed text is mostly composed (NFC); bring both into one form "
                    "with unicodedata.normalize('NFC', name)."
                )


def _as_array(values: Any, name: str) -> np.ndarray:
    """Return `values` as an array without a cast that loses something; what numpy would cast comes as objects."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return np.asarray((values.double() if values.dtype == torch.bfloat16 else values).numpy())
    if isinstance(values, np.ma.MaskedArray):
        objects = values.data.astype(object)
        objects[np.ma.getmaskarray(values)] = None
        return objects
    if not isinstance(values, list | tuple):
        return np.asarray(values)
    kinds = set(map(type, values))
    if kinds <= {int}:
        array = np.asarray(values, dtype=None if values else np.int64)
        if array.dtype.kind in "iu":  # beyond 64 bits numpy makes floats
            return array
    if any(
        isinstance(value, list | tuple | dict | set) or np.ndim(value) for value in values if type(value) not in _ONE
    ):
        raise InputError(f"{name}: expected one value an item (one dimension), found lists or arrays of values.")
    return np.fromiter((v.item() if isinstance(v, Tensor) else v for v in values), dtype=object, count=len(values))


def _one_by_one(values: list[Any], name: str) -> np.ndarray:
    """Return values of any type as int64 where all are whole numbers that fit, else as text."""
    missing = [i for i, value in enumerate(values) if value is None or value is pd.NA or value != value]
    if missing:
        raise InputError(f"{name}: the value at position {missing[0]} is missing ({len(missing)} in all).")
    if set(map(type, values)) != {str}:
        values = [_plain(value, position, name) for position, value in enumerate(values)]
        if all(type(value) is int and -_INT64 <= value < _INT64 for value in values):
            return np.array(values, dtype=np.int64)
        values = [str(value) for value in values]
    cut = next((i for i, value in enumerate(values) if value[-1:] == "\0"), None)
    if cut is not None:  # numpy would drop it, and two names become one
        raise InputError(f"{name}: the text at position {cut} ends in a NUL character: {values[cut]!r}.")
    return np.array(values, dtype=str)


def _plain(value: Any, position: int, name: str) -> str | int:
    """Return one value as text or as a whole number."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{name}: the bytes at position {position} are no UTF-8 ({value[:40]!r}); decode them first."
            ) from error
    if isinstance(value, int | np.integer | np.bool_):
        return int(value)
    if isinstance(value, float | np.floating):
        if np.isfinite(value) and value == np.floor(value):
            return int(value)
        raise InputError(
            f"{name}: expected integers or strings, found fractions or infinite values (position {position}: {value})."
        )
    raise InputError(f"{name}: expected integers or strings, found {type(value).__name__} at position {position}.")
