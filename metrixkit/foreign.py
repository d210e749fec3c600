"""Files that somebody else may have written, read as plain data within limits.

The settings of a saved run and of a saved model are JSON or YAML of plain values. Nothing in them is looked up
elsewhere (``${oc.env:HOME}`` is a text), and no file of a kilobyte unfolds into gigabytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from metrixkit.errors import InputError

MOST_BYTES = 64 * 2**20
MOST_YAML_BYTES = 2**20
MOST_VALUES = 100_000
MOST_BITS = 64  # of a whole number: sums, means and arrays hold no longer ones
MOST_UNFOLDED, MOST_FOLD = 2**29, 200  # bytes that any archive may unfold into, and how many times its own size


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return the mapping in a YAML file: plain values, aliases unfolded to :data:`MOST_VALUES` values at most.

    Raises:
        InputError: It is absent, no regular file, too large, no UTF-8, no YAML or no mapping; the message names it.
    """
    text = read_text(path, MOST_YAML_BYTES)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None:
            _count(node, {}, path)
        content = yaml.safe_load(text)
    except RecursionError:
        raise InputError(f"{path} is nested too deeply to be settings.") from None
    except InputError:
        raise
    except (yaml.YAMLError, ValueError, IndexError, AttributeError) as error:  # tags raise what they come upon
        raise InputError(f"{path} is not readable as YAML ({' '.join(str(error).split())}).") from error
    return _mapping(content, path)


def read_json(path: str | Path) -> dict[str, Any]:
    """Return the mapping in a JSON file.

    Raises:
        InputError: It is absent, no regular file, too large, no UTF-8, no JSON or no mapping; the message names it.
    """
    try:
        content = json.loads(read_text(path))
    except RecursionError:
        raise InputError(f"{path} is nested too deeply to be settings.") from None
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path} is no JSON ({error}).") from error
    return _mapping(content, path)


def read_text(path: str | Path, most: int = MOST_BYTES) -> str:
    """Return a UTF-8 file of at most `most` bytes; errors as :func:`read_json`."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} is missing.")
    if not path.is_file():
        raise InputError(f"{path} is no regular file.")
    try:
        with open(path, "rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from error
    if len(content) > most:
        raise InputError(f"{path} is larger than {most:,} bytes; settings are not.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8 text ({error}).") from error


def read_arrays(path: str | os.PathLike[str], wanted: Callable[[str], bool]) -> dict[str, np.ndarray]:
    """Return those plain arrays of an ``.npz`` archive whose name is wanted.

    Raises:
        InputError: It is no regular file, or a few bytes of it unfold into very many.
        FileNotFoundError: It is absent. Whatever else numpy raises on a damaged file.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is no regular file.")
    # Opened here: numpy leaves a file open that turns out to be no archive.
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
        if not isinstance(archive, np.lib.npyio.NpzFile) or archive.zip is None:
            raise ValueError("it is no archive of arrays")
        names = [name for name in archive.files if wanted(name)]
        unfolded: int = sum(archive.zip.getinfo(f"{name}.npy").file_size for name in names)
        if unfolded > max(MOST_UNFOLDED, MOST_FOLD * path.stat().st_size):
            raise InputError(f"{path} unfolds into {unfolded:,} bytes, far more than arrays of its size do.")
        return {name: archive[name] for name in names}


def _mapping(content: Any, path: str | Path) -> dict[str, Any]:
    if not isinstance(content, dict):
        held = "nothing" if content is None else f"a {type(content).__name__}"
        raise InputError(f"{path}: expected names and values, got {held}.")
    _check_plain(content, path)
    return content


def _check_plain(value: Any, path: str | Path) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise InputError(f"{path}: expected names and values; {key!r} is no name.")
            _check_plain(inner, path)
    elif isinstance(value, list):
        for inner in value:
            _check_plain(inner, path)
    elif isinstance(value, int) and value.bit_length() > MOST_BITS:
        raise InputError(f"{path}: a whole number of {value.bit_length()} bits; expected at most {MOST_BITS}.")
    elif not isinstance(value, str | int | float | None):
        raise InputError(f"{path}: {value!r} is a {type(value).__name__}; expected text, numbers, lists and names.")


def _count(node: yaml.Node, known: dict[int, int], path: str | Path) -> int:
    """Return how many values a node stands for when its aliases are unfolded; raise where they are too many."""
    if id(node) in known:
        if known[id(node)] == 0:
            raise InputError(f"{path}: an alias holds itself; settings do not.")
        return known[id(node)]
    known[id(node)] = 0
    total = 1
    if isinstance(node, yaml.SequenceNode):
        total += sum(_count(child, known, path) for child in node.value)
    elif isinstance(node, yaml.MappingNode):
        total += sum(_count(key, known, path) + _count(value, known, path) for key, value in node.value)
    if total > MOST_VALUES:
        raise InputError(f"{path} unfolds into more than {MOST_VALUES:,} values; settings are fewer.")
    known[id(node)] = total
    return total
