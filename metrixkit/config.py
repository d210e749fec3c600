"""What an experiment is: one YAML file, dotted overrides, every key checked, every default written out.

``load`` answers a resolved config: a plain nested mapping in which each setting stands with its value, so that the
saved file alone repeats the run. The shape is fixed by :class:`Experiment` and, for the family nodes, by the typed
signatures of the classes they name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from metrixkit.data import DATASETS, SAMPLERS
from metrixkit.data.kinds import DATA_SET, SAMPLER
from metrixkit.data.transforms import Transform
from metrixkit.errors import InputError, did_you_mean
from metrixkit.families import ANY, allow_code, lookup, names_in
from metrixkit.files import write_text
from metrixkit.input_settings import FrameSettings, LoaderSettings
from metrixkit.kinds import LABEL_MIXER, LOSS, METHOD, MIXER, MODEL, OPTIMIZER, SCHEDULE, TASK
from metrixkit.losses import LOSSES
from metrixkit.methods import LABEL_MIXERS, METHODS, MIXERS
from metrixkit.models import MODELS
from metrixkit.overrides import annotations_of, read_value
from metrixkit.schema import (
    REQUIRED,
    Family,
    Field,
    build_node,
    check_node,
    check_value,
    describe,
    fields_of,
    instantiate,
    plain,
)
from metrixkit.tasks import TASKS, EvaluationSettings
from metrixkit.training.optim import OPTIMIZERS
from metrixkit.training.schedule import SCHEDULES
from metrixkit.training.settings import TrainingSettings

FAMILIES: dict[str, Family] = {
    "data": Family(DATASETS, DATA_SET),
    "sampler": Family(
        SAMPLERS, SAMPLER, frozenset({"labels", "split", "seed", "rank", "world_size"}), default="shuffle"
    ),
    "model": Family(MODELS, MODEL, frozenset({"users", "items", "inputs"}), default="image"),
    "loss": Family(LOSSES, LOSS, frozenset({"num_classes", "dim", "seed"})),
    "mixer": Family(MIXERS, MIXER, default="none"),
    "image_mixer": Family(LABEL_MIXERS, LABEL_MIXER, default="none"),
    "method": Family(
        METHODS,
        METHOD,
        frozenset({"model", "loss", "mixer", "image_mixer", "seed", "count", "steps", "num_classes"}),
        default="metric",
    ),
    "optimizer": Family(OPTIMIZERS, OPTIMIZER, frozenset({"params"}), default="adam"),
    "schedule": Family(SCHEDULES, SCHEDULE, default="constant"),
}


@dataclass
class Experiment:
    """The keys at the top of a config; family nodes are described by ``FAMILIES``, `evaluation` by the task.

    `frames` stands where the task reads clips only.
    """

    seed: int = 0
    task: str = "retrieval"
    transform: Transform = field(default_factory=Transform)
    loader: LoaderSettings = field(default_factory=LoaderSettings)
    frames: FrameSettings = field(default_factory=FrameSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)


def load(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the resolved config of a YAML file with ``key=value`` overrides.

    Args:
        path: The YAML file.
        overrides: ``dotted.key=value``; a text is the characters typed, everything else is read as YAML.
            ``loss=contrastive`` replaces a whole family node by that class with its defaults; ``loss.margin=0.4``
            changes one setting.

    Raises:
        InputError: The file is absent or no YAML, a setting is unknown, missing or of the wrong type, or an override
            undoes an earlier one (``optimizer.lr=1 optimizer=sgd``).
    """
    path = Path(path)
    if not path.is_file():
        near = did_you_mean(path.name, (p.name for p in path.parent.glob("*.yaml"))) if path.parent.is_dir() else ""
        raise InputError(f"no config at {path}.{near}")
    try:
        raw: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except Exception as error:
        raise InputError(f"{path} is not readable as YAML: {error}") from error
    if not isinstance(raw, dict):
        raise InputError(f"{path}: expected keys and values, got {raw!r}.")
    keys = [override.partition("=")[0].strip() for override in overrides]
    for place, (key, override) in enumerate(zip(keys, overrides, strict=True)):
        undone = [earlier for earlier in keys[:place] if earlier.startswith(key + ".") and earlier not in keys[place:]]
        if undone:
            raise InputError(
                f"{override} replaces the whole of {key} and would undo {undone[0]}=... before it; put it first."
            )
        with allow_code(ANY):  # a person named this file
            apply_override(raw, override)
    with allow_code(ANY):
        return resolve(raw)


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Set one ``dotted.key=value`` in `raw`, in place; see :func:`~metrixkit.overrides.read_value` for the value.

    Raises:
        InputError: It has no ``=``, or its value is no YAML where the setting is no text.
    """
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise InputError(f"override {override!r}: expected key=value, such as training.epochs=5.")
    *parents, last = key.strip().split(".")
    try:
        value = read_value(text, annotations_of([*parents, last], raw, _section_types(), FAMILIES))
    except Exception as error:
        raise InputError(f"override {override!r}: the value is not readable as YAML: {error}") from error
    node = raw
    for depth, parent in enumerate(parents):
        below = node.get(parent)
        if isinstance(below, str) and parent in FAMILIES:
            below = {"name": below}
        if below is None:
            below = {}
        if not isinstance(below, dict):
            raise InputError(
                f"override {override!r}: {'.'.join(parents[: depth + 1])} is {below!r}, which has no settings below it."
            )
        node[parent] = below
        node = below
    node[last] = value


def _section_types() -> dict[str, list[Any]]:
    """Return the types that each fixed key may have; those of `evaluation` are the tasks' to say."""
    return {key: _kinds(key, setting) for key, setting in fields_of(Experiment).items()}


