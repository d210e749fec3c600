"""Omniglot's drawings as two modalities: the picture, and the trajectory of the pen that drew it."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from metrixkit.data.pair_manifest import PairManifest
from metrixkit.data.roots import Source
from metrixkit.data.sets.drawn import drawn_once
from metrixkit.data.sets.omniglot import Omniglot
from metrixkit.errors import InputError

# Raise it when the conversion changes: caches of older versions are then left alone.
_FORMAT = 1
_NO_TEXTS = pd.DataFrame({name: pd.Series(dtype="str") for name in ("id", "caption", "item", "split")})


class OmniglotStrokes:
    """Omniglot images with the online strokes of the same drawing; see :class:`~metrixkit.data.Omniglot` for the split.

    An item has the modalities "image" (light ink on black) and "strokes" (L points (x, y, begins a stroke)), and the
    column ``label``. Both are converted once and cached below ``$METRIXKIT_CACHE`` or ``~/.cache/metrixkit``.

    Args:
        root: The folder that holds the zips, or the one above it; None searches the data roots.
        archives: As for Omniglot; the strokes' archives must lie beside those of the images.
        test_share: As for Omniglot.
        seed: Of the division of alphabets.
        size: Side of the pictures in pixels, 8 to 105.
        points: Points of a trajectory, L, 8 to 512.
    """

    source: ClassVar[Source] = replace(
        Omniglot.source,
        title="Omniglot with strokes",
        markers=tuple(name.replace("images_", "strokes_") for name in Omniglot.source.markers),
        origin=Omniglot.source.origin.replace(")", ", and their strokes_*.zip)"),
        card="datasets/omniglot_strokes.md",
    )

    def __init__(
        self,
        root: str | None = None,
        archives: list[str] | None = None,
        test_share: float | None = None,
        seed: int = 0,
        size: int = 28,
        points: int = 64,
    ) -> None:
        for name, value, low, high in (("size", size, 8, 105), ("points", points, 8, 512)):
            if not low <= value <= high:
                raise InputError(f"omniglot_strokes: {name} must lie between {low} and {high}, it is {value}.")
        self.images = Omniglot(root, archives, test_share, seed)
        self.size, self.points = size, points

    def read(self) -> PairManifest:
        """Return the manifest; converts images and strokes if they are not in the cache.

        Raises:
            InputError: What Omniglot refuses; no strokes at all; a trajectory that cannot be read.
        """
        manifest = self.images.read()
        strokes = manifest.relations.get("strokes")
        if strokes is None or strokes.empty:
            raise InputError(
                f"omniglot_strokes: no strokes_*.zip lies in {manifest.root} beside the images; they come from the "
                "same place."
            )
        items = manifest.items
        paths = dict(zip(strokes["id"], strokes["path"], strict=True))
        files = sorted({_archive(path) for path in [*items["path"], *paths.values()]})
        key = {
            "format": _FORMAT,
            "size": self.size,
            "points": self.points,
            "files": [[file, Path(file).stat().st_size, Path(file).stat().st_mtime_ns] for file in files],
            "count": len(items),
        }
        folder = drawn_once(
            "omniglot-strokes", key, lambda place: self._convert(place, items["path"].tolist(), list(paths.values()))
        )
        place = {stroke: row for row, stroke in enumerate(paths)}
        table = items[["id", "split", "label", "alphabet", "drawer"]].assign(
            image=[f"{folder / 'images.npy'}#{row}" for row in range(len(items))],
            strokes=[f"{folder / 'strokes.npy'}#{place[key]}" if key in place else "" for key in items["id"]],
        )
        return PairManifest(
            "omniglot_strokes",
            manifest.split_name,
            table.astype("str"),
            _NO_TEXTS.copy(),
            {"image": "image", "strokes": "features"},
            manifest.root,
            expected=manifest.expected,
        )

    def _convert(self, folder: Path, images: list[str], strokes: list[str]) -> None:
        pictures = [picture(content, self.size) for content in _contents(images)]
        np.save(folder / "images.npy", np.stack(pictures))
        lines = [
            trajectory(content.decode("latin-1"), self.points, name)
            for name, content in zip(strokes, _contents(strokes), strict=True)
        ]
        np.save(folder / "strokes.npy", np.stack(lines))


def picture(content: bytes, size: int) -> NDArray[np.uint8]:
    """Return (size, size) uint8 of a PNG, the ink light on black, areas averaged."""
    import io

    grey = Image.open(io.BytesIO(content)).convert("L").resize((size, size), Image.Resampling.BOX)
    return 255 - np.asarray(grey, dtype=np.uint8)


def trajectory(text: str, points: int, name: str = "") -> NDArray[np.float32]:
    """Return a drawing's strokes as points evenly spaced along the pen's way.

    Args:
        text: Lines "x,y,time" in image coordinates (y upwards and negative), between "START" and "BREAK" lines.
        points: L, shared among strokes by length, each stroke having one at least as far as they go.
        name: Of the file, for messages.

    Returns:
        (L, 3): x to the right and y upwards in [-1, 1], the larger side filling it and the middle at 0; and 1 where a
        stroke begins, else 0. Time is not kept.

    Raises:
        InputError: A line that is no point, or no point at all.
    """
    strokes: list[list[tuple[float, float]]] = [[]]
    for number, line in enumerate(text.splitlines(), start=1):
        word = line.strip()
        if word in ("START", ""):
            continue
        if word == "BREAK":
            strokes.append([])
            continue
        try:
            x, y = (float(part) for part in word.split(",")[:2])
        except ValueError:
            raise InputError(f"strokes {name}, line {number}: {word!r} is no point x,y,time.") from None
        strokes[-1].append((x, y))
    drawn = [np.array(stroke) for stroke in strokes if stroke]
    if not drawn or not all(np.isfinite(stroke).all() for stroke in drawn):
        raise InputError(f"strokes {name}: it has no points, or points that are not finite.")
    lengths = np.array([np.hypot(*np.diff(stroke, axis=0).T).sum() for stroke in drawn])
    # A dot has no length, and still one point.
    exact = np.maximum(lengths, 1e-6) / np.maximum(lengths, 1e-6).sum() * points
    shares = np.maximum(np.floor(exact), 1).astype(int)
    while shares.sum() != points:
        step = 1 if shares.sum() < points else -1
        room = np.where((shares > 1) | (step > 0), (exact - shares) * step, -np.inf)
        if not np.isfinite(room).any():  # more strokes than points: the shortest are left out
            keep = np.sort(np.argsort(-lengths, kind="stable")[:points])
            drawn, shares = [drawn[place] for place in keep], np.ones(points, dtype=int)
            break
        shares[int(room.argmax())] += step
    found = np.concatenate([_along(stroke, int(n)) for stroke, n in zip(drawn, shares, strict=True)])
    low, high = found[:, :2].min(axis=0), found[:, :2].max(axis=0)
    found[:, :2] = (found[:, :2] - (low + high) / 2) / max(float((high - low).max()) / 2, 1e-9)
    return found.astype(np.float32)


def _along(stroke: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    steps = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(stroke, axis=0).T))])
    at = np.linspace(0.0, steps[-1], count)
    x, y = (np.interp(at, steps, stroke[:, axis]) for axis in (0, 1))
    return np.stack([x, y, (np.arange(count) == 0).astype(np.float64)], axis=1)


def _archive(path: str) -> str:
    return path.partition(".zip!")[0] + ".zip"


def _contents(paths: list[str]) -> Iterable[bytes]:
    open_: dict[str, zipfile.ZipFile] = {}
    try:
        for path in paths:
            file = _archive(path)
            if file not in open_:
                open_[file] = zipfile.ZipFile(file)
            yield open_[file].read(path.partition(".zip!")[2])
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        raise InputError(f"{path} cannot be read ({error}).") from error
    finally:
        for archive in open_.values():
            archive.close()
