"""Images that are equal byte for byte."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Hashable, Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metrixkit.data.decode import container


def byte_equal(references: Sequence[str]) -> list[list[int]]:
    """Find images stored with the same bytes. Only images of one size are read, in whole.

    Args:
        references: Files, zip members or array rows, as ``decode`` takes them. What cannot be read is skipped: that
            is found by decoding.

    Returns:
        Groups of two and more positions in `references`, each ascending, in the order of their first ones.
    """
    files = _Files()
    same_size = _groups((files.size(reference) for reference in references), range(len(references)))
    found = []
    for group in same_size:
        found += _groups((files.digest(references[i]) for i in group), group)
    return sorted(found)


def _groups(keys: Iterable[Hashable | None], positions: Iterable[int]) -> list[list[int]]:
    members: dict[Hashable, list[int]] = {}
    for key, position in zip(keys, positions, strict=True):
        if key is not None:
            members.setdefault(key, []).append(position)
    return [group for group in members.values() if len(group) > 1]


class _Files:
    """Sizes and digests of what references point to; archives and arrays are opened once."""

    def __init__(self) -> None:
        self._archive = cache(zipfile.ZipFile)
        self._array = cache(_map)

    def size(self, reference: str) -> Hashable | None:
        """Return what equal images must share and is cheap to know, or None where nothing can be read."""
        holder = container(reference)
        try:
            if holder == reference:
                return os.stat(reference).st_size
            if holder.lower().endswith(".npy"):
                return self._array(holder).shape[1:]
            entry = self._archive(holder).getinfo(reference[len(holder) + 1 :])
            return (entry.file_size, entry.CRC)
        except (OSError, KeyError, ValueError, zipfile.BadZipFile):
            return None

    def digest(self, reference: str) -> bytes | None:
        holder = container(reference)
        within = reference[len(holder) + 1 :]
        try:
            if holder == reference:
                content = Path(reference).read_bytes()
            elif holder.lower().endswith(".npy"):
                content = self._array(holder)[int(within)].tobytes()
            else:
                content = self._archive(holder).read(within)
        except (OSError, KeyError, ValueError, IndexError, RuntimeError, zipfile.BadZipFile):
            return None
        return hashlib.blake2b(content, digest_size=16).digest()


def _map(path: str) -> NDArray[np.uint8]:
    return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
