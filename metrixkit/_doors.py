"""What every door shares: bad input is answered in one line with status 2, notes of the library reach the terminal, and
freed memory stays with the process.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from metrixkit._memory import keep_freed_memory
from metrixkit.errors import InputError


def guarded(verb: str, work: Callable[[], int]) -> int:
    """Run a door's work; print an :class:`InputError` without a traceback.

    Args:
        verb: The door's name, which the message starts with.
        work: Returns the exit status.

    Returns:
        The exit status; 2 for bad input, 130 for an interrupt.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    keep_freed_memory()
    try:
        return work()
    except InputError as error:
        print(f"metrixkit {verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nmetrixkit {verb}: interrupted", file=sys.stderr)
        return 130
