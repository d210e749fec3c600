"""From lists of ids and captions to a manifest of pairs: which file or feature belongs to which item."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from metrixkit.data.decode import decode
from metrixkit.data.features import Features, read_features
from metrixkit.data.files import present
from metrixkit.data.frame_times import parse_segment
from metrixkit.data.frames import VIDEO_SUFFIXES, read_frames
from metrixkit.data.image_files import scan_files
from metrixkit.data.pair_manifest import PairManifest
from metrixkit.errors import InputError

PairOnMissing = Literal["error", "drop", "blank"]


@dataclass(frozen=True)
class Sources:
    """Where the modalities of listed items lie, and what to do where one is missing.

    Attributes:
        videos: Folder of video files ``ID.mp4`` (or .webm, .mkv, .avi, ...), searched with all folders below; None is
            the data set's own folder. Where `features` has "video", no files are looked for.
        features: Name of a modality to where its features lie, as :meth:`~metrixkit.data.features.Features.open` takes
            it.
        text_features: Where the features of the captions lie, keyed by the captions' ids.
        on_missing: "error" refuses a list with missing or broken things, "drop" leaves those items and their captions
            out, "blank" keeps the items with a blank cell, which says that the modality is missing.
        verify: Whether to read every file while listing, so that broken ones count as missing.
    """

    videos: str | None = None
    features: Mapping[str, str] | None = None
    text_features: str | None = None
    on_missing: PairOnMissing = "error"
    verify: bool = False


def pair_manifest(
    name: str,
    split_name: str,
    items: pd.DataFrame,
    captions: Mapping[str, Sequence[str]],
    root: Path,
    sources: Sources,
    expected: Mapping[str, int] | None = None,
) -> PairManifest:
    """Look up the modalities of listed items, settle what is missing, and write the captions beside them.

    Args:
        name: The data set.
        split_name: Its protocol.
        items: Columns ``id`` and ``split``; optional ``file`` (the stem of the video's file where it is not the id) and
            ``stretch`` (such as "#t=10,20", or ""). Other columns are kept.
        captions: Item id to its captions, which are named "ITEM#0", "ITEM#1", ...; items without any have none.
        root: The folder of the lists.
        sources: See there.
        expected: Published items per split.

    Raises:
        InputError: As :class:`PairManifest`; or modalities are missing and are not to be.
    """
    where = f"{name} ({root})"
    columns, kinds, unused = _look_up(items, root, sources, where)
    table = items.drop(columns=[c for c in ("file", "stretch") if c in items.columns])
    table = table.assign(**{key: pd.Series(cells, index=table.index, dtype="str") for key, cells in columns.items()})
    return settle_pairs(name, split_name, table, captions, kinds, root, sources, expected, unused)


def settle_pairs(
    name: str,
    split_name: str,
    items: pd.DataFrame,
    captions: Mapping[str, Sequence[str]],
    modalities: Mapping[str, str],
    root: Path,
    sources: Sources,
    expected: Mapping[str, int] | None = None,
    unused: Sequence[str] = (),
    may_lack: Collection[str] = (),
) -> PairManifest:
    """Do the second half of :func:`pair_manifest`, for items whose cells stand already.

    Args:
        name: The data set.
        split_name: Its protocol.
        items: Columns ``id``, ``split`` and the modalities.
        captions: Item id to its captions.
        modalities: Column to kind.
        root: The folder of the lists.
        sources: What to do where something is missing; where the captions' features are.
        expected: Published items per split.
        unused: What lies there and belongs to no item.
        may_lack: Modalities whose blank cells are meant so, and no fault.

    Raises:
        InputError: As :func:`pair_manifest`.
    """
    where, items = f"{name} ({root})", items.copy()
    faults = _faults(items, modalities, sources.verify, may_lack)
    absent = tuple(f"{key}: {fault}" for key, fault in zip(items["id"], faults, strict=True) if fault)
    dropped = 0
    if absent and sources.on_missing != "blank":
        kept = items[[not fault for fault in faults]].reset_index(drop=True)
        emptied = sorted(set(items["split"]) - set(kept["split"]))
        if sources.on_missing == "error" or emptied:
            raise InputError(_complaint(where, absent, len(items), emptied, sources))
        items, dropped = kept, len(absent)
    texts = _texts(items, captions)
    if sources.text_features is not None:
        texts = _with_features(texts, sources, where)
    return PairManifest(
        name, split_name, items, texts, dict(modalities), root, dropped, expected or {}, absent, tuple(sorted(unused))
    )


def find_videos(folder: Path, unique: bool = False) -> dict[str, str]:
    """Return the video files below a folder by their stem; where a stem has several, .mp4 comes before .webm and so on.

    Links are followed.

    Args:
        folder: Where to look.
        unique: Refuse files of one stem in several folders, for those to whom the stem is all there is.

    Raises:
        InputError: There is no such folder, or a stem is not unique.
    """
    if not folder.is_dir():
        raise InputError(f"the folder of videos {folder.absolute()} does not exist (data.videos).")
    found: dict[str, tuple[int, str]] = {}
    for name in scan_files(folder, VIDEO_SUFFIXES).files:
        stem, suffix = os.path.splitext(name.rpartition("/")[2])
        rank = (VIDEO_SUFFIXES.index(suffix.lower()), str(folder / name))
        if unique and stem in found and os.path.dirname(found[stem][1]) != os.path.dirname(rank[1]):
            raise InputError(
                f"{found[stem][1]} and {rank[1]} bear one name, {stem!r}, and an item's id is its file's name. "
                "Rename one, give one of the folders, or take a table (data=captions), whose ids are your own."
            )
        found[stem] = min(found.get(stem, rank), rank)
    return {stem: path for stem, (_, path) in found.items()}


def _look_up(
    items: pd.DataFrame, root: Path, sources: Sources, where: str
) -> tuple[dict[str, list[str]], dict[str, str], list[str]]:
    columns: dict[str, list[str]] = {}
    kinds: dict[str, str] = {}
    unused: list[str] = []
    given = dict(sources.features or {})
    for name in given:
        if name in items.columns or name in ("text", "file", "stretch"):
            raise InputError(
                f"{where}: no modality can be called {name!r} (data.features.{name}); choose another name."
            )
    if "video" not in given:
        files = find_videos(root if sources.videos is None else Path(sources.videos).expanduser())
        stems = items["file"] if "file" in items.columns else items["id"]
        stretches = items["stretch"] if "stretch" in items.columns else [""] * len(items)
        columns["video"] = [
            files[stem] + stretch if stem in files else "" for stem, stretch in zip(stems, stretches, strict=True)
        ]
        kinds["video"] = "video"
        unused += [files[stem] for stem in files.keys() - set(stems)]
    elif sources.videos is not None:
        raise InputError(f"{where}: data.videos and data.features.video both give the videos; leave one out.")
    for name, path in given.items():
        found = Features.open(path)
        columns[name] = [found.references.get(key, "") for key in items["id"]]
        kinds[name] = "features"
        unused += [f"{name}: {key}" for key in found.references.keys() - set(items["id"])]
    return columns, kinds, unused


def _faults(items: pd.DataFrame, modalities: Mapping[str, str], verify: bool, may_lack: Collection[str]) -> list[str]:
    """Return for each item what is wrong with its modalities, "" where nothing is; blanks what is not to be read."""
    faults: list[list[str]] = [[] for _ in range(len(items))]
    for name, kind in modalities.items():
        cells = [str(cell) for cell in items[name]]
        blank = None if name in may_lack else f"no {name}"
        reasons: list[str | None] = [blank] * len(cells)
        given = [row for row, cell in enumerate(cells) if cell]
        if kind == "text":
            found: Iterable[str | None] = [None] * len(given)
        elif verify:
            with ThreadPoolExecutor() as pool:
                found = list(pool.map(lambda cell, kind=kind: unreadable(cell, kind), [cells[row] for row in given]))
        else:
            here = present([file_of(cells[row]) for row in given])
            found = [None if there else f"{cells[row]} is missing" for row, there in zip(given, here, strict=True)]
        for row, reason in zip(given, found, strict=True):
            reasons[row] = reason
        items[name] = [cell if reason is None else "" for cell, reason in zip(cells, reasons, strict=True)]
        for row, reason in enumerate(reasons):
            if reason is not None:
                faults[row].append(reason)
    return ["; ".join(lines) for lines in faults]


def file_of(cell: str) -> str:
    """Return the file on disk that a cell points into."""
    path = parse_segment(cell).path
    for suffix in (".npy#", ".npz#", ".h5#", ".hdf5#", ".zip!"):
        before, mark, _ = path.partition(suffix)
        if mark:
            return before + suffix[:-1]
    return path


_READ: dict[str, Callable[[str], object]] = {
    # The first and the last frame: what is broken between them shows itself when it is read.
    "video": lambda cell: read_frames(cell, count=2, size=32),
    "image": decode,
    "features": read_features,
    "text": str,
}


def unreadable(cell: str, kind: str) -> str | None:
    """Return why a modality cannot be read, or None if it can."""
    try:
        _READ[kind](cell)
    except (InputError, OSError) as error:
        return str(error)
    return None


def _complaint(where: str, absent: Sequence[str], count: int, emptied: Sequence[str], sources: Sources) -> str:
    message = f"{where}: {len(absent):,} of {count:,} listed items lack something: " + "; ".join(absent[:5])
    message += "; ... " if len(absent) > 5 else ". "
    if len(absent) == count and sources.videos is None and not sources.features:
        message += "Name the folder of videos with data.videos=FOLDER, or features with data.features.video=PATH. "
    if emptied:
        message += f"Nothing of the split {emptied[0]!r} would be left, so they cannot be dropped"
    else:
        message += "Restore them, or leave them out with data.on_missing=drop"
    return message + "; data.on_missing=blank reads the lists alone."


def _texts(items: pd.DataFrame, captions: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    rows = []
    for item, split in zip(items["id"], items["split"], strict=True):
        rows += [(f"{item}#{number}", text, item, split) for number, text in enumerate(captions.get(item, ()))]
    return pd.DataFrame(rows, columns=["id", "caption", "item", "split"], dtype="str")


def _with_features(texts: pd.DataFrame, sources: Sources, where: str) -> pd.DataFrame:
    found = Features.open(str(sources.text_features))
    missing = found.missing(texts["id"].tolist())
    if missing:
        raise InputError(
            f"{where}: {len(missing):,} of {len(texts):,} captions have no features in {found.path} "
            f"(data.text_features): {', '.join(missing[:5])}."
        )
    return texts.assign(features=[found.references[key] for key in texts["id"]])
