"""The outline of a character as a sequence of points, from the curves of its font."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_SIZE = 200.0


class Outlines:
    """Outlines of the characters of some faces.

    Args:
        files: Face to font file.
        points: Points of an outline, L.
    """

    def __init__(self, files: dict[str, Path], points: int) -> None:
        from matplotlib.ft2font import FT2Font

        self.points = points
        self._fonts = {name: FT2Font(str(file)) for name, file in files.items()}
        for font in self._fonts.values():
            font.set_size(_SIZE, 72)

    def outline(self, name: str, point: int) -> NDArray[np.float32]:
        """Return a character's outline.

        Args:
            name: The face.
            point: The code point.

        Returns:
            (L, 3): x to the right and y upwards, in [-1, 1] with the larger side filling it and the middle at 0; and 1
            where a contour begins, else 0. Points are evenly spaced along each contour, in the order of the font.
        """
        from matplotlib.ft2font import LoadFlags
        from matplotlib.path import Path as Curves

        font = self._fonts[name]
        font.load_char(point, flags=LoadFlags.NO_HINTING)
        vertices, codes = font.get_path()
        polygons = [np.asarray(c) for c in Curves(vertices, codes).to_polygons(closed_only=True)]
        contours = [c for c in polygons if len(c) > 1 and np.ptp(c) > 0]
        lengths = np.array([np.hypot(*np.diff(c, axis=0).T).sum() for c in contours])
        drawn = np.concatenate(
            [_along(c, n) for c, n in zip(contours, _shares(lengths, self.points), strict=True) if n]
        ).astype(np.float64)
        low, high = drawn[:, :2].min(axis=0), drawn[:, :2].max(axis=0)
        drawn[:, :2] = (drawn[:, :2] - (low + high) / 2) / max(float((high - low).max()) / 2, 1e-9)
        return drawn.astype(np.float32)


def _shares(lengths: NDArray[np.float64], points: int) -> list[int]:
    """Divide the points by length: at least one for each contour, as far as they go, longest first."""
    shares = np.zeros(len(lengths), dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    shares[order[:points]] = 1
    rest = points - int(shares.sum())
    exact = rest * lengths / lengths.sum()
    shares += np.floor(exact).astype(np.int64)
    left = points - int(shares.sum())
    shares[np.argsort(-(exact - np.floor(exact)), kind="stable")[:left]] += 1
    return [int(n) for n in shares]


def _along(contour: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    steps = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(contour, axis=0).T))])
    at = np.arange(count) * steps[-1] / count
    x, y = (np.interp(at, steps, contour[:, axis]) for axis in (0, 1))
    return np.stack([x, y, (np.arange(count) == 0).astype(np.float64)], axis=1)
