"""What the manifest of an index says, checked value by value: a folder may come from anywhere."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, NamedTuple, get_args

from metrixkit.errors import InputError
from metrixkit.retrieval.exact.rows import Distance, check_distance
from metrixkit.retrieval.index.factory import Factory, parse_factory
from metrixkit.retrieval.index.threshold import Threshold

CHECKSUM = "checksum"


class Manifest(NamedTuple):
    """The values of a manifest that loading needs; see ``docs/index.md``."""

    metric: str
    factory: Factory
    parameters: dict[str, int]
    dim: int
    vectors: int
    tombstones: int
    model_fingerprint: str | None
    threshold: Threshold | None
    seed: int
    train_size: int
    created: str
    notes: dict[str, Any]


def checksum(manifest: Mapping[str, Any]) -> str:
    """Return the sha256 of a manifest's values, of its ``checksum`` apart, however they are laid out."""
    values = {name: value for name, value in manifest.items() if name != CHECKSUM}
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def check_sum(manifest: Mapping[str, Any], where: str, others: str) -> None:
    """Raise InputError where a manifest has a checksum and it is another; those of older versions have none."""
    if CHECKSUM in manifest and manifest[CHECKSUM] != checksum(manifest):
        raise InputError(
            f"{where} is not as it was written: its checksum differs.{others} (Edited on purpose? `metrixkit index "
            'tune DIR --set` changes parameters; without the line "checksum" the file is taken as it is.)'
        )


def read_values(manifest: Mapping[str, Any], where: str, others: str) -> Manifest:
    """Return the values of a manifest.

    Args:
        manifest: As JSON has it.
        where: The file, for messages.
        others: What to do about a bad one, for messages.

    Raises:
        InputError: A value is missing, of another type, or cannot be; the message names it.
    """

    def value(name: str, fits: Callable[[Any], bool], expected: str) -> Any:
        found = manifest.get(name)
        if name not in manifest or not fits(found):
            told = f"{name} is {found!r:.60}" if name in manifest else f"{name} is missing"
            raise InputError(f"{where} is not as metrixkit writes it: {told}, expected {expected}.{others}")
        return found

    def number(name: str, least: int) -> int:
        return int(value(name, lambda found: _whole(found) and found >= least, f"a whole number of at least {least}"))

    metric = value("metric", _text, f"one of {', '.join(get_args(Distance))}")
    check_distance(metric)
    dim, vectors, count, dead = number("dim", 1), number("vectors", 0), number("count", 0), number("tombstones", 0)
    if count + dead != vectors:
        raise InputError(
            f"{where} is not as metrixkit writes it: {count} items and {dead} tombstones are not {vectors} "
            f"vectors.{others}"
        )
    parameters = value("parameters", _parameters, "names with whole numbers of at least 1")
    notes = value("notes", lambda found: isinstance(found, dict), "a mapping")
    threshold = value("threshold", _threshold, "null, or the values of a threshold")
    try:
        factory = parse_factory(value("factory", _text, "the kind of index"), dim, None)
    except InputError as error:
        raise InputError(f"{where}: {error}{others}") from error
    return Manifest(
        metric,
        factory,
        dict(parameters),
        dim,
        vectors,
        dead,
        value("model_fingerprint", lambda found: found is None or _text(found), "null or text"),
        None if threshold is None else Threshold(**threshold),
        number("seed", -(2**63)),
        number("train_size", 0),
        value("created", _text, "a time"),
        dict(notes),
    )


def _text(found: Any) -> bool:
    return isinstance(found, str)


def _whole(found: Any) -> bool:
    return isinstance(found, int) and not isinstance(found, bool)


def _parameters(found: Any) -> bool:
    return isinstance(found, dict) and all(_whole(number) and 1 <= number < 2**31 for number in found.values())


def _threshold(found: Any) -> bool:
    if found is None:
        return True
    if not isinstance(found, dict):
        return False
    kinds = {field.name: str(field.type) for field in fields(Threshold)}
    return {"value", "false_match_rate", "source", "impostors", "measured_false_match_rate"} <= found.keys() and all(
        name in kinds and _is(number, kinds[name]) for name, number in found.items()
    )


def _is(found: Any, kind: str) -> bool:
    """Tell whether a JSON value is of a kind as annotations write it: "float", "int | None", "str"."""
    if found is None:
        return kind.endswith("None")
    if kind.startswith("str"):
        return _text(found)
    return _whole(found) or (kind.startswith("float") and isinstance(found, float) and math.isfinite(found))
