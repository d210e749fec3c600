"""Sets of torchvision.datasets by name: CIFAR, STL-10 with its unlabelled part, Aircraft, ImageNet folders, others."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from metrixkit.data.files import OnMissing, settle_missing
from metrixkit.data.held_out import UNLABELLED
from metrixkit.data.manifest import Manifest
from metrixkit.data.roots import Source, data_roots, find_folder, locate
from metrixkit.data.sets.drawn import drawn_once
from metrixkit.data.sets.numbered import check_counts
from metrixkit.data.sets.torchvision_folders import FolderRow, read_folders
from metrixkit.data.sets.torchvision_specs import FOLDERS, SPECS, Spec
from metrixkit.errors import InputError, did_you_mean

# Raise it when what is written changes: caches of older versions are then left alone.
_FORMAT = 1
_CHUNK = 1000
_CARD = "datasets/torchvision.md"
_COLUMNS = ["id", "path", "label", "split"]


class Torchvision:
    """A set that torchvision knows, by the name of its class there.

    Splits are the published ones: "train" (with the validation images, where a set has such a list) and "test". Sets
    that come as arrays in a few files are written once, as uint8 arrays, below ``$METRIXKIT_CACHE``; image files are
    read where they lie.

    Args:
        dataset: The class in ``torchvision.datasets``, such as CIFAR10, STL10, FGVCAircraft, ImageFolder, ImageNet.
        root: The folder above the published one, or that folder; None searches the data roots. For ImageFolder,
            ImageNet and INaturalist the folder that holds the training and the test folder.
        split: "classification" is the published split; "zero-shot" gives the first half of the classes, in the set's
            own order, to training and the others to the test split, all images of both published splits.
        unlabeled: Whether to add the images without labels (STL10) to the split "train", labelled "unlabelled".
        download: Whether torchvision may download what is missing, into `root` or the first data root.
        train_folder: The training folder's name (ImageFolder and its like); None tries the usual ones.
        test_folder: The test folder's name; None tries the usual ones.
        on_missing: "error" refuses a set with missing files, "drop" leaves the items out and counts them.
        verify: Whether to decode every image file while reading, so that broken ones count as missing.

    Raises:
        InputError: No such set, or settings that it has no use for.
    """

    def __init__(
        self,
        dataset: str,
        root: str | None = None,
        split: Literal["classification", "zero-shot"] = "classification",
        unlabeled: bool = False,
        download: bool = False,
        train_folder: str | None = None,
        test_folder: str | None = None,
        on_missing: OnMissing = "error",
        verify: bool = False,
    ) -> None:
        if dataset not in SPECS and dataset not in FOLDERS:
            known = [*SPECS, *FOLDERS]
            raise InputError(f"torchvision: data.dataset={dataset!r} is no set it reads.{did_you_mean(dataset, known)}")
        if split not in ("classification", "zero-shot"):
            raise InputError(f"torchvision: data.split={split!r}, expected 'classification' or 'zero-shot'.")
        spec = SPECS.get(dataset)
        if unlabeled and (spec is None or spec.unlabeled is None or split == "zero-shot"):
            has = [name for name, each in SPECS.items() if each.unlabeled is not None]
            raise InputError(
                f"torchvision: data.unlabeled=true is for {', '.join(has)} with data.split=classification, not for "
                f"{dataset} with data.split={split}."
            )
        if dataset in FOLDERS and download:
            raise InputError(
                f"torchvision: data.download=true, but {dataset} is not downloaded; it is {FOLDERS[dataset].title}, "
                f"from {FOLDERS[dataset].origin}."
            )
        if dataset in SPECS and (train_folder or test_folder):
            raise InputError(f"torchvision: data.train_folder and data.test_folder are for {', '.join(FOLDERS)}.")
        self.dataset, self.root, self.split = dataset, root, split
        self.unlabeled, self.download = unlabeled, download
        self.train_folder, self.test_folder = train_folder, test_folder
        self.on_missing, self.verify = on_missing, verify

    def read(self) -> Manifest:
        """Return the manifest: labels are class names, ids the split and the number or the file.

        Raises:
            InputError: The set is not there, a file differs from the published one, counts are not the published ones,
                or files are missing.
        """
        rows, classes, folder, expected = self._found()
        items = pd.DataFrame(rows, columns=_COLUMNS)
        if expected:
            check_counts(items, expected, self.dataset)
        name = "classification-with-unlabelled" if self.unlabeled else "classification"
        if self.split == "zero-shot":
            items["split"], name = _by_classes(items["label"], classes, self.dataset), "zero-shot"
            expected = {}
        where = f"{self.dataset} ({folder})"
        files = self.dataset in FOLDERS or not SPECS[self.dataset].arrays
        items, absent = settle_missing(items, self.on_missing, self.verify, where, folder) if files else (items, ())
        return Manifest(self.dataset.lower(), name, items, folder, len(absent), expected, absent=absent)

    def _found(self) -> tuple[list[FolderRow], list[str], Path, dict[str, int]]:
        """Return rows as `_COLUMNS`, the classes in the set's order, its folder, and the published counts."""
        if self.dataset in FOLDERS:
            spec = FOLDERS[self.dataset]
            markers = spec.train if self.train_folder is None else (self.train_folder,)
            source = Source(self.dataset, spec.folders, markers, spec.origin, _CARD)
            folder = find_folder(source) if self.root is None else Path(self.root).expanduser()
            found, names = read_folders(self.dataset, spec, folder, self.train_folder, self.test_folder)
            return found, names, folder, dict(spec.expected)
        known = SPECS[self.dataset]
        above = self._above(known)
        expected = dict(known.expected)
        rows: list[FolderRow] = []
        classes: list[str] = []
        for split, calls in known.parts.items():
            for call in calls:
                part, classes = self._part(known, above, split, call)
                rows += part
        if self.unlabeled and known.unlabeled is not None:
            rows += self._part(known, above, "train", known.unlabeled)[0]
            expected = {**expected, "train": expected["train"] + known.unlabeled_count} if expected else {}
        return rows, classes, above / known.folder, expected

    def _above(self, spec: Spec) -> Path:
        """Return what torchvision calls the root: the folder above the published one."""
        source = Source(self.dataset, (spec.folder or self.dataset.lower(),), spec.markers, spec.origin, _CARD)
        folder = locate(source, self.root)
        if folder is None and self.download:
            above = Path(self.root).expanduser() if self.root is not None else data_roots()[0]
            for calls in spec.parts.values():
                for call in calls:
                    self._construct(above, call)
            return above
        if folder is None:
            try:
                folder = find_folder(source, self.root)
            except InputError as error:
                raise InputError(f"{error} data.download=true lets torchvision download it.") from None
        if spec.folder and folder.name != spec.folder:
            raise InputError(f"{self.dataset}: {folder.absolute()} must bear its published name {spec.folder!r}.")
        return folder.parent if spec.folder else folder

    def _part(self, spec: Spec, above: Path, split: str, call: Mapping[str, Any]) -> tuple[list[FolderRow], list[str]]:
        if spec.arrays:
            return self._array_part(spec, above, split, call)
        found = self._construct(above, call)
        files = [str(path) for path in getattr(found, "_image_files", None) or found._images]
        classes = _class_names(found, found._labels)
        base = f"{above / spec.folder}{os.sep}"
        return [
            (path.removeprefix(base), path, classes[label], split)
            for path, label in zip(files, found._labels, strict=True)
        ], classes

    def _array_part(
        self, spec: Spec, above: Path, split: str, call: Mapping[str, Any]
    ) -> tuple[list[FolderRow], list[str]]:
        value = next(iter(call.values()))
        what = value if isinstance(value, str) else split

        def draw(folder: Path) -> None:
            found = self._construct(above, call)
            labels = [int(label) for label in (found.targets if hasattr(found, "targets") else found.labels)]
            classes = _class_names(found, labels)
            _write_images(folder / "images.npy", found.data)
            (folder / "classes.txt").write_text("\n".join(classes), encoding="utf-8")
            np.save(folder / "labels.npy", np.asarray(labels, dtype=np.int64))

        place = above / spec.folder
        key = {
            "format": _FORMAT,
            "dataset": self.dataset,
            "part": what,
            "place": str(place.absolute()),
            # What torchvision compares with checksums when it reads, a gigabyte a second: seen again, it is not reread.
            "files": _state(place, spec),
        }
        folder = drawn_once(f"{self.dataset.lower()}-{what}", key, draw)
        classes = (folder / "classes.txt").read_text(encoding="utf-8").split("\n")
        named = [UNLABELLED if label < 0 else classes[label] for label in np.load(folder / "labels.npy").tolist()]
        images = folder / "images.npy"
        return [(f"{what}/{row}", f"{images}#{row}", label, split) for row, label in enumerate(named)], classes

    def _construct(self, above: Path, call: Mapping[str, Any]) -> Any:
        from torchvision import datasets

        try:
            return getattr(datasets, self.dataset)(str(above), download=self.download, **call)
        except Exception as error:  # what torchvision's readers raise on broken files has no common base
            what = ", ".join(f"{key}={value}" for key, value in call.items())
            raise InputError(
                f"{self.dataset} ({above}), {what}: torchvision cannot read it ({error}). A file is missing or differs "
                f"from the published one; get it again from {SPECS[self.dataset].origin}, or set data.download=true. "
                f"Layout: {_CARD}."
            ) from error


