"""MSVD: 1,970 clips of YouTube videos with about 40 captions each (Chen and Dolan, ACL 2011)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from metrixkit.data.pair_manifest import PairManifest
from metrixkit.data.pair_sources import PairOnMissing, Sources, pair_manifest
from metrixkit.data.roots import Source, find_folder
from metrixkit.data.sets.caption_lists import choose_splits, enforce_counts, need_file, no_captions, read_ids, read_json
from metrixkit.data.sets.pickles import load_pickle
from metrixkit.errors import InputError

_LISTS = {"train": "train_list.txt", "validation": "val_list.txt", "test": "test_list.txt"}
_PUBLISHED = {"train": 1_200, "validation": 100, "test": 670}


class MSVD:
    """MSVD, split by ``train_list.txt``, ``val_list.txt`` and ``test_list.txt``.

    The captions are those of ``raw-captions.pkl`` (id to lists of words, as released with CLIP4Clip; nothing but plain
    data is unpickled) or of ``captions_msvd.json`` (id to sentences). Every caption of a test video is a query.

    Args:
        root: The folder with the lists, or the one above it; None searches the data roots.
        splits: Which of train, validation and test to read; None reads all.
        videos: Folder of the videos; None searches below the lists.
        features: Features of the videos: modality to place; "video" stands instead of files.
        text_features: Features of the captions, keyed by caption id.
        on_missing: "error", "drop" or "blank".
        verify: Whether to read every file while listing.
        counts: False takes lists of another length, your own subset; the split is then named so.
    """

    source: ClassVar[Source] = Source(
        title="MSVD",
        folders=("MSVD", "msvd", "msvd_data"),
        markers=("raw-captions.pkl", "captions_msvd.json", "msvd_data/raw-captions.pkl"),
        origin="the University of Texas page of the Microsoft Research Video Description Corpus, lists and captions "
        "from the release page of CLIP4Clip (msvd_data.zip)",
        card="datasets/msvd.md",
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
        self.splits = choose_splits(splits, list(_LISTS), "msvd")
        self.sources = Sources(videos, features, text_features, on_missing, verify)

    def read(self) -> PairManifest:
        """Return the manifest: items are clips ("-4wsuPCjDBc_5_15"), their captions "-4wsuPCjDBc_5_15#0" and so on.

        Raises:
            InputError: A list is absent or malformed, counts are not the published ones, a clip stands in two lists or
                has no caption, or videos are missing.
        """
        folder = find_folder(self.source, self.root)
        path = need_file(folder, "raw-captions.pkl", "captions_msvd.json")
        listed = {split: read_ids(need_file(folder, _LISTS[split])) for split in self.splits}
        expected = {split: _PUBLISHED[split] for split in self.splits} if self.counts else {}
        enforce_counts({split: len(ids) for split, ids in listed.items()}, expected, "clips", folder)
        captions = _captions(path)
        rows = [(key, split) for split, ids in listed.items() for key in ids]
        items = pd.DataFrame(rows, columns=["id", "split"], dtype="str")
        twice = items["id"][items["id"].duplicated()]
        if len(twice):
            raise InputError(f"MSVD ({folder}): {twice.iloc[0]!r} stands in two lists.")
        no_captions(items["id"].tolist(), captions, path)
        return pair_manifest(
            "msvd", "1200-100-670" if self.counts else "own", items, captions, folder, self.sources, expected
        )


def _captions(path: Path) -> dict[str, list[str]]:
    raw = read_json(path, dict) if path.suffix == ".json" else load_pickle(path)
    try:
        return {_text(key): [_sentence(caption) for caption in captions] for key, captions in raw.items()}
    except (AttributeError, TypeError) as error:
        raise InputError(f"{path}: expected an id to a list of captions, each a text or a list of words.") from error


def _sentence(caption: Any) -> str:
    if isinstance(caption, str | bytes):
        return _text(caption)
    return " ".join(_text(word) for word in caption)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        # The pickle is of Python 2, whose texts do not tell their encoding; nearly all of it is ASCII.
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value.decode("latin-1")
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
