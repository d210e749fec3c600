"""Characters drawn in the faces that matplotlib ships: which there are, which look alike, and their pictures."""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

# The code points of these faces are not Unicode (TeX encodings, private use) or stand for whole blocks: they would put
# wrong pictures under a label.
_EXCLUDED = ("cm", "STIXNonUni", "LastResort")
# One upright regular face a family: what these four draw decides which characters look alike.
_REFERENCE = ("DejaVuSans", "DejaVuSansMono", "DejaVuSerif", "STIXGeneral")
# Relative squared distance of two clean drawings up to which they count as the same. Raster noise of one outline lies
# below 0.005 (A in Latin, Greek, Cyrillic); the breathings of Greek vowels, which differ in four pixels, begin at 0.02.
_ALIKE = 0.01
_REFERENCE_SIZE = 22
_REFERENCE_CANVAS = 40
_SUPERSAMPLE = 2

# The largest changes of an instance: degrees, share of the size, shear, share of the side. Chosen so that raw pixels
# find another instance of an unseen character in about 72 of 100 cases: neither trivial nor hopeless.
ROTATION = 7.0
SCALE = 0.07
SHEAR = 0.07
SHIFT = 0.025


class Faces:
    """The usable faces, the characters each one draws with ink, and pictures of them.

    Args:
        folder: Where the ``.ttf`` files lie; None is matplotlib's own folder.
    """

    def __init__(self, folder: Path | None = None) -> None:
        import matplotlib
        from matplotlib.ft2font import FT2Font

        folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf" if folder is None else folder
        self.files = {file.stem: file for file in sorted(folder.glob("*.ttf")) if not file.name.startswith(_EXCLUDED)}
        self._points = {name: set(FT2Font(str(file)).get_charmap()) for name, file in self.files.items()}
        self._fonts: dict[tuple[str, int], ImageFont.FreeTypeFont] = {}

    def characters(self, min_faces: int) -> dict[int, list[str]]:
        """Return the code points that at least `min_faces` faces draw with ink, each with the names of those faces."""
        listed = Counter(point for points in self._points.values() for point in points)
        found: dict[int, list[str]] = {}
        for point in sorted(p for p, n in listed.items() if n >= min_faces):
            # A blank is in many faces and has nothing to see: it is asked for its ink, small, because that is cheap.
            drawn = [name for name, points in self._points.items() if point in points and self._has_ink(name, point)]
            if len(drawn) >= min_faces:
                found[point] = drawn
        return found

    def has(self, name: str, point: int) -> bool:
        """Return whether a face draws a character."""
        return point in self._points[name]

    def _has_ink(self, name: str, point: int) -> bool:
        left, top, right, bottom = self._font(name, _REFERENCE_SIZE).getbbox(chr(point))
        return right > left and bottom > top

    def _font(self, name: str, size: int) -> ImageFont.FreeTypeFont:
        # The basic layout draws the same whether or not the optional Raqm library is installed.
        if (name, size) not in self._fonts:
            self._fonts[name, size] = ImageFont.truetype(
                str(self.files[name]), size=size, layout_engine=ImageFont.Layout.BASIC
            )
        return self._fonts[name, size]

    def clean(self, name: str, point: int, size: int) -> Image.Image:
        """Return one character cut out at its ink: 8-bit grey, light on black, at most 3 `size` pixels a side.

        Args:
            name: The face.
            point: The code point.
            size: Font size in pixels per em.
        """
        font, text = self._font(name, size), chr(point)
        left, top, right, bottom = (int(value) for value in font.getbbox(text))
        # Combining marks report a box beside the ink now and then; a margin and a crop at the ink cost little.
        margin = size // 2
        picture = Image.new("L", (right - left + 2 * margin, bottom - top + 2 * margin))
        ImageDraw.Draw(picture).text((margin - left, margin - top), text, fill=255, font=font)
        return picture.crop(picture.getbbox())

    def picture(self, name: str, point: int, size: int, seed: int) -> NDArray[np.uint8]:
        """Return one instance: the character centred and changed by a small affine map.

        Args:
            name: The face.
            point: The code point.
            size: Side of the picture in pixels.
            seed: The map is a pure function of the seed, the face and the code point, not of what else is drawn.

        Returns:
            (size, size) uint8, light on black.
        """
        side = _SUPERSAMPLE * size
        ink = self.clean(name, point, round(0.7 * side))
        # Few glyphs are wider than the picture (long arrows, ligatures): those are drawn smaller, none is cut.
        fit = max(1.0, max(ink.size) / (0.86 * side))
        draws = np.random.default_rng([seed, point, zlib.crc32(name.encode())]).uniform(-1.0, 1.0, size=5)
        angle, zoom = math.radians(ROTATION * draws[0]), fit * math.exp(SCALE * draws[1])
        cos, sin, shear = math.cos(angle), math.sin(angle), SHEAR * draws[2]
        # Pillow asks for the map from the output back to the ink.
        a, b = zoom * cos, zoom * (shear * cos - sin)
        c, d = zoom * sin, zoom * (shear * sin + cos)
        x, y = side / 2 + SHIFT * side * draws[3], side / 2 + SHIFT * side * draws[4]
        coefficients = (a, b, ink.width / 2 - a * x - b * y, c, d, ink.height / 2 - c * x - d * y)
        changed = ink.transform(
            (side, side), Image.Transform.AFFINE, coefficients, resample=Image.Resampling.BILINEAR, fillcolor=0
        )
        return np.asarray(changed.reduce(_SUPERSAMPLE))


