"""What callers hand to an index, checked before anything is done with it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.retrieval.exact.rows import Rows
from metrixkit.retrieval.index import vectors
from metrixkit.retrieval.index.table import check_count, read_new_ids, read_new_labels


def read_k(k: Any) -> int:
    """Return how many neighbours are asked for; InputError unless that is a whole number of at least 1."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise InputError(f"k={k!r}: ask for at least one item, by a whole number.")
    return int(k)


def read_radius(radius: Any, metric: str) -> float:
    """Return the score that a radius stands for: the radius itself, or minus its square for "euclidean".

    Raises:
        InputError: No finite number, a negative distance, or a cosine outside of [-1, 1].
    """
    number = isinstance(radius, int | float | np.number) and not isinstance(radius, bool)
    if not number or not math.isfinite(radius):
        raise InputError(f"radius={radius!r}: expected a finite number.")
    radius = float(radius)
    if metric == "cosine" and not -1 <= radius <= 1:
        raise InputError(f"radius={radius:g}: this index scores by the cosine, which lies between -1 and 1.")
    if metric == "euclidean" and radius < 0:
        raise InputError(f"radius={radius:g}: this index takes a Euclidean distance (not squared), at least 0.")
    return -(radius**2) if metric == "euclidean" else radius


def read_asked(queries: Any, metric: str, dim: int) -> tuple[np.ndarray, bool]:
    """Return queries as (Q, dim) float32, and whether they were one, (dim,); no queries are (0, dim).

    Raises:
        InputError: As :func:`~metrixkit.retrieval.index.vectors.read_queries`.
    """
    queries = queries if isinstance(queries, Tensor | np.ndarray) else np.asarray(queries)
    if queries.ndim and not queries.shape[0] and tuple(queries.shape[1:]) in ((), (dim,)):
        return np.empty((0, dim), dtype=np.float32), False
    single = queries.ndim == 1
    return vectors.read_queries(queries[None] if single else queries, "queries", metric, dim), single


def read_items(
    verb: str, embeddings: Any, ids: Any, labels: Any, metric: str, dim: int, labelled: bool
) -> tuple[Rows, np.ndarray, np.ndarray | None]:
    """Return rows, ids and labels of items that an index is to take.

    Args:
        verb: What the caller does, for messages ("add").
        embeddings: (n, dim).
        ids: (n,).
        labels: (n,), or None.
        metric: Of the index.
        dim: Of the index.
        labelled: Whether the index has labels.

    Raises:
        InputError: Bad rows or ids, counts that differ, labels missing or too many.
    """
    names = read_new_ids(ids, f"{verb}: ids")
    rows = vectors.read_rows(embeddings, f"{verb}: embeddings", metric, names, dim)
    check_count(names, rows.count, f"{verb}: ids")
    kept = read_new_labels(labels, f"{verb}: labels", rows.count)
    if (kept is None) == labelled:
        have = "has labels; give labels=" if kept is None else "has no labels; leave labels out"
        raise InputError(f"{verb}: the index {have}.")
    return rows, names, kept


def refuse_model(own: str | None, theirs: str | None, what: str) -> None:
    """Raise InputError where two model fingerprints are known and differ."""
    if theirs is not None and own is not None and theirs != own:
        raise InputError(
            f"{what}: the vectors are of model {theirs[:12]} and the index is of model {own[:12]}. Vectors of "
            "two models cannot be compared: build an index with this model, or use the model it was built with."
        )
