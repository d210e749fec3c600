"""Many threads may search at once; one that changes the index is alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from metrixkit.errors import InputError


class ReadersWriter:
    """A lock that any number of readers share, or one writer holds.

    A waiting writer goes before readers that come after it, so that searches without end do not keep a change waiting.
    A thread may read again while it reads or writes: a filter function may look at the index it filters.
    """

    def __init__(self) -> None:
        self._freed = threading.Condition()
        self._readers: dict[int, int] = {}  # how often each thread reads
        self._writer: int | None = None
        self._waiting = 0

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Share the lock."""
        me = threading.get_ident()
        with self._freed:
            if me not in self._readers and self._writer != me:
                while self._writer is not None or self._waiting:
                    self._freed.wait()
            self._readers[me] = self._readers.get(me, 0) + 1
        try:
            yield
        finally:
            with self._freed:
                self._readers[me] -= 1
                if not self._readers[me]:
                    del self._readers[me]
                    self._freed.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the lock alone.

        Raises:
            InputError: This thread reads or writes already: it would wait for itself.
        """
        me = threading.get_ident()
        with self._freed:
            if me in self._readers or self._writer == me:
                raise InputError(
                    "an index cannot be changed from within its own search or change (by a filter function?); change "
                    "it before or after."
                )
            self._waiting += 1
            try:
                while self._writer is not None or self._readers:
                    self._freed.wait()
                self._writer = me
            finally:
                self._waiting -= 1
                self._freed.notify_all()
        try:
            yield
        finally:
            with self._freed:
                self._writer = None
                self._freed.notify_all()
