"""Captions of one's own, without code: a table of ids and captions, and where the videos or features lie."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from metrixkit.data.features import Features
from metrixkit.data.frames import VIDEO_SUFFIXES
from metrixkit.data.listed_paths import locate_listed
from metrixkit.data.pair_manifest import KINDS, PairManifest
from metrixkit.data.pair_sources import PairOnMissing, Sources, find_videos, settle_pairs
from metrixkit.data.tables import column, expand, read_table, split_cells, texts
from metrixkit.errors import InputError, did_you_mean


@dataclass(frozen=True)
class CaptionColumns:
    """Names of a table's columns.

    Attributes:
        id: The item (the video); it may stand in several rows, one a caption.
        caption: The caption; null for items without captions, whose modalities are matched with one another.
        split: train, val, test, query or gallery; null takes the column ``split`` where there is one.
        path: The item's video file, relative to the root, ``video.mp4#t=10,20`` for a stretch; null takes the column
            ``path`` where there is one.
        label: Class of the item, kept for tasks that need one; null takes the column ``label`` where there is one.
    """

    id: str = "id"
    caption: str | None = "caption"
    split: str | None = None
    path: str | None = None
    label: str | None = None


_DEFAULT_COLUMNS = CaptionColumns()
# What may stand behind an id in a list: it names the video, or the file of its features.
_FILES = (*VIDEO_SUFFIXES, ".npy", ".npz")
_RESERVED = ("id", "split", "label", "caption", "item", "text")


class Captions:
    """A table with a row a caption, and the videos or features that its ids name.

    An item's video is the cell of its column ``path``, or else the file ``ID.mp4`` (.webm, ...) below `videos`, or else
    its features. An id may also be the file's name (``001.mp4``). Further modalities are columns of the table, or
    features keyed by id. Where no split is given, items are divided with a seed.

    Args:
        table: ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet``, as given or below `root`. A caption of the latter two may
            be a list of texts: several captions of the row's item.
        root: Where relative paths start; None is the folder of the table.
        columns: Which columns hold what.
        separator: Between the cells of a text table; None is found out.
        modalities: Further columns, each with its kind: "video", "image", "features" (paths below the root) or "text"
            (the text itself). A blank cell means that the item lacks that modality, which is no fault.
        videos: Folder of video files named by id.
        features: Modality to features: keyed by id, or by the cells of the column of that name where the table has one
            (then a blank cell means that the item lacks it).
        text_features: Features of the captions, keyed "ID#0", "ID#1", ... in the order of the rows.
        test_share: Share of the items for the test split, in [0, 1); None is one fifth; 0 trains on everything, and
            nothing is judged. Only where no split is given.
        seed: Seed of that division.
        on_missing: "error", "drop" or "blank", for what is named and not there.
        verify: Whether to read every file while listing.
    """

    def __init__(
        self,
        table: str,
        root: str | None = None,
        columns: CaptionColumns = _DEFAULT_COLUMNS,
        separator: str | None = None,
        modalities: dict[str, str] | None = None,
        videos: str | None = None,
        features: dict[str, str] | None = None,
        text_features: str | None = None,
        test_share: float | None = None,
        seed: int = 0,
        on_missing: PairOnMissing = "error",
        verify: bool = False,
    ) -> None:
        if test_share is not None and not 0.0 <= test_share < 1.0:
            raise InputError(
                f"captions: data.test_share must lie between 0 (all training) and 1 (excluded), it is {test_share}."
            )
        for name, kind in (modalities or {}).items():
            if kind not in KINDS:
                raise InputError(f"captions: data.modalities.{name}={kind!r} is no kind.{did_you_mean(kind, KINDS)}")
        for name in (*(modalities or {}), *(features or {})):
            if name in _RESERVED:
                raise InputError(f"captions: no modality can be called {name!r}; rename the column.")
        self.table, self.root, self.columns, self.separator = table, root, columns, separator
        self.modalities, self.features = dict(modalities or {}), dict(features or {})
        self.test_share, self.seed = test_share, seed
        self.sources = Sources(videos, features, text_features, on_missing, verify)

    def read(self) -> PairManifest:
        """Return the manifest; captions are named "ID#0", "ID#1", ... in the order of the rows.

        Raises:
            InputError: A column is wrong, a cell is empty, an item's rows disagree about its split or its files, a
                split is unknown, a caption has no video, or files are missing.
        """
        given = expand(self.table)
        below = Path(self.root).expanduser() / given if self.root is not None else given
        file = given if given.is_file() or not below.is_file() else below
        root = file.parent if self.root is None else Path(self.root).expanduser()
        table = read_table(file, self.separator)
        ids = column(table, self.columns.id, file, "data.columns.id")
        captions: dict[str, list[str]] = {}
        if self.columns.caption is not None:
            cells = texts(table, self.columns.caption, file, "data.columns.caption")
            for key, some in zip(ids, cells, strict=True):
                captions.setdefault(key, []).extend(some)
        rows, unused = self._cells(table, file, root, ids)
        items = _one_row_an_item(rows, file)
        kinds = {n: self.modalities.get(n, "features") for n in (*self.modalities, *self.features)}
        if "video" not in kinds and "video" not in items.columns and self._wants_files(kinds):
            videos = find_videos(root if self.sources.videos is None else Path(self.sources.videos).expanduser())
            named = _held_by(items["id"].tolist(), videos)
            items["video"] = pd.Series([videos.get(key, "") for key in named], dtype="str")
            unused += [videos[key] for key in videos.keys() - set(named)]
        if "video" in items.columns and "video" not in kinds:
            kinds = {"video": "video", **kinds}
        keyed = {name for name in self.features if name in table.columns}
        if "split" not in items.columns:
            items["split"] = self._divide(items["id"].tolist(), file)
            split_name = f"share{self._share:g}-seed{self.seed}" if self._share else "all-train"
        else:
            split_name = "given"
        return settle_pairs(
            "captions", split_name, items, captions, kinds, root, self.sources, unused=unused,
            may_lack={*self.modalities, *keyed},
        )  # fmt: skip

    @property
    def _share(self) -> float:
        return 0.2 if self.test_share is None else self.test_share

    def _wants_files(self, kinds: dict[str, str]) -> bool:
        return self.sources.videos is not None or not kinds

    def _cells(self, table: pd.DataFrame, file: Path, root: Path, ids: list[str]) -> tuple[pd.DataFrame, list[str]]:
        """Return the items' columns, still a row a caption, and the features that belong to no item."""
        found = {"id": ids}
        unused: list[str] = []
        split = self.columns.split or ("split" if "split" in table.columns else None)
        if split is not None:
            if self.test_share is not None:
                raise InputError(f"{file}: data.test_share divides items, and the splits are given here; leave it out.")
            found["split"] = split_cells(column(table, split, file, "data.columns.split"), file)
        label = self.columns.label or ("label" if "label" in table.columns else None)
        if label is not None:
            found["label"] = column(table, label, file, "data.columns.label")
        path = self.columns.path or ("path" if "path" in table.columns and "path" not in self.modalities else None)
        if path is not None and "video" not in (*self.modalities, *self.features):
            found["video"] = locate_listed(root, column(table, path, file, "data.columns.path", blank=True))
        for name, kind in self.modalities.items():
            cells = column(table, name, file, f"data.modalities.{name}", blank=True, named_by=False)
            found[name] = cells if kind == "text" else locate_listed(root, cells)
        for name, place in self.features.items():
            features = Features.open(place)
            keys = column(table, name, file, f"data.features.{name}", blank=True) if name in table.columns else ids
            keys = _held_by(keys, features.references)
            found[name] = [features.references.get(key, "") if key else "" for key in keys]
            unused += [f"{name}: {key}" for key in features.references.keys() - set(keys)]
            if name in table.columns:
                unknown = [key for key in keys if key and key not in features]
                if unknown:
                    raise InputError(f"{file}: column {name!r} names {unknown[0]!r}, which {features.path} has not.")
        return pd.DataFrame(found, dtype="str"), unused

    def _divide(self, ids: list[str], file: Path) -> list[str]:
        if self._share == 0:
            return ["train"] * len(ids)
        if len(ids) < 2:
            raise InputError(f"{file}: one item cannot be divided into training and test; add a column 'split'.")
        order = sorted(ids)
        # One test item alone would be found whatever the model.
        least = 1 if len(ids) < 3 else 2
        count = min(max(round(self._share * len(ids)), least), len(ids) - 1)
        test = {order[i] for i in np.random.default_rng(self.seed).permutation(len(ids))[:count]}
        return ["test" if key in test else "train" for key in ids]


