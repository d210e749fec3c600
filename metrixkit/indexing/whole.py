"""Files that appear whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from metrixkit.files import replacing


def write_whole(path: Path, write: Callable[[Path], object]) -> Path:
    """Write a file under another name and then give it its own; return it.

    Args:
        path: Its folder is made.
        write: Called with the path to write to, which ends as `path` does.

    Raises:
        InputError: As :func:`~metrixkit.files.replacing`.
    """
    with replacing(path) as file:
        write(Path(file.name))
    return path
