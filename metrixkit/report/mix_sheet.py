"""Sheets of mixed images: what each mixer makes of a pair over lambda, its mask, and the share its label must get."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metrixkit.errors import InputError
from metrixkit.report.drawing import Sheet, new_figure, save_figure, short
from metrixkit.report.markup import PHOTOGRAPHS
from metrixkit.report.mixed import FIRST, SECOND

CELL, MASK, SOURCE, GAP = 1.3, 0.5, 0.76, 0.12  # inches
LEFT = SOURCE + 0.57  # where cells begin
LINE, TITLE = 0.17, 0.22
MOST = 40  # rows of a sheet; more would be no picture any more
FRAME = "#bbbbbb"
LEGEND = (
    "Left: the first image (solid blue) and its partner (dashed orange). λ: share asked of the first image. "
    "label: share its label must get.",
    "mask: mean of the mask, which is white where the first image stands and black where the partner does.",
)


@dataclass(frozen=True)
class Cell:
    """One picture of a row.

    Attributes:
        image: (S, S, 3) uint8.
        lines: Three short lines under it.
        mask: (S, S) in [0, 1], share of the first image, or None.
        mark: Row and column, as shares of the image, of a place to ring, or None.
    """

    image: np.ndarray
    lines: Sequence[str]
    mask: np.ndarray | None = None
    mark: tuple[float, float] | None = None


@dataclass(frozen=True)
class Row:
    """One mixer, or one view of it, over lambda.

    Attributes:
        name: Of the mixer or view.
        note: What must be known to read the row, or "".
        cells: One a lambda.
    """

    name: str
    note: str
    cells: Sequence[Cell]


@dataclass(frozen=True)
class Block:
    """One pair.

    Attributes:
        first: (S, S, 3) uint8.
        second: Its partner.
        labels: Their classes.
        rows: As many cells in each.
    """

    first: np.ndarray
    second: np.ndarray
    labels: tuple[str, str]
    rows: Sequence[Row]


def mix_sheet(path: str | os.PathLike[str], blocks: Sequence[Block], how: str, title: str = "") -> Path:
    """Draw mixtures: a row a mixer, a column a lambda, pair after pair.

    Args:
        path: A ``.png`` to write; its folder is made.
        blocks: What to draw, at least one row of one cell.
        how: How images and pairs were chosen and mixed, for the caption; whole sentences.
        title: A line above.

    Returns:
        The path.

    Raises:
        InputError: Nothing to draw, or more than 40 rows.
    """
    count = sum(len(block.rows) for block in blocks)
    if not count or not all(row.cells for block in blocks for row in block.rows):
        raise InputError("a sheet of mixed images needs at least one pair, one mixer and one lambda.")
    if count > MOST:
        raise InputError(f"{count} rows are too many for one sheet, {MOST} are the most: fewer --mixers or --pairs.")
    columns = max(len(row.cells) for block in blocks for row in block.rows)
    heading = [*([short(title, 100)] if title else []), *LEGEND]
    top = 0.1 + 0.2 * len(heading) + 0.12
    high = top + sum(_height(row) for block in blocks for row in block.rows) + 0.2 * (len(blocks) - 1)
    # The words above need some width even where columns are few.
    figure = new_figure(figsize=(max(LEFT + columns * (CELL + GAP), 7.4), high), facecolor="white")
    sheet = Sheet(figure)
    for line, text in enumerate(heading):
        sheet.words(GAP, 0.1 + 0.2 * line, text, size=8, bold=bool(title) and line == 0)
    for block in blocks:
        for row in block.rows:
            _draw(sheet, top, block, row)
            top += _height(row)
        top += 0.2
    notes = "".join(f" {row.name}: {row.note}." for row in blocks[0].rows if row.note)
    caption = f"{how} {' '.join(LEGEND)}{notes}"
    return save_figure(figure, path, "Mixed images", caption, PHOTOGRAPHS)


def heat(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return a grey image under colours that go from the lowest value (dark) to the highest (bright).

    Args:
        image: (S, T, 3) uint8.
        values: (h, w) finite, of any range; each is a rectangle of the image.

    Returns:
        (S, T, 3) uint8.
    """
    import matplotlib

    height, width = image.shape[:2]
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
    rows = np.arange(height) * values.shape[0] // height
    columns = np.arange(width) * values.shape[1] // width
    colours = matplotlib.colormaps["inferno"](scaled[rows][:, columns])[..., :3]
    grey = image.mean(2, keepdims=True) / 255
    mixed: np.ndarray = np.round(255 * (0.4 * grey + 0.6 * colours)).astype(np.uint8)
    return mixed


def _height(row: Row) -> float:
    masked = any(cell.mask is not None for cell in row.cells)
    return TITLE + CELL + (0.06 + MASK if masked else 0.22) + 0.16


def _draw(sheet: Sheet, top: float, block: Block, row: Row) -> None:
    sheet.words(GAP, top, short(row.name, 16), size=8.5, bold=True)
    sheet.words(LEFT, top + 0.01, row.note, size=7)
    top += TITLE
    if any(cell.mask is not None for cell in row.cells):
        step = SOURCE + LINE
        for place, (image, colour) in enumerate(((block.first, FIRST), (block.second, SECOND))):
            sheet.picture(GAP, top + place * step, SOURCE, image, colour, dashed=colour == SECOND, width=2.0)
            sheet.words(GAP, top + place * step + SOURCE + 0.05, short(block.labels[place], 20), size=6)
    for column, cell in enumerate(row.cells):
        left = LEFT + column * (CELL + GAP)
        sheet.picture(left, top, CELL, cell.image, FRAME, width=0.6)
        if cell.mark is not None:
            _ring(sheet, left + cell.mark[1] * CELL, top + cell.mark[0] * CELL)
        below = top + CELL + 0.06
        if cell.mask is None:
            sheet.words(left, below, "   ".join((cell.lines[0], " ".join(cell.lines[1:]))), size=7)
            continue
        grey = np.round(255 * cell.mask).astype(np.uint8)
        sheet.picture(left, below, MASK, np.repeat(grey[:, :, None], 3, axis=2), FRAME, width=0.6)
        sheet.words(left + MASK + 0.07, below, "\n".join(cell.lines), size=7)


def _ring(sheet: Sheet, x: float, y: float) -> None:
    from matplotlib.patches import Ellipse

    for colour, width in (("black", 3.0), ("white", 1.4)):
        sheet.axes.add_patch(Ellipse((x, y), 0.16, 0.16, fill=False, edgecolor=colour, linewidth=width, zorder=3))
