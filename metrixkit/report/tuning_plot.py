"""Kinds of index beside each other: what they find against how fast they are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from metrixkit.errors import InputError
from metrixkit.report.curves import COLOURS
from metrixkit.report.drawing import new_figure, save_figure
from metrixkit.report.markup import DRAWING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = ("o", "s", "D", "^", "v", "P", "X")
NEEDED = ("factory", "parameters", "queries_per_second", "bytes_per_vector")


def tuning_plot(path: str | os.PathLike[str], found: pd.DataFrame, agreement: str, title: str = "") -> Path:
    """Draw share of the exact neighbours against queries a second, a line for each kind of index.

    Args:
        path: A ``.png`` to write; its folder is made.
        found: A row a setting: factory, parameters, queries_per_second, bytes_per_vector, and `agreement`.
        agreement: The column that holds the share in [0, 1] ("agreement@10").
        title: A line above ("100,000 x 128").

    Returns:
        The path.

    Raises:
        InputError: No rows, or a column is missing.
    """
    from matplotlib.ticker import FuncFormatter, NullFormatter

    missing = [name for name in (*NEEDED, agreement) if name not in found.columns]
    if missing or found.empty:
        raise InputError(
            f"a tuning plot needs rows with {', '.join((*NEEDED, agreement))}; missing: {missing or 'rows'}."
        )
    figure = new_figure(figsize=(7.6, 4.4), facecolor="white")
    axes = figure.add_axes((0.1, 0.13, 0.56, 0.77))
    axes.set_yscale("log")
    for place, (factory, rows) in enumerate(found.groupby("factory", sort=False)):
        rows = rows.sort_values([agreement, "queries_per_second"], ascending=[True, False])
        size = float(rows["bytes_per_vector"].iloc[0])
        axes.plot(
            100 * rows[agreement],
            rows["queries_per_second"],
            color=COLOURS[place % len(COLOURS)],
            marker=MARKERS[place % len(MARKERS)],
            markersize=5,
            linewidth=1.4,
            label=f"{factory}\n{size:,.0f} bytes a vector",
        )
    _name_ends(axes, found, agreement)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"{agreement}: share of the exact neighbours found, %", fontsize=8)
    axes.set_ylabel("queries a second", fontsize=8)
    axes.set_title(title or "Kinds of index", fontsize=10, loc="left", parse_math=False)
    axes.tick_params(which="both", labelsize=8)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *axes.get_legend_handles_labels(), fontsize=7.5, frameon=False, loc="upper left", bbox_to_anchor=(0.675, 0.92),
        labelspacing=0.9,
    )  # fmt: skip
    caption = (
        f"{found['factory'].nunique()} kinds of index on the same vectors, each at several search parameters: to the "
        "right more of the exact neighbours are found, upwards more queries are answered a second (wall time of this "
        "machine)."
    )
    return save_figure(figure, path, "Tuning", caption, DRAWING)


def _name_ends(axes: Axes, found: pd.DataFrame, agreement: str) -> None:
    """Write the parameters beside the slowest and the fastest setting of each kind, where there is room."""
    axes.autoscale_view()  # the places below are those of the final axes
    taken: list[tuple[float, float]] = []
    for _, rows in found.groupby("factory", sort=False):
        if len(rows) < 2:
            continue
        ends = rows.sort_values("queries_per_second").iloc[[0, -1]]
        for row in ends.to_dict("records"):
            point = (100 * row[agreement], row["queries_per_second"])
            x, y = axes.transAxes.inverted().transform(axes.transData.transform(point))
            if any(abs(x - there[0]) < 0.2 and abs(y - there[1]) < 0.05 for there in taken):
                continue
            taken.append((x, y))
            # Inwards from the edges, so that no name leaves the plot.
            left = x > 0.5
            axes.annotate(
                _varied(rows, str(row["parameters"])), point, textcoords="offset points",
                xytext=(-6 if left else 6, -2.5), ha="right" if left else "left", fontsize=6.5, color="#555555",
            )  # fmt: skip


def _varied(rows: pd.DataFrame, told: str) -> str:
    """Keep of "nprobe=4,k_factor=10" what is not the same in all rows."""
    parts = [set(str(text).split(",")) for text in rows["parameters"]]
    common = set.intersection(*parts)
    return ",".join(part for part in told.split(",") if part not in common)
