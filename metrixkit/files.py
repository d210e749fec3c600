"""Files that appear whole or not at all, and only where a file belongs.

All that this package writes goes through :func:`replacing`: a new file beside the old one, opened exclusively so that
no link planted under its name is followed, brought to the disk and then given the name in one step. A reader, also
after a kill, finds the old file or the new one. A device, a pipe or a folder is refused and stays what it is; a link
stays a link, and what it points to is replaced.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal

from metrixkit.errors import InputError

# What stands under this name is a file in the making, or what a killed process left of one.
UNFINISHED = ".part-"

_SPECIAL = {
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_ADVICE = {
    errno.ENOSPC: "make room, or choose another place",
    errno.EDQUOT: "make room within the quota, or choose another place",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or choose another place",
    errno.EROFS: "choose a place that can be written",
    errno.EACCES: "choose a place that can be written, or change its permissions",
    errno.EPERM: "choose a place that can be written, or change its permissions",
    errno.EMFILE: "raise the limit on open files (ulimit -n), or lower loader.workers",
    errno.ENFILE: "close other programmes: the machine has no more files to open",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "a part of the path is a file; choose another place",
    errno.EEXIST: "a part of the path is a file; choose another place",
    errno.ELOOP: "its links lead in a circle; choose another place",
    errno.EIO: "the disk or the network behind it fails; choose another place",
    errno.ESTALE: "the network folder went away; mount it again",
}


@contextmanager
def replacing(path: str | os.PathLike[str], option: str = "", durable: bool = True) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of `path` when the block ends; after an error the old one is as it was.

    Args:
        path: Its folder is made where it is missing. A link is followed and stays; permissions of an old file are kept.
        option: The option or setting that named the path, for messages (``"--out"``).
        durable: Wait until the content is on the disk. Without, a power failure may leave an empty file: for caches,
            which are made anew.

    Yields:
        The file, open to read and write bytes. Its ``name`` is a path with the suffix of `path`, for libraries that
        open their files themselves.

    Raises:
        InputError: `path` is a folder, a pipe, a socket or a device, or cannot be written (also: the disk is full).
    """
    target = file_target(path, option)
    part = target.with_name(f"{UNFINISHED}{secrets.token_hex(8)}{target.suffix[:16]}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "x+b", opener=_exclusively) as file:
            _keep_permissions(file, target)
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(part, target)
    except (OSError, RuntimeError, EOFError) as error:
        cause = _refusal_to_write(error)
        if cause is None:
            raise
        raise cannot_write(path, cause, option) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], content: bytes, option: str = "", durable: bool = True) -> Path:
    """Write a file whole or not at all, as :func:`replacing` does; return its path."""
    with replacing(path, option, durable) as file:
        file.write(content)
    return Path(path)


def write_text(
    path: str | os.PathLike[str],
    text: str,
    option: str = "",
    errors: Literal["surrogateescape", "backslashreplace", "replace"] = "surrogateescape",
) -> Path:
    """Write UTF-8, whole or not at all; return the path.

    Args:
        path: As for :func:`replacing`.
        text: What to write; line ends stay as they are.
        option: As for :func:`replacing`.
        errors: What becomes of names of files that are no UTF-8. By default their bytes are written as they are.
    """
    return write_bytes(path, text.encode("utf-8", errors), option)


def write_json(path: str | os.PathLike[str], content: Any, option: str = "") -> Path:
    """Write JSON, whole or not at all; return the path. Numbers of numpy and torch, and paths, are written as plain."""
    text = json.dumps(content, indent=2, ensure_ascii=False, default=_plain) + "\n"
    # A byte that is no UTF-8 becomes \udcXX: JSON reads it back as what it was.
    return write_text(path, text, option, errors="backslashreplace")


