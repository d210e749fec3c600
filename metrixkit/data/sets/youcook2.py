"""YouCook2: cooking videos cut into steps with a sentence each (Zhou et al., AAAI 2018)."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pandas as pd

from metrixkit.data.pair_manifest import PairManifest
from metrixkit.data.pair_sources import PairOnMissing, Sources, pair_manifest
from metrixkit.data.roots import Source, find_folder
from metrixkit.data.sets.caption_lists import choose_splits, enforce_counts, need_file, read_json
from metrixkit.errors import InputError

_ANNOTATIONS = ("youcookii_annotations_trainval.json", "annotations/youcookii_annotations_trainval.json")
_SUBSETS = {"training": "train", "validation": "test"}
_PUBLISHED = {"train": 10_337, "test": 3_492}


class YouCook2:
    """YouCook2 clips: a sentence and the stretch of its video. Train 10,337 clips, validation (as test) 3,492.

    Args:
        root: The folder with ``youcookii_annotations_trainval.json``, or the one above it; None searches the data
            roots.
        splits: Which of train and test to read; None reads both.
        videos: Folder of the whole videos (``ID.mp4``, ...); None searches below the annotations.
        features: Features of the clips, keyed by "VIDEO/NUMBER": modality to place.
        text_features: Features of the sentences, keyed by "VIDEO/NUMBER#0".
        on_missing: "error", "drop" or "blank"; a part of these videos is no longer to be had.
        verify: Whether to read every clip while listing.
        counts: False takes annotations of another length, your own subset; the split is then named so.
    """

    source: ClassVar[Source] = Source(
        title="YouCook2",
        folders=("YouCook2", "youcook2", "YouCookII", "youcookii", "youcook"),
        markers=_ANNOTATIONS,
        origin="youcook2.eecs.umich.edu (annotations and list of videos)",
        card="datasets/youcook2.md",
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
        self.splits = choose_splits(splits, list(_SUBSETS.values()), "youcook2")
        self.sources = Sources(videos, features, text_features, on_missing, verify)

    def read(self) -> PairManifest:
        """Return the manifest: ids are "VIDEO/NUMBER", clips such as ``VIDEO.mp4#t=90,102``; column ``video_id`` added.

        Raises:
            InputError: The annotations are absent or malformed, counts are not the published ones, a stretch has no
                length, or videos are missing.
        """
        folder = find_folder(self.source, self.root)
        path = need_file(folder, _ANNOTATIONS[0])
        rows = [row for row in _clips(path) if row[1] in self.splits]
        items = pd.DataFrame(
            [row[:4] for row in rows], columns=["id", "split", "video_id", "stretch"], dtype="str"
        ).assign(file=[row[2] for row in rows])
        expected = {split: _PUBLISHED[split] for split in self.splits} if self.counts else {}
        enforce_counts({split: sum(row[1] == split for row in rows) for split in self.splits}, expected, "clips", path)
        captions = {row[0]: [row[4]] for row in rows}
        return pair_manifest(
            "youcook2", "clips" if self.counts else "clips-own", items, captions, folder, self.sources, expected
        )


def _clips(path: Path) -> list[tuple[str, str, str, str, str]]:
    """Return (id, split, video, stretch, sentence) of each annotated clip."""
    rows = []
    try:
        for video, entry in read_json(path, dict)["database"].items():
            for clip in entry["annotations"]:
                start, stop = (float(second) for second in clip["segment"])
                key, sentence = f"{video}/{clip['id']}", str(clip["sentence"]).strip()
                if not 0 <= start < stop or not sentence:
                    raise InputError(f"{path}: clip {key!r} has no length or no sentence ({start:g} to {stop:g} s).")
                rows.append((key, _SUBSETS[entry["subset"]], video, f"#t={start:.10g},{stop:.10g}", sentence))
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: expected 'database' of videos with 'subset' (training, validation) and 'annotations' of id, "
            f"segment and sentence ({type(error).__name__}: {error})."
        ) from error
    return rows
