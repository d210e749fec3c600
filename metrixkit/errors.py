"""The one error for what a user can mend, and the search for the name they meant."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

_MANY = 2_000


class InputError(ValueError):
    """Bad input: says what was wrong, where, what was expected and how to mend it.

    Doors print it without a traceback and exit with status 2; everything else that escapes is a bug.
    """


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the option nearest to `name`, else the list of options.

    The sentence starts with a blank so that it can be appended to any message.
    """
    names = sorted({str(option) for option in options})
    return near_name(name, names) or (f" Known: {listed(names)}." if names else "")


def near_name(name: str, options: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the options nearest to `name`, "" where none is near.

    An option that is the same name in another Unicode form (a decomposed one, as Macs write file names) is said to be
    so: on the screen the two look alike.
    """
    name, names = str(name), [str(option) for option in options]
    twin = same_name(name, names)
    if twin is not None:
        return f" It is there in another Unicode form: {twin!a} and not {name!a} (NFC against NFD)."
    if len(names) > _MANY:  # a comparison takes 0.1 ms
        names = [other for other in names if other[:1] == name[:1] and abs(len(other) - len(name)) < 3][:_MANY]
    near = difflib.get_close_matches(name, names, n=2, cutoff=0.6)
    return " Did you mean " + " or ".join(repr(n) for n in near) + "?" if near else ""


def same_name(name: str, options: Iterable[str]) -> str | None:
    """Return the option that is `name` in another Unicode form (NFC, NFD), or None."""
    if name.isascii():
        return None
    plain = unicodedata.normalize("NFC", name)
    return next(
        (other for other in options if other != name and unicodedata.normalize("NFC", other) == plain),
        None,
    )


def listed(names: Iterable[str], most: int = 40) -> str:
    """Return names joined by commas; of more than `most`, the first and how many more there are."""
    known = list(names)
    more = f" and {len(known) - most:,} more" if len(known) > most else ""
    return ", ".join(known[:most]) + more