def typed_names(overrides: Sequence[str]) -> frozenset[str]:
    """Return the classes of their own, ``package.module:Name``, that a person typed in ``key=value`` words.

    Raises:
        InputError: As :func:`apply_override`.
    """
    typed: dict[str, Any] = {}
    for override in overrides:
        apply_override(typed, override)
    return names_in(typed)


def resolve_sections(raw: Mapping[str, Any], sections: Sequence[str]) -> dict[str, Any]:
    """Return some sections of a raw config, checked and completed; any other key is refused.

    Args:
        raw: What overrides have set.
        sections: Names of fixed sections and family nodes.

    Raises:
        InputError: As :func:`resolve`.
    """
    for key in raw:
        if key not in sections:
            raise InputError(f"{key} does not apply here; what does: {', '.join(sections)}.{_anywhere(key)}")
    fixed = fields_of(Experiment)
    found: dict[str, Any] = {}
    for key in sections:
        if key not in fixed:
            found[key] = check_node(raw.get(key) or {}, FAMILIES, key, key)
            continue
        kind = _section(raw, key)
        default = fixed[key].default if kind is fixed[key].annotation else kind()
        found[key] = check_value(raw.get(key, plain(default)), kind, key)
    return found


def resolve(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a raw config checked against the schema and completed with every default.

    Raises:
        InputError: The path of the key, what was expected, and the near name.
    """
    fixed = fields_of(Experiment)
    for key in raw:
        if key not in fixed and key not in FAMILIES:
            raise InputError(
                f"{key} is not a setting: an experiment takes {', '.join([*fixed, *FAMILIES])}.{_anywhere(key)}"
            )
    config: dict[str, Any] = {}
    for key, setting in fixed.items():
        if key == "frames" and not _reads_frames(raw):
            if raw.get(key) is not None:
                raise InputError(f"frames does not apply: task {raw.get('task')!r} reads no clips. Remove it.")
            continue
        kind = _section(raw, key)
        default = setting.default if kind is setting.annotation else kind()
        config[key] = check_value(raw[key], kind, key) if raw.get(key) is not None else plain(default)
    method = check_node(raw.get("method") or {}, FAMILIES, "method", "method")
    takes = fields_of(lookup(method["name"], METHODS, METHOD))
    for key in FAMILIES:
        if key == "method":
            config[key] = method
        elif key in FAMILIES["method"].provided and key not in takes:
            if raw.get(key) is not None:
                raise InputError(f"{key} does not apply: method {method['name']!r} takes no {key}. Remove it.")
        elif key not in raw and FAMILIES[key].default is None:
            raise InputError(
                f"{key} is missing: which {FAMILIES[key].kind}? Known: {', '.join(sorted(FAMILIES[key].members))}."
            )
        else:
            config[key] = check_node(raw.get(key) or {}, FAMILIES, key, key)
    _refuse_unread(config)
    return config


def _refuse_unread(config: Mapping[str, Any]) -> None:
    """Raise for a setting that the task never reads and that is not at its default."""
    name = str(config["task"])
    for path in getattr(lookup(name, TASKS, TASK), "unread", ()):
        section, _, only = path.partition(".")
        default = plain(fields_of(Experiment)[section].default)
        for key, value in config[section].items():
            if (not only or key == only) and value != default[key]:
                raise InputError(
                    f"{section}.{key} does not apply: task {name!r} never reads it. Remove it (or leave it at "
                    f"{_inline(default[key])})."
                )


def settings(config: Mapping[str, Any], key: str) -> Any:
    """Return the fixed section `key` of a resolved config as its dataclass."""
    return instantiate(config[key], _section(config, key))


def _section(config: Mapping[str, Any], key: str) -> Any:
    """Return the type of a fixed section; that of `evaluation` is the task's to say."""
    if key != "evaluation":
        return fields_of(Experiment)[key].annotation
    task = config.get("task")
    return _settings_type(lookup("retrieval" if task is None else str(task), TASKS, TASK))


def _settings_type(task: type) -> Any:
    """Return what the section `evaluation` holds for a task; a task of one's own may leave it to retrieval's."""
    return getattr(task, "settings_type", EvaluationSettings)


def _reads_frames(config: Mapping[str, Any]) -> bool:
    """Return whether the task of a config reads clips, so that the section `frames` belongs to it."""
    return bool(getattr(lookup(str(config.get("task") or "retrieval"), TASKS, TASK), "reads_frames", False))


def build(config: Mapping[str, Any], key: str, **provided: Any) -> Any:
    """Construct the family node `key` of a resolved config; `provided` holds what the programme passes."""
    return build_node(config[key], FAMILIES, key, key, provided)


def save(config: Mapping[str, Any], path: Path) -> None:
    """Write a resolved config as YAML."""
    write_text(path, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))


