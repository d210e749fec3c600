"""Where data sets lie: the data roots, and the search for a published folder below them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from metrixkit.errors import InputError


@dataclass(frozen=True)
class Source:
    """How a published data set is known on disk, and where it comes from.

    Attributes:
        title: Its name for people.
        folders: Names its folder goes by, the published one first.
        markers: Paths inside the folder; a folder that holds any of them is the data set.
        origin: Where to get it, in words.
        card: Its card in ``datasets/``.
    """

    title: str
    folders: tuple[str, ...]
    markers: tuple[str, ...]
    origin: str
    card: str


def data_roots() -> list[Path]:
    """Return the data roots: ``METRIXKIT_DATA``, separated as ``PATH`` is, by default the folder ``datasets``."""
    listed = os.environ.get("METRIXKIT_DATA", "")
    return [Path(part).expanduser() for part in listed.split(os.pathsep) if part.strip()] or [Path("datasets")]


def locate(source: Source, root: str | None = None) -> Path | None:
    """Return the folder of a data set, or None.

    Args:
        source: What to look for.
        root: The data-set folder itself or one above it; None searches the data roots. A folder lies directly below
            a root, or one level deeper (``CUB_200_2011_first50/CUB_200_2011``).
    """
    for base in _bases(root):
        # A folder of the published name comes before the root itself and before what lies deeper.
        near = [base / folder for folder in source.folders]
        below = sorted(entry for entry in base.iterdir() if entry.is_dir()) if base.is_dir() else []
        deeper = [entry / folder for entry in below for folder in source.folders]
        for candidate in [*near, base, *deeper]:
            if any((candidate / marker).exists() for marker in source.markers):
                return candidate
    return None


def find_folder(source: Source, root: str | None = None) -> Path:
    """Return the folder of a data set, as :func:`locate` does.

    Raises:
        InputError: Not found; the message says what, where it was looked for, where to get it and where to put it.
    """
    found = locate(source, root)
    if found is not None:
        return found
    bases = _bases(root)
    looked = ", ".join(str(base.absolute()) for base in bases)
    raise InputError(
        f"{source.title} was not found: no folder {' or '.join(map(repr, source.folders))} with "
        f"{' or '.join(source.markers)} in {looked}, nor one level deeper. Get it from {source.origin} and put it at "
        f"{bases[0] / source.folders[0]}, or name its place: data.root=FOLDER, or METRIXKIT_DATA=FOLDER for all data "
        f"sets. Layout: {source.card}."
    )


def _bases(root: str | None) -> list[Path]:
    return data_roots() if root is None else [Path(root).expanduser()]
