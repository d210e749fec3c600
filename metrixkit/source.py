"""The images that a command is pointed to. One reader: ``train``, ``check``, ``embed``, ``index``, ``evaluate`` and
``mix`` see the same labels, splits and files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from metrixkit import config as configs
from metrixkit import saved_runs
from metrixkit.data import DATASETS
from metrixkit.data.cache import CachedDecode, default_short_side
from metrixkit.data.decode import decode as plain_decode
from metrixkit.data.held_out import UNLABELLED, with_validation
from metrixkit.data.image_files import printable, refuse_bytes, told
from metrixkit.data.manifest import Manifest
from metrixkit.data.sets.images import Images
from metrixkit.data.tables import SPLIT_WORDS
from metrixkit.data.tables import SUFFIXES as TABLES
from metrixkit.errors import InputError, did_you_mean
from metrixkit.families import allow_code
from metrixkit.tasks import ClassificationSettings, SelfSupervisedSettings
from metrixkit.tasks.self_supervised import hold_out

COLUMNS = ["id", "path", "label", "split"]
SECTIONS = ("task", "seed", "data", "loader", "evaluation")
ALL = "all"
_SHOWN = 3
_OF_TABLES = ("table", "columns", "separator")


@dataclass(frozen=True)
class Source:
    """Images and what is to be said of them.

    Attributes:
        name: Of the data set or of the places, for people.
        items: Rows with id, path, label and split, all text; label and split are "" where nobody told.
        said: Lines for people: which splits, what was passed over, what has no label.
        config: The sections :data:`SECTIONS` of the run whose own data this is, resolved; None for any other source.
        searches: Splits that search other splits than themselves, as a manifest tells.
    """

    name: str
    items: pd.DataFrame
    said: tuple[str, ...] = ()
    config: Mapping[str, Any] | None = None
    searches: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def decode(self, image_size: int) -> Callable[[Any], Tensor]:
        """Return how the images are read: a run's own as its training read them, others from their files."""
        return plain_decode if self.config is None else make_decode(self.config, image_size)


def read_data(config: Mapping[str, Any]) -> Manifest:
    """Read the data set of a config and hold out what selects the best epoch: classes, or images where tests share
    classes.
    """
    manifest = configs.build(config, "data").read()
    if not isinstance(manifest, Manifest):
        raise InputError(
            f"data={config['data']['name']} holds no images, and task={config.get('task', 'retrieval')} needs them. "
            "Pairs of captions and videos are for task=crossmodal, ratings for task=recommendation."
        )
    evaluation = configs.settings(config, "evaluation")
    if isinstance(evaluation, SelfSupervisedSettings | ClassificationSettings):
        return hold_out(manifest, evaluation, config["seed"])
    if evaluation.protocol == "validation" and evaluation.validation > 0 and "train" in manifest.splits:
        manifest = with_validation(manifest, evaluation.validation, config["seed"])
    return manifest


def make_decode(config: Mapping[str, Any], image_size: int) -> Callable[[Any], Tensor]:
    """Return how images are read: from their files, or through the cache of resized ones."""
    loader = configs.settings(config, "loader")
    if loader.cache is None:
        return plain_decode
    return CachedDecode(loader.cache, loader.cache_short_side or default_short_side(image_size))


