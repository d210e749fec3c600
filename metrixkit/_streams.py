"""Standard output and standard error that are closed, full, or whose reader has left."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import TextIO

from metrixkit.visible import visible


def open_streams() -> None:
    """Give closed standard streams somewhere to go, and let them print every character."""
    if sys.stdout is None:  # started with `>&-`
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")  # names of files may be beyond the terminal's encoding


def flush_or_let_go(stream: TextIO) -> None:
    """Flush; where that is refused, let the rest go nowhere, or Python would complain at its end."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def say_error(words: str) -> None:
    """Print a line to standard error, if anybody listens."""
    with suppress(OSError, ValueError):
        print(visible(words), file=sys.stderr, flush=True)
