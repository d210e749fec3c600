"""Many runs as a picture: mean, deviation and each run of every row."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from metrixkit.comparison import Comparison
from metrixkit.report.curves import COLOURS
from metrixkit.report.drawing import new_figure, save_figure
from metrixkit.report.markup import DRAWING
from metrixkit.report.text import is_share

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACROSS = 3
LONGEST = 46
BELOW = 0.22  # single runs stand under their mean, where its marker does not hide them


TITLE = "Means, deviations, single runs"
CAPTION = (
    "Diamonds: mean of a row, with one standard deviation over seeds; small dots: its runs. Grey and dotted: the "
    "reference. Axes do not start at zero."
)


def comparison_plot(comparison: Comparison, out_png: str | os.PathLike[str]) -> Path:
    """Save :func:`comparison_figure` as PNG.

    Args:
        comparison: The rows.
        out_png: The picture; its folder is made.

    Returns:
        The path.
    """
    return save_figure(comparison_figure(comparison), out_png, TITLE, CAPTION, DRAWING, dpi=150)


def comparison_figure(comparison: Comparison) -> Figure:
    """Draw one panel a metric, rows from top to bottom: the mean, one standard deviation, and each run as a dot.

    The dotted line is the mean of the reference row. Axes do not start at zero.
    """
    count = len(comparison.metrics)
    across = min(count, ACROSS)
    down = (count + across - 1) // across
    label_width = 0.075 * min(max(len(row.label) for row in comparison.rows), LONGEST)
    size = (label_width + 2.6 * across, down * (1.0 + 0.32 * len(comparison.rows)))
    figure = new_figure(figsize=size, facecolor="white", layout="constrained")
    first: Axes | None = None
    for place, name in enumerate(comparison.metrics):
        axes = figure.add_subplot(down, across, place + 1, sharey=first)
        first = first or axes
        _panel(axes, comparison, name)
        axes.tick_params(labelleft=place % across == 0)
    figure.supxlabel("mean and one standard deviation over seeds; small dots are single runs", fontsize=8)
    return figure


def _panel(axes: Axes, comparison: Comparison, name: str) -> None:
    from matplotlib.ticker import MaxNLocator

    scale = 100.0 if is_share(name) else 1.0
    for place, row in enumerate(comparison.rows):
        spread = row.metrics.get(name)
        if spread is None:
            continue
        colour = COLOURS[-1] if place == comparison.reference else COLOURS[0]
        values = [scale * value for value in spread.values]
        if spread.sd is not None:
            axes.plot(values, [place + BELOW] * len(values), "o", color=colour, alpha=0.5, markersize=3)
        deviation = None if spread.sd is None else scale * spread.sd
        axes.errorbar(scale * spread.mean, place, xerr=deviation, fmt="D", color=colour, markersize=4.5, capsize=3)
    against = comparison.rows[comparison.reference].metrics.get(name)
    if against is not None and len(comparison.rows) > 1:
        axes.axvline(scale * against.mean, color=COLOURS[-1], linewidth=0.8, linestyle=":", zorder=0)
    labels = [row.label if len(row.label) <= LONGEST else row.label[: LONGEST - 1] + "…" for row in comparison.rows]
    # A dollar sign would open a formula.
    axes.set_yticks(range(len(labels)), [label.replace("$", r"\$") for label in labels], fontsize=8)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_title(f"{name}, %" if is_share(name) else name, fontsize=9, loc="left", parse_math=False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
