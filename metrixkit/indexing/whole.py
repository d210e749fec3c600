"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from metrixkit.errors import InputError


def write_whole(path: Path, write: Callable[[Path], object]) -> Path:
    """Write a file under another name and then give it its own; return it.

    Args:
        path: Its folder is made.
        write: Called with the path to write to, which ends as `path` does.

    Raises:
        InputError: The disk is full, or the folder does not take files. What was at `path` is still there.
    """
    # A name of one's own: two writers of one file must not write into the same.
    part = path.with_name(f".part-{os.getpid()}-{time.time_ns()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        os.replace(part, path)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}. Whatever was there before is as it was; make room, or "
            "choose another place."
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return path
