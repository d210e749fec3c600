"""A character that moves: clips under named motions, and the words for face and motion."""

from __future__ import annotations

import math
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metrixkit.data.sets.glyph_images import Faces

# Where a motion takes the character while the time u goes from 0 to 1: shift in shares of the side, turn in degrees
# (positive is clockwise), size relative to the usual one, brightness.
MOTIONS = (
    "moving right",
    "moving left",
    "moving up",
    "moving down",
    "turning clockwise",
    "turning counterclockwise",
    "growing",
    "shrinking",
    "fading in",
    "fading out",
    "shaking",
    "standing still",
)
_SUPERSAMPLE = 2
_FONT_SHARE = 0.52
_FIT = 0.62
_REACH, _TURN, _SHAKE = 0.2, 100.0, 0.1

_FAMILIES = {
    "DejaVuSansDisplay": "sans display",
    "DejaVuSansMono": "mono",
    "DejaVuSans": "sans",
    "DejaVuSerifDisplay": "serif display",
    "DejaVuSerif": "serif",
    "STIXGeneral": "roman",
    "STIXSizOneSym": "large",
    "STIXSizTwoSym": "larger",
    "STIXSizThreeSym": "huge",
    "STIXSizFourSym": "giant",
    "STIXSizFiveSym": "colossal",
}
_STYLES = {
    "": "",
    "Reg": "",
    "Bol": "bold",
    "Bold": "bold",
    "Italic": "italic",
    "Oblique": "oblique",
    "BolIta": "bold italic",
    "BoldItalic": "bold italic",
    "BoldOblique": "bold oblique",
}


def style_of(face: str) -> str:
    """Return a face in words, each face in others: "DejaVuSerif-BoldItalic" is "bold italic serif".

    A face that no rule names keeps its own name in lower case.
    """
    for family in sorted(_FAMILIES, key=len, reverse=True):
        style = face.removeprefix(family).removeprefix("-")
        if face.startswith(family) and style in _STYLES:
            return f"{_STYLES[style]} {_FAMILIES[family]}".strip()
    return face.lower()


def clip(faces: Faces, name: str, point: int, motion: str, size: int, frames: int, seed: int) -> NDArray[np.uint8]:
    """Draw a character in motion.

    Args:
        faces: Where to draw from.
        name: The face.
        point: The code point.
        motion: One of `MOTIONS`.
        size: Side of the frames in pixels.
        frames: Frames T, 2 or more; the motion is whole at the last.
        seed: Place, reach and size vary a little as a pure function of seed, face and code point.

    Returns:
        (T, size, size) uint8, light on black.
    """
    side = _SUPERSAMPLE * size
    ink = faces.clean(name, point, round(_FONT_SHARE * side))
    fit = max(1.0, max(ink.size) / (_FIT * side))
    draws = np.random.default_rng([seed, point, zlib.crc32(name.encode()), 1]).uniform(-1.0, 1.0, size=4)
    reach, rest = 1.0 + 0.15 * draws[0], math.exp(0.06 * draws[1])
    x0, y0 = 0.03 * draws[2], 0.03 * draws[3]
    return np.stack(
        [_frame(ink, side, fit * rest, (x0, y0), reach, motion, step / (frames - 1), step) for step in range(frames)]
    )


def _frame(
    ink: Image.Image,
    side: int,
    shrink: float,
    offset: tuple[float, float],
    reach: float,
    motion: str,
    u: float,
    step: int,
) -> NDArray[np.uint8]:
    x, y = offset
    angle, size, light = 0.0, 1.0, 1.0
    swing = reach * (2.0 * u - 1.0)
    if motion in ("moving right", "moving left"):
        x += _REACH * swing * (1 if motion == "moving right" else -1)
    elif motion in ("moving down", "moving up"):
        y += _REACH * swing * (1 if motion == "moving down" else -1)
    elif motion.startswith("turning"):
        angle = math.radians(_TURN * reach * u) * (1 if motion == "turning clockwise" else -1)
    elif motion in ("growing", "shrinking"):
        size = math.exp(0.5 * swing * (1 if motion == "growing" else -1))
    elif motion in ("fading in", "fading out"):
        light = 0.12 + 0.88 * (u if motion == "fading in" else 1.0 - u)
    elif motion == "shaking":
        x += _SHAKE * reach * (-1) ** step
    zoom = shrink / size
    cos, sin = math.cos(angle), math.sin(angle)
    # Pillow asks for the map from the picture back to the ink.
    a, b, c, d = zoom * cos, zoom * sin, -zoom * sin, zoom * cos
    cx, cy = side * (0.5 + x), side * (0.5 + y)
    coefficients = (a, b, ink.width / 2 - a * cx - b * cy, c, d, ink.height / 2 - c * cx - d * cy)
    drawn = ink.transform(
        (side, side), Image.Transform.AFFINE, coefficients, resample=Image.Resampling.BILINEAR, fillcolor=0
    )
    grey = np.asarray(drawn.reduce(_SUPERSAMPLE))
    return np.rint(grey * light).astype(np.uint8) if light < 1.0 else grey
