"""Omniglot: 1,623 handwritten characters of 50 alphabets, 20 drawers each (Lake et al., Science 350, 2015)."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np
import pandas as pd

from metrixkit.data.manifest import Manifest
from metrixkit.data.roots import Source, find_folder
from metrixkit.data.sets.numbered import check_counts
from metrixkit.errors import InputError, did_you_mean

logger = logging.getLogger(__name__)

_PUBLISHED = {"train": 19_280, "test": 13_180}
_ARCHIVES = {
    "background": "background",
    "evaluation": "evaluation",
    "small1": "background_small1",
    "small2": "background_small2",
}


class Omniglot:
    """Omniglot, read in place from the zips as published. A class is a character of an alphabet.

    Args:
        root: The folder that holds the zips, or the one above it; None searches the data roots.
        archives: Which image archives to read: any of "background", "evaluation", "small1", "small2". None reads
            background and evaluation, which are the published split: training and test alphabets. Any other choice
            divides its alphabets with a seed and is named so. Drawings that stand in two archives (small1 and small2
            share Latin and Greek) are taken once.
        test_share: Share of the alphabets for the test split, in (0, 1); None is one half. Only where they are divided
            with a seed.
        seed: Seed of that division.
    """

    source: ClassVar[Source] = Source(
        title="Omniglot",
        folders=("omniglot", "omniglot-py", "omniglot_small", "omniglot/python", "python"),
        markers=tuple(f"images_{name}.zip" for name in _ARCHIVES.values()),
        origin="Brenden Lake's repository 'omniglot', folder python (images_background.zip, images_evaluation.zip)",
        card="datasets/omniglot.md",
    )

    def __init__(
        self,
        root: str | None = None,
        archives: list[str] | None = None,
        test_share: float | None = None,
        seed: int = 0,
    ) -> None:
        self.root, self.seed = root, seed
        self.archives = ["background", "evaluation"] if archives is None else list(archives)
        for name in self.archives:
            if name not in _ARCHIVES:
                raise InputError(f"omniglot: no archive is called {name!r}.{did_you_mean(name, _ARCHIVES)}")
        if not self.archives or len(set(self.archives)) < len(self.archives):
            raise InputError(f"omniglot: data.archives={self.archives} must name each archive once, and at least one.")
        self.published = sorted(self.archives) == ["background", "evaluation"]
        if self.published and test_share is not None:
            raise InputError("omniglot: data.test_share divides other archives; the published split has its own.")
        self.test_share = 0.5 if test_share is None else test_share
        if not 0.0 < self.test_share < 1.0:
            raise InputError(f"omniglot: data.test_share must lie between 0 and 1 (both excluded), it is {test_share}.")

    def read(self) -> Manifest:
        """Return the manifest: labels are "Greek/character01", ids add the drawing; columns ``alphabet``, ``drawer``.

        Where ``strokes_*.zip`` lie beside the images, the relation ``strokes`` has an ``id`` and the ``path`` of each
        drawing's pen trajectory.

        Raises:
            InputError: The folder or an archive is absent or broken, two archives hold different drawings under one
                name, counts are not the published ones, or fewer than two alphabets are to be divided.
        """
        folder = find_folder(self.source, self.root)
        self._check_present(folder)
        found = [member for name in self.archives for member in _members(folder, "images", name, ".png")]
        items = pd.DataFrame(_once(found), columns=["id", "path", "archive"])
        parts = items["id"].str.split("/")
        items["label"] = parts.str[0] + "/" + parts.str[1]
        items["alphabet"] = parts.str[0]
        items["drawer"] = parts.str[2].str.removesuffix(".png").str.rpartition("_")[2]
        if self.published:
            items["split"] = ["test" if name == "evaluation" else "train" for name in items["archive"]]
            check_counts(items, _PUBLISHED, "omniglot")
        else:
            test = self._test_alphabets(items["alphabet"].tolist())
            items["split"] = ["test" if name in test else "train" for name in items["alphabet"]]
        own = "-".join(["omniglot", *self.archives, f"share{self.test_share:g}", f"seed{self.seed}", "zero-shot"])
        relations = self._strokes(folder, set(items["id"]))
        items = items.drop(columns="archive")
        return Manifest(
            "omniglot",
            "zero-shot" if self.published else own,
            items,
            folder,
            0,
            _PUBLISHED if self.published else {},
            relations,
        )

    def _check_present(self, folder: Path) -> None:
        here = [name for name, file in _ARCHIVES.items() if (folder / f"images_{file}.zip").is_file()]
        absent = [name for name in self.archives if name not in here]
        if absent:
            raise InputError(
                f"Omniglot ({folder}): images_{_ARCHIVES[absent[0]]}.zip is missing. Here are {here}; "
                f"data.archives=[{','.join(here)}] reads them, with a split of their own."
            )

    def _test_alphabets(self, alphabets: Sequence[str]) -> set[str]:
        names = sorted(set(alphabets))
        if len(names) < 2:
            raise InputError(f"omniglot: alphabets are divided as wholes, and {self.archives} hold {len(names)}.")
        count = min(max(round(self.test_share * len(names)), 1), len(names) - 1)
        return {names[i] for i in np.random.default_rng(self.seed).permutation(len(names))[:count]}

    def _strokes(self, folder: Path, ids: set[str]) -> dict[str, pd.DataFrame]:
        here = [name for name in self.archives if (folder / f"strokes_{_ARCHIVES[name]}.zip").is_file()]
        members = [member for name in here for member in _members(folder, "strokes", name, ".txt")]
        found = {stroke.removesuffix(".txt") + ".png": path for stroke, path, _, _ in members}
        rows = sorted((stroke, path) for stroke, path in found.items() if stroke in ids)
        return {"strokes": pd.DataFrame(rows, columns=["id", "path"], dtype="str")} if rows else {}


def _members(folder: Path, kind: str, name: str, suffix: str) -> list[tuple[str, str, str, tuple[int, int]]]:
    """Return (alphabet/character/file, reference, archive, (checksum, size)) of each drawing in an archive."""
    path = folder / f"{kind}_{_ARCHIVES[name]}.zip"
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be opened as a zip ({error}); get it again.") from error
    found = []
    for entry in entries:
        parts = PurePosixPath(entry.filename).parts
        # Archives made on a Mac carry shadows of their files, whose names begin with a dot.
        if len(parts) == 4 and parts[3].endswith(suffix) and not parts[3].startswith("."):
            found.append(("/".join(parts[1:]), f"{path}!{entry.filename}", name, (entry.CRC, entry.file_size)))
    return found


def _once(found: list[tuple[str, str, str, tuple[int, int]]]) -> list[tuple[str, str, str]]:
    kept: dict[str, tuple[str, str, str]] = {}
    content: dict[str, tuple[int, int]] = {}
    for key, path, name, seen in found:
        if content.setdefault(key, seen) != seen:
            raise InputError(f"omniglot: {kept[key][1]} and {path} bear one name and differ; read one archive only.")
        kept.setdefault(key, (key, path, name))
    if len(kept) < len(found):
        logger.info("omniglot: %d drawings stand in two archives and are taken once", len(found) - len(kept))
    return list(kept.values())