def _held_by(keys: Sequence[str], known: Mapping[str, str]) -> list[str]:
    """Return the names by which `known` holds ids: as they are, without a file's suffix, or in another Unicode form.

    Lists often name the file (``001.mp4``) whose stem is the id. An id that is not there stays as it is.
    """
    composed = {unicodedata.normalize("NFC", name): name for name in known if not name.isascii()}

    def held(key: str) -> str:
        stem, suffix = os.path.splitext(key)
        if key not in known and suffix.lower() in _FILES and stem in known:
            return stem
        return key if key in known else composed.get(unicodedata.normalize("NFC", key), key)

    return [held(key) for key in keys]


def _one_row_an_item(rows: pd.DataFrame, file: Path) -> pd.DataFrame:
    """Keep the first row of each item; a cell may also stand in one of its rows only."""
    rest = [name for name in rows.columns if name != "id"]
    for name in rest:
        named = rows[rows[name] != ""]
        several = named.groupby("id", sort=False)[name].nunique()
        if len(several) and int(several.max()) > 1:
            key = str(several.idxmax())
            cells = named[named["id"] == key][name].unique()[:2]
            raise InputError(f"{file}: the rows of {key!r} disagree about {name!r} ({', '.join(cells)}).")
        first = named.drop_duplicates("id").set_index("id")[name]
        rows[name] = rows["id"].map(first).fillna("").astype("str")
    return rows.drop_duplicates("id").reset_index(drop=True)
