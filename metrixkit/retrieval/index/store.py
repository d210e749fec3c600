"""Versions of an index in a folder: each written whole beside the last, then pointed to.

::

    folder/CURRENT              "v0003"
    folder/v0002/ v0003/        index.faiss  ids.npy  labels.npy  tombstones.npy  manifest.json

A version never changes once it is there. ``CURRENT`` is replaced as the last step, so that a reader finds the old
version or the new one, whole, whenever the writer dies.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows: the check before the pointer is changed remains
    fcntl = None  # type: ignore[assignment]

from metrixkit.errors import InputError
from metrixkit.files import cannot_write, write_text

CURRENT, MANIFEST, LOCK = "CURRENT", "manifest.json", ".lock"
KIND, FORMAT = "metrixkit-index", 1
_VERSION = re.compile(r"v(\d{4,})")
_ABANDONED = 3600.0  # seconds after which a half-written version is taken for that of a dead process


def write_version(
    folder: Path, write_files: Callable[[Path], None], manifest: Mapping[str, Any], expected: str | None = None
) -> str:
    """Write a new version and point to it; the one before stays, for readers and second thoughts, older ones go.

    Args:
        folder: Made if needed; must be empty or hold an index.
        write_files: Called with an empty folder to fill.
        manifest: JSON values; kind, format and the files' sizes and checksums are added.
        expected: The version that must be the current one, or None for any.

    Returns:
        The name of the version, for example "v0003".

    Raises:
        InputError: The folder holds something else, another version became current in the meantime, or the disk is full
            or does not take files. What was there before is still there.
    """
    _refuse_changed(folder, expected)
    folder.mkdir(parents=True, exist_ok=True)
    _sweep_abandoned(folder)
    part = folder / f".part-{os.getpid()}-{time.time_ns()}"
    part.mkdir()
    try:
        write_files(part)
        files = {}
        for path in sorted(part.iterdir()):
            files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
            _flush(path)
        whole = {"kind": KIND, "format": FORMAT, **manifest, "files": files}
        (part / MANIFEST).write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        _flush(part / MANIFEST)
        with alone(folder):
            # Once more: writing takes time, and another writer may have been faster.
            before = _refuse_changed(folder, expected)
            name = _publish(part, folder)
            write_text(folder / CURRENT, name + "\n")
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        if isinstance(error, OSError):
            raise cannot_write(folder, error) from error
        raise
    for old in versions(folder):
        # Never a younger one: another process may be about to point to it.
        if before is not None and _number(old) < _number(before):
            shutil.rmtree(folder / old, ignore_errors=True)
    return name


def read_manifest(folder: Path, version: str | None, verify: bool) -> tuple[Path, dict[str, Any]]:
    """Find a version and check it.

    Args:
        folder: The index's folder.
        version: Which, or None for the current one.
        verify: Whether to compute the checksums; sizes are always compared.

    Returns:
        The version's folder and its manifest.

    Raises:
        InputError: No index there, written by a newer metrixkit, or files that are missing or not as they were written.
    """
    if not folder.is_dir():
        raise InputError(f"no index at {folder}: no such folder.")
    if version is None and _current_or_none(folder) is None:
        raise InputError(
            f"no index at {folder}: it has no file CURRENT. Expected a folder that RetrievalIndex.save wrote."
        )
    for attempt in (1, 2):
        place = folder / (version or str(_current_or_none(folder)))
        if (place / MANIFEST).is_file():
            break
        if attempt == 2 or version is not None:
            there = versions(folder)
            raise InputError(
                f"{folder}: version {place.name} is missing or half there; there are {', '.join(there) or 'none'}."
            )
    manifest = _read_json(place / MANIFEST, _others(folder, place.name))
    if manifest.get("kind") != KIND:
        raise InputError(f"{place / MANIFEST} is not that of an index (kind {manifest.get('kind')!r}).")
    if not isinstance(manifest.get("format"), int) or manifest["format"] > FORMAT:
        raise InputError(
            f"{place / MANIFEST} has format {manifest.get('format')!r}; this metrixkit reads up to {FORMAT}. It was "
            f"written by metrixkit {manifest.get('versions', {}).get('metrixkit', '?')}: update to that or later."
        )
    for name, known in manifest["files"].items():
        _check_file(place / name, known, verify, _others(folder, place.name))
    return place, manifest


def versions(folder: Path) -> list[str]:
    """Return the names of the versions in a folder, oldest first."""
    found = [p.name for p in folder.iterdir() if p.is_dir() and _VERSION.fullmatch(p.name)]
    return sorted(found, key=_number)


def sha256(path: Path) -> str:
    """Return the checksum of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other process is about to change what is current, and keep others waiting meanwhile."""
    with (folder / LOCK).open("a") as lock:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _refuse_changed(folder: Path, expected: str | None) -> str | None:
    """Return the current version; raise InputError where it is not the one that was expected."""
    now = _current_or_none(folder)
    if expected is not None and now != expected:
        raise InputError(
            f"{folder}: {now} was saved by somebody else since {expected} was loaded, and saving now would undo it. "
            "Load the index again and repeat the change, or save to another folder."
        )
    return now


def _current_or_none(folder: Path) -> str | None:
    """Return the current version's name, or None where nothing is there yet."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; expected a folder for the index.")
    try:
        name = (folder / CURRENT).read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        foreign = [p.name for p in folder.iterdir() if not _ours(p.name)] if folder.is_dir() else []
        if foreign:
            raise InputError(
                f"{folder} is not the folder of an index: it has no file CURRENT but holds {foreign[0]!r}. Give an "
                "index's folder, or a new one."
            ) from None
        return None
    if not _VERSION.fullmatch(name):
        raise InputError(
            f"{folder / CURRENT} says {name[:40]!r}, which is no version. Write one of these into it: "
            f"{', '.join(versions(folder)) or 'none is there'}."
        )
    return name


