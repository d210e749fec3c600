"""The exact nearest items of each query, for panels and predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.retrieval.exact.rows import Distance
from metrixkit.retrieval.exact.screen import Precision
from metrixkit.retrieval.exact.setting import Pair, pair_up
from metrixkit.retrieval.exact.shortlist import Shortlist, shortlists


def neighbours(
    queries: Any,
    gallery: Any = None,
    k: int = 10,
    query_ids: Any = None,
    gallery_ids: Any = None,
    distance: Distance = "cosine",
    precision: Precision = "auto",
) -> tuple[np.ndarray, np.ndarray]:
    """Return the exact k nearest gallery items of each query, the query itself left out by id.

    Items whose scores are equal (within 1e-12, see docs/definitions.md) come in the order of the gallery.

    Args:
        queries: (Q, d).
        gallery: (N, d); None searches each query among all the others.
        k: How many; where the gallery holds fewer, what exists is returned.
        query_ids: (Q,) unique ids, or None.
        gallery_ids: (N,) unique ids, or None; a query is left out where its id stands.
        distance: "cosine", "dot" or "euclidean".
        precision: "auto", "bfloat16", "float32" or "float64": what screens the pairs, never the result. Euclidean
            distances are not screened.

    Returns:
        scores (Q, k) float64, higher is nearer (cosine, dot product, or the negative squared distance), and indices
        (Q, k) int64 into the gallery. A query that finds fewer items than others ends in score -inf and index -1.

    Raises:
        InputError: As :func:`~metrixkit.retrieval.evaluate`; k < 1; unknown precision.
    """
    return nearest_of(pair_up(queries, gallery, query_ids, gallery_ids, distance), k, precision)


@torch.no_grad()
def nearest_of(pair: Pair, k: int, precision: str = "auto") -> tuple[np.ndarray, np.ndarray]:
    """Return :func:`neighbours` of a checked pair."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise InputError(f"k={k!r}: ask for at least one neighbour, by a whole number.")
    width = min(int(k), pair.gallery.count - int((pair.own >= 0).all()))
    scores, index = np.empty((pair.queries.count, width)), np.empty((pair.queries.count, width), dtype=np.int64)
    if width:
        for found in shortlists(pair, width, precision):
            scores[found.rows], index[found.rows] = _nearest(found, width, pair.tie(found.rows)[:, None])
    return scores, index


@torch.no_grad()
def nearest_scores(pair: Pair, precision: str = "auto") -> np.ndarray:
    """Return (Q,) float64, the score of the one nearest item of each query of a checked pair."""
    scores = np.empty(pair.queries.count)
    for found in shortlists(pair, 1, precision):
        scores[found.rows] = -found.costs.amin(1).cpu().numpy()
    return scores


def _nearest(found: Shortlist, width: int, tie: Tensor) -> tuple[np.ndarray, np.ndarray]:
    # Everything clearly nearer than the last place, and of what ties for it the first in gallery order.
    costs = found.costs
    last = costs.kthvalue(width, dim=1, keepdim=True).values
    ahead = costs < last - tie
    level = (costs <= last + tie) & ~ahead
    level &= level.cumsum(1) <= width - ahead.sum(1, keepdim=True)
    place = (ahead | level).nonzero()[:, 1].view(len(costs), width)
    return _in_order(costs.gather(1, place), found.index.gather(1, place), tie)


def _in_order(costs: Tensor, index: Tensor, tie: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Sort (b, k) by cost, and runs of equal cost by index; `index` ascends in each row."""
    costs, by_cost = costs.sort(dim=1, stable=True)
    index = index.gather(1, by_cost)
    new = torch.zeros_like(index, dtype=torch.bool)
    new[:, 1:] = costs.isfinite()[:, 1:] & (costs[:, 1:] - costs[:, :-1] > tie)
    new[:, 1:] |= costs.isinf()[:, 1:] & costs.isfinite()[:, :-1]
    run = new.cumsum(1)
    by_run = (run * (int(index.max()) + 1) + index).argsort(dim=1)
    costs, index = costs.gather(1, by_run), index.gather(1, by_run)
    index[costs.isinf()] = -1
    return (-costs).cpu().numpy(), index.cpu().numpy()
