"""The exact nearest items of each query, for panels and predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.retrieval.rows import BLOCK, Distance
from metrixkit.retrieval.setting import Pair, pair_up

SCORES = 2**24  # scores held at once (128 MB): queries of a block times the whole gallery
QUERY_BLOCK = 1024


def neighbours(
    queries: Any,
    gallery: Any = None,
    k: int = 10,
    query_ids: Any = None,
    gallery_ids: Any = None,
    distance: Distance = "cosine",
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

    Returns:
        scores (Q, k) float64, higher is nearer (cosine, dot product, or the negative squared distance), and indices
        (Q, k) int64 into the gallery. A query that finds fewer items than others ends in score -inf and index -1.

    Raises:
        InputError: As :func:`~metrixkit.retrieval.evaluate`; k < 1.
    """
    return nearest_of(pair_up(queries, gallery, query_ids, gallery_ids, distance), k)


@torch.no_grad()
def nearest_of(pair: Pair, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return :func:`neighbours` of a checked pair."""
    if k < 1:
        raise InputError(f"k={k}: ask for at least one neighbour.")
    width = min(k, pair.gallery.count - int((pair.own >= 0).all()))
    step = max(1, min(QUERY_BLOCK, SCORES // pair.gallery.count))
    found = [
        _nearest_block(pair, np.arange(start, min(start + step, pair.queries.count)), width)
        for start in range(0, pair.queries.count, step)
    ]
    return np.concatenate([scores for scores, _ in found]), np.concatenate([index for _, index in found])


def _nearest_block(pair: Pair, rows: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    if width == 0:
        return np.empty((len(rows), 0)), np.empty((len(rows), 0), dtype=np.int64)
    block = pair.queries.take(rows)
    costs = torch.cat(
        [
            pair.costs(block, pair.gallery.take(slice(start, start + BLOCK)))
            for start in range(0, pair.gallery.count, BLOCK)
        ],
        dim=1,
    )
    own = torch.from_numpy(pair.own[rows]).to(costs.device)
    inside = (own >= 0).nonzero()[:, 0]
    costs[inside, own[inside]] = torch.inf
    tie = pair.tie(rows)[:, None]
    # Everything clearly nearer than the last place, and of what ties for it the first in gallery order.
    last = costs.kthvalue(width, dim=1, keepdim=True).values
    ahead = costs < last - tie
    level = (costs <= last + tie) & ~ahead
    level &= level.cumsum(1) <= width - ahead.sum(1, keepdim=True)
    index = (ahead | level).nonzero()[:, 1].view(len(rows), width)
    return _in_order(costs.gather(1, index), index, tie)


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
