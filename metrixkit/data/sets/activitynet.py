"""ActivityNet Captions as paragraphs: a whole video and all its sentences (Krishna et al., ICCV 2017)."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pandas as pd

from metrixkit.data.pair_manifest import PairManifest
from metrixkit.data.pair_sources import PairOnMissing, Sources, find_videos, pair_manifest
from metrixkit.data.roots import Source, find_folder
from metrixkit.data.sets.caption_lists import (
    choose_splits,
    enforce_counts,
    find_file,
    need_file,
    no_captions,
    read_ids,
    read_json,
)
from metrixkit.errors import InputError

_PUBLISHED = {"train": 10_009, "test": 4_917}
# The reported split is val_1; the true test set has no captions.
_FILES = {"train": ("train.json", "train_ids.json"), "test": ("val_1.json", "val_ids.json")}


class ActivityNet:
    """ActivityNet Captions for paragraph-to-video retrieval: train 10,009 videos, val_1 (as test) 4,917.

    The sentences of a video are joined to one paragraph with blanks; the video is taken whole. Where ``train_ids.json``
    or ``val_ids.json`` lie beside the annotations they say which videos count and in which order, else all do.

    Args:
        root: The folder with ``train.json`` and ``val_1.json``, or the one above it; None searches the data roots.
        splits: Which of train and test to read; None reads both.
        videos: Folder of the videos (``v_ID.mp4`` or ``ID.mp4``); None searches below the lists.
        features: Features of the videos, keyed by id without "v_": modality to place.
        text_features: Features of the paragraphs, keyed by "ID#0".
        on_missing: "error", "drop" or "blank"; a part of these videos is no longer to be had.
        verify: Whether to read every file while listing.
        counts: False takes lists of another length, your own subset; the split is then named so.
    """

    source: ClassVar[Source] = Source(
        title="ActivityNet Captions",
        folders=("ActivityNet", "activitynet", "ActivityNet_Captions", "activity_net", "captions"),
        markers=("val_1.json", "captions/val_1.json", "annotations/val_1.json"),
        origin="the project page of 'Dense-Captioning Events in Videos' (captions.zip), videos from activity-net.org",
        card="datasets/activitynet.md",
    )

    def __init__(
        self,
        root: str | None = None,
        splits: list[str] | None = None,
        videos: str | None = None,
        features: dict[str, str] | None = None,
        text_features: str | None = None,
        on_missing: PairOnMissing = "error",
        verify: bool = False,
        counts: bool = True,
    ) -> None:
        self.root, self.counts = root, counts
        self.splits = choose_splits(splits, list(_FILES), "activitynet")
        self.sources = Sources(videos, features, text_features, on_missing, verify)

    def read(self) -> PairManifest:
        """Return the manifest: ids without "v_", one paragraph each; the column ``duration`` is in seconds.

        Raises:
            InputError: A file is absent or malformed, counts are not the published ones, a listed video has no
                sentences, or videos are missing.
        """
        folder = find_folder(self.source, self.root)
        rows: list[tuple[str, str, str]] = []
        captions: dict[str, list[str]] = {}
        for split in self.splits:
            annotations, ids = (need_file(folder, _FILES[split][0]), find_file(folder, _FILES[split][1]))
            found = _paragraphs(annotations)
            listed = list(found) if ids is None else [_bare(key) for key in read_ids(ids)]
            no_captions(listed, {key: [text] for key, (text, _) in found.items()}, annotations)
            for key in listed:
                if key in captions:
                    raise InputError(f"ActivityNet ({folder}): {key!r} stands twice, or in both splits.")
                captions[key] = [found[key][0]]
                rows.append((key, split, found[key][1]))
        items = pd.DataFrame(rows, columns=["id", "split", "duration"], dtype="str")
        expected = {split: _PUBLISHED[split] for split in self.splits} if self.counts else {}
        enforce_counts(
            {split: sum(row[1] == split for row in rows) for split in self.splits}, expected, "videos", folder
        )
        items["file"] = self._files(folder, items["id"].tolist())
        return pair_manifest(
            "activitynet",
            "paragraphs" if self.counts else "paragraphs-own",
            items,
            captions,
            folder,
            self.sources,
            expected,
        )

    def _files(self, folder: Path, ids: list[str]) -> list[str]:
        if "video" in (self.sources.features or {}):
            return ids
        there = find_videos(folder if self.sources.videos is None else Path(self.sources.videos).expanduser())
        return [f"v_{key}" if f"v_{key}" in there else key for key in ids]


def _bare(key: str) -> str:
    return key.removeprefix("v_")


def _paragraphs(path: Path) -> dict[str, tuple[str, str]]:
    """Return id to (paragraph, duration)."""
    try:
        return {
            _bare(key): (" ".join(s.strip() for s in entry["sentences"] if s.strip()), str(entry.get("duration", "")))
            for key, entry in read_json(path, dict).items()
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{path}: expected an id to 'duration', 'timestamps' and 'sentences' ({error}).") from error
