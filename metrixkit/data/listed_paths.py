"""Paths that a table lists, found as files: as written, with a backslash for a slash, or in another Unicode form."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path


def locate_listed(root: Path, cells: Sequence[str]) -> list[str]:
    """Return the path of each cell of a table.

    A path stands in a table as somebody's machine wrote it. One that is not there as written is looked for with slashes
    for backslashes (a table made on Windows), and part by part in any Unicode form (names from a Mac are decomposed,
    typed ones composed). What is found in neither way stays as written, below the root, for the reader to report.
    Each folder is listed once.

    Args:
        root: Where relative paths start.
        cells: Paths; an empty cell stays empty. ``archive.zip!member`` and ``array.npy#17`` may be among them.
    """
    folders = _Folders()
    return [_locate(str(root / cell), folders) if cell else "" for cell in cells]


def _locate(path: str, folders: _Folders) -> str:
    folder, name = os.path.split(path)
    if name in folders.names(folder):
        return path
    slashed = path.replace("\\", "/")
    if slashed == path and path.isascii():
        return path
    return folders.find(slashed) or folders.find(path) or path


class _Folders:
    """What lies in folders, each listed once."""

    def __init__(self) -> None:
        self._names: dict[str, dict[str, str]] = {}

    def names(self, folder: str) -> dict[str, str]:
        """Return the names in a folder and their composed forms, each to the name that is there."""
        if folder not in self._names:
            try:
                there = sorted(os.listdir(folder or "."))
            except (OSError, ValueError):
                there = []
            composed = {unicodedata.normalize("NFC", name): name for name in there if not name.isascii()}
            self._names[folder] = composed | {name: name for name in there}
        return self._names[folder]

    def find(self, path: str) -> str | None:
        """Return the path that is there by this name in any Unicode form, or None.

        What follows ``!`` or ``#`` in the last part is kept.
        """
        if os.path.lexists(path):
            return path
        at = os.sep if path.startswith("/") else ""
        parts = [part for part in path.split("/") if part]
        for place, part in enumerate(parts):
            known = self.names(at)
            there = known.get(part) or known.get(unicodedata.normalize("NFC", part))
            if there is None:
                file, mark, rest = _within("/".join(parts[place:]))
                there = known.get(file) or known.get(unicodedata.normalize("NFC", file))
                return os.path.join(at, there) + mark + rest if mark and there is not None else None
            at = os.path.join(at, there)
        return at


def _within(name: str) -> tuple[str, str, str]:
    """Divide ``archive.zip!member`` or ``array.npy#17`` at its mark."""
    cut = min((name.find(mark) for mark in "!#" if mark in name), default=len(name))
    return name[:cut], name[cut : cut + 1], name[cut + 1 :]
