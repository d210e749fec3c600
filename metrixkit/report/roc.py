"""The receiver operating characteristic of a verification, as a picture."""

from __future__ import annotations

import os
from pathlib import Path

from metrixkit.files import replacing
from metrixkit.report.drawing import new_figure
from metrixkit.retrieval import Verification


def roc_curve(found: Verification, out_png: str | os.PathLike[str]) -> Path:
    """Draw true accepts over false matches (logarithmic), with the operating points and the equal error rate.

    Args:
        found: From :func:`~metrixkit.retrieval.verify`.
        out_png: The picture; its folder is made, and it is written whole or not at all.

    Returns:
        The path.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    out = Path(out_png)
    figure = new_figure(figsize=(5.2, 4.0), dpi=120, facecolor="white")
    axes = figure.add_subplot()
    false, true = found.roc[:, 1], 100 * found.roc[:, 2]
    shown = false > 0  # a logarithm has no zero
    axes.plot(false[shown], true[shown], color="#2a6fbb", linewidth=1.6)
    for point in found.points:
        axes.plot(
            point.false_match_rate, 100 * point.true_accept_rate, "o", markersize=5, color="#d1662b",
            fillstyle="full" if point.enough else "none",
        )  # fmt: skip
    axes.plot(found.eer, 100 * (1 - found.eer), "s", markersize=5, color="#2f9460")
    axes.annotate(
        f"equal error rate {100 * found.eer:.1f} %", (found.eer, 100 * (1 - found.eer)), (-8, 4),
        textcoords="offset points", ha="right", fontsize=8,
    )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlim(max(1 / found.impostors, 1e-7), 1)
    axes.set_ylim(0, 101)
    axes.set_xlabel("false matches, share of pairs of two classes", fontsize=8)
    axes.set_ylabel("true accepts, % of pairs of one class", fontsize=8)
    axes.set_title(f"{found.genuine:,} pairs of one class, {found.impostors:,} of two", fontsize=9, loc="left")
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    with replacing(out) as file:
        FigureCanvasAgg(figure).print_png(file)
    return out
