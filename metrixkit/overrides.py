"""``key=value`` words: which setting of the schema a key means, and what the characters behind the ``=`` say for it.

For a setting that is text the characters are the value: ``data.root='my photos #1'``, ``007``, ``no``, ``[a`` and ``~``
are not what YAML would make of them. Everything else is read as YAML.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from metrixkit.errors import InputError
from metrixkit.families import lookup
from metrixkit.schema import Family, fields_of, is_node

# One scalar in quotes, as YAML writes it: the way to give blanks at the ends, nothing at all, or the word null.
_QUOTED = re.compile(r""" "(?:[^"\\]|\\.)*" | '(?:[^']|'')*' """, re.VERBOSE | re.DOTALL)


def read_value(text: str, annotations: Sequence[Any]) -> Any:
    """Return what the text behind ``=`` says for a setting.

    A text setting takes the characters as typed. Quotes around the whole of them are YAML's and go; ``null`` and
    nothing at all are None where the setting may be None, and nothing is None for every setting. Lists and mappings of
    texts hold their cells as typed. Other settings are read as YAML, and a word for a setting that nobody knows yet (of
    a class of one's own) stays whole.

    Args:
        text: What was typed.
        annotations: The types that the setting may have, more than one where its class is not known yet; none where
            there is no such setting.

    Raises:
        ValueError: It is no YAML where it has to be.
    """
    if not text.strip():
        return None
    stripped, parts = text.strip(), [part for annotation in annotations for part in _options(annotation)]
    if parts and all(_is_text(part) or _holds_texts(part) for part in parts):
        if stripped == "null" and any(type(None) in typing.get_args(annotation) for annotation in annotations):
            return None
        if not all(map(_is_text, parts)) and (stripped[0] in "[{" or not any(map(_is_text, parts))):
            return yaml.load(text, Loader=yaml.BaseLoader)
        return _yaml(text) if _QUOTED.fullmatch(stripped) else text
    found = _yaml(text)
    shortened = not annotations and isinstance(found, str) and not _QUOTED.fullmatch(stripped)
    return text if shortened else found


def annotations_of(
    key: Sequence[str], node: Mapping[str, Any], sections: Mapping[str, Sequence[Any]], families: Mapping[str, Family]
) -> list[Any]:
    """Return the types that the setting of a dotted key may have.

    Args:
        key: The parts of the key.
        node: The config so far, whose names choose the classes. Where none is named, and the family has no default,
            every class of the family counts.
        sections: Top-level key to the types that it may have.
        families: Top-level key to family.
    """
    first, rest = key[0], key[1:]
    if first in families:
        return _in_family(families[first], first, rest, node.get(first), families)
    return [found for annotation in sections.get(first, ()) for found in _within(annotation, rest)]


def _in_family(family: Family, key: str, rest: Sequence[str], node: Any, families: Mapping[str, Family]) -> list[Any]:
    """Return the types of the setting `rest` of a family node."""
    if not rest:
        return []  # a name, or settings with a name
    if list(rest) == ["name"]:
        return [str]
    name = node.get("name", family.default) if isinstance(node, Mapping) else node or family.default
    found: list[Any] = []
    for cls in _classes(name, family):
        field = fields_of(cls, hidden=family.provided).get(rest[0])
        if field is None:
            continue
        if is_node(rest[0], field, families):
            inner = node.get(rest[0]) if isinstance(node, Mapping) else None
            found += _in_family(families[rest[0]], rest[0], rest[1:], inner, families)
        else:
            found += _within(field.annotation, rest[1:])
    return found


def _classes(name: Any, family: Family) -> Iterable[Any]:
    if name is None:
        return family.members.values()
    try:
        return [lookup(name, family.members, family.kind)]
    except InputError:
        return []  # said when the config is resolved


def _within(annotation: Any, rest: Sequence[str]) -> list[Any]:
    """Return the types of the setting `rest` below one of type `annotation`."""
    if not rest:
        return [annotation]
    for part in (annotation, *typing.get_args(annotation)):
        if dataclasses.is_dataclass(part):
            field = fields_of(typing.cast(Any, part)).get(rest[0])
            return [] if field is None else _within(field.annotation, rest[1:])
        if typing.get_origin(part) in (dict, Mapping):
            return _within(typing.get_args(part)[1], rest[1:])
    return []


def _options(annotation: Any) -> list[Any]:
    """Return the types of a union less None, or the one type."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return [part for part in typing.get_args(annotation) if part is not type(None)]
    return [annotation]


def _is_text(part: Any) -> bool:
    """Whether a type is text: any, a path, or one of some words."""
    words = typing.get_args(part) if typing.get_origin(part) is typing.Literal else ()
    return part in (str, Path) or (bool(words) and all(isinstance(word, str) for word in words))


def _holds_texts(part: Any) -> bool:
    """Whether a type is a list or a mapping of texts."""
    inner = [a for a in typing.get_args(part) if a is not Ellipsis]
    return typing.get_origin(part) in (list, tuple, Sequence, dict, Mapping) and all(map(_is_text, inner))


def _yaml(text: str) -> Any:
    # OmegaConf's YAML knows that 3e-5 is a number; PyYAML's does not.
    found = OmegaConf.to_container(OmegaConf.create(f"value: {text}"))
    return typing.cast(dict[Any, Any], found)["value"]