def _anywhere(key: str) -> str:
    """Name the places below which a key of this name stands, else the near names at the top."""
    paths = [path for path, _ in all_settings() if path.rsplit(".", 1)[-1] == key]
    if paths:
        return f" Did you mean {' or '.join(dict.fromkeys(paths))}?"
    hint = did_you_mean(key, [*fields_of(Experiment), *FAMILIES])
    return hint if hint.startswith(" Did") else ""


def all_settings() -> list[tuple[str, Field]]:
    """Return every setting's dotted path and field; family settings once for each class of the family."""
    found: list[tuple[str, Field]] = []
    for key, setting in fields_of(Experiment).items():
        if dataclasses.is_dataclass(setting.annotation):
            for kind in _kinds(key, setting):
                found += [(f"{key}.{name}", inner) for name, inner in fields_of(kind).items()]
        else:
            found.append((key, setting))
    for key, family in FAMILIES.items():
        for cls in family.members.values():
            found += [(f"{key}.{name}", inner) for name, inner in fields_of(cls, hidden=family.provided).items()]
    return found


def help_text() -> str:
    """Return every key with its type and default, the families' classes each with their own."""
    lines = ["Settings (key=value), with their defaults:", ""]

    def row(path: str, setting: Field) -> str:
        default = "required" if setting.default is REQUIRED else _inline(plain(setting.default))
        return f"  {path} = {default}    ({describe(setting.annotation)})"

    for key, setting in fields_of(Experiment).items():
        if dataclasses.is_dataclass(setting.annotation):
            for kind in _kinds(key, setting):
                told = [task for task, cls in TASKS.items() if key == "evaluation" and _settings_type(cls) is kind]
                lines += ["", f"  with task={' or '.join(told)}:"] if told else []
                lines += [row(f"{key}.{name}", inner) for name, inner in fields_of(kind).items()]
        else:
            lines.append(row(key, setting))
    for key, family in FAMILIES.items():
        lines += [
            "",
            f"{key}.name: which {family.kind} (or package.module:Name)"
            + (f"; default {family.default}" if family.default else ""),
        ]
        for name, cls in family.members.items():
            summary = (cls.__doc__ or "").strip().split("\n")[0]
            lines.append(f"  {key}={name}  {summary}")
            lines += ["  " + row(f"{key}.{n}", f) for n, f in fields_of(cls, hidden=family.provided).items()]
    return "\n".join(lines)


def _kinds(key: str, setting: Field) -> list[Any]:
    """Return the types that a fixed section may have."""
    if key != "evaluation":
        return [setting.annotation]
    return list(dict.fromkeys(_settings_type(cls) for cls in TASKS.values()))


def _inline(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).strip().removesuffix("...").strip()
