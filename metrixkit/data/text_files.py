"""Text files that people keep: in UTF-8, with or without a mark, or in UTF-16 with one; read line by line."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from metrixkit.errors import InputError

# The mark of UTF-32 begins with that of UTF-16, so it is looked for first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def text_lines(path: Path, newline: str | None = None) -> Iterator[str]:
    """Yield the lines of a text file with their ends.

    Args:
        path: The file.
        newline: As for :func:`open`; "" leaves line ends as they are.

    Raises:
        InputError: It is absent or cannot be read, is not the Unicode text it says it is, or holds a NUL; the message
            names the line.
    """
    encoding = "utf-8"
    try:
        with path.open("rb") as file:
            start = file.read(4)
        encoding = next((name for mark, name in _MARKS if start.startswith(mark)), "utf-8")
        with path.open(encoding=encoding, newline=newline) as lines:
            for number, line in enumerate(lines, start=1):
                if "\0" in line:
                    raise InputError(
                        f"{path}, line {number}: holds NUL characters. Is it UTF-16 without a byte order mark, or no "
                        "text at all? Save it as UTF-8."
                    )
                yield line
    except FileNotFoundError:
        raise InputError(f"{path} does not exist (looked at {path.absolute()}).") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}{_line_of(path, encoding)}: not text in {encoding.upper().removesuffix('-SIG')} ({error.reason}). "
            "Save it as UTF-8 (in Excel: CSV UTF-8)."
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error


def listed_lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not blank, stripped.

    Raises:
        InputError: As :func:`text_lines`.
    """
    return [line.strip() for line in text_lines(path) if line.strip()]


def _line_of(path: Path, encoding: str) -> str:
    """Return ", line N" for the first line that is no UTF-8, whose newlines are single bytes."""
    if encoding not in ("utf-8", "utf-8-sig"):
        return ""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return f", line {number} (byte {error.object[error.start]:#04x})"
    return ""
