"""Cars196: 16,185 photographs of 196 car models (Krause et al., 3dRR 2013), in the old layout and in the devkit's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from metrixkit.data.files import OnMissing, settle_missing
from metrixkit.data.manifest import Manifest
from metrixkit.data.roots import Source, find_folder
from metrixkit.data.sets.numbered import NumberedSplit, choose_split
from metrixkit.errors import InputError

_PUBLISHED = {
    "zero-shot": {"train": 8_054, "test": 8_131},
    "classification": {"train": 8_144, "test": 8_041},
}
_DEVKITS = ("devkit", "car_devkit/devkit", ".")
_COLUMNS = ["id", "path", "class_id", "is_test"]


class Cars:
    """Cars196. The old layout is ``cars_annos.mat`` beside ``car_ims/``; the new one ``devkit/`` beside ``cars_train/``
    and ``cars_test/``, where the labels of the test images come from ``cars_test_annos_withlabels.mat`` or, where
    that file is absent, from a ``labels_df.csv`` (columns ``filename``, ``class_id``, ``is_test``).

    Args:
        root: The folder with either layout or the one above it; None searches the data roots.
        split: "zero-shot" trains on classes 1-98 and tests on 99-196, counted from 1; "classification" is the
            published split, whose numbers are not comparable with those of papers on metric learning.
        classes: Class numbers such as "1-50" or "1-25,30"; the chosen ones are split in halves. None takes all 196.
        on_missing: "error" refuses a set with missing files, "drop" leaves the items out and counts them.
        verify: Whether to decode every file while reading, so that broken ones count as missing.
    """

    source: ClassVar[Source] = Source(
        title="Cars196 (Stanford Cars)",
        folders=("stanford_cars", "cars196", "Cars196", "CARS196", "cars196_devkit"),
        markers=("cars_annos.mat", *(f"{devkit}/cars_train_annos.mat" for devkit in _DEVKITS)),
        origin="the mirrors of Stanford Cars (its own page is gone; torchvision's StanfordCars expects the same files)",
        card="datasets/cars.md",
    )

    def __init__(
        self,
        root: str | None = None,
        split: NumberedSplit = "zero-shot",
        classes: str | None = None,
        on_missing: OnMissing = "error",
        verify: bool = False,
    ) -> None:
        self.root, self.split, self.classes = root, split, classes
        self.on_missing, self.verify = on_missing, verify

    def read(self) -> Manifest:
        """Return the manifest: labels are number and name ("014.Audi TTS Coupe 2012"), ids relative image paths.

        Raises:
            InputError: The folder or an annotation is absent or malformed, counts are not the published ones, or
                files are missing.
        """
        folder = find_folder(self.source, self.root)
        old = (folder / "cars_annos.mat").is_file()
        items, names = _old_layout(folder) if old else _new_layout(folder)
        items["label"] = [f"{k:03d}.{names[k - 1]}" if k <= len(names) else f"{k:03d}" for k in items["class_id"]]
        items, split_name, expected = choose_split(items, self.split, self.classes, _PUBLISHED, "cars")
        items, absent = settle_missing(items, self.on_missing, self.verify, f"Cars196 ({folder})", folder)
        return Manifest("cars", split_name, items, folder, len(absent), expected, absent=absent)


def _old_layout(folder: Path) -> tuple[pd.DataFrame, list[str]]:
    content = _load(folder / "cars_annos.mat")
    rows = []
    for entry in np.atleast_1d(content["annotations"]):
        name = str(entry["relative_im_path"])
        rows.append((name, str(folder / name), int(entry["class"]), int(entry["test"])))
    return pd.DataFrame(rows, columns=_COLUMNS), _names(content)


def _new_layout(folder: Path) -> tuple[pd.DataFrame, list[str]]:
    devkit = next(folder / place for place in _DEVKITS if (folder / place / "cars_train_annos.mat").is_file())
    train = [
        (str(entry["fname"]), int(entry["class"]))
        for entry in np.atleast_1d(_load(devkit / "cars_train_annos.mat")["annotations"])
    ]
    rows = []
    for is_test, part, annotated in ((0, "cars_train", train), (1, "cars_test", _test_labels(folder, devkit))):
        # Some archives unpack into a second folder of the same name.
        images = folder / part / part if (folder / part / part).is_dir() else folder / part
        rows += [(f"{part}/{name}", str(images / name), number, is_test) for name, number in annotated]
    meta = devkit / "cars_meta.mat"
    return pd.DataFrame(rows, columns=_COLUMNS), _names(_load(meta)) if meta.is_file() else []


def _test_labels(folder: Path, devkit: Path) -> list[tuple[str, int]]:
    for place in (devkit, folder):
        if (place / "cars_test_annos_withlabels.mat").is_file():
            content = _load(place / "cars_test_annos_withlabels.mat")
            return [(str(entry["fname"]), int(entry["class"])) for entry in np.atleast_1d(content["annotations"])]
        if (place / "labels_df.csv").is_file():
            table = pd.read_csv(place / "labels_df.csv", dtype=str)
            lacking = {"filename", "class_id", "is_test"} - set(table.columns)
            if lacking:
                raise InputError(f"{place / 'labels_df.csv'} lacks the columns {sorted(lacking)}.")
            test = table[table["is_test"] == "1"]
            # The table tells test images from training images of the same number by a prefix.
            names = [name.removeprefix("test_") for name in test["filename"]]
            return list(zip(names, [int(number) for number in test["class_id"]], strict=True))
    raise InputError(
        f"Cars196 ({folder}): the labels of the test images are missing. cars_test_annos.mat of the devkit holds boxes "
        f"only; put cars_test_annos_withlabels.mat beside it, at {devkit}. The zero-shot split needs it too, since "
        "both its halves contain test images."
    )


def _load(path: Path) -> dict[str, Any]:
    import scipy.io  # only this reader needs it

    try:
        return scipy.io.loadmat(path, squeeze_me=True)
    except (OSError, ValueError, NotImplementedError, scipy.io.matlab.MatReadError) as error:
        raise InputError(f"{path} cannot be read as a MATLAB file ({error}); get it again.") from error


def _names(content: dict[str, Any]) -> list[str]:
    return [str(name) for name in np.atleast_1d(content.get("class_names", []))]
