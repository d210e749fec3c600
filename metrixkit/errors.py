"""The one error for what a user can mend, and the search for the name they meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input: says what was wrong, where, what was expected and how to mend it.

    Doors print it without a traceback and exit with status 2; everything else that escapes is a bug.
    """


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the option nearest to `name`, else the list of options.

    The sentence starts with a blank so that it can be appended to any message.
    """
    names = sorted(str(option) for option in options)
    near = difflib.get_close_matches(str(name), names, n=2, cutoff=0.6)
    if near:
        return " Did you mean " + " or ".join(repr(n) for n in near) + "?"
    return f" Known: {', '.join(names)}." if names else ""
