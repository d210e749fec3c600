"""What is really in a data set of pairs: counts, what lacks a video or features, what repeats, what cannot be read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tqdm import tqdm

from metrixkit.data.pair_manifest import PairManifest
from metrixkit.data.pair_sources import unreadable

_SHOWN = 5


@dataclass(frozen=True)
class PairReport:
    """What :func:`check_pairs` found.

    Attributes:
        manifest: What was checked.
        bare: Ids of items without any caption, where others have some.
        empty: Ids of items that have no modality at all, though nothing named is missing.
        twice: Captions that stand twice for one item: "ITEM: CAPTION".
        shared: Captions that stand for several items, each the other's false negative.
        unreadable: Items with a modality that cannot be read, a line each.
        deep: Whether everything was read; else only lists were compared.
    """

    manifest: PairManifest
    bare: tuple[str, ...]
    empty: tuple[str, ...]
    twice: tuple[str, ...]
    shared: tuple[str, ...]
    unreadable: tuple[str, ...]
    deep: bool

    @property
    def problems(self) -> list[str]:
        """What should be mended before numbers are trusted, a line each; empty when all is well."""
        manifest, counts = self.manifest, self.manifest.counts()
        found = [
            f"split {split!r} has {counts.get(split, 0):,} of the published {n:,} items"
            for split, n in manifest.expected.items()
            if counts.get(split, 0) != n
        ]
        own = not manifest.expected
        for lines, what in (
            (manifest.absent, "items lack a video, an image or features"),
            (self.empty, "items have no modality at all"),
            (self.bare, "items have no caption"),
            (self.unreadable, "items cannot be read"),
            # In published sets people wrote one sentence twice, and folders hold videos of other splits.
            (self.twice if own else (), "captions stand twice for their item"),
            (manifest.unused if own else (), "videos or features belong to no listed item"),
        ):
            if lines:
                found.append(f"{len(lines):,} {what}: {_first(lines)}")
        return found

    def render(self) -> str:
        """Return the report as text for a terminal."""
        manifest = self.manifest
        lines = [f"{manifest.name}, split {manifest.split_name}, at {manifest.root}", ""]
        names = list(manifest.modalities)
        head = ["split", "items", "published", "captions", *(f"with {name}" for name in names)]
        rows = []
        for split in dict.fromkeys((*manifest.splits, *manifest.expected)):
            mine = manifest.items["split"] == split
            rows.append(
                [
                    split,
                    f"{int(mine.sum()):,}",
                    f"{manifest.expected[split]:,}" if split in manifest.expected else "-",
                    f"{int((manifest.texts['split'] == split).sum()):,}",
                    *(f"{int((manifest.items[name][mine] != '').sum()):,}" for name in names),
                ]
            )
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
        for row in [head, *rows]:
            lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        lines += ["", *self._notes()]
        problems = self.problems
        lines += ["", f"{len(problems)} problem(s):", *(f"  - {line}" for line in problems)] if problems else ["", "OK"]
        return "\n".join(lines)

    def _notes(self) -> list[str]:
        notes = []
        if self.shared:
            notes.append(f"{len(self.shared):,} captions stand for several items: {_first(self.shared)}")
        if self.manifest.expected and self.twice:
            notes.append(f"{len(self.twice):,} captions stand twice for their item: {_first(self.twice)}")
        if self.manifest.expected and self.manifest.unused:
            unused = self.manifest.unused
            notes.append(f"{len(unused):,} videos or features belong to no listed item: {_first(unused)}")
        if not self.deep:
            notes.append("files were not opened (shallow check)")
        return notes


def check_pairs(manifest: PairManifest, deep: bool = True, workers: int | None = None) -> PairReport:
    """Compare a data set of pairs with what was published, and read each video (its first and last frame) and feature.

    Args:
        manifest: From a reader, best with ``on_missing="blank"``.
        deep: Whether to read; False compares lists only.
        workers: Threads that read; None is the number of cores.

    Returns:
        What was found; ``problems`` is empty when all is well, ``render()`` is for people.
    """
    items, texts = manifest.items, manifest.texts
    told = set(texts["item"])
    bare = [key for key in items["id"] if key not in told] if len(texts) else []
    pairs = Counter(zip(texts["item"], texts["caption"], strict=True))
    owners = Counter(caption for _, caption in pairs)
    named = {line.partition(": ")[0] for line in manifest.absent}
    observed = [any(row) for row in manifest.present.tolist()]
    return PairReport(
        manifest=manifest,
        bare=tuple(bare),
        empty=tuple(
            key
            for key, some in zip(items["id"], observed, strict=True)
            if manifest.modalities and not some and key not in named
        ),
        twice=tuple(f"{item}: {caption}" for (item, caption), n in pairs.items() if n > 1),
        shared=tuple(caption for caption, n in owners.items() if n > 1),
        unreadable=tuple(_broken(manifest, workers or os.cpu_count() or 1)) if deep else (),
        deep=deep,
    )


def _broken(manifest: PairManifest, workers: int) -> list[str]:
    cells = [
        (key, cell, kind)
        for name, kind in manifest.modalities.items()
        if kind != "text"
        for key, cell in zip(manifest.items["id"], manifest.items[name], strict=True)
        if cell
    ]

    def read(one: tuple[str, str, str]) -> str | None:
        reason = unreadable(one[1], one[2])
        return None if reason is None else f"{one[0]}: {reason}"

    with ThreadPoolExecutor(workers) as pool:
        bar = tqdm(pool.map(read, cells), total=len(cells), desc=f"reading {manifest.name}", unit="file", disable=None)
        return [reason for reason in bar if reason is not None]


def _first(lines: Sequence[str]) -> str:
    return "; ".join(lines[:_SHOWN]) + ("; ..." if len(lines) > _SHOWN else "")
