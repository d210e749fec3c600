"""Look up a member of a family by name, and decide who may name code.

A family is one plain dict from name to class in the ``__init__.py`` of its room. ``package.module:Name`` names a class
of one's own instead; it is imported from the working directory or the environment, and must be of the family's kind
before it is called.

Importing is running, so the name must come from a person: from the config they start, from their command line, or from
their own Python code. What a run folder, a model folder or an index says is data. Whoever reads such a folder enters
:func:`allow_code` with what may be imported meanwhile, which is nothing unless the person trusts the folder.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import os
import sys
import sysconfig
import traceback
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from metrixkit.errors import InputError, did_you_mean

T = TypeVar("T")


@dataclass(frozen=True)
class Kind:
    """What a family holds.

    Attributes:
        word: For messages ("loss", "data set").
        expected: What a class of one's own must be, to follow "is no" ("nn.Module class").
        fits: Whether an object is that; asked before it is called.
    """

    word: str
    expected: str
    fits: Callable[[Any], bool]

    def __str__(self) -> str:
        return self.word


ANY = frozenset({"*"})
"""For :func:`allow_code`: whatever is named comes from the person."""

# None: no folder and no config is being read, so that a constructor was called by the person's own code.
_allowed: ContextVar[frozenset[str] | None] = ContextVar("metrixkit_allowed_code", default=None)
_trusting: ContextVar[bool] = ContextVar("metrixkit_trusts_folders", default=False)


@contextlib.contextmanager
def allow_code(names: Iterable[str]) -> Iterator[None]:
    """Within this context only the classes called `names`, as ``package.module:Name``, are imported; :data:`ANY`, all.

    Contexts do not add up: the innermost one decides, so that a folder that is read while a person's config is at work
    is a folder still.
    """
    token = _allowed.set(frozenset(names))
    try:
        yield
    finally:
        _allowed.reset(token)


@contextlib.contextmanager
def within_config() -> Iterator[None]:
    """Within this context constructors get what a config says: nothing is imported that :func:`allow_code` forbids."""
    with allow_code(_allowed.get() or ()):
        yield


@contextlib.contextmanager
def trust_folders(trust: bool = True) -> Iterator[None]:
    """Within this context the run and model folders that are read may name code: ``--trust`` of the commands."""
    token = _trusting.set(trust)
    try:
        yield
    finally:
        _trusting.reset(token)


def folders_trusted(trust: bool = False) -> bool:
    """Whether a folder may name code: its reader was told so, or the command was (:func:`trust_folders`)."""
    return trust or _trusting.get()


def names_in_folder(content: Any, trust: bool = False) -> frozenset[str]:
    """Return what may be imported for settings read from a folder: what they name where it is trusted, else nothing."""
    return names_in(content) if folders_trusted(trust) else frozenset()


def names_in(content: Any) -> frozenset[str]:
    """Return every text in a nested mapping or list that has the form ``package.module:Name``."""
    if isinstance(content, str):
        return frozenset({content}) if _parts(content) else frozenset()
    inner = content.values() if isinstance(content, Mapping) else content
    if not isinstance(inner, Iterable):
        return frozenset()
    return frozenset(name for value in inner for name in names_in(value))


def lookup(name: Any, family: Mapping[str, T], kind: Kind | str, by_caller: bool = False) -> T:
    """Return the member of `family` called `name`, or the object that ``package.module:Name`` points to.

    Args:
        name: A key of `family`, or ``package.module:Name``.
        family: Name to class.
        kind: What the family holds. A mere word: it holds no class of one's own.
        by_caller: The name is an argument that the caller's own code gives, unless :func:`allow_code` says otherwise.

    Raises:
        InputError: Nothing goes by that name, and the message holds the near names; code that no person has named; or
            an object of another kind.
    """
    if not isinstance(name, str):
        raise InputError(f"{name!r} is no name of a {kind}: expected text.{did_you_mean('', family)}")
    if name in family:
        return family[name]
    parts = _parts(name)
    if parts is None or not isinstance(kind, Kind):
        own = " A class of your own is named 'package.module:Name'." if isinstance(kind, Kind) else ""
        raise InputError(f"no {kind} is called {name!r}.{did_you_mean(name, family)}{own}")
    allowed = _allowed.get()
    if not (by_caller if allowed is None else allowed == ANY or name in allowed):
        raise InputError(
            f"{kind} {name!r} is code of the module {parts[0]!r}, and a saved file names it, not you: run, model and "
            "index folders are data, nothing is imported on their word. If you know that code and want it to run, say "
            "--trust (in Python trust=True)."
        )
    found = _imported(name, *parts, kind)
    if not kind.fits(found):
        raise InputError(f"{kind} {name!r} is no {kind.expected} (it is a {_told(found)}), so it is not called.")
    return typing.cast(T, found)


def _parts(name: str) -> tuple[str, str] | None:
    """Return module and attribute of ``package.module:Name``, None for any other text."""
    module, colon, attribute = name.partition(":")
    words = [*module.split("."), attribute]
    return (module, attribute) if colon and all(word.isidentifier() for word in words) else None


def _imported(name: str, module_name: str, attribute: str, kind: Kind) -> Any:
    # A console script does not put the working directory on the path, `python -m` does; both shall find own classes.
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    if _is_standard(module_name.partition(".")[0]):
        raise InputError(f"{kind} {name!r}: {module_name!r} is of Python's own library, which holds no {kind}.")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{kind} {name!r}: cannot import {module_name!r} ({error}). Looked from {os.getcwd()}; is the file there, "
            "or its package installed?"
        ) from error
    except Exception as error:  # whatever the module does when it is imported
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise InputError(
            f"{kind} {name!r}: importing {module_name!r} failed with {type(error).__name__}: {error} "
            f"({last.filename}, line {last.lineno})."
        ) from error
    if not hasattr(module, attribute):
        known = (word for word in vars(module) if not word.startswith("_"))
        raise InputError(
            f"{kind} {name!r}: module {module_name!r} has no {attribute!r}.{did_you_mean(attribute, known)}"
        )
    return getattr(module, attribute)


def _is_standard(top: str) -> bool:
    """Whether a top-level module is one of Python's own, and not a file of that name in the working directory."""
    if top == "__main__":
        return False
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return False
    if spec is None or spec.origin is None:
        return False
    if spec.origin in ("built-in", "frozen"):
        return True
    own = Path(sysconfig.get_path("stdlib"))
    place = Path(spec.origin)
    return place.is_relative_to(own) and not {"site-packages", "dist-packages"} & set(place.relative_to(own).parts)


def _told(found: Any) -> str:
    if inspect.isclass(found):
        return f"class with the bases {', '.join(base.__name__ for base in found.__mro__[1:])}"
    return type(found).__name__


def class_of(*bases: type) -> Callable[[Any], bool]:
    """Return what tells subclasses of any of `bases`."""
    return lambda found: inspect.isclass(found) and issubclass(found, bases)


def maker_of(*bases: type) -> Callable[[Any], bool]:
    """Return what tells subclasses of `bases`, and functions that are annotated to return an instance of one."""
    return lambda found: class_of(*bases)(found) or class_of(*bases)(returned_by(found))


def class_with(*methods: str) -> Callable[[Any], bool]:
    """Return what tells classes that have all of `methods`."""
    return lambda found: inspect.isclass(found) and all(callable(getattr(found, name, None)) for name in methods)


def returned_by(function: Any) -> Any:
    """Return what a Python function is annotated to return, None where it is not annotated or is none."""
    if not inspect.isfunction(function):
        return None
    try:
        return typing.get_type_hints(function).get("return")
    except (NameError, TypeError, AttributeError):
        return None