def check_file(path: str | os.PathLike[str], option: str = "") -> Path:
    """Refuse a place where no file can be written, before the work whose result goes there; return the path.

    The folder is made where it is missing.

    Raises:
        InputError: As :func:`replacing`.
    """
    target = file_target(path, option)
    probe = target.with_name(f"{UNFINISHED}{secrets.token_hex(8)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(probe, "xb", opener=_exclusively):
            pass
        probe.unlink()
    except OSError as error:
        raise cannot_write(path, error, option) from error
    return Path(path)


def check_folder(path: str | os.PathLike[str], option: str = "") -> Path:
    """Make a folder for results, or accept one that is there and can be written; return the path.

    Raises:
        InputError: A file, a pipe, a socket or a device stands there, or the folder cannot be made or written.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        kind = _SPECIAL.get(stat.S_IFMT(folder.stat().st_mode), "a file")
        raise InputError(f"{_named(option)}{path} is {kind}; expected a folder, or a name that is free.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error, option) from error
    check_file(folder / "probe", option)
    return folder


def file_target(path: str | os.PathLike[str], option: str = "") -> Path:
    """Return where a file called `path` is to be written: the path itself, or what it links to.

    Raises:
        InputError: No place for a file: a folder, a pipe, a socket, a device, links in a circle, or write-protected.
    """
    named = os.path.abspath(path)
    # /dev/stdout and the like: a link to whatever the shell opened, which a rename would cut off.
    if named.startswith(("/dev/", "/proc/", "/sys/")) and not named.startswith("/dev/shm/"):
        raise InputError(f"{_named(option)}{path} is no place for a file; name an ordinary file.")
    try:
        mode = os.stat(named).st_mode
    except FileNotFoundError:
        return Path(os.path.realpath(named))
    except (OSError, ValueError) as error:
        raise cannot_write(path, error, option) from error
    if stat.S_ISDIR(mode):
        raise InputError(f"{_named(option)}{path} is a folder; name a file that can be written.")
    if not stat.S_ISREG(mode):
        kind = _SPECIAL.get(stat.S_IFMT(mode), "no ordinary file")
        raise InputError(f"{_named(option)}{path} is {kind}, and would be replaced by a file; name an ordinary file.")
    if not os.access(named, os.W_OK):
        raise InputError(f"{_named(option)}{path} is write-protected; name another file, or allow writing to it.")
    return Path(os.path.realpath(named))


def refuse_overwriting(
    outputs: Iterable[tuple[str, str | os.PathLike[str] | None]],
    inputs: Iterable[str | os.PathLike[str] | None],
) -> None:
    """Refuse to write results over what they are made from, or two results into one file.

    Args:
        outputs: Options and the files that they name to be written; None where there is none.
        inputs: Files to be read, as they were typed: also ``E.npz#name`` and ``data.path=FILE``, and words that are no
            files.

    Raises:
        InputError: The message names option and file.
    """
    read = {_identity(part) for word in inputs if word for part in (word, *_paths_within(os.fspath(word)))}
    written: dict[object, str] = {}
    for option, path in outputs:
        if path is None:
            continue
        known = _identity(path)
        if known in read:
            raise InputError(f"{option}: {path} is read by this command, and would be lost; name another file.")
        if known in written:
            raise InputError(f"{option}: {path} is also where {written[known]} goes; name two files.")
        written[known] = option


def _paths_within(word: str) -> tuple[str, str]:
    return word.rpartition("#")[0], word.partition("=")[2]


def _identity(path: str | os.PathLike[str]) -> object:
    """Return what two names of one file have in common, also where one is a link; of no file, its place."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return os.path.realpath(path) if "\0" not in os.fspath(path) else path
    return found.st_dev, found.st_ino


def refuse_special(path: str | os.PathLike[str]) -> None:
    """Raise InputError for a pipe, a socket or a device, before it is opened: reading one may wait for ever."""
    try:
        kind = _SPECIAL.get(stat.S_IFMT(os.stat(path).st_mode))
    except (OSError, ValueError):
        return
    if kind is not None:
        raise InputError(f"{path} is {kind}; expected an ordinary file.")


def refuse_leading_out(folder: Path, files: Iterable[Path]) -> None:
    """Refuse a folder in which a file to be written is none of its own: a link that leads out of it, a pipe, a device.

    Such links come with folders that somebody else packed, and writing would change what they point to.

    Args:
        folder: The folder, which itself may be a link.
        files: Places in it; those where nothing stands are fine.

    Raises:
        InputError: The message names the file and what it points to.
    """
    home = os.path.realpath(folder)
    for path in files:
        refuse_special(path)
        target = os.path.realpath(path)
        if path.is_symlink() and os.path.commonpath([home, target]) != home:
            raise InputError(
                f"{path} is a link to {target}, outside of {folder}, and writing would change that file. Put a copy in "
                "the place of the link, or remove it."
            )


def cannot_write(path: str | os.PathLike[str], error: Exception, option: str = "") -> InputError:
    """Return the sentence for an `error` met while writing to `path`: why, that nothing was lost, and what to do."""
    known = error.errno if isinstance(error, OSError) else None
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    mend = "is the disk full? Make room" if known is None else _ADVICE.get(known, "choose another place")
    return InputError(f"{_named(option)}cannot write {path}: {reason}. What was there before is as it was; {mend}.")


def advice(error: OSError) -> str:
    """Return what can be done about an error of the operating system, or nothing where there is no general answer."""
    return _ADVICE.get(error.errno or 0, "")


def remove_unfinished(folder: Path) -> None:
    """Remove the halves of files that killed processes left in a folder which no other process writes to now."""
    for part in folder.glob(f"{UNFINISHED}*"):
        if not part.is_dir():
            part.unlink(missing_ok=True)


def _exclusively(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0), 0o666)


def _keep_permissions(file: BinaryIO, target: Path) -> None:
    """Give the new file the permissions, and where allowed the owner, of the one it replaces."""
    try:
        old = target.stat()
    except OSError:
        return
    new = os.fstat(file.fileno())
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        with suppress(OSError):
            os.fchown(file.fileno(), old.st_uid, old.st_gid)
    with suppress(OSError):
        os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode))


def _refusal_to_write(error: BaseException) -> Exception | None:
    """Return the operating system's refusal behind an error of a library that was writing; None for any other error.

    torch answers a full disk with a RuntimeError, numpy with an OSError that has no number.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and (seen.errno in _ADVICE or seen.errno is None):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def _named(option: str) -> str:
    return f"{option}: " if option else ""


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is no JSON")