def merge_alike(faces: Faces, characters: dict[int, list[str]]) -> list[list[int]]:
    """Group the characters that are drawn alike, such as A in Latin, Greek and Cyrillic.

    Two characters are alike when at least half of the reference faces that have both (one upright face a family) draw
    them the same up to raster noise, each centred at its ink and at the same font size: C and c stay apart, full stop
    and middle dot do not, since an instance is centred anyway. One face alone will not do: letters that one family
    draws alike on purpose another keeps apart.

    Args:
        faces: Where to draw.
        characters: Code point to the faces that have it, from :meth:`Faces.characters`.

    Returns:
        Groups of code points, each sorted, in the order of their first ones; most hold one.
    """
    from scipy.sparse.csgraph import connected_components

    points = sorted(characters)
    close = np.zeros((len(points), len(points)), dtype=np.int8)
    shared = np.zeros_like(close)
    for name in _REFERENCE:
        rows = [row for row, point in enumerate(points) if name in characters[point]]
        if not rows:
            continue
        drawings = _drawings(faces, name, [points[row] for row in rows])
        gram = drawings @ drawings.T
        square = np.diag(gram)
        distance = square[:, None] + square[None, :] - 2.0 * gram
        where = np.ix_(rows, rows)
        close[where] += distance <= _ALIKE * np.maximum(square[:, None], square[None, :])
        shared[where] += 1
    alike = (2 * close >= shared) & (shared > 0)
    _, group = connected_components(alike, directed=False)
    members: dict[int, list[int]] = {}
    for point, key in zip(points, group, strict=True):
        members.setdefault(int(key), []).append(point)
    return list(members.values())


def _drawings(faces: Faces, name: str, points: Sequence[int]) -> NDArray[np.float32]:
    canvas = np.zeros((len(points), _REFERENCE_CANVAS, _REFERENCE_CANVAS), dtype=np.float32)
    for row, point in enumerate(points):
        ink = np.asarray(faces.clean(name, point, _REFERENCE_SIZE))[:_REFERENCE_CANVAS, :_REFERENCE_CANVAS]
        top, left = ((_REFERENCE_CANVAS - side) // 2 for side in ink.shape)
        canvas[row, top : top + ink.shape[0], left : left + ink.shape[1]] = ink / np.float32(255)
    return canvas.reshape(len(points), -1)
