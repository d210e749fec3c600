"""What is really in a data set: counts, unreadable files, lonely images, copies under two labels or in two splits."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from metrixkit.data.decode import decode
from metrixkit.data.duplicates import byte_equal
from metrixkit.data.image_files import FAULTS, told
from metrixkit.data.manifest import Manifest
from metrixkit.errors import InputError

logger = logging.getLogger(__name__)

_SHOWN = 5
# A cache halves the work only where images are clearly larger than the crops that are made of them.
_CACHE_SHORT_SIDE = 320


@dataclass(frozen=True)
class SplitReport:
    """One split in numbers.

    Attributes:
        split: Its name.
        items: Items found.
        expected: Items published, None when unknown.
        classes: Distinct labels.
        smallest: Images of its smallest class.
        median: Images of its median class.
        largest: Images of its largest class.
        singletons: Classes with one image: negatives in training; in a test split, queries without anything to find.
        without_match: Items of the split "query" whose label is nowhere in the gallery; 0 for other splits.
    """

    split: str
    items: int
    expected: int | None
    classes: int
    smallest: int
    median: float
    largest: int
    singletons: int
    without_match: int


@dataclass(frozen=True)
class CheckReport:
    """What :func:`check` found.

    Attributes:
        name: The data set.
        split_name: Which split of it.
        root: Where it lies.
        splits: Each split in numbers.
        absent: Listed items left out by the reader, a line each.
        unreadable: Items that cannot be decoded, a line each.
        two_labels: Groups of ids with equal bytes and different labels.
        two_splits: Groups of ids with equal bytes and one label, in different splits.
        copies: Items that equal an earlier one of the same label and split; harmless mostly, so no problem.
        sides: (N, 2) height and width of what was decoded, in pixels.
        cache_above: Pixels of all images together above which a cache of resized images is recommended.
        deep: Whether the files were read; else only lists were compared.
        passed_over: Names beside the images that no item was made of, by reason.
        classes: Distinct labels over all splits.
    """

    name: str
    split_name: str
    root: str
    splits: tuple[SplitReport, ...]
    absent: tuple[str, ...]
    unreadable: tuple[str, ...]
    two_labels: tuple[tuple[str, ...], ...]
    two_splits: tuple[tuple[str, ...], ...]
    copies: int
    sides: np.ndarray
    cache_above: float
    deep: bool
    passed_over: Mapping[str, Sequence[str]] = field(default_factory=dict)
    classes: int = 0

    @property
    def problems(self) -> list[str]:
        """What should be mended before numbers are trusted, a line each; empty when all is well."""
        found = [
            f"split {part.split!r} has {part.items:,} of the published {part.expected:,} items"
            for part in self.splits
            if part.expected is not None and part.expected != part.items
        ]
        for lines, what in ((self.absent, "missing or broken files were left out"), (self.unreadable, "unreadable")):
            if lines:
                found.append(f"{len(lines):,} {what}: {_first(lines)}")
        for groups, what in ((self.two_labels, "under two labels"), (self.two_splits, "in two splits")):
            if groups:
                shown = _first([" = ".join(group) for group in groups])
                found.append(f"{len(groups):,} images stand byte for byte {what}: {shown}")
        faults = told({reason: self.passed_over[reason] for reason in FAULTS if reason in self.passed_over})
        return [*found, faults] if faults else found

    @property
    def cache_recommended(self) -> bool:
        """Whether a cache of resized images would save most of the decoding."""
        if not len(self.sides):
            return False
        pixels = float(np.prod(self.sides.astype(np.float64), axis=1).sum())
        return pixels > self.cache_above and float(np.median(self.sides.min(axis=1))) > _CACHE_SHORT_SIDE

    def render(self) -> str:
        """Return the report as text for a terminal."""
        lines = [f"{self.name}, split {self.split_name}, at {self.root}", ""]
        head = ["split", "items", "published", "classes", "images a class (min/median/max)", "single"]
        rows = [
            [
                part.split,
                f"{part.items:,}",
                "-" if part.expected is None else f"{part.expected:,}",
                f"{part.classes:,}",
                f"{part.smallest} / {part.median:g} / {part.largest}",
                f"{part.singletons:,}",
            ]
            for part in self.splits
        ]
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
        for row in [head, *rows]:
            lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        total = sum(part.items for part in self.splits)
        lines += ["", f"{total:,} items of {self.classes:,} classes in all", *self._notes()]
        problems = self.problems
        lines += ["", f"{len(problems)} problem(s):", *(f"  - {line}" for line in problems)] if problems else ["", "OK"]
        return "\n".join(lines)

    def _notes(self) -> list[str]:
        notes = [
            f"{part.without_match:,} queries have nothing to find in the gallery; they are excluded and counted"
            for part in self.splits
            if part.without_match
        ]
        notes += [
            f"split {part.split!r} has {part.classes - part.singletons} classes in which there is anything to find: "
            "fewer than two can judge nothing, and training refuses it (images of your own: data.split=photos)"
            for part in self.splits
            if part.split in ("validation", "test", "query") and part.classes - part.singletons < 2
        ]
        if not {"test", "query"} & {part.split for part in self.splits}:
            notes.append("there is no test split: a run trains on everything, and nothing is judged")
        usual = told({reason: names for reason, names in self.passed_over.items() if reason not in FAULTS})
        if usual:
            notes.append(usual)
        if not self.deep:
            return [*notes, "files were not opened (shallow check)"]
        if self.copies:
            notes.append(f"{self.copies:,} images repeat another one of their class and split")
        if len(self.sides):
            pixels = np.prod(self.sides.astype(np.float64), axis=1)
            low, middle, high = (self.sides[np.argsort(pixels)[i]] for i in (0, len(pixels) // 2, -1))
            sizes = ", ".join(f"{word} {w} x {h}" for word, (h, w) in (("smallest", low), ("median", middle)))
            notes.append(f"image sizes: {sizes}, largest {high[1]} x {high[0]}; {pixels.sum() / 1e9:.2f} gigapixels")
        if self.cache_recommended:
            notes.append(
                f"decoding will cost more than training small models: more than {self.cache_above / 1e9:g} gigapixels "
                "an epoch. A cache of resized images saves most of it: set loader.cache=DIR"
            )
        return notes


def check(manifest: Manifest, deep: bool = True, workers: int | None = None, cache_above: float = 1e9) -> CheckReport:
    """Compare a data set with what was published, decode every image and look for copies.

    Args:
        manifest: From a reader.
        deep: Whether to open the files; False compares lists only and takes no time.
        workers: Threads that decode; None is the number of cores.
        cache_above: Pixels of all images together above which a cache is recommended (if, besides, the median short
            side exceeds 320).

    Returns:
        What was found; ``problems`` is empty when all is well, ``render()`` is for people.
    """
    items = manifest.items
    unreadable: list[str] = []
    two_labels: list[tuple[str, ...]] = []
    two_splits: list[tuple[str, ...]] = []
    sides, copies = np.zeros((0, 2), dtype=np.int64), 0
    if deep:
        sizes, reasons = _decode_all(manifest.paths, workers or os.cpu_count() or 1, manifest.name)
        sides = np.array([size for size in sizes if size is not None], dtype=np.int64).reshape(-1, 2)
        unreadable = [reason for reason in reasons if reason is not None]
        ids, labels, splits = manifest.ids, manifest.labels, items["split"].tolist()
        for group in byte_equal(manifest.paths):
            names = tuple(ids[i] for i in group)
            if len({labels[i] for i in group}) > 1:
                two_labels.append(names)
            elif len({splits[i] for i in group}) > 1:
                two_splits.append(names)
            else:
                copies += len(group) - 1
    return CheckReport(
        name=manifest.name,
        split_name=manifest.split_name,
        root=str(manifest.root),
        splits=tuple(_split_report(manifest, split) for split in _all_splits(manifest)),
        absent=manifest.absent,
        unreadable=tuple(unreadable),
        two_labels=tuple(two_labels),
        two_splits=tuple(two_splits),
        copies=copies,
        sides=sides,
        cache_above=cache_above,
        deep=deep,
        passed_over=manifest.passed_over,
        classes=len(manifest.classes()),
    )


def _all_splits(manifest: Manifest) -> list[str]:
    return [*manifest.splits, *(split for split in manifest.expected if split not in manifest.splits)]


def _split_report(manifest: Manifest, split: str) -> SplitReport:
    labels = manifest.items["label"][manifest.items["split"] == split]
    sizes = labels.value_counts().to_numpy()
    gallery = set(manifest.items["label"][manifest.items["split"] == "gallery"])
    return SplitReport(
        split=split,
        items=len(labels),
        expected=manifest.expected.get(split),
        classes=len(sizes),
        smallest=int(sizes.min(initial=len(labels))),
        median=float(np.median(sizes)) if len(sizes) else 0.0,
        largest=int(sizes.max(initial=0)),
        # Where a split searches others, one item of a class is enough.
        singletons=0 if manifest.galleries(split) else int((sizes == 1).sum()),
        without_match=int((~labels.isin(gallery)).sum()) if split == "query" else 0,
    )


def _decode_all(paths: Sequence[str], workers: int, name: str) -> tuple[list[tuple[int, int] | None], list[str | None]]:
    def size(path: str) -> tuple[tuple[int, int] | None, str | None]:
        try:
            image = decode(path)
        except (InputError, OSError) as error:
            return None, str(error)
        return (int(image.shape[1]), int(image.shape[2])), None

    with ThreadPoolExecutor(workers) as pool:
        # The bar shows itself only on a terminal (disable=None).
        found = list(tqdm(pool.map(size, paths), total=len(paths), desc=f"decoding {name}", unit="image", disable=None))
    return [one for one, _ in found], [reason for _, reason in found]


def _first(lines: Sequence[str]) -> str:
    return "; ".join(lines[:_SHOWN]) + ("; ..." if len(lines) > _SHOWN else "")
