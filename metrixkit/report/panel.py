"""The retrieval panel: queries and what a model finds for them."""

from __future__ import annotations

import os
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from metrixkit.errors import InputError
from metrixkit.retrieval import Predictions

# Told apart also by those who do not see red and green alike: a dashed line, and lightness.
RIGHT, WRONG, QUERY = "#1a8f3c", "#d62f2f", "#333333"
CELL, GAP = 1.15, 0.12  # inches


def retrieval_panel(
    path: str | os.PathLike[str],
    predictions: Predictions,
    load: Callable[[str], np.ndarray],
    rows: int = 8,
    k: int = 8,
    seed: int = 0,
    title: str = "",
) -> Path:
    """Draw queries beside their nearest items: solid green borders for the same class, dashed red for another.

    Half of the rows are queries whose nearest item is right, half wrong, drawn at random (as far as there are enough of
    each); so the picture shows both, and its share of right rows says nothing. The caption says this and what the share
    is over all queries.

    Args:
        path: A ``.png`` to write; its folder is made.
        predictions: What a model found.
        load: Item id to an (H, W, 3) uint8 image.
        rows: Queries shown at most.
        k: Neighbours shown at most.
        seed: Of the draw.
        title: A line above ("cub-zero-shot, MobileNetV2").

    Returns:
        The path.

    Raises:
        InputError: No predictions, rows or k < 1, or an image of another form.
    """
    if rows < 1 or k < 1 or not len(predictions) or not predictions.neighbour_ids.shape[1]:
        raise InputError(
            f"a retrieval panel needs queries, neighbours, rows and k; found {len(predictions)} queries with "
            f"{predictions.neighbour_ids.shape[1]} neighbours, rows={rows}, k={k}."
        )
    hit = predictions.neighbour_labels[:, 0] == predictions.query_labels
    chosen = choose_rows(hit, rows, seed)
    k = min(k, predictions.neighbour_ids.shape[1])
    heading = [title] if title else []
    right = int(hit[chosen].sum())
    heading += textwrap.wrap(
        f"{len(chosen)} of {len(hit):,} queries, drawn with seed {seed}: {right} whose nearest item is right and "
        f"{len(chosen) - right} whose nearest is wrong (of all queries {hit.mean():.1%} are right). Green: same "
        "class; dashed red: another. Below each its class and score.",
        width=max(40, 15 * (k + 1)),
    )
    top = 0.2 * len(heading) + 0.15
    step = CELL + 0.42
    wide, high = (k + 1) * (CELL + GAP) + 0.35, top + len(chosen) * step + 0.05
    figure = Figure(figsize=(wide, high), dpi=110, facecolor="white")
    for line, text in enumerate(heading):
        weight = "bold" if title and line == 0 else "normal"
        figure.text(
            GAP / wide, 1 - (0.1 + 0.2 * line) / high, text, va="top", fontsize=9, weight=weight, parse_math=False
        )
    for place, query in enumerate(chosen):
        for column in range(k + 1):
            left = GAP + column * (CELL + GAP) + (0.25 if column else 0)
            bottom = high - top - place * step - CELL
            axes = figure.add_axes((left / wide, bottom / high, CELL / wide, CELL / high))
            _draw(axes, predictions, int(query), column - 1, load)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        # A label in a script that the font lacks is drawn as boxes; the pictures are what matters.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        FigureCanvasAgg(figure).print_png(str(path))
    return path


def choose_rows(hit: np.ndarray, rows: int, seed: int) -> np.ndarray:
    """Return positions of at most `rows` queries, half right and half wrong where there are enough; right ones
    first.
    """
    generator = np.random.default_rng(seed)
    good, bad = (generator.permutation(np.flatnonzero(side)) for side in (hit, ~hit))
    wanted = min(len(good), max(rows - rows // 2, rows - len(bad)))
    return np.concatenate([good[:wanted], bad[: rows - wanted]])


def _draw(axes: Axes, predictions: Predictions, query: int, place: int, load: Callable[[str], np.ndarray]) -> None:
    """Draw the query (`place` -1) or its neighbour at `place`."""
    axes.set(xticks=[], yticks=[])
    label = str(predictions.query_labels[query])
    if place < 0:
        name, colour, style, note = str(predictions.query_ids[query]), QUERY, "solid", _rank(predictions, query)
    else:
        name, found = str(predictions.neighbour_ids[query, place]), str(predictions.neighbour_labels[query, place])
        if not name:  # the gallery was exhausted
            axes.set_axis_off()
            return
        colour, style = (RIGHT, "solid") if found == label else (WRONG, (0, (4, 2)))  # type: ignore[assignment]
        label, note = found, f"{predictions.neighbour_scores[query, place]:.3f}"
    image = np.asarray(load(name))
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise InputError(f"load({name!r}) gave shape {image.shape}, {image.dtype}; expected (H, W, 3) uint8.")
    axes.imshow(_square(image), interpolation="antialiased")
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=1.2 if place < 0 else 3, linestyle=style)
    axes.set_xlabel(f"{_short(label)}\n{note}", fontsize=6.5, labelpad=2.5, parse_math=False)


def _rank(predictions: Predictions, query: int) -> str:
    rank = int(predictions.rank_of_first[query])
    return f"query, first right: {rank}" if rank else "query, none of its class"


def _short(text: str, most: int = 22) -> str:
    """Keep both ends of a long label: classes often differ only there."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most - most // 2 - 1) :]}"


def _square(image: np.ndarray) -> np.ndarray:
    """Pad to a square with white, so that all cells are of one size and nothing is cut off."""
    height, width = image.shape[:2]
    side = max(height, width)
    out = np.full((side, side, 3), 255, dtype=np.uint8)
    y, x = (side - height) // 2, (side - width) // 2
    out[y : y + height, x : x + width] = image
    return out
