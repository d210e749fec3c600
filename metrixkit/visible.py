"""Text of others on a terminal: shown, and never obeyed.

Names of files, classes and settings may hold what a terminal takes for commands: colours, titles, a cursor that goes
back over what was written.
"""

from __future__ import annotations

import logging
import re

# C0 but newline and tab, DEL, C1, line and paragraph separators, what turns the direction of text, lone surrogates
# (bytes of a file name that are no UTF-8).
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: object) -> str:
    r"""Return a text in which every sign that commands a terminal is spelled: ``\x1b``, ``\u202e``."""
    return _COMMANDS.sub(_spelled, str(text))


def one_line(text: object) -> str:
    r"""Return :func:`visible` text without line breaks: a newline is ``\n``, a tab ``\t``. For cells of tables."""
    return visible(text).replace("\n", r"\n").replace("\t", r"\t")


def say(text: object = "") -> None:
    """Print a text for people, visible."""
    print(visible(text), flush=True)


class VisibleFormatter(logging.Formatter):
    """Log lines whose text cannot command the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return visible(super().format(record))


def _spelled(sign: re.Match[str]) -> str:
    code = ord(sign[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
