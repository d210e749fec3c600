"""How similar right and wrong pictures are to their query: two histograms that should not overlap.

Q queries, N gallery items, d dimensions.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metrixkit.errors import InputError
from metrixkit.report.curves import COLOURS
from metrixkit.report.drawing import new_figure, save_figure
from metrixkit.report.markup import DRAWING

QUERIES, TILE = 1000, 256


@dataclass(frozen=True)
class Items:
    """Embeddings (N, d) with labels (N,) and ids (N,)."""

    vectors: np.ndarray
    labels: np.ndarray
    ids: np.ndarray


@dataclass(frozen=True)
class Similarities:
    """Cosines of some queries.

    Attributes:
        positive: Those of all pairs of a query and another item of its class.
        nearest: (q,) of each query's nearest item of its class.
        hardest: (q,) of each query's nearest item of another class.
        queries: How many queries had both and are counted, q.
    """

    positive: np.ndarray
    nearest: np.ndarray
    hardest: np.ndarray
    queries: int


def similarities(queries: Items, gallery: Items | None = None, most: int = QUERIES, seed: int = 0) -> Similarities:
    """Return cosines of positive pairs and of hardest negatives, of at most `most` queries against the whole gallery.

    Computed in float32, a tile of queries at a time: good for a picture, not for ranks.

    Args:
        queries: What is searched for.
        gallery: Where; None searches the queries among themselves. A query leaves out the item of its own id.
        most: Queries drawn at most.
        seed: Of the draw.

    Returns:
        Cosines in [-1, 1]. Queries without a positive or without a negative are left out.

    Raises:
        InputError: A row that cannot be normalised.
    """
    other = queries if gallery is None else gallery
    chosen = np.sort(np.random.default_rng(seed).permutation(len(queries.ids))[:most])
    unit, known = _unit(queries.vectors[chosen]), _unit(other.vectors)
    classes, names = (
        _codes(one[chosen], two) for one, two in ((queries.labels, other.labels), (queries.ids, other.ids))
    )
    positive, nearest, hardest = [], [], []
    for start in range(0, len(chosen), TILE):
        tile = slice(start, start + TILE)
        scores = unit[tile] @ known.T
        same, own = (codes[0][tile, None] == codes[1] for codes in (classes, names))
        right, wrong = same & ~own, ~same
        both = right.any(1) & wrong.any(1)
        positive.append(scores[right & both[:, None]])
        nearest.append(np.where(right, scores, -np.inf).max(1)[both])
        hardest.append(np.where(wrong, scores, -np.inf).max(1)[both])
    pairs, best, worst = (np.concatenate(part) if part else np.zeros(0) for part in (positive, nearest, hardest))
    return Similarities(pairs, best, worst, queries=len(best))


def similarity_histogram(path: str | os.PathLike[str], found: Similarities, total: int) -> Path | None:
    """Draw the histograms.

    Args:
        path: A ``.png`` to write; its folder is made.
        found: What :func:`similarities` returned.
        total: Queries there are, for the caption.

    Returns:
        The path, or None where no query has both a positive and a negative.
    """
    if not found.queries:
        return None
    parts = (
        ("another picture of the class", found.positive, COLOURS[2], "solid"),
        ("nearest picture of the class", found.nearest, COLOURS[0], "dashed"),
        ("nearest picture of another class", found.hardest, COLOURS[1], "solid"),
    )
    low = min(float(values.min()) for _, values, _, _ in parts)
    high = max(float(values.max()) for _, values, _, _ in parts)
    edges = np.linspace(low, max(high, low + 1e-3), 61).tolist()
    figure = new_figure(figsize=(8.8, 3.4), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    for name, values, colour, style in parts:
        share = np.full(len(values), 100 / len(values))
        axes.hist(values, bins=edges, weights=share, histtype="stepfilled", color=colour, alpha=0.12, linewidth=0)
        axes.hist(
            values, bins=edges, weights=share, histtype="step", color=colour, linewidth=1.6, linestyle=style, label=name
        )
    axes.set_xlabel("cosine similarity to the query", fontsize=9)
    axes.set_ylabel("% of each kind", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    wins = 100 * float((found.nearest > found.hardest).mean())
    caption = (
        f"{found.queries:,} of {total:,} queries, drawn at random. A query is answered rightly where its nearest "
        f"picture of the class is more similar than the nearest of any other class ({wins:.1f} % of these). The "
        "further the dashed line lies to the right of the orange one, the better a threshold tells match from no "
        "match."
    )
    return save_figure(figure, path, "Similarity of right and wrong pictures", caption, DRAWING)


def _codes(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return integers that are equal where the values are: comparing text Q x N times would take the time."""
    codes = np.unique(np.concatenate([ours, theirs]), return_inverse=True)[1]
    return codes[: len(ours)], codes[len(ours) :]


def _unit(vectors: np.ndarray) -> np.ndarray:
    rows = np.asarray(vectors, dtype=np.float32)
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise InputError("similarities need finite rows that are not zero.")
    unit: np.ndarray = (rows / lengths).astype(np.float32)
    return unit
