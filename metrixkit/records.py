"""Finished runs as they lie on disk: finding them, reading them, naming them by what differs."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metrixkit import config as configs
from metrixkit.errors import InputError
from metrixkit.families import allow_code
from metrixkit.foreign import read_json, read_yaml
from metrixkit.training.run import FREE_ON_RESUME, RunFolder, loaded_alike

# A run is the same run with another seed, on another machine, or with other housekeeping.
APART = ("seed", "data.root", *FREE_ON_RESUME)
ABSENT = object()


@dataclass(frozen=True)
class Record:
    """A finished run.

    Attributes:
        folder: Where it lies.
        config: Its settings, less those that do not tell methods apart (seed, data.root, workers, logging).
        seed: Its seed.
        results: What ``results.json`` holds.
        distance: Similarity it was evaluated with.
    """

    folder: Path
    config: Mapping[str, Any]
    seed: int
    results: Mapping[str, Any]
    distance: str

    def metrics(self, key: str = "metrics") -> dict[str, float]:
        """Return the numbers under ``metrics``, ``before`` or ``last``."""
        found = self.results.get(key)
        found = found if isinstance(found, Mapping) else {}
        return {name: float(v) for name, v in found.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def find_runs(places: Sequence[str | Path]) -> list[Path]:
    """Return run folders: the places that are runs, and all runs below those that are not, each once.

    A place that does not exist is returned as it is, so that it is told of, not forgotten.

    Raises:
        InputError: A folder without any run in it, or a file.
    """
    found: dict[Path, Path] = {}
    for place in map(Path, places):
        below = [place] if not place.exists() else list(_below(place)) if place.is_dir() else []
        if not below:
            raise InputError(f"{place} is no run folder and holds none.")
        for folder in below:
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def _is_run(folder: Path) -> bool:
    run = RunFolder(folder)
    return run.results.is_file() or run.checkpoints.is_dir() or (folder / "config.yaml").is_file()


def _below(folder: Path) -> Iterator[Path]:
    if _is_run(folder):
        yield folder
        return
    for child in sorted((c for c in folder.iterdir() if c.is_dir()), key=lambda c: _natural(c.name)):
        yield from _below(child)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that puts seed=2 before seed=10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def read_record(folder: Path) -> Record | str:
    """Return a finished run, or why it is none.

    Raises:
        InputError: A file that cannot be read.
    """
    run, saved = RunFolder(folder), folder / "config.yaml"
    if not folder.is_dir():
        return "no such folder"
    if not run.results.is_file():
        return "unfinished" if (run.checkpoints / "last.pt").is_file() else "not trained yet"
    if not saved.is_file():
        return "its config.yaml is missing"
    results, config = read_json(run.results), read_yaml(saved)
    # Settings that came with a later version stand at their defaults. A config of another version, or with a class
    # of its own, is compared as it stands: comparing imports nothing.
    with contextlib.suppress(InputError), allow_code(()):
        config = configs.resolve(config)
    evaluation, seed = config.get("evaluation"), config.get("seed", 0)
    distance = evaluation.get("distance", "cosine") if isinstance(evaluation, Mapping) else "cosine"
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise InputError(f"{saved}: seed is {seed!r}; expected a whole number.")
    config = loaded_alike(config)
    return Record(folder, without(config, APART), seed, results, str(distance))


def without(node: Mapping[str, Any], hidden: tuple[str, ...], path: str = "") -> dict[str, Any]:
    """Return a nested mapping without the dotted keys that start with one of `hidden`."""
    left = {}
    for key, value in node.items():
        here = f"{path}{key}"
        if here in hidden or any(here.startswith(h) for h in hidden if h.endswith(".")):
            continue
        left[key] = without(value, hidden, f"{here}.") if isinstance(value, Mapping) else value
    return left


def group(records: Sequence[Record]) -> list[list[Record]]:
    """Return the records that differ in nothing but what :data:`APART` names, side by side, in order of appearance."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(json.dumps(record.config, sort_keys=True, default=str), []).append(record)
    return list(groups.values())


def labels(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one name for each of several configs, of the keys alone in which they differ.

    Where a family node names different classes the class is the name, and its settings appear only if they differ
    among the configs with that class.
    """
    return [" ".join(parts) for parts in changes(settings)]


def changes(settings: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return for each of several configs the settings in which they differ, as ``key=value``; :func:`labels` joins
    them.
    """
    return _differences(list(settings), "")


def _differences(values: list[Any], path: str) -> list[list[str]]:
    parts: list[list[str]] = [[] for _ in values]
    if all(value == values[0] for value in values):
        return parts
    kinds = [_kind(value) for value in values]
    if len(set(kinds)) > 1:
        for part, kind in zip(parts, kinds, strict=True):
            part.append(f"{path}={kind}")
    for kind in dict.fromkeys(kinds):
        same = [i for i, value in enumerate(values) if kinds[i] == kind and isinstance(value, Mapping)]
        for key in dict.fromkeys(key for i in same for key in values[i]):
            inner = _differences([values[i].get(key, ABSENT) for i in same], f"{path}.{key}" if path else key)
            for i, words in zip(same, inner, strict=True):
                parts[i] += words
    return parts


def _kind(value: Any) -> str:
    if value is ABSENT:
        return "unset"
    if isinstance(value, Mapping):
        return str(value.get("name", "settings"))
    return value if isinstance(value, str) else json.dumps(value, default=str)
