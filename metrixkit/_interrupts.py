"""Ctrl-C: one line, whatever was being imported when it came, and no traceback."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType, TracebackType
from typing import Self


def is_door() -> bool:
    """Return whether this process was started as ``python -m metrixkit...`` or ``metrixkit`` and is being set up."""
    first = sys.argv[0] if sys.argv else ""
    # Python keeps "-m" there until it has found the module, and the packages above it are imported meanwhile.
    started = first == "-m" and any(word.split(".")[0] == "metrixkit" for word in sys.orig_argv)
    return started or os.path.basename(first) == "metrixkit"


def leave_at_interrupts() -> None:
    """Until an :class:`Interrupts` is entered, end the process in one line. An ignored signal stays ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, b"\nmetrixkit: interrupted\n")
    os._exit(128 + number)


class Interrupts:
    """Raises KeyboardInterrupt, as Python does, and remembers it: some modules turn it into an error of their own while
    they are imported. The earlier handler returns on exit.

    Attributes:
        came: Whether there was an interrupt.
    """

    def __init__(self) -> None:
        self.came = False
        self._before: object = None

    def __enter__(self) -> Self:
        """Start listening, in the main thread, unless somebody else listens or the signal is ignored."""
        if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, _leave):
            try:
                self._before = signal.signal(signal.SIGINT, self._note)
            except ValueError:  # not the main thread
                self._before = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the earlier handler."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        raise KeyboardInterrupt
