"""What every door shares: bad input is answered in one line with status 2, notes of the library reach the terminal, and
freed memory stays with the process.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable

from metrixkit._memory import keep_freed_memory
from metrixkit.errors import InputError
from metrixkit.families import trust_folders


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add ``--trust`` to a door that reads folders which somebody else may have made."""
    parser.add_argument(
        "--trust",
        action="store_true",
        help="import and run the classes (package.module:Name) that a run, model or index folder names; without it "
        "such a folder is data, whoever made it",
    )


def guarded(verb: str, work: Callable[[], int], trust: bool = False) -> int:
    """Run a door's work; print an :class:`InputError` without a traceback.

    Args:
        verb: The door's name, which the message starts with.
        work: Returns the exit status.
        trust: What ``--trust`` says: whether the folders that are read may name code.

    Returns:
        The exit status; 2 for bad input, 130 for an interrupt.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    keep_freed_memory()
    try:
        with trust_folders(trust):
            return work()
    except InputError as error:
        print(f"metrixkit {verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nmetrixkit {verb}: interrupted", file=sys.stderr)
        return 130
