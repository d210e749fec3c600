"""Look up a member of a family by name.

A family is one plain dict from name to class in the ``__init__.py`` of its room. Wherever a name of a family stands,
``package.module:Name`` names a class of one's own instead; it is imported from the working directory or the
environment.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from typing import TypeVar

from metrixkit.errors import InputError, did_you_mean

T = TypeVar("T")


def lookup(name: str, family: Mapping[str, T], kind: str) -> T:
    """Return the member of `family` called `name`, or the object that ``package.module:Name`` points to.

    Args:
        name: A key of `family`, or ``package.module:Name``.
        family: Name to class.
        kind: What the family holds, for messages ("loss", "data set").

    Raises:
        InputError: Nothing goes by that name; the message holds the near names.
    """
    if name in family:
        return family[name]
    if ":" not in str(name):
        raise InputError(
            f"no {kind} is called {name!r}.{did_you_mean(name, family)} A class of your own is named "
            "'package.module:Name'."
        )
    module_name, _, attribute = name.partition(":")
    # A console script does not put the working directory on the path, `python -m` does; both shall find own classes.
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{kind} {name!r}: cannot import {module_name!r} ({error}). Looked from {os.getcwd()}; is the file there, "
            "or its package installed?"
        ) from error
    if not hasattr(module, attribute):
        raise InputError(
            f"{kind} {name!r}: module {module_name!r} has no {attribute!r}.{did_you_mean(attribute, vars(module))}"
        )
    return getattr(module, attribute)  # type: ignore[no-any-return]
