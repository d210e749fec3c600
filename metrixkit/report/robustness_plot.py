"""What models are worth without some of their modalities: bars by subset, curves against the rate."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metrixkit.errors import InputError
from metrixkit.report.curves import COLOURS
from metrixkit.report.drawing import new_figure, save_figure
from metrixkit.report.markup import DRAWING
from metrixkit.retrieval import Robustness
from metrixkit.retrieval.missing.robustness_result import PLAIN

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = ("o", "s", "D", "^", "v", "P", "X")


def robustness_plot(
    path: str | os.PathLike[str], results: Mapping[str, Robustness], metric: str | None = None, title: str = ""
) -> Path:
    """Draw bars for every subset, and for each side of missing modalities a curve against their rate.

    Args:
        path: A ``.png`` to write; its folder is made.
        results: Name of a model to its result, all of the same modalities. Bars and points carry the deviation over
            seeds and runs where there are several.
        metric: Which; None takes the first model's headline.
        title: A line above.

    Returns:
        The path.

    Raises:
        InputError: No results, or one without the metric.
    """
    if not results:
        raise InputError("a robustness plot needs at least one result.")
    first = next(iter(results.values()))
    metric = first.metrics[0] if metric is None else metric
    sides = [str(side) for side in dict.fromkeys(first.curve(metric)["side"])]
    scale = 1 if metric in PLAIN else 100
    figure = new_figure(figsize=(5.2 + 2.9 * len(sides), 3.7), facecolor="white")
    axes = figure.subplots(1, 1 + len(sides), squeeze=False, width_ratios=[1.7, *([1.0] * len(sides))])[0]
    _bars(axes[0], results, metric, scale)
    for place, side in zip(axes[1:], sides, strict=True):
        _curves(place, results, metric, scale, side)
    low = min((place.get_ylim()[0] for place in axes[1:]), default=0.0)
    high = max((place.get_ylim()[1] for place in axes[1:]), default=1.0)
    for place in axes[1:]:
        place.set_ylim(low, high)
    axes[0].set_ylabel(metric if scale == 1 else f"{metric}, %", fontsize=8)
    if title:
        figure.suptitle(title, fontsize=10, x=0.01, ha="left", parse_math=False)
    if len(results) > 1:
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, fontsize=8, frameon=False, loc="lower center", ncols=len(names))
    figure.tight_layout(rect=(0, 0.07 if len(results) > 1 else 0, 1, 1))
    caption = (
        f"{metric} of {', '.join(results)}. Left: only the named modalities are there, for all items. "
        + ("Right: each modality of each item missing with the probability below, on the side named. " if sides else "")
        + "Thin lines are one standard deviation over seeds and runs."
    )
    return save_figure(figure, path, "Missing modalities", caption, DRAWING)


def _bars(axes: Axes, results: Mapping[str, Robustness], metric: str, scale: int) -> None:
    tables = {name: result.table().set_index("subset") for name, result in results.items()}
    names = [name for name in next(iter(tables.values())).index if name != "full"] or ["full"]
    wide = 0.8 / len(results)
    for number, (name, table) in enumerate(tables.items()):
        if metric not in table.columns or any(subset not in table.index for subset in names):
            raise InputError(f"the result of {name!r} lacks {metric!r} or some of the subsets {', '.join(names)}.")
        spread = np.nan_to_num(scale * table.loc[names, f"{metric}/deviation"].to_numpy(dtype=float))
        axes.bar(
            np.arange(len(names)) + (number - (len(results) - 1) / 2) * wide,
            scale * table.loc[names, metric].to_numpy(dtype=float),
            wide,
            yerr=spread if spread.any() else None,
            error_kw={"linewidth": 0.8},
            color=COLOURS[number % len(COLOURS)],
            label=name,
        )
    axes.set_xticks(np.arange(len(names)), [name.replace("+", "\n+ ") for name in names], fontsize=7.5)
    axes.set_title("only these are there", fontsize=9, loc="left")
    _plain(axes)


def _curves(axes: Axes, results: Mapping[str, Robustness], metric: str, scale: int, side: str) -> None:
    for number, result in enumerate(results.values()):
        curve = result.curve(metric)
        part = curve[curve["side"] == side]
        axes.errorbar(
            100 * part["rate"].to_numpy(),
            scale * part["mean"].to_numpy(),
            yerr=np.nan_to_num(scale * part["deviation"].to_numpy()),
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            markersize=4,
            linewidth=1.4,
            elinewidth=0.8,
        )
    words = {"query": "missing of queries", "gallery": "missing of the gallery", "both": "missing of both"}
    axes.set_xlabel("rate, %", fontsize=8)
    axes.set_title(words.get(side, side), fontsize=9, loc="left")
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.tick_params(labelsize=7.5)
    axes.grid(axis="y", alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
