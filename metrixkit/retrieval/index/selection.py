"""Searches that may not find everything: how faiss is told, and how answers are sorted out where it cannot be."""

from __future__ import annotations

from typing import Any

import numpy as np

from metrixkit.retrieval.index.library import faiss_library


def passing(index: Any, selector: Any, kept: list[Any], candidates: int | None = None) -> Any:
    """Return faiss search parameters with a selector, nested as the index is.

    Args:
        index: A faiss index whose kind can pass over vectors (``Factory.filters``).
        selector: A faiss ``IDSelector``.
        kept: Takes what must outlive the search: faiss holds plain pointers to nested parameters.
        candidates: efSearch of a graph for this search; None takes the index's own.
    """
    faiss = faiss_library()
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexRefine):
        kept.append(passing(index.base_index, selector, kept, candidates))
        return faiss.IndexRefineSearchParameters(k_factor=index.k_factor, base_index_params=kept[-1])
    if isinstance(index, faiss.IndexPreTransform):
        kept.append(passing(index.index, selector, kept, candidates))
        return faiss.SearchParametersPreTransform(index_params=kept[-1])
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(sel=selector, nprobe=index.nprobe)
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(sel=selector, efSearch=candidates or index.hnsw.efSearch)
    return faiss.SearchParameters(sel=selector)


def allowed_only(scores: np.ndarray, found: np.ndarray, allowed: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first k allowed of each row, in their order; -inf and -1 where there are fewer.

    Args:
        scores: (Q, n) float32, descending.
        found: (Q, n) int64 positions, -1 for none.
        allowed: (count,) bool.
        k: How many, at most n.
    """
    keep = (found >= 0) & allowed[found]
    front = np.argsort(~keep, axis=1, kind="stable")[:, :k]
    there = np.take_along_axis(keep, front, axis=1)
    return (
        np.where(there, np.take_along_axis(scores, front, axis=1), np.float32(-np.inf)),
        np.where(there, np.take_along_axis(found, front, axis=1), -1),
    )


def merged(
    scores: np.ndarray, found: np.ndarray, more: np.ndarray, at: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best of two answers to the same queries, each (Q, n) scores and positions."""
    scores, found = np.concatenate([scores, more], axis=1), np.concatenate([found, at], axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(found, order, axis=1)


def lists_to_probe(
    order: np.ndarray, sizes: np.ndarray, usable: np.ndarray, probes: int, more: float
) -> tuple[np.ndarray, bool]:
    """Return which lists each query should search, so that it sees `more` times as many vectors as without a filter.

    Args:
        order: (Q, n) int64 lists, the nearest first.
        sizes: (lists,) vectors of each list.
        usable: (lists,) allowed vectors of each list.
        probes: Lists that a search without a filter probes.
        more: Factor on what it sees.

    Returns:
        (Q, m) int64 with m <= n, -1 for lists to leave out; and whether that is enough for every query.
    """
    wanted = more * sizes[order[:, :probes]].sum(axis=1)
    seen = np.cumsum(usable[order], axis=1)
    before = np.concatenate([np.zeros((len(order), 1), seen.dtype), seen[:, :-1]], axis=1)
    needed = (before < wanted[:, None]) & (usable[order] > 0)
    width = int(np.flatnonzero(needed.any(axis=0)).max(initial=0)) + 1
    return np.where(needed[:, :width], order[:, :width], -1), bool((seen[:, -1] >= wanted).all())
