"""A map of embeddings: many dimensions on a page, to be looked at and not measured.

N items, d dimensions.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from metrixkit.errors import InputError
from metrixkit.report.drawing import Load, Sheet, new_figure, read_image, save_figure, short
from metrixkit.report.markup import PHOTOGRAPHS

ITEMS, CLASSES, FEWEST = 2000, 20, 12
PRINCIPAL = 50  # dimensions that t-SNE is given
COLOURS = ("#2a6fbb", "#d1662b", "#2f9460", "#8a57a6", "#b23a48", "#8c6d31", "#d16ba5", "#3aa6b9", "#7f8c1f", "#4b4b8f")
MARKERS = ("o", "^")
GREY = "#c4c4c4"


def choose_items(labels: np.ndarray, items: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw whole classes to be coloured, and fill up with others.

    Args:
        labels: (N,).
        items: At most so many in all; half of them belong to other classes, as far as there are any.
        classes: At most so many are coloured.
        seed: Of the draw.

    Returns:
        Sorted positions of the chosen items, and the names of the coloured classes, sorted. Classes of one item are
        coloured only where there is no other.
    """
    generator = np.random.default_rng(seed)
    names, codes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    able = np.flatnonzero(sizes > 1) if (sizes > 1).any() else np.arange(len(names))
    drawn = generator.permutation(able)[:classes]
    if len(labels) <= items:
        return np.arange(len(labels)), np.sort(names[drawn])
    each = max(1, items // (2 * len(drawn)))
    mixed = generator.permutation(len(labels))
    own = np.concatenate([mixed[codes[mixed] == code][:each] for code in drawn])
    left = mixed[~np.isin(mixed, own)]
    left = left[np.argsort(np.isin(codes[left], drawn), kind="stable")]  # other classes first
    return np.sort(np.concatenate([own, left])[:items]), np.sort(names[drawn])


def flatten(vectors: np.ndarray, unit: bool = True, seed: int = 0) -> np.ndarray:
    """Return a place on the plane for each row: principal components, then t-SNE.

    Args:
        vectors: (N, d), N >= 12, finite.
        unit: Divide each row by its length first, which must not be 0 then.
        seed: Of t-SNE.

    Returns:
        (N, 2) float64.

    Raises:
        InputError: Fewer rows, or rows that cannot be normalised.

    Source: van der Maaten and Hinton, Visualizing Data using t-SNE, JMLR 2008; scikit-learn's Barnes-Hut form.
    """
    rows = np.asarray(vectors, dtype=np.float64)
    if rows.ndim != 2 or len(rows) < FEWEST or not np.isfinite(rows).all():
        raise InputError(f"a map needs at least {FEWEST} finite rows; found shape {rows.shape}.")
    if unit:
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        if not lengths.all():
            raise InputError(f"a map of unit rows: row {int(np.argmin(lengths))} is zero and has no direction.")
        rows = rows / lengths
    # scikit-learn's manifold module takes a second to import; only a finished run needs it.
    from sklearn.manifold import TSNE

    left, sizes, _ = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    principal = (left * sizes)[:, :PRINCIPAL]
    spread = principal[:, :1].std()
    # A collapsed model has no directions; its points then start from a seeded cloud.
    start = principal[:, :2] / spread if spread > 1e-12 else np.random.default_rng(seed).normal(size=(len(rows), 2))
    start = np.pad(start, ((0, 0), (0, 2 - start.shape[1])))
    perplexity = min(30.0, (len(rows) - 1) / 4)
    model = TSNE(init=(1e-4 * start).astype(np.float32), perplexity=perplexity, random_state=seed, max_iter=500)
    return np.asarray(model.fit_transform(principal.astype(np.float32)), dtype=np.float64)


def embedding_map(
    path: str | os.PathLike[str],
    vectors: Any,
    labels: Any,
    ids: Any = None,
    load: Load | None = None,
    unit: bool = True,
    items: int = ITEMS,
    classes: int = CLASSES,
    seed: int = 0,
) -> Path | None:
    """Draw a two-dimensional map of embeddings: some classes in colours with one picture each, the rest in grey.

    Args:
        path: A ``.png`` to write; its folder is made.
        vectors: (N, d) embeddings; tensor, array or memory map.
        labels: (N,) text or integers.
        ids: (N,), with `load`.
        load: Item id to an (H, W, 3) uint8 image; None draws no pictures.
        unit: Whether only directions count, as under cosine similarity.
        items: Points at most.
        classes: Coloured at most.
        seed: Of the draw and of t-SNE.

    Returns:
        The path, or None where there are fewer than 12 items.

    Raises:
        InputError: Counts that differ, rows that cannot be normalised, or an image of another form.
    """
    names = np.asarray(labels).astype(str)
    if len(names) != len(vectors) or (load is not None and (ids is None or len(ids) != len(names))):
        raise InputError(f"a map needs a label (and an id) for each row; {len(vectors)} rows, {len(names)} labels.")
    if len(names) < FEWEST:
        return None
    chosen, coloured = choose_items(names, items, classes, seed)
    places, names = flatten(np.asarray(vectors[chosen]), unit, seed), names[chosen]
    figure = new_figure(figsize=(9.6, 7.2), facecolor="white")
    axes, legend = figure.add_axes((0.005, 0.01, 0.745, 0.98)), Sheet(figure, left=7.3)
    grey = ~np.isin(names, coloured)
    axes.scatter(places[grey, 0], places[grey, 1], s=7, color=GREY, linewidths=0)
    for number, name in enumerate(coloured):
        own = np.flatnonzero(names == name)
        colour, mark = _style(number)
        x, y = places[own].T
        axes.scatter(x, y, s=30, color=colour, marker=mark, linewidths=0.4, edgecolors="white")
        # The member nearest to its class's median on the map stands for it.
        gaps = np.linalg.norm(places[own] - np.median(places[own], axis=0), axis=1)
        top = 0.1 + number * 7.0 / CLASSES
        legend.axes.scatter(0.1, top + 0.15, s=34, color=colour, marker=mark, linewidths=0)
        if load is not None:
            legend.picture(0.25, top, 0.3, read_image(load, str(ids[chosen[own[np.argmin(gaps)]]])), colour, width=0)
        legend.words(0.65, top + 0.09, short(name, 24), size=8)
    axes.set(xticks=[], yticks=[])
    axes.margins(0.03)
    for spine in axes.spines.values():
        spine.set_color("#dddddd")
    caption = (
        f"{len(chosen):,} of {len(labels):,} test items, each a point: principal components, then t-SNE (seed {seed}). "
        f"{len(coloured)} of {len(np.unique(np.asarray(labels).astype(str))):,} classes, drawn at random, are coloured"
        "; the rest is grey. Look at which items share a cluster. Distances between clusters, their sizes and their "
        "density mean little: t-SNE does not keep them."
    )
    return save_figure(figure, path, "Map of the test pictures", caption, PHOTOGRAPHS)


def _style(number: int) -> tuple[str, str]:
    return COLOURS[number % len(COLOURS)], MARKERS[number // len(COLOURS) % len(MARKERS)]
