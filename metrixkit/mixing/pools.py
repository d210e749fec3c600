"""From neighbours and clusters to pools of positives: CLIM's centre-wise rule, Eq. 2, and its fallback.

Legend of shapes: n items, b items of this process, k neighbours, p positives of a pool.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from metrixkit.mixing.clusters import Clusters
from metrixkit.mixing.draws import hashed

Fallback = Literal["fill", "nearest"]
FALLBACKS: tuple[str, ...] = get_args(Fallback)


def centre_wise(near: Tensor, items: Tensor, clusters: Clusters, tie: float) -> Tensor:
    """Return which neighbours are in the item's cluster and at least as near to its centre (CLIM, Eq. 2).

    Args:
        near: (b, k) int64 neighbours.
        items: (b,) int64, whose they are.
        clusters: Of all items.
        tie: Squared distances this close are equal, and equal ones are in.

    Returns:
        (b, k) bool.
    """
    # Within a cluster both distances are to the same centre: one number an item serves all comparisons.
    same = clusters.assignment[near] == clusters.assignment[items][:, None]
    return same & (clusters.distances[near] <= clusters.distances[items][:, None] + tie)


def pool(near: Tensor, local: Tensor, items: Tensor, count: int, seed: int, epoch: int, fallback: str) -> Tensor:
    """Return each item's pool: drawn from its local neighbours where there are more than `count` of them.

    Args:
        near: (b, k) int64 neighbours, nearest first.
        local: (b, k) bool, what :func:`centre_wise` returned.
        items: (b,) int64.
        count: p.
        seed: Any integer.
        epoch: Changes every draw.
        fallback: For items with at most p local neighbours: "fill" keeps those and adds the nearest of the rest,
            "nearest" takes the p nearest whether local or not.

    Returns:
        (b, p) int64: local ones first, nearer ones first among each; -1 beyond k.
    """
    rank = torch.arange(near.shape[1], device=near.device).expand_as(near)
    drawn = (local.sum(1) > count)[:, None]
    preferred = torch.where(local, rank, rank + near.shape[1]) if fallback == "fill" else rank
    lot = torch.where(local, hashed(seed, epoch, items[:, None], near), 2**62)
    chosen = torch.where(drawn, lot, preferred).topk(min(count, near.shape[1]), dim=1, largest=False).indices
    order = preferred.gather(1, chosen).argsort(dim=1)
    pools = near.new_full((len(near), count), -1)
    pools[:, : chosen.shape[1]] = near.gather(1, chosen.gather(1, order))
    return pools
