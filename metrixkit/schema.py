"""From typed signatures to validated settings: what may stand under a key, what it must be, and what was meant.

A *family node* of a config is a mapping with a ``name``; the class of that name decides which other keys may stand
there, by the signature of its ``__init__``. So a setting that does not apply to the chosen class is an error.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metrixkit.errors import InputError, did_you_mean
from metrixkit.families import Kind, lookup, within_config
from metrixkit.seeds import check_seed

REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class Field:
    """One setting: its type and default (`REQUIRED` where there is none)."""

    annotation: Any
    default: Any = REQUIRED


@dataclass(frozen=True)
class Family:
    """Classes chosen by name under one key.

    Attributes:
        members: Name to class.
        kind: What they are; a mere word where nobody may add one of their own.
        provided: Parameters that the programme passes; no user sets them.
        default: The name taken when a config gives none, or None when it must.
    """

    members: Mapping[str, Any]
    kind: Kind | str
    provided: frozenset[str] = frozenset()
    default: str | None = None


def fields_of(cls: Callable[..., Any], hidden: frozenset[str] = frozenset()) -> dict[str, Field]:
    """Return the settings a class (or function) takes, in order, less those the programme provides.

    Args:
        cls: A class with a typed ``__init__``, a dataclass or a function.
        hidden: Names left out.
    """
    target = cls.__init__ if inspect.isclass(cls) else cls
    hints = typing.get_type_hints(target)
    found = {}
    for parameter in inspect.signature(cls).parameters.values():
        if parameter.name in hidden or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = parameter.default
        if dataclasses.is_dataclass(cls) and default is not REQUIRED:
            default = _dataclass_default(cls, parameter.name)
        found[parameter.name] = Field(hints.get(parameter.name, Any), default)
    return found


def _dataclass_default(cls: Any, name: str) -> Any:
    field = next(f for f in dataclasses.fields(cls) if f.name == name)
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def describe(annotation: Any) -> str:
    """Return a type as a user reads it: ``one of 'avg', 'max'``, ``a whole number or null``."""
    words = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        type(None): "null",
        Any: "anything",
    }
    if annotation in words:
        return words[annotation]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return "one of " + ", ".join(repr(a) for a in arguments)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(describe(a) for a in arguments)
    if origin in (list, tuple):
        return f"a list, each {describe(arguments[0])}" if arguments else "a list"
    if origin in (dict, Mapping) or annotation is dict:
        return "a mapping"
    if dataclasses.is_dataclass(annotation):
        return "settings"
    return "a name, or settings with a name" if inspect.isclass(annotation) else str(annotation)


def check_value(value: Any, annotation: Any, path: str) -> Any:
    """Return `value` as the type `annotation`, converted where nothing is lost (``3e-5`` is a number, 7 a text).

    Raises:
        InputError: It is not of that type; the message names the key's path and what was expected.
    """
    if dataclasses.is_dataclass(annotation):
        return check_mapping(value, fields_of(typing.cast(Any, annotation)), path)
    nested = [a for a in typing.get_args(annotation) if dataclasses.is_dataclass(a)]
    if nested and isinstance(value, Mapping):
        return check_value(value, nested[0], path)
    if annotation is bool and isinstance(value, int) and not isinstance(value, bool):
        raise InputError(f"{path}: expected true or false, got {value!r}.")
    if annotation is int and isinstance(value, bool):
        raise InputError(f"{path}: expected a whole number, got {value!r}.")
    if isinstance(value, str) and _takes_text(annotation, value):
        return value
    if _asks_elsewhere(value, annotation) or _nested_too_deep(value, annotation):
        raise InputError(f"{path}: expected {describe(annotation)}, got {value!r}.")
    try:
        holder = dataclasses.make_dataclass("Holder", [("value", annotation)])
        merged = OmegaConf.merge(OmegaConf.structured(holder), {"value": value})
        checked = OmegaConf.to_container(merged)["value"]  # type: ignore[call-overload, index]
    except (OmegaConfBaseException, TypeError) as error:
        near = did_you_mean(value, _choices(annotation)) if isinstance(value, str) and _choices(annotation) else ""
        raise InputError(f"{path}: expected {describe(annotation)}, got {value!r}.{near}") from error
    if path.rpartition(".")[2] == "seed" and isinstance(checked, int):
        check_seed(checked, path)
    return checked


def _nested_too_deep(value: Any, annotation: Any) -> bool:
    """Whether a list that is to hold plain values holds lists or mappings, which OmegaConf would let pass."""
    lists = [a for a in (annotation, *typing.get_args(annotation)) if typing.get_origin(a) in (list, tuple)]
    plain_values = bool(lists) and all({*typing.get_args(a)} <= {bool, int, float, str, ...} for a in lists)
    return plain_values and isinstance(value, list) and any(isinstance(v, list | Mapping) for v in value)


def _takes_text(annotation: Any, text: str) -> bool:
    """Whether a text stands for itself under `annotation`."""
    if annotation in (str, Any):
        return True
    if typing.get_origin(annotation) is typing.Literal:
        return text in typing.get_args(annotation)
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return any(_takes_text(a, text) for a in typing.get_args(annotation))
    return False


def _asks_elsewhere(value: Any, annotation: Any) -> bool:
    """Whether a value that is to be no text holds what OmegaConf takes for a reference, or for absent.

    It would accept either for any type, and answer the text itself.
    """
    if isinstance(value, str):
        return ("${" in value or value == "???") and not _takes_text(annotation, value)
    inner = [a for a in typing.get_args(annotation) if a is not type(None)] or [Any]
    if isinstance(value, Mapping):
        return any(_asks_elsewhere(v, inner[-1]) for v in value.values())
    if isinstance(value, list | tuple):
        return any(all(_asks_elsewhere(v, a) for a in inner) for v in value)
    return False


def _choices(annotation: Any) -> list[str]:
    if typing.get_origin(annotation) is typing.Literal:
        return [str(a) for a in typing.get_args(annotation)]
    return [c for a in typing.get_args(annotation) for c in _choices(a)]


def check_mapping(values: Any, fields: Mapping[str, Field], path: str, owner: str = "") -> dict[str, Any]:
    """Return `values` checked against `fields` and completed with defaults.

    Args:
        values: A mapping from the config.
        fields: What may stand in it.
        path: Where it stands, for messages ("loss").
        owner: The class whose settings these are ("loss 'contrastive'").

    Raises:
        InputError: An unknown key, a wrong type, or a required key that is absent.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{path}: expected settings (key: value), got {values!r}.")
    for key in values:
        if key not in fields:
            takes = f"{owner or path or 'the experiment'} takes {', '.join(fields) or 'no settings'}"
            raise InputError(f"{join(path, key)} is not a setting: {takes}.{_near(key, fields)}")
    done = {}
    for key, field in fields.items():
        if key in values:
            done[key] = check_value(values[key], field.annotation, join(path, key))
        elif field.default is REQUIRED:
            raise InputError(f"{join(path, key)} is missing: expected {describe(field.annotation)}.")
        else:
            done[key] = plain(field.default)
    return done


