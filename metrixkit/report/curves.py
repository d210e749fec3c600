"""Training curves from ``metrics.jsonl``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metrixkit.errors import InputError
from metrixkit.files import refuse_special
from metrixkit.report.drawing import DPI, new_figure, plain_legends, save_figure
from metrixkit.report.markup import DRAWING
from metrixkit.report.text import is_share

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GEOMETRY = ("utilization", "alignment", "uniformity")
COLOURS = ("#2a6fbb", "#d1662b", "#2f9460", "#8a57a6", "#b23a48", "#6b6b6b")
Series = dict[str, tuple[np.ndarray, np.ndarray]]


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, float]]:
    """Return the lines of ``metrics.jsonl``: one dict a line, with "step" and whatever was logged then.

    A last line cut short by a kill is left out.

    Raises:
        InputError: The file is absent, or a line before the last is not JSON, or a line holds no names and numbers.
    """
    refuse_special(path)
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); it is written while training.") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is damaged: no text in UTF-8 ({error}). Delete it; the curves are then left out."
        ) from error
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise InputError(f"{path}: line {number} is not JSON ({error.msg}).") from error
            continue
        if not isinstance(entry, dict):
            raise InputError(f"{path}: line {number} holds {type(entry).__name__}; expected names and numbers.")
        entries.append(entry)
    return entries


def training_curves(metrics_jsonl: str | os.PathLike[str], out_png: str | os.PathLike[str]) -> Path | None:
    """Draw losses, metrics, geometry, learning rates and the ratio of mixed to clean gradient over steps, each where
    it was logged.

    Args:
        metrics_jsonl: Lines such as ``{"step": 20, "epoch": 1, "loss/total": 0.8, "lr/head": 1e-4,
            "validation/recall@1": 0.61}``. Names that hold "gradient" and "ratio" are the gradient ratio.
        out_png: The picture; its folder is made.

    Returns:
        The path, or None where nothing was logged that could be drawn.

    Raises:
        InputError: As :func:`read_metrics`.
    """
    series = _series(read_metrics(metrics_jsonl))
    plots: list[tuple[str, Series, Callable[[Axes, Series], None]]] = [
        ("loss", _pick(series, lambda name: name.startswith("loss")), _draw_losses),
        ("retrieval, %", _pick(series, lambda name: "@" in name and is_share(name)), _draw_shares),
        ("how embeddings lie (lower is better)", _pick(series, lambda name: name.endswith(GEOMETRY)), _draw_geometry),
        ("mixed / clean gradient", _pick(series, lambda name: "grad" in name and "ratio" in name), _draw_ratio),
        ("learning rate", _pick(series, lambda name: name.startswith("lr")), _draw_rates),
    ]
    plots = [plot for plot in plots if plot[1]]
    if not plots:
        return None
    figure = new_figure(figsize=(4.4 * min(len(plots), 2), 3.0 * ((len(plots) + 1) // 2)), facecolor="white")
    for place, (title, found, draw) in enumerate(plots, 1):
        axes = figure.add_subplot((len(plots) + 1) // 2, min(len(plots), 2), place)
        draw(axes, found)
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(which="both", labelsize=8)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend() is None:
            axes.legend(fontsize=7, frameon=False)
    figure.set_dpi(DPI)
    plain_legends(figure)
    figure.tight_layout()
    caption = f"What was logged over the steps of training: {'; '.join(title for title, _, _ in plots)}."
    return save_figure(figure, out_png, "Training", caption, DRAWING)


def _series(entries: list[dict[str, float]]) -> Series:
    """Return name to (steps, values), leaving out what is not a number."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    for entry in entries:
        for name, value in entry.items():
            if name in ("step", "epoch") or not _is_number(value):
                continue
            steps, values = found.setdefault(name, ([], []))
            step = entry.get("step")
            steps.append(float(step) if step is not None and _is_number(step) else len(steps))
            values.append(float(value))
    return {name: (np.array(steps), np.array(values)) for name, (steps, values) in found.items()}


def _is_number(value: object) -> bool:
    """Return whether a value of JSON is a number that a float can hold."""
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**64)


def _pick(series: Series, wanted: Callable[[str], bool]) -> Series:
    return {name: values for name, values in series.items() if wanted(name) and not name.endswith("/optimistic")}


def _draw_losses(axes: Axes, series: Series) -> None:
    for colour, (name, (steps, values)) in zip(_cycle(len(series)), series.items(), strict=True):
        smooth = _running_mean(values)
        if len(smooth) > 1:
            axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.7)
        axes.plot(steps, smooth, color=colour, linewidth=1.5, label=name, marker="o" if len(values) == 1 else None)


def _draw_shares(axes: Axes, series: Series) -> None:
    _draw_lines(axes, {name: (steps, 100 * values) for name, (steps, values) in series.items()}, marker="o")


def _draw_ratio(axes: Axes, series: Series) -> None:
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    _draw_losses(axes, series)
    values = np.concatenate([v for _, v in series.values()])
    values = values[np.isfinite(values) & (values > 0)]
    if len(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        narrow = values.max() < 20 * values.min()  # over more decades the ticks between them would be a crowd
        axes.yaxis.set_minor_formatter(StrMethodFormatter("{x:g}") if narrow else NullFormatter())
    axes.axhline(1.0, color="#888888", linewidth=0.8, linestyle=":")


def _draw_geometry(axes: Axes, series: Series) -> None:
    """Draw squared distances (0 to 4) to the left and uniformity, a logarithm (-8 to 0), to the right."""
    right = {name: values for name, values in series.items() if name.endswith("uniformity")}
    left = {name: values for name, values in series.items() if name not in right}
    _draw_lines(axes, left, marker="o")
    if not right:
        return
    other = axes.twinx()
    for name, (steps, values) in right.items():
        other.plot(
            steps, values, color=COLOURS[2], linewidth=1.4, marker="s", markersize=3, linestyle="--",
            label=f"{name} (right)",
        )  # fmt: skip
    other.tick_params(labelsize=8)
    other.spines[["top"]].set_visible(False)
    lines = [*axes.get_lines(), *other.get_lines()]
    for side in (axes, other):  # room for the legend above the lines
        low, high = side.get_ylim()
        side.set_ylim(low, high + 0.45 * (high - low))
    other.legend(lines, [str(line.get_label()) for line in lines], fontsize=7, frameon=False, loc="upper left")
    axes.legend([], frameon=False)  # its lines stand in the other's legend


def _draw_rates(axes: Axes, series: Series) -> None:
    _draw_lines(axes, series)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    axes.yaxis.get_offset_text().set_fontsize(8)


def _draw_lines(axes: Axes, series: Series, marker: str | None = None) -> None:
    for colour, (name, (steps, values)) in zip(_cycle(len(series)), series.items(), strict=True):
        shown = marker or ("o" if len(values) == 1 else None)
        axes.plot(steps, values, color=colour, linewidth=1.4, marker=shown, markersize=3, label=name)


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over a window of a twentieth of the curve, shorter at the ends; gaps (NaN) are left out."""
    half = len(values) // 40
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return np.array([w[np.isfinite(w)].mean() if np.isfinite(w).any() else np.nan for w in windows])


def _cycle(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]
