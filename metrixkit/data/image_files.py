"""Which files below a folder are images or videos, and what was passed over: nothing is left out unsaid."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from metrixkit.errors import InputError
from metrixkit.visible import one_line

HEIF_SUFFIXES: Final = frozenset((".heic", ".heif"))
SUFFIXES: Final = HEIF_SUFFIXES | frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".png", ".apng", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".avif", ".jp2"),
    )
)
# Why something was passed over. The last two are faults of the folder, the others mostly as they should be.
HIDDEN, OTHER, EMPTY, LOOP = "hidden", "of other kinds", "folders without any", "links to a folder above"
BROKEN_LINK, LOCKED = "links to nothing", "folders that cannot be listed"
FAULTS: Final = (BROKEN_LINK, LOCKED)
_SHOWN: Final = 3
# A pool of photographs linked into a few splits is usual; links that multiply are not, and would never end.
_MOST_VISITS: Final = 64
_DEEPEST: Final = 200


@dataclass
class Scan:
    """What is below a folder.

    Attributes:
        files: Paths below the folder, with "/" between their parts; of a folder first its files, then its folders,
            each in the order of their names. A link is its own path, not its target's.
        passed_over: Names of what was left out, by reason; folders end in "/".
    """

    files: list[str] = field(default_factory=list)
    passed_over: dict[str, list[str]] = field(default_factory=dict)

    def leave(self, reason: str, name: str) -> None:
        """Note that `name` is left out."""
        self.passed_over.setdefault(reason, []).append(name)


def scan_images(root: Path) -> Scan:
    """Return the image files below a folder; see :func:`scan_files`."""
    return scan_files(root, SUFFIXES)


def scan_files(root: Path, suffixes: Collection[str]) -> Scan:
    """Return the files below a folder that have one of some suffixes in any case, and what was passed over.

    Args:
        root: A folder; links below it are followed. Names that begin with a dot are hidden, below it, not in its own
            path.
        suffixes: In lower case, such as ".jpg".

    Raises:
        InputError: Names that are not UTF-8 (they cannot stand in a table or a result), or links that lead to one
            folder over and over.
    """
    scan = Scan()
    _walk(str(root), "", (os.path.realpath(root),), scan, {}, suffixes)
    refuse_bytes([str(root)], "the folder")
    refuse_bytes(scan.files, f"files below {root}")
    return scan


def told(passed_over: Mapping[str, Sequence[str]]) -> str:
    """Return one line on what was passed over, with the first names of each kind; "" where nothing was."""
    parts = []
    for reason, names in passed_over.items():
        first = ", ".join(printable(name) for name in names[:_SHOWN])
        parts.append(f"{len(names):,} {reason} ({first}{', ...' if len(names) > _SHOWN else ''})")
    return f"passed over: {'; '.join(parts)}" if parts else ""


def printable(name: str) -> str:
    r"""Return a name for people: bytes that are not UTF-8 and what a terminal would obey stand as ``\x..``."""
    return one_line(name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))


def is_utf8(name: str) -> bool:
    """Return whether a name from the file system is text, so that tables, JSON and terminals can hold it."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def refuse_bytes(names: Sequence[str], where: str) -> None:
    """Raise InputError where names from the file system are not UTF-8; it shows their bytes and what mends them."""
    wrong = [name for name in names if not is_utf8(name)]
    if wrong:
        more = f" and {len(wrong) - 1:,} more" if len(wrong) > 1 else ""
        raise InputError(
            f"{where}: the name {printable(wrong[0])}{more} is not UTF-8, so no table, result or index could hold it. "
            "Rename such files and folders; in an old archive `convmv -f latin1 -t utf-8 -r --notest FOLDER` does it."
        )


def _walk(
    folder: str, below: str, above: tuple[str, ...], scan: Scan, visits: dict[str, int], suffixes: Collection[str]
) -> bool:
    """Add what is in `folder`, whose real path is ``above[-1]``; return whether there is a file in or below it."""
    visits[above[-1]] = visits.get(above[-1], 0) + 1
    if visits[above[-1]] > _MOST_VISITS:
        raise InputError(
            f"links lead to {printable(above[-1])} in more than {_MOST_VISITS} ways (the last: "
            f"{printable(below)}). Take some away, or list the files in a table."
        )
    if len(above) > _DEEPEST:
        raise InputError(f"{printable(below[:80])}... lies more than {_DEEPEST} folders deep; move it up.")
    try:
        with os.scandir(folder) as listed:
            entries = sorted(listed, key=lambda entry: entry.name)
    except OSError as error:
        scan.leave(LOCKED, f"{below or folder + '/'} ({error.strerror})")
        return True  # nobody knows
    folders: list[str] = []
    before = len(scan.files)
    for entry in entries:
        name = below + entry.name
        directory = _is_folder(entry)
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            scan.leave(HIDDEN, f"{name}/" if directory else name)
        elif directory:
            folders.append(entry.name)
        elif os.path.splitext(entry.name)[1].lower() in suffixes:
            scan.files.append(name)  # what is no file, such as a link to nothing, is missing to whoever reads it
        else:
            broken = entry.is_symlink() and not os.path.exists(entry.path)
            scan.leave(BROKEN_LINK if broken else OTHER, name)
    found = len(scan.files) > before
    barren: list[str] = []
    for inner in folders:
        path = os.path.join(folder, inner)
        real = os.path.realpath(path)
        if real in above:
            scan.leave(LOOP, f"{below}{inner}/")
        elif _walk(path, f"{below}{inner}/", (*above, real), scan, visits, suffixes):
            found = True
        else:
            barren.append(f"{below}{inner}/")
    # A folder without an image is named by the highest one that has none.
    if found or not below:
        for name in barren:
            scan.leave(EMPTY, name)
    return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False
