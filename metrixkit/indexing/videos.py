"""Videos for an index, and texts and videos as its queries, by a model that has both towers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from metrixkit import source as sources
from metrixkit.data.frames import VIDEO_SUFFIXES
from metrixkit.data.pair_manifest import PairManifest
from metrixkit.data.pair_sources import find_videos
from metrixkit.embedding.pairs import PairEmbeddingModel
from metrixkit.errors import InputError
from metrixkit.indexing.inputs import Given
from metrixkit.jobs.pairs import check_modality, read_pairs

COLUMNS = ("id", "label", "path", "split")


def from_videos(
    source: Sequence[str], model: PairEmbeddingModel, where: str, batch_size: int = 16, splits: str | None = None
) -> Given:
    """Embed the videos of folders, of files, or of a data set.

    Args:
        source: Folders and video files, or ``data=NAME`` and further ``data.key=value``; nothing, or settings alone,
            for the data of the run that `where` is.
        model: What embeds them.
        where: Where it was loaded from.
        batch_size: Clips a forward call.
        splits: Names with commas between, or "all"; as :func:`metrixkit.source.read` takes them.

    Raises:
        InputError: Nothing there, a clip that cannot be read, or a data set without videos.
    """
    found = read_videos(source, model.model.modality, where, splits)
    vectors = model.embed_video(found.items["path"].tolist(), batch_size).numpy()
    return Given(found.items, vectors, model.fingerprint, where, found.said)


def from_queries(texts: Sequence[str], videos: Sequence[str], model: PairEmbeddingModel, where: str) -> Given:
    """Embed queries: texts first, then videos; a text is its own id and has no path.

    Args:
        texts: Texts.
        videos: Paths of video files.
        model: What embeds them.
        where: Where it was loaded from.
    """
    rows = [(text, "", "", "") for text in texts] + [(path, "", path, "") for path in videos]
    vectors = []
    if texts:
        vectors.append(model.embed_text(list(texts)))
    if videos:
        vectors.append(model.embed_video(list(videos)))
    stacked = torch.cat(vectors).numpy()
    return Given(pd.DataFrame(rows, columns=list(COLUMNS), dtype="str"), stacked, model.fingerprint, where)


def read_videos(
    source: Sequence[str], modality: str, run: str | None = None, splits: str | None = None
) -> sources.Source:
    """Return id, label, path and split of the videos that a door was pointed to.

    Args:
        source: As :func:`from_videos`.
        modality: Which modality of a data set.
        run: The run whose own data are meant where nothing is named.
        splits: As :func:`from_videos`.

    Raises:
        InputError: Both kinds of source, nothing there, or no such modality or split.
    """
    settings = [text for text in source if text.startswith(("data=", "data."))]
    if settings and len(settings) < len(source):
        raise InputError("give either folders and files or data=NAME with its settings, not both.")
    if settings and any(text.startswith(("data=", "data.name=")) for text in settings):
        manifest = sources.read_manifest(settings)
        if not isinstance(manifest, PairManifest):
            raise InputError(f"{' '.join(settings)} holds no videos.")
        return sources.of_splits(_of_manifest(manifest, modality), splits)
    if len(settings) == len(source) and run is not None:
        with sources.run_config(run, settings) as config:
            manifest = read_pairs(config)
        own = _of_manifest(manifest, modality)
        return sources.of_splits(own, sources.searched(manifest.splits) if splits is None else splits)
    return sources.of_splits(_of_places(source), splits)


def _of_places(source: Sequence[str]) -> sources.Source:
    found: dict[str, str] = {}
    for text in source:
        path = Path(text)
        if path.is_dir():
            more = find_videos(path, unique=True)
        elif path.is_file():
            more = {path.stem: str(path)}
        else:
            raise InputError(f"no file or folder at {text}.")
        for stem, file in more.items():
            if Path(found.setdefault(stem, file)).resolve() != Path(file).resolve():
                raise InputError(
                    f"{found[stem]} and {file} bear one name, {stem!r}, and an item's id is its file's name. Rename "
                    "one, or build the index from a table (data=captions), whose ids are your own."
                )
    if not found:
        raise InputError(f"no videos in {', '.join(source)}: looked for {', '.join(VIDEO_SUFFIXES)}.")
    rows = [(name, "", path, "") for name, path in found.items()]
    return sources.Source(", ".join(source), pd.DataFrame(rows, columns=list(COLUMNS), dtype="str"))


def _of_manifest(manifest: PairManifest, modality: str) -> sources.Source:
    check_modality(manifest, modality)
    items = manifest.items
    label = items["label"] if "label" in items.columns else [""] * len(items)
    rows = items.assign(path=items[modality], label=label)[list(COLUMNS)].astype("str")
    return sources.Source(manifest.name, rows, (f"data: {manifest.name}, split {manifest.split_name}",))
