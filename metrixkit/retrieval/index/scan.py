"""Vectors scored one by one, without lists or graph: the nearest of some, and all within a radius.

Codes are decoded first, so these are the scores that an index of this kind gives if it looks at everything.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from metrixkit.errors import InputError
from metrixkit.retrieval.index.engine import Engine
from metrixkit.retrieval.index.library import faiss_library
from metrixkit.retrieval.index.selection import merged

ROWS = 2**16  # vectors decoded at a time
QUERIES = 128  # scored against them at a time by `within`
MOST_RESULTS = 10_000_000  # a range search gives up beyond: 240 MB of scores, positions and queries
ROUNDING = 1e-6  # relative; scores this far below a limit reach it, for vectors are float32


def nearest(engine: Engine, queries: np.ndarray, k: int, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest of each query among (n,) positions, as :meth:`Engine.search` does."""
    faiss, euclidean = faiss_library(), engine.metric == "euclidean"
    kind = faiss.METRIC_L2 if euclidean else faiss.METRIC_INNER_PRODUCT
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    found = np.full((len(queries), k), -1, dtype=np.int64)
    for part in _parts(chosen):
        near, at = faiss.knn(queries, engine.reconstruct(part), min(k, len(part)), metric=kind)
        scores, found = merged(scores, found, -near if euclidean else near, part[at], k)
    return scores, found


def scored_again(engine: Engine, queries: np.ndarray, found: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest of each query among its own candidates.

    Args:
        engine: Whose vectors these are.
        queries: (Q, d) float32.
        found: (Q, m) positions, -1 where there is none.
        k: How many, at most m.

    Returns:
        scores (Q, k) float32, positions (Q, k), as :meth:`Engine.search` does.
    """
    there = found >= 0
    positions = np.unique(found[there])
    scores = np.full(found.shape, -np.inf)
    if len(positions):
        rows, at = engine.reconstruct(positions), np.searchsorted(positions, found[there])
        scores[there] = _precise(queries, rows, np.nonzero(there)[0], at, engine.metric == "euclidean")
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1).astype(np.float32), np.take_along_axis(found, order, axis=1)


def within(
    engine: Engine, queries: np.ndarray, least: float, chosen: np.ndarray, most: int = MOST_RESULTS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return everything that scores at least `least`.

    float32 products, less what rounding can make of them, rule vectors out; the others are scored in float64.

    Args:
        engine: What is searched; every vector of `chosen` is looked at.
        queries: (Q, d) float32.
        least: The score, as searches give it; 1e-6 of it (of 1 for "cosine") is forgiven.
        chosen: (n,) positions that may be found.
        most: Results in all from which on the search gives up.

    Returns:
        counts (Q,) int64, how many each query has; then, query by query and the nearest first, scores (R,) float32 and
        positions (R,) int64.

    Raises:
        InputError: More than `most` results.
    """
    euclidean = engine.metric == "euclidean"
    floor = least - ROUNDING * (1.0 if engine.metric == "cosine" else abs(least))
    asked = queries.astype(np.float64)
    squares = np.einsum("ij,ij->i", asked, asked)
    hits: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    total = 0
    for part in _parts(chosen):
        rows = engine.reconstruct(part)
        own = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
        for start in range(0, len(queries), QUERIES):
            block = slice(start, start + QUERIES)
            rough = (queries[block] @ rows.T).astype(np.float64)
            if euclidean:
                rough = 2 * rough - squares[block, None] - own
            # d products of float32 add up to an error of at most about d eps |q| |x|.
            longest = np.maximum(squares[block, None], own)
            query, at = np.nonzero(rough >= floor - 4 * (engine.dim + 2) * np.finfo(np.float32).eps * longest)
            query += start
            scores = _precise(asked, rows, query, at, euclidean)
            kept = scores >= floor
            total += int(kept.sum())
            if total > most:
                raise InputError(
                    f"more than {most} results lie within the radius ({len(queries)} queries, {len(chosen)} items). "
                    "Take a narrower radius, fewer queries at once, or search for the k nearest."
                )
            hits.append((query[kept], scores[kept].astype(np.float32), part[at[kept]]))
    none = (np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int64))
    query, scores, positions = (np.concatenate(column) for column in zip(none, *hits, strict=True))
    order = np.lexsort((positions, -scores, query))
    return np.bincount(query, minlength=len(queries)), scores[order], positions[order]


def _precise(queries: np.ndarray, rows: np.ndarray, query: np.ndarray, at: np.ndarray, euclidean: bool) -> np.ndarray:
    scores = np.empty(len(query))
    step = max(1, 2**20 // rows.shape[1])
    for start in range(0, len(query), step):
        piece = slice(start, start + step)
        left, right = queries[query[piece]], rows[at[piece]].astype(np.float64)
        scores[piece] = -((left - right) ** 2).sum(1) if euclidean else np.einsum("ij,ij->i", left, right)
    return scores


def _parts(chosen: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(chosen), ROWS):
        yield chosen[start : start + ROWS]