def _class_names(found: Any, labels: Sequence[int]) -> list[str]:
    """Return the name of each class index; numbers where torchvision knows no names."""
    names = getattr(found, "classes", None)
    if names:
        return [re.sub(r"\s+", " ", str(name)).strip() for name in names]
    return [str(number) for number in range(max(labels, default=-1) + 1)]


def _write_images(path: Path, data: Any) -> None:
    """Write (N, H, W, 3), (N, 3, H, W) or (N, H, W) uint8 as what ``decode`` reads, a chunk at a time."""
    first = np.asarray(data[:1])
    channels_first = first.ndim == 4 and first.shape[3] != 3
    shape = tuple(first.transpose(0, 2, 3, 1).shape[1:]) if channels_first else first.shape[1:]
    written = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(len(data), *shape))
    for start in range(0, len(data), _CHUNK):
        chunk = np.asarray(data[start : start + _CHUNK])
        written[start : start + _CHUNK] = chunk.transpose(0, 2, 3, 1) if channels_first else chunk
    written.flush()


def _state(place: Path, spec: Spec) -> list[list[Any]]:
    """Return name, size and time of change of the files that a set lies in."""
    files = sorted(entry for entry in place.iterdir() if entry.is_file()) if spec.folder else []
    files = files or [place / marker for marker in spec.markers if (place / marker).is_file()]
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _by_classes(labels: pd.Series, classes: Sequence[str], name: str) -> list[str]:
    """Return the zero-shot split: the first half of the classes trains."""
    if len(classes) < 2:
        raise InputError(f"{name}: a zero-shot split needs two classes or more, there are {len(classes)}.")
    training = set(classes[: len(classes) // 2])
    return ["train" if label in training else "test" for label in labels]