def _ours(name: str) -> bool:
    return bool(_VERSION.fullmatch(name)) or name == LOCK or name.startswith((".part-", f".{CURRENT}-"))


def _publish(part: Path, folder: Path) -> str:
    """Give the finished part its number; another process may take the same one first."""
    while True:
        there = versions(folder)
        name = f"v{_number(there[-1]) + 1 if there else 1:04d}"
        try:
            os.rename(part, folder / name)
        except OSError:
            if not (folder / name).exists():
                raise
            continue
        return name


def _sweep_abandoned(folder: Path) -> None:
    for path in folder.glob(".part-*"):
        if time.time() - path.stat().st_mtime > _ABANDONED:
            shutil.rmtree(path, ignore_errors=True)


def _check_file(path: Path, known: Mapping[str, Any], verify: bool, others: str) -> None:
    if not path.is_file():
        raise InputError(f"{path} is missing.{others}")
    size = path.stat().st_size
    if size != known["bytes"]:
        raise InputError(
            f"{path} has {size} bytes and was written with {known['bytes']}: it is cut off or altered.{others}"
        )
    if verify and sha256(path) != known["sha256"]:
        raise InputError(f"{path} is not as it was written: its checksum differs.{others}")


def _others(folder: Path, name: str) -> str:
    rest = [v for v in versions(folder) if v != name]
    return f" Load version={rest[-1]!r} for the one before, or build it again." if rest else " Build it again."


def _read_json(path: Path, others: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} cannot be read ({error}).{others}") from error
    files = found.get("files", {}) if isinstance(found, dict) else None
    if not isinstance(files, dict) or not all(
        isinstance(known, dict) and {"bytes", "sha256"} <= known.keys() for known in files.values()
    ):
        raise InputError(f"{path} is no manifest.{others}")
    return {"files": {}, **found}


def _number(version: str) -> int:
    return int(version[1:])


def _flush(path: Path) -> None:
    """Wait until a file is on the disk, so that a pointer to it never outlives it."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
