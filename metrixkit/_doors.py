"""What every door shares: what goes wrong is answered in one line and a fitting exit status, notes of the library reach
the terminal, folders of others are data unless ``--trust`` says otherwise, and freed memory stays with the process.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Callable

from metrixkit._failures import INTERRUPTED, failure
from metrixkit._interrupts import Interrupts
from metrixkit._memory import keep_freed_memory
from metrixkit._streams import flush_or_let_go, open_streams, say_error
from metrixkit.families import trust_folders
from metrixkit.visible import VisibleFormatter, visible


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add ``--trust`` to a door that reads folders which somebody else may have made."""
    parser.add_argument(
        "--trust",
        action="store_true",
        help="import and run the classes (package.module:Name) that a run, model or index folder names; without it "
        "such a folder is data, whoever made it",
    )


def run(verb: str, parse: Callable[[], argparse.Namespace], work: Callable[[argparse.Namespace], int]) -> int:
    """Read a door's arguments and do its work, as :func:`guarded`.

    Args:
        verb: The door's name.
        parse: Returns the options; where they have ``trust``, it says whether the folders that are read may name code.
        work: Given the options, returns the exit status.
    """

    def parsed() -> int:
        options = parse()
        with trust_folders(bool(vars(options).get("trust"))):
            return work(options)

    return guarded(verb, parsed)


def _note(message: Warning | str, *_: object, **__: object) -> str:
    """Return a warning as a line for people, without the place in the code and the line that stands there."""
    return f"note: {visible(str(message))}\n"


def guarded(verb: str, work: Callable[[], int]) -> int:
    """Do a door's work; answer what goes wrong without a traceback.

    Args:
        verb: The door's name, which the message starts with.
        work: Returns the exit status.

    Returns:
        The exit status: 2 for bad input and for what the machine refuses (disk full, no permission, no memory), 130 for
        an interrupt, 141 where the reader of standard output has left.
    """
    open_streams()
    log = logging.StreamHandler()
    log.setFormatter(VisibleFormatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[log])
    keep_freed_memory()
    interrupts = Interrupts()
    usual, warnings.formatwarning = warnings.formatwarning, _note
    try:
        with interrupts:
            status = work()
        sys.stdout.flush()  # here and not when Python ends, where a refusal would go unanswered
    except BaseException as error:
        answer = failure(error, interrupts.came)
        if answer is None:
            raise
        if answer.words:
            below = "\n" if answer.status == INTERRUPTED else ""  # the ^C that a terminal shows
            say_error(f"{below}metrixkit {verb}: {answer.words}")
        return answer.status
    else:
        return status
    finally:
        warnings.formatwarning = usual
        flush_or_let_go(sys.stdout)
        flush_or_let_go(sys.stderr)
