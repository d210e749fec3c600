"""MSR-VTT: 10,000 clips with 20 captions each (Xu et al., CVPR 2016), by the protocols 1k-A and full."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import pandas as pd

from metrixkit.data.pair_manifest import PairManifest
from metrixkit.data.pair_sources import PairOnMissing, Sources, pair_manifest
from metrixkit.data.roots import Source, find_folder
from metrixkit.data.sets.caption_lists import (
    choose_splits,
    enforce_counts,
    find_file,
    need_file,
    no_captions,
    read_json,
    read_list,
    refuse_twice,
)
from metrixkit.errors import InputError

_TEST = "MSRVTT_JSFUSION_test.csv"
_ALL = "MSRVTT_data.json"
_TEST_ALL = "msrvtt_test.json"
_PUBLISHED = {
    "9k": {"train": 9_000, "test": 1_000},
    "7k": {"train": 7_010, "test": 1_000},
    "full": {"train": 6_513, "validation": 497, "test": 2_990},
}
_SPLITS = {"train": "train", "validate": "validation", "test": "test"}
_EACH = 20

Captions = dict[str, list[str]]


class MSRVTT:
    """MSR-VTT. Training captions come from ``MSRVTT_data.json``; splits from the lists of the protocol.

    Args:
        root: The folder with the lists, or the one above it; None searches the data roots.
        protocol: "9k" and "7k" test on 1k-A (``MSRVTT_JSFUSION_test.csv``) and train on ``MSRVTT_train.9k.csv`` (9,000
            videos) or ``MSRVTT_train.7k.csv`` (7,010); "full" takes the splits of the json (6,513 / 497 / 2,990).
        test_captions: "one" takes the sentence of 1k-A for each test video; "all" its 20 captions, from the json or
            from ``msrvtt_test.json``, and is named so. "full" always has all.
        splits: Which splits to read, such as ["test"]; None reads all of the protocol.
        videos: Folder of the videos; None searches below the lists.
        features: Features of the videos: modality to place; "video" stands instead of files.
        text_features: Features of the captions, keyed by caption id.
        on_missing: "error", "drop" or "blank".
        verify: Whether to read every file while listing.
        counts: False takes lists of another length, your own subset; the split is then named so.
    """

    source: ClassVar[Source] = Source(
        title="MSR-VTT",
        folders=("MSRVTT", "msrvtt", "MSR-VTT", "msrvtt_data"),
        markers=(_TEST, _ALL, f"annotation/{_ALL}", f"msrvtt_data/{_TEST}"),
        origin="the authors' page (videos) and the release page of CLIP4Clip (msrvtt_data.zip: lists and captions)",
        card="datasets/msrvtt.md",
    )

    def __init__(
        self,
        root: str | None = None,
        protocol: Literal["9k", "7k", "full"] = "9k",
        test_captions: Literal["one", "all"] = "one",
        splits: list[str] | None = None,
        videos: str | None = None,
        features: dict[str, str] | None = None,
        text_features: str | None = None,
        on_missing: PairOnMissing = "error",
        verify: bool = False,
        counts: bool = True,
    ) -> None:
        self.root, self.protocol, self.test_captions, self.counts = root, protocol, test_captions, counts
        self.splits = choose_splits(splits, list(_PUBLISHED[protocol]), f"msrvtt, protocol {protocol}")
        self.sources = Sources(videos, features, text_features, on_missing, verify)

    def read(self) -> PairManifest:
        """Return the manifest: items are videos ("video9770"), their captions "video9770#0" and so on.

        Raises:
            InputError: A list is absent or malformed, counts are not the published ones, a video stands in two splits
                or has no caption, or videos are missing.
        """
        folder = find_folder(self.source, self.root)
        listed, captions = self._full(folder) if self.protocol == "full" else self._lists(folder)
        owner: dict[str, str] = {}
        for split, ids in listed.items():
            for key in ids:
                if owner.setdefault(key, split) != split:
                    raise InputError(f"MSR-VTT ({folder}): {key!r} stands in {owner[key]!r} and in {split!r}.")
        if self.counts:
            enforce_counts({split: len(ids) for split, ids in listed.items()}, self._expected(), "videos", folder)
            self._check_captions(listed, captions, folder)
        items = pd.DataFrame(list(owner.items()), columns=["id", "split"], dtype="str")
        return pair_manifest(
            "msrvtt", self._split_name(), items, captions, folder, self.sources, self._expected() if self.counts else {}
        )

    def _expected(self) -> dict[str, int]:
        return {split: n for split, n in _PUBLISHED[self.protocol].items() if split in self.splits}

    def _split_name(self) -> str:
        name = "full" if self.protocol == "full" else f"1k-A-{self.protocol}"
        many = "-20captions" if self.protocol != "full" and self.test_captions == "all" else ""
        return name + many + ("" if self.counts else "-own")

    def _lists(self, folder: Path) -> tuple[dict[str, list[str]], Captions]:
        listed: dict[str, list[str]] = {}
        captions: Captions = {}
        if "train" in self.splits:
            path = need_file(folder, f"MSRVTT_train.{self.protocol}.csv")
            listed["train"] = _ids(path)
            found = find_file(folder, _ALL)
            if found is None:
                raise InputError(
                    f"{folder / _ALL} is missing; it holds the training captions. With data.splits=[test] the test "
                    "videos are read without it."
                )
            every, _ = _data(found)
            no_captions(listed["train"], every, found)
            captions |= {key: every[key] for key in listed["train"]}
        if "test" in self.splits:
            path = need_file(folder, _TEST)
            listed["test"] = _ids(path)
            if self.test_captions == "all":
                every = self._all_test(folder)
                no_captions(listed["test"], every, folder)
                captions |= {key: every[key] for key in listed["test"]}
            else:
                table = read_list(path, "video_id", "sentence")
                captions |= {k: [s] for k, s in zip(listed["test"], table["sentence"], strict=True)}
        return listed, captions

    def _all_test(self, folder: Path) -> Captions:
        found = need_file(folder, _ALL, _TEST_ALL)
        if found.name == _ALL:
            return _data(found)[0]
        try:
            return {Path(file).stem: [str(c) for c in sentences] for file, _, sentences in read_json(found, list)}
        except (TypeError, ValueError) as error:
            raise InputError(f"{found}: expected rows of [file, frames, captions] ({error}).") from error

    def _full(self, folder: Path) -> tuple[dict[str, list[str]], Captions]:
        path = need_file(folder, _ALL)
        every, split_of = _data(path)
        listed: dict[str, list[str]] = {split: [] for split in self.splits}
        for key, split in split_of.items():
            if split in listed:
                listed[split].append(key)
        for ids in listed.values():
            no_captions(ids, every, path)
        return listed, {key: every[key] for ids in listed.values() for key in ids}

    def _check_captions(self, listed: dict[str, list[str]], captions: Captions, folder: Path) -> None:
        for split, ids in listed.items():
            each = 1 if split == "test" and self.protocol != "full" and self.test_captions == "one" else _EACH
            other = next((key for key in ids if len(captions[key]) != each), None)
            if other is not None:
                raise InputError(
                    f"MSR-VTT ({folder}): {other!r} has {len(captions[other])} captions, published are {each}; if this "
                    "is a subset of your own, say so: data.counts=false."
                )


def _ids(path: Path) -> list[str]:
    ids = read_list(path, "video_id")["video_id"].str.strip().tolist()
    refuse_twice(ids, path)
    return ids


def _data(path: Path) -> tuple[Captions, dict[str, str]]:
    """Return the captions and the split of each video of ``MSRVTT_data.json``."""
    data = read_json(path, dict)
    captions: Captions = {}
    try:
        for entry in data["sentences"]:
            captions.setdefault(str(entry["video_id"]), []).append(str(entry["caption"]))
        splits = {str(entry["video_id"]): _SPLITS[entry["split"]] for entry in data["videos"]}
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path}: expected 'videos' with video_id and split (train, validate, test), and 'sentences' with video_id "
            f"and caption ({type(error).__name__}: {error})."
        ) from error
    return captions, splits
