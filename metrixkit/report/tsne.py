"""Some classes on a plane, every point coloured by its class: how papers show what an embedding separates."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metrixkit.errors import InputError
from metrixkit.report.drawing import Sheet, new_figure, save_figure, short
from metrixkit.report.map import CLASSES, COLOURS, FEWEST, MARKERS, flatten
from metrixkit.report.markup import DRAWING

PER_CLASS = 100
WIDE, HIGH, SIDE = 9.6, 7.2, 7.2  # inches


def choose_points(labels: NDArray[Any], per_class: int, classes: int, seed: int) -> tuple[NDArray[np.int64], list[str]]:
    """Draw whole classes, and items of each.

    Args:
        labels: (N,) text.
        per_class: Items of a class at most.
        classes: Classes at most.
        seed: Of both draws.

    Returns:
        Sorted positions of the chosen items, and the chosen classes, sorted.
    """
    draw = np.random.default_rng(seed)
    chosen = np.sort(draw.permutation(np.unique(labels))[:classes])
    rows = [draw.permutation(np.flatnonzero(labels == name))[:per_class] for name in chosen]
    return np.sort(np.concatenate(rows)), [str(name) for name in chosen]


def tsne_picture(
    path: str | os.PathLike[str],
    vectors: Any,
    labels: Sequence[str],
    names: Mapping[str, str] | None = None,
    per_class: int = PER_CLASS,
    classes: int = CLASSES,
    seed: int = 0,
) -> Path:
    """Draw the t-SNE map of some classes, every point in its class's colour and mark.

    Args:
        path: A ``.png`` to write; its folder is made.
        vectors: (N, d) embeddings on the processor; only their directions count.
        labels: N labels.
        names: What the legend calls a label; None the label itself.
        per_class: Points of a class at most, drawn by the seed.
        classes: Classes at most (20), drawn by the seed.
        seed: Of the draws and of t-SNE.

    Returns:
        The path.

    Raises:
        InputError: Not a PNG, counts that differ, fewer than 12 points, a zero or infinite row, or too many classes.
    """
    if Path(path).suffix.lower() != ".png":
        raise InputError(f"a t-SNE picture is written as PNG: expected a name that ends in .png, got {path}.")
    if len(labels) != len(vectors):
        raise InputError(f"{len(vectors)} embeddings and {len(labels)} labels; each row needs exactly one.")
    if per_class < 1 or not 1 <= classes <= CLASSES:
        raise InputError(f"{per_class} points of {classes} classes: expected at least 1, of 1 to {CLASSES} classes.")
    known = np.asarray(labels, dtype=str)
    chosen, shown = choose_points(known, per_class, classes, seed)
    if len(chosen) < FEWEST:
        raise InputError(f"a t-SNE picture needs {FEWEST} points or more; there are {len(chosen)}.")
    places, own = flatten(np.asarray(vectors[chosen]), seed=seed), known[chosen]
    figure = new_figure(figsize=(WIDE, HIGH), facecolor="white")
    axes, legend = figure.add_axes((0.005, 0.01, SIDE / WIDE - 0.005, 0.98)), Sheet(figure, left=SIDE + 0.15)
    colour = {name: (COLOURS[i % len(COLOURS)], MARKERS[i // len(COLOURS)]) for i, name in enumerate(shown)}
    # In mixed order: the class drawn last would otherwise cover the others.
    order = np.random.default_rng(seed).permutation(len(chosen))
    for mark in MARKERS:
        some = [i for i in order if colour[own[i]][1] == mark]
        inks = [colour[own[i]][0] for i in some]
        x, y = places[some].T
        axes.scatter(x, y, s=15, c=inks, marker=mark, linewidths=0.25, edgecolors="white")
    for number, name in enumerate(shown):
        top, (ink, mark) = 0.2 + number * 0.33, colour[name]
        legend.axes.scatter(0.1, top + 0.07, s=34, color=ink, marker=mark, linewidths=0)
        legend.words(0.27, top, short((names or {}).get(name, name), 24), size=8)
    axes.set(xticks=[], yticks=[])
    axes.margins(0.03)
    for spine in axes.spines.values():
        spine.set_color("#dddddd")
    total = len(np.unique(known))
    caption = (
        f"{len(chosen):,} of {len(known):,} items, at most {per_class} of each of {len(shown)} of {total:,} classes, "
        f"drawn with seed {seed}: principal components, then t-SNE. Every point has the colour of its class. Look at "
        "which classes keep apart. Distances between clusters, their sizes and their density mean little: t-SNE does "
        "not keep them."
    )
    return save_figure(figure, path, "Classes by t-SNE", caption, DRAWING)
