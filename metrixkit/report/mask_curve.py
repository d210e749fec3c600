"""Mixers over lambda: their masks, what a classifier sees of both classes, what a mixture tells of its first image."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from metrixkit.errors import InputError
from metrixkit.report.curves import COLOURS
from metrixkit.report.drawing import new_figure, save_figure
from metrixkit.report.markup import DRAWING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = ("o", "s", "D", "^", "v", "P", "X")
MASK_COLUMNS = ("mixer", "lambda", "mask_mean", "mask_mean_deviation", "pixel_deviation", "nearly_binary")
ACCURACY_COLUMNS = ("mixer", "lambda", "top1", "top2")
INFORMATION_COLUMNS = ("mixer", "lambda", "information", "deviation", "limit")


def mask_curve(
    path: str | os.PathLike[str], found: pd.DataFrame, slopes: pd.DataFrame, how: str, title: str = ""
) -> Path:
    """Draw for every mixer the mean of its masks against lambda, the share of nearly binary pixels, and the deviation.

    Args:
        path: A ``.png`` to write; its folder is made.
        found: A row a mixer and lambda: mixer, lambda, mask_mean, mask_mean_deviation, pixel_deviation, nearly_binary.
        slopes: A row a mixer: mixer, slope.
        how: What was measured on what, for the caption; whole sentences.
        title: A line above.

    Returns:
        The path.

    Raises:
        InputError: No rows, or a column is missing.
    """
    _check(found, MASK_COLUMNS)
    slope = dict(zip(slopes["mixer"], slopes["slope"], strict=True))
    figure = new_figure(figsize=(9.4, 4.6), facecolor="white")
    mean = figure.add_axes((0.06, 0.11, 0.40, 0.76))
    binary = figure.add_axes((0.53, 0.56, 0.24, 0.31))
    pixels = figure.add_axes((0.53, 0.11, 0.24, 0.31))
    groups = list(found.groupby("mixer", sort=False))
    for place, (name, part) in enumerate(groups):
        lam = part["lambda"].to_numpy(dtype=float)
        style = _style(place)
        # Bars stand aside from one another, or most of them would hide behind the last.
        aside = (place - (len(groups) - 1) / 2) * 0.005
        mean.errorbar(
            lam + aside, part["mask_mean"], yerr=part["mask_mean_deviation"], fmt="none", ecolor=style["color"],
            elinewidth=0.7, capsize=1.2, alpha=0.6,
        )  # fmt: skip
        mean.plot(lam, part["mask_mean"], label=f"{name}\nslope {slope[name]:.2f}", **style)
        binary.plot(lam, 100 * part["nearly_binary"], **style)
        pixels.plot(lam, part["pixel_deviation"], **style)
    mean.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle=":", zorder=9, label="mean = λ")
    _dress(mean, "Mean of the mask (bars: deviation over pairs)", "λ asked")
    _dress(binary, "Nearly binary pixels, %", "")
    _dress(pixels, "Deviation of pixels within a mask", "λ asked")
    mean.set_ylim(-0.05, 1.05)
    binary.set_ylim(-5, 105)
    pixels.set_ylim(-0.025, 0.525)
    _legend(figure, mean, 0.785)
    if title:
        figure.text(0.01, 0.985, title, fontsize=10, va="top", parse_math=False)
    caption = (
        f"{how} Left: the mean over a mask's pixels of the first image's share, against the λ asked; points are means "
        "over pairs, bars one standard deviation; the legend gives the least-squares slope, 1 where masks follow λ. "
        "Right above: pixels whose share is within 0.1 of 0 or 1; below: how far the pixels of a mask spread, 0 where "
        "it is even. Bars of mixers stand a little aside from one another."
    )
    return save_figure(figure, path, "Masks over lambda", caption, DRAWING)


def accuracy_curve(path: str | os.PathLike[str], found: pd.DataFrame, how: str, title: str = "") -> Path:
    """Draw for every mixer the top-1 and top-2 accuracy on mixed images against lambda.

    Args:
        path: A ``.png`` to write; its folder is made.
        found: A row a mixer and lambda: mixer, lambda, top1, top2 as fractions.
        how: What was measured on what, for the caption; whole sentences.
        title: A line above.

    Returns:
        The path.

    Raises:
        InputError: No rows, or a column is missing.
    """
    _check(found, ACCURACY_COLUMNS)
    figure = new_figure(figsize=(9.4, 4.0), facecolor="white")
    both = [figure.add_axes((0.06 + 0.375 * place, 0.13, 0.32, 0.72)) for place in (0, 1)]
    titles = ("top-1: first class is one of the two, %", "top-2: first two classes are the two, %")
    for axes, metric, words in zip(both, ("top1", "top2"), titles, strict=True):
        for place, (name, part) in enumerate(found.groupby("mixer", sort=False)):
            axes.plot(part["lambda"].to_numpy(dtype=float), 100 * part[metric], label=name, **_style(place))
        _dress(axes, words, "λ asked")
        axes.set_ylim(bottom=0)
    _legend(figure, both[0], 0.785)
    if title:
        figure.text(0.01, 0.985, title, fontsize=10, va="top", parse_math=False)
    caption = (
        f"{how} Left: mixtures whose first predicted class is one of their two; right: mixtures whose first two are "
        "both. At λ 0 and 1 many mixers leave one image, and top-2 then asks for a class that is not there."
    )
    return save_figure(figure, path, "Accuracy on mixed images", caption, DRAWING)


def information_curve(path: str | os.PathLike[str], found: pd.DataFrame, how: str, title: str = "") -> Path:
    """Draw for every mixer the mutual information of mixture and first image against lambda.

    Args:
        path: A ``.png`` to write; its folder is made.
        found: A row a mixer and lambda: mixer, lambda, information in nats, its deviation (NaN for none), limit.
        how: What was measured on what, for the caption; whole sentences.
        title: A line above.

    Returns:
        The path.

    Raises:
        InputError: No rows, or a column is missing.
    """
    _check(found, INFORMATION_COLUMNS)
    figure = new_figure(figsize=(7.2, 4.2), facecolor="white")
    axes = figure.add_axes((0.09, 0.12, 0.64, 0.74))
    for place, (name, part) in enumerate(found.groupby("mixer", sort=False)):
        lam, style = part["lambda"].to_numpy(dtype=float), _style(place)
        axes.plot(lam, part["information"], label=name, **style)
        bars = part["deviation"].fillna(0.0)
        axes.errorbar(lam, part["information"], yerr=bars, fmt="none", ecolor=style["color"], capsize=2, linewidth=0.8)
    axes.axhline(found["limit"].iloc[0], color="black", linewidth=1, linestyle=":", label="log n", zorder=0)
    _dress(axes, "I(mixture; first image), nats", "λ asked")
    _legend(figure, axes, 0.75)
    if title:
        figure.text(0.01, 0.985, title, fontsize=10, va="top", parse_math=False)
    caption = (
        f"{how} MINE: the Donsker-Varadhan bound on images that its network was not trained on, mean over the last "
        "quarter of the steps; bars are one standard deviation over networks. Short training shows less than there is: "
        "compare lines with one another. Above the dotted line the sample of n unrelated pairs vouches for no height."
    )
    return save_figure(figure, path, "Mutual information of mixture and first image", caption, DRAWING)


def _style(place: int) -> dict:
    """Return how the line of the mixer at `place` is drawn: later ones thinner, so that none hides another."""
    slim = 0.85 ** min(place, 9)
    return {
        "color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)], "markersize": 2.2 + 3 * slim,
        "linewidth": 0.6 + 2 * slim, "linestyle": ("-", "--", "-.")[place // len(COLOURS) % 3],
    }  # fmt: skip


def _dress(axes: Axes, title: str, below: str) -> None:
    axes.set_title(title, fontsize=8.5, loc="left")
    axes.set_xlabel(below, fontsize=8)
    axes.set_xlim(-0.04, 1.04)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.tick_params(labelsize=7.5)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure, axes: Axes, left: float) -> None:
    handles, names = axes.get_legend_handles_labels()
    figure.legend(
        handles, names, fontsize=7.5, frameon=False, loc="upper left", bbox_to_anchor=(left, 0.9), labelspacing=0.7
    )


def _check(found: pd.DataFrame, needed: tuple[str, ...]) -> None:
    missing = [name for name in needed if name not in found.columns]
    if missing or found.empty:
        raise InputError(f"a curve over lambda needs rows with {', '.join(needed)}; missing: {missing or 'rows'}.")