def _near(key: str, fields: Mapping[str, Field]) -> str:
    hint = did_you_mean(key, fields)
    return hint if hint.startswith(" Did") else ""


def join(path: str, key: Any) -> str:
    """Return the dotted path of `key` below `path`."""
    return f"{path}.{key}" if path else str(key)


def plain(value: Any) -> Any:
    """Return `value` as YAML can hold it: dataclasses as mappings, tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return dict(value) if isinstance(value, Mapping) else value


def check_node(values: Any, families: Mapping[str, Family], key: str, path: str) -> dict[str, Any]:
    """Return a family node checked and completed: ``name`` first, then that class's settings.

    A parameter whose own name is a key of `families` is a family node in turn (the `loss` inside ``metrix``).

    Args:
        values: A mapping with ``name``, or just the name as text.
        families: Key to family.
        key: Which family this node belongs to.
        path: Where the node stands.
    """
    family = families[key]
    if isinstance(values, str):
        values = {"name": values}
    if not isinstance(values, Mapping):
        raise InputError(f"{path}: expected the name of a {family.kind}, or settings with a name, got {values!r}.")
    name = values.get("name", family.default)
    if name is None:
        raise InputError(f"{path}.name is missing: which {family.kind}? Known: {', '.join(sorted(family.members))}.")
    cls = lookup(name, family.members, family.kind)
    rest = {k: v for k, v in values.items() if k != "name"}
    fields = fields_of(cls, hidden=family.provided)
    nested = [k for k, f in fields.items() if is_node(k, f, families)]
    owner = f"{family.kind} {name!r}"
    checked = check_mapping(
        {k: v for k, v in rest.items() if k not in nested},
        {k: f for k, f in fields.items() if k not in nested},
        path,
        owner,
    )
    for k in nested:
        if k not in rest and fields[k].default is REQUIRED:
            raise InputError(f"{join(path, k)} is missing: {owner} needs a {families[k].kind}.")
        if rest.get(k) is not None:
            checked[k] = check_node(rest[k], families, k, join(path, k))
    return {"name": str(name), **checked}


def is_node(key: str, field: Field, families: Mapping[str, Family]) -> bool:
    """Whether a parameter is a family node in turn, by its name."""
    # A parameter annotated as text, or as one of some words, only shares its name with a family.
    words = field.annotation is str or typing.get_origin(field.annotation) is typing.Literal
    return key in families and not words


def build_node(
    node: Mapping[str, Any], families: Mapping[str, Family], key: str, path: str, provided: Mapping[str, Any]
) -> Any:
    """Construct the object a checked family node describes.

    Args:
        node: What :func:`check_node` returned.
        families: Key to family.
        key: Which family.
        path: Where the node stands, for messages.
        provided: What the programme passes; each class gets those its signature names.
    """
    family = families[key]
    cls = lookup(node["name"], family.members, family.kind)
    arguments = {}
    for name, field in fields_of(cls, hidden=family.provided).items():
        if name not in node:
            continue
        value = node[name]
        arguments[name] = (
            build_node(value, families, name, join(path, name), provided)
            if is_node(name, field, families) and isinstance(value, Mapping)
            else instantiate(value, field.annotation)
        )
    wanted = inspect.signature(cls).parameters
    arguments.update({k: v for k, v in provided.items() if k in wanted and k not in arguments})
    try:
        with within_config():
            return cls(**arguments)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def instantiate(value: Any, annotation: Any) -> Any:
    """Return `value` as the dataclass that `annotation` names, or as it is."""
    for candidate in (annotation, *typing.get_args(annotation)):
        if dataclasses.is_dataclass(candidate) and isinstance(value, Mapping):
            hints = fields_of(typing.cast(Any, candidate))
            return typing.cast(Any, candidate)(**{k: instantiate(v, hints[k].annotation) for k, v in value.items()})
    return value


def build(cls: Callable[..., Any], values: Mapping[str, Any], path: str, **provided: Any) -> Any:
    """Check `values` against the signature of `cls` and construct it.

    Args:
        cls: A class with a typed ``__init__``.
        values: Settings by name.
        path: Where they stand, for messages.
        provided: What the programme passes beside them.

    Raises:
        InputError: An unknown or missing setting, or one of the wrong type.
    """
    fields = fields_of(cls, hidden=frozenset(provided))
    checked = check_mapping(values, fields, path, getattr(cls, "__name__", path))
    return cls(**{k: instantiate(v, fields[k].annotation) for k, v in checked.items()}, **provided)
