"""One process a run folder: a lock that ends with the process that holds it."""

from __future__ import annotations

import errno
import logging
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows: two trainings in one folder go unnoticed there
    fcntl = None  # type: ignore[assignment]

from metrixkit.errors import InputError

LOCK = ".lock"
_TAKEN = (errno.EACCES, errno.EAGAIN)

log = logging.getLogger(__name__)


class FolderLock:
    """The right to write into a run folder.

    It is a POSIX record lock on ``.lock``: the system releases it when the process ends, however it ends, and loader
    workers do not inherit it, so that a killed run can be continued at once. On network folders it holds between
    machines where the server keeps locks (NFS does); where a file system keeps none, a note is logged and nothing is
    guarded. The file stays, for removing it would let two processes hold locks on two files of one name.

    Args:
        folder: Exists and can be written.

    Raises:
        InputError: Another process holds it; the message says which and where.
    """

    def __init__(self, folder: Path) -> None:
        self._file: BinaryIO | None = None
        if fcntl is None:
            return
        path = folder / LOCK
        file = open(path, "r+b", opener=_made)  # noqa: SIM115
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = file.read(200).decode("utf-8", "replace").strip()
            file.close()
            if error.errno in _TAKEN:
                raise InputError(
                    f"{folder}: another training is writing into this folder ({holder or 'it does not say which'}). "
                    "Wait for it, stop it, or choose --run OTHER_FOLDER."
                ) from None
            log.warning("%s: this file system keeps no locks (%s); see that no second run writes here", folder, error)
            return
        self._file = file
        now = datetime.now(UTC).isoformat(timespec="seconds")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {now}\n".encode())
        file.flush()

    def release(self) -> None:
        """Let others write; done also by the end of the process."""
        if self._file is not None:
            self._file.close()
            self._file = None


def is_taken(folder: Path) -> bool:
    """Return whether another process holds the lock of a folder at this moment."""
    if not (folder / LOCK).is_file():
        return False
    try:
        FolderLock(folder).release()
    except InputError:
        return True
    return False


def _made(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0), 0o666)
