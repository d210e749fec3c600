"""Versions of an index in a folder: each written whole beside the last, then pointed to.

::

    folder/CURRENT              "v0003"
    folder/v0002/ v0003/        index.faiss  ids.npy  labels.npy  tombstones.npy  manifest.json

A version never changes once it is there. ``CURRENT`` is replaced as the last step, so that a reader finds the old
version or the new one, whole, whenever the writer dies. Who reads a version holds a shared lock on its manifest, and
writers delete none that is held.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

try:
    import fcntl
except ImportError:  # Windows: the check before the pointer is changed remains
    fcntl = None  # type: ignore[assignment]

from metrixkit.errors import InputError
from metrixkit.files import UNFINISHED, cannot_write, refuse_leading_out, refuse_special, write_json, write_text
from metrixkit.retrieval.index.manifest import CHECKSUM, check_sum, checksum

CURRENT, MANIFEST, LOCK = "CURRENT", "manifest.json", ".lock"
KIND, FORMAT = "metrixkit-index", 1
_VERSION = re.compile(r"v([0-9]{4,18})")
Found = TypeVar("Found")
ABANDONED = 3600.0  # seconds after which a half-written version is taken for that of a dead process


def write_version(folder: Path, write_files: Callable[[Path], Mapping[str, Any]], expected: str | None = None) -> str:
    """Write a new version and point to it; the one before stays, for readers and second thoughts, older ones go.

    Args:
        folder: Made if needed; must be empty or hold an index.
        write_files: Called with an empty folder to fill; returns what the manifest is to say (JSON values), to which
            kind, format, the files' sizes and checksums, and its own checksum are added.
        expected: The version that must be the current one, or None for any.

    Returns:
        The name of the version, for example "v0003".

    Raises:
        InputError: The folder holds something else, another version became current in the meantime, or the disk is full
            or does not take files. What was there before is still there.
    """
    refuse_leading_out(folder, (folder / CURRENT, folder / LOCK))
    _refuse_changed(folder, expected)
    part = folder / f"{UNFINISHED}{os.getpid()}-{time.time_ns()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep_abandoned(folder)
        part.mkdir()
        manifest = write_files(part)
        files = {}
        for path in sorted(part.iterdir()):
            files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
            _flush(path)
        whole = {"kind": KIND, "format": FORMAT, **manifest, "files": files}
        write_json(part / MANIFEST, {**whole, CHECKSUM: checksum(whole)})
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
            _delete(folder / old)
    return name


def read_version(
    folder: Path, version: str | None, verify: bool, read: Callable[[Path, dict[str, Any]], Found]
) -> Found:
    """Find a version, check it, and read it while no writer deletes it.

    Args:
        folder: The index's folder.
        version: Which, or None for the current one. If newer ones take the place of that before it is held, they are
            read instead; so this finds a whole index however often others save.
        verify: Whether to compute the checksums of the files; sizes, and the manifest's own, are always compared.
        read: Called with the version's folder and its manifest.

    Returns:
        What `read` returned.

    Raises:
        InputError: No index there, written by a newer metrixkit, or files that are missing or not as they were written.
    """
    if not folder.is_dir():
        raise InputError(f"no index at {folder}: no such folder.")
    while True:
        name = version or _current_or_none(folder)
        if name is None:
            raise InputError(
                f"no index at {folder}: it has no file CURRENT. Expected a folder that RetrievalIndex.save wrote."
            )
        if not _VERSION.fullmatch(name):
            raise InputError(f"version={name!r}: expected one of {', '.join(versions(folder)) or 'none is there'}.")
        place = folder / name
        with _held(place) as held:
            try:
                if held:
                    return read(place, _checked_manifest(place, verify))
                raise InputError(
                    f"{folder}: version {name} is missing or half there; there are "
                    f"{', '.join(v for v in versions(folder) if v != name) or 'none'}."
                )
            except (InputError, OSError) as error:
                # Where versions cannot be held, a writer may have deleted this one under our hands.
                if version is not None or _current_or_none(folder) == name:
                    if isinstance(error, OSError):
                        raise InputError(f"{place}: cannot be read ({error.strerror or error}).") from error
                    raise


def read_manifest(folder: Path, version: str | None) -> dict[str, Any]:
    """Return the manifest of a version, as JSON has it; arguments and errors as :func:`read_version`."""
    return read_version(folder, version, False, lambda _, manifest: manifest)


def _checked_manifest(place: Path, verify: bool) -> dict[str, Any]:
    where, rest = place / MANIFEST, others(place)
    manifest = _read_json(where, rest)
    if manifest.get("kind") != KIND:
        raise InputError(f"{where} is not that of an index (kind {manifest.get('kind')!r:.40}).")
    if not isinstance(manifest.get("format"), int) or manifest["format"] > FORMAT:
        saved = manifest.get("versions")
        by = saved.get("metrixkit", "?") if isinstance(saved, dict) else "?"
        raise InputError(
            f"{where} has format {manifest.get('format')!r:.40}; this metrixkit reads up to {FORMAT}. It was "
            f"written by metrixkit {by}: update to that or later."
        )
    check_sum(manifest, str(where), rest)
    for name, known in manifest["files"].items():
        _check_file(place / name, known, verify, rest)
    return manifest


@contextmanager
def _held(place: Path) -> Iterator[bool]:
    """Keep writers from deleting a version, and tell whether it is there."""
    refuse_special(place / MANIFEST)
    try:
        file = (place / MANIFEST).open("rb")
    except (FileNotFoundError, NotADirectoryError):
        yield False
        return
    with file:
        _lock(file, exclusive=False)
        yield _is_at(file, place / MANIFEST)  # and not deleted while we waited


def _delete(place: Path) -> None:
    """Delete a version, unless somebody reads it; then a later save does."""
    with ExitStack() as stack:
        with suppress(FileNotFoundError):
            if not (place / MANIFEST).is_file():
                raise FileNotFoundError(place / MANIFEST)
            file = stack.enter_context((place / MANIFEST).open("rb"))
            if not _lock(file, exclusive=True):
                return
        # In one step, so that a kill leaves no half of a version under a version's name.
        gone = place.with_name(f"{UNFINISHED}old-{place.name}-{os.getpid()}-{time.time_ns()}")
        with suppress(OSError):
            os.rename(place, gone)
            shutil.rmtree(gone, ignore_errors=True)


def _lock(file: IO[bytes], exclusive: bool) -> bool:
    """Wait for a shared lock, or try for an exclusive one; False where another holds it.

    Where a file system has no locks every reader and writer goes on without: readers then try again.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB if exclusive else fcntl.LOCK_SH)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _is_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


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
    refuse_leading_out(folder, (folder / LOCK,))
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
    refuse_special(folder / CURRENT)
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
    """Remove what killed writers left: halves of versions and of files, and versions on their way out."""
    for path in [*folder.glob(f"{UNFINISHED}*"), *folder.glob(f".{CURRENT}-*")]:
        with suppress(OSError):
            if time.time() - path.stat().st_mtime <= ABANDONED:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


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


def others(place: Path) -> str:
    """Return what to do about a damaged version, for messages: which other one to load, if there is one."""
    rest = [v for v in versions(place.parent) if v != place.name]
    return f" Load version={rest[-1]!r} for the one before, or build it again." if rest else " Build it again."


def _read_json(path: Path, rest: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}).{rest}") from error
    files = found.get("files", {}) if isinstance(found, dict) else None
    if not isinstance(files, dict) or not all(
        isinstance(known, dict)
        and isinstance(known.get("bytes"), int)
        and isinstance(known.get("sha256"), str)
        and Path(name).name == name
        for name, known in files.items()
    ):
        raise InputError(f"{path} is no manifest.{rest}")
    return {"files": {}, **found}


def _number(version: str) -> int:
    return int(version[1:])


def _flush(path: Path) -> None:
    """Wait until a file is on the disk, so that a pointer to it never outlives it."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