@contextlib.contextmanager
def run_config(run: str | Path, overrides: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Yield the sections :data:`SECTIONS` of a run's config, resolved, with ``key=value`` overrides.

    Within this context what they describe is built: only classes that a person typed, or trusts the run for, are
    imported.

    Raises:
        InputError: No run, or settings that do not fit.
    """
    saved = saved_runs.read(run)
    raw = saved.sections(SECTIONS)
    for override in overrides:
        configs.apply_override(raw, override)
    with saved.reading(overrides):
        yield configs.resolve_sections(raw, SECTIONS)


def read(words: Sequence[str], run: str | Path | None = None, splits: str | None = None) -> Source:
    """Return the images that the words of a command line name.

    Args:
        words: Folders (a folder per class, as ``train`` reads them), tables (``products.csv``), image files, and with
            them settings of ``data=images`` (``columns.label=sku``, ``data.root=photos``); or ``data=NAME`` with
            ``data.key=value``; or nothing, or settings alone: the run's own data.
        run: The run whose model is used, or None. Folders and tables take over the settings of its data where these
            are images, too: columns, seed and share of the division.
        splits: Names with commas between, or "all"; None takes whole what `words` name, and of a run's own data what
            is searched: query and gallery, or test and what it searches (everything where there is neither).

    Raises:
        InputError: Nothing there, both kinds of source, settings or splits that do not fit, or one file named twice.
    """
    paths, settings = _told_apart(words)
    named = any(setting.partition("=")[0].strip() in ("data", "data.name") for setting in settings)
    if paths and named:
        raise InputError("give either folders and files or data=NAME with its settings, not both.")
    if paths:
        source = _of_paths(paths, [f"data.{setting.removeprefix('data.')}" for setting in settings], _images_of(run))
    elif named:
        source = _of_data(settings)
    elif run is not None and (Path(run) / saved_runs.CONFIG).is_file():
        with run_config(run, settings) as config:
            manifest = read_data(config)
        source = _of_manifest(manifest, config)
        splits = searched(manifest.splits, manifest.searches) if splits is None else splits
    else:
        absent = "" if run is None or Path(run).exists() else f"{printable(str(run))}: there is no such folder here. "
        raise InputError(
            f"{absent}which images? Name folders, a table, image files, or data=NAME with data.key=value; only the "
            "folder of a run has data of its own."
        )
    return _as_queries(of_splits(source, splits))


def read_manifest(words: Sequence[str]) -> Any:
    """Return the manifest, of images or of pairs, that ``data=NAME`` and ``data.key=value`` describe."""
    raw: dict[str, Any] = {}
    for word in words:
        configs.apply_override(raw, word)
    with allow_code(configs.typed_names(words)):
        return configs.build(configs.resolve_sections(raw, ("data",)), "data").read()


def node_of(target: str) -> dict[str, Any]:
    """Return the node `data` of what a person pointed to: a data set's name, a folder or a table of images.

    Raises:
        InputError: None of these is there.
    """
    if target in DATASETS or (":" in target and not Path(target).exists()):
        return {"name": target}
    if Path(target).is_dir():
        return {"name": "images", "root": target}
    if Path(target).is_file() and target.lower().endswith(TABLES):
        return {"name": "images", "table": target}
    raise InputError(
        f"{printable(target)!r} is neither a data set, nor a folder, nor a table ({', '.join(TABLES)}) that is here."
        f"{did_you_mean(target, DATASETS)}"
    )


def searched(splits: Sequence[str], searches: Mapping[str, Sequence[str]] | None = None) -> str:
    """Return which of these splits search or are searched in the end, with commas between.

    Args:
        splits: Those that have items.
        searches: Splits that search others, as a manifest tells.
    """
    if "query" in splits:
        return "query,gallery"
    if "test" not in splits:
        return ALL
    return ",".join(["test", *(split for split in (searches or {}).get("test", ()) if split in splits)])


def _as_queries(source: Source) -> Source:
    """Return a source in whose words its test images search what they search in training's own evaluation.

    A table knows two ways of searching: a split among itself, or ``query`` in ``gallery``. New photos of known classes
    search those that were trained on, so they become queries, for else they would be judged among themselves.
    """
    split, gallery = source.items["split"], source.searches.get("test", ())
    if not ((split == "test").any() and split.isin(gallery).any()):
        return source
    words = {"test": "query", **dict.fromkeys(gallery, "gallery")}
    line = f"written as query: test; as gallery, which these search: {', '.join(gallery)}"
    return replace(source, items=source.items.assign(split=split.replace(words)), said=(*source.said, line))


def _told_apart(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return paths and ``key=value`` settings; what is there is a path, whatever its name."""
    settings = [w for w in words if w.startswith(("data=", "data.")) or ("=" in w and not Path(w).exists())]
    return [word for word in words if word not in settings], [w for w in settings if "=" in w]


def _images_of(run: str | Path | None) -> dict[str, Any]:
    """Return the data settings of a run that was trained on images of one's own, else none."""
    data = {} if run is None else saved_runs.read(run, needed=False).settings.get("data")
    return dict(data) if isinstance(data, Mapping) and data.get("name") == "images" else {}


def _of_paths(paths: Sequence[str], settings: Sequence[str], own: Mapping[str, Any]) -> Source:
    parts: list[pd.DataFrame] = []
    said: list[str] = []
    searches: dict[str, Sequence[str]] = {}
    files = {path for path in paths if Path(path).is_file() and not path.lower().endswith(TABLES)}
    if settings and all(path in files for path in paths):
        raise InputError(f"{settings[0]}: belongs to a folder or a table; single image files have no settings.")
    for path in paths:
        refuse_bytes([path], "named on the command line")
        if path in files:
            row = {"id": Path(path).name, "path": path, "label": "", "split": ""}
            parts.append(pd.DataFrame([row], columns=COLUMNS, dtype="str"))
        elif Path(path).exists():
            items, more, others = _of_place(path, settings, own)
            parts.append(items)
            said += more
            searches |= others
        else:
            raise InputError(f"no file or folder at {printable(path)}.")
    items = pd.concat(parts, ignore_index=True)
    twice = items["id"].duplicated(keep=False)
    items.loc[twice, "id"] = items.loc[twice, "path"]
    again = items["id"][items["id"].duplicated()]
    if len(again):
        raise InputError(f"{again.iloc[0]} is named twice ({len(again)} such); name each image once.")
    without = int((items["label"] == "").sum())
    if without:
        said.append(f"{without:,} of {len(items):,} images have no label: they lie in no class folder and no table")
    return Source(", ".join(paths), items, tuple(said), searches=searches)


def _of_place(
    path: str, settings: Sequence[str], own: Mapping[str, Any]
) -> tuple[pd.DataFrame, list[str], Mapping[str, Sequence[str]]]:
    """Return the items of a folder or a table, what there is to say, and which splits search others."""
    node = node_of(path)
    # Of a run on a folder, the root is not where the paths of a table start.
    others = _OF_TABLES if "root" in node else () if own.get("table") else ("root",)
    raw: dict[str, Any] = {"data": {key: value for key, value in own.items() if key not in others} | node}
    for setting in settings:
        configs.apply_override(raw, setting)
    reader: Images = configs.build(configs.resolve_sections(raw, ("data",)), "data")
    found = reader.find(loose=True)
    said = [line for line in [told(found.passed_over)] if line]
    if found.absent:
        more = "; ..." if len(found.absent) > _SHOWN else ""
        said.append(
            f"{path}: {len(found.absent):,} missing or broken images left out: "
            + "; ".join(found.absent[:_SHOWN])
            + more
        )
    if "split" in found.items.columns:
        if any(setting.startswith("data.test_share=") for setting in settings):
            reader.refuse_share(found)
        return found.items, said, reader.searches
    items, labelled = found.items.assign(split=""), found.items["label"] != ""
    if labelled.any():
        try:
            divided, name = reader.divide(replace(found, items=found.items[labelled]))
            items.loc[labelled, "split"] = divided["split"]
            said.append(f"{path}: no splits are given; its classes are divided as training would ({name})")
        except InputError as why:
            said.append(f"no splits: {why}")
    return items, said, reader.searches


def _of_data(settings: Sequence[str]) -> Source:
    manifest = read_manifest(settings)
    if not isinstance(manifest, Manifest):
        items = getattr(manifest, "items", None)
        held = f" but {', '.join(items.columns[:4])}" if isinstance(items, pd.DataFrame) else ""
        raise InputError(f"{' '.join(settings)} holds no images{held}; images are what is read here.")
    return _of_manifest(manifest, None)


def _of_manifest(manifest: Manifest, config: Mapping[str, Any] | None) -> Source:
    items = manifest.items.assign(label=manifest.items["label"].where(manifest.items["label"] != UNLABELLED, ""))
    dropped = f"; {manifest.dropped} listed images dropped" if manifest.dropped else ""
    said = [f"data: {manifest.name}, split {manifest.split_name}{dropped}", told(manifest.passed_over)]
    return Source(manifest.name, items, tuple(line for line in said if line), config, manifest.searches)


def of_splits(source: Source, splits: str | None) -> Source:
    """Return the images of the named splits, with a line that says which."""
    there = [split for split in dict.fromkeys(SPLIT_WORDS.values()) if (source.items["split"] == split).any()]
    counts = ", ".join(f"{split} {int((source.items['split'] == split).sum()):,}" for split in there)
    if splits is None or splits.strip().lower() == ALL:
        return replace(source, said=(*source.said, f"splits: {counts}")) if there else source
    chosen = []
    for word in splits.split(","):
        if word.strip().lower() not in SPLIT_WORDS:
            raise InputError(f"--split {splits}: no split is called {word!r}.{did_you_mean(word, [*SPLIT_WORDS, ALL])}")
        chosen.append(SPLIT_WORDS[word.strip().lower()])
    absent = [split for split in chosen if split not in there]
    if absent:
        raise InputError(
            f"--split {splits}: {source.name} has no image of split {absent[0]!r}; it has {counts or 'none'}."
        )
    items = source.items[source.items["split"].isin(chosen)].reset_index(drop=True)
    others = f" (of {counts})" if len(there) > len(chosen) else ""
    line = f"splits: {', '.join(chosen)}, {len(items):,} images{others}"
    return replace(source, items=items, said=(*source.said, line))
