"""Ranks from costs that lie at hand: what a few queries have to pay for every item, lower is nearer."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from metrixkit.retrieval.exact.ranks import RankBlock


def ranks_of_costs(
    rows: np.ndarray, costs: Tensor, relevant: Tensor, tie: Tensor, depth: int | None = None
) -> RankBlock:
    """Return the ranks of the relevant items of those queries that have one.

    The t-th nearest relevant item, at cost c_t, has rank t + number of other items with cost <= c_t + tie
    (pessimistic) or < c_t - tie (optimistic).

    Args:
        rows: (b,) positions of the queries.
        costs: (b, M) float64; infinity where an item is not there for a query.
        relevant: (b, M) bool.
        tie: (b,) how far apart equal costs may lie.
        depth: Follow only this many relevant items; None follows all.

    Returns:
        A block of at most b queries; those without a relevant item are left out.
    """
    there = relevant & costs.isfinite()
    counts = there.sum(1)
    kept = counts > 0
    rows = rows[kept.cpu().numpy()]
    costs, there, counts, tie = costs[kept], there[kept], counts[kept], tie[kept, None]
    width = int(counts.max()) if len(counts) else 1
    width = width if depth is None else min(width, depth)
    if not len(rows):
        empty = np.zeros((0, 1), dtype=np.int64)
        return RankBlock(rows, counts.cpu().numpy(), empty, empty)
    nearest = costs.masked_fill(~there, torch.inf).topk(width, largest=False, sorted=True).values
    others = costs.masked_fill(there, torch.inf)
    place = torch.arange(1, width + 1, device=costs.device)
    # Absent items and padding are both infinite; they meet in bins that belong to no rank.
    followed = place[None] <= counts[:, None]
    worse = (place + _below(nearest + tie, others, right=False)) * followed
    better = (place + _below(nearest - tie, others, right=True)) * followed
    return RankBlock(rows, counts.cpu().numpy(), worse.cpu().numpy(), better.cpu().numpy())


def _below(thresholds: Tensor, costs: Tensor, right: bool) -> Tensor:
    """Return (b, K) how many costs lie below each ascending threshold; on it too unless `right`."""
    count, width = thresholds.shape
    bins = torch.searchsorted(thresholds, costs, right=right)
    bins += torch.arange(count, device=costs.device)[:, None] * (width + 1)
    counted = torch.bincount(bins.flatten(), minlength=count * (width + 1)).view(count, width + 1)
    return counted[:, :width].cumsum(1)
