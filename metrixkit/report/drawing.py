"""What all pictures share: they are saved whole or not at all, and say inside the PNG what they show."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metrixkit.errors import InputError
from metrixkit.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Load = Callable[[str], np.ndarray]  # item id to an (H, W, 3) uint8 image
DPI = 130


def new_figure(**options: Any) -> Figure:
    """Return an empty figure. matplotlib is imported with the first one: every command reads these files, few draw."""
    from matplotlib.figure import Figure

    return Figure(**options)


def plain_legends(figure: Figure) -> None:
    """Let no name in a legend be read as mathematics; needed before a layout that measures them, else at saving."""
    from matplotlib.legend import Legend

    for legend in figure.findobj(Legend):
        for text in legend.get_texts():
            text.set_parse_math(False)


def save_figure(
    figure: Figure, path: str | os.PathLike[str], title: str, caption: str, kind: str, dpi: float = DPI
) -> Path:
    """Write a figure as PNG.

    Args:
        figure: What to save.
        path: A ``.png``; its folder is made.
        title: Two to five words.
        caption: What is seen and how it was chosen; readers who cannot see the picture get it too.
        kind: :data:`~metrixkit.report.markup.DRAWING` or :data:`~metrixkit.report.markup.PHOTOGRAPHS`.
        dpi: Pixels an inch.

    Returns:
        The path.
    """
    return write_bytes(path, png(figure, title, caption, kind, dpi))


def png(figure: Figure, title: str, caption: str, kind: str, dpi: float = DPI) -> bytes:
    """Return a figure as the content of a PNG that says what it shows; arguments as :func:`save_figure`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    out = BytesIO()
    figure.set_dpi(dpi)
    plain_legends(figure)
    with warnings.catch_warnings():
        # A label in a script that the font lacks is drawn as boxes; the picture is what matters.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        FigureCanvasAgg(figure).print_png(out, metadata={"Title": title, "Description": caption, "Kind": kind})
    return out.getvalue()


class Sheet:
    """An area of a figure on which pictures and words are laid, in inches from its top left.

    It is one matplotlib axes. One for each picture would take ten times as long.

    Args:
        figure: Drawn on.
        left: In inches from the figure's left edge.
    """

    def __init__(self, figure: Figure, left: float = 0.0) -> None:
        wide, high = figure.get_size_inches()
        self.axes = figure.add_axes((left / wide, 0, 1 - left / wide, 1))
        self.axes.set_axis_off()
        self.axes.set(xlim=(0, wide - left), ylim=(high, 0))
        self.axes.autoscale(False)

    def picture(
        self, left: float, top: float, side: float, image: np.ndarray, colour: str, dashed: bool = False,
        width: float = 3.0, below: str = "",
    ) -> None:  # fmt: skip
        """Lay a square image with a border of `width` points, 0 for none, and words under it."""
        from matplotlib.patches import Rectangle

        box = (left, left + side, top + side, top)
        self.axes.imshow(image, extent=box, aspect="auto", interpolation="antialiased", zorder=1)
        if width:
            style: Any = (0, (4, 2)) if dashed else "solid"
            border = Rectangle(
                (left, top), side, side, fill=False, edgecolor=colour, linewidth=width, linestyle=style, zorder=2
            )
            self.axes.add_patch(border)
        if below:
            self.words(left + side / 2, top + side + 0.06, below, size=7, centred=True)

    def words(
        self, left: float, top: float, text: str, size: float = 9, bold: bool = False, centred: bool = False
    ) -> None:
        """Write text whose top is at `top`; nothing in it is read as mathematics."""
        self.axes.text(
            left, top, text, fontsize=size, weight="bold" if bold else "normal", va="top",
            ha="center" if centred else "left", parse_math=False,
        )  # fmt: skip


def read_image(load: Load, name: str) -> np.ndarray:
    """Return an item's image, padded to a square with white, so that nothing is cut off.

    Raises:
        InputError: It is not (H, W, 3) uint8.
    """
    image = np.asarray(load(name))
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise InputError(f"load({name!r}) gave shape {image.shape}, {image.dtype}; expected (H, W, 3) uint8.")
    return squared(image)


def squared(image: np.ndarray) -> np.ndarray:
    """Return an (H, W, 3) uint8 image padded to a square with white."""
    height, width = image.shape[:2]
    side = max(height, width)
    out = np.full((side, side, 3), 255, dtype=np.uint8)
    y, x = (side - height) // 2, (side - width) // 2
    out[y : y + height, x : x + width] = image
    return out


def short(text: str, most: int = 22) -> str:
    """Keep both ends of a long label: classes often differ only there."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most - most // 2 - 1) :]}"
