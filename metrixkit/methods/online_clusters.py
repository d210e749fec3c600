"""What the memory of Online Deep Clustering computes, as pure functions.

Zhan et al., Online Deep Clustering, CVPR 2020. Features and labels of all items live in a method's buffers; here is
what becomes of them. n items, N of a batch, d dimensions, C clusters.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from metrixkit.errors import InputError

# Of k-means on two clusters, as released.
_ROUNDS = 20


def blended_features(stored: Tensor, fresh: Tensor, momentum: float = 0.5) -> Tensor:
    """Return ``N((1 - momentum) stored + momentum N(fresh))``, row by row, without gradient.

    Args:
        stored: (N, d) rows of the memory.
        fresh: (N, d) raw features of the same items.
        momentum: Share of the fresh ones, in [0, 1].

    Raises:
        InputError: Shapes differ, or the momentum is out of range.
    """
    if stored.shape != fresh.shape or stored.ndim != 2:
        raise InputError(f"memory: stored {tuple(stored.shape)}, fresh {tuple(fresh.shape)}, expected the same (N, d).")
    if not 0 <= momentum <= 1:
        raise InputError(f"memory momentum={momentum}: expected the share of fresh features, in [0, 1]; 0.5 is usual.")
    fresh = F.normalize(fresh.detach().to(stored.dtype), dim=1)
    return F.normalize((1 - momentum) * stored + momentum * fresh, dim=1)


def nearest_cluster(features: Tensor, centroids: Tensor) -> Tensor:
    """Return (N,) int64: of (N, d) features the row of (C, d) centroids with the largest dot product."""
    return (features @ centroids.T).argmax(1)


def member_means(features: Tensor, labels: Tensor, previous: Tensor) -> Tensor:
    """Return (C, d) plain means of each cluster's members; an empty cluster keeps its row of `previous`.

    Args:
        features: (n, d).
        labels: (n,) int64 in [0, C).
        previous: (C, d) centroids before.
    """
    sums = torch.zeros_like(previous).index_add(0, labels, features)
    counts = torch.bincount(labels, minlength=len(previous))[:, None]
    return torch.where(counts > 0, sums / counts.clamp(min=1), previous)


def refilled_clusters(
    features: Tensor, labels: Tensor, centroids: Tensor, generator: torch.Generator, least: int = 20
) -> tuple[Tensor, Tensor]:
    """Dissolve small clusters into their neighbours, and fill them with a half of the then largest one each.

    Members of clusters smaller than `least` go to the nearest centroid of the others. Each emptied cluster then takes
    one part of the largest cluster, split in two by k-means; the centroids of both become the means of their members.

    Args:
        features: (n, d) rows of the memory.
        labels: (n,) int64 in [0, C).
        centroids: (C, d).
        generator: A CPU generator; one number is taken from it, whether or not a cluster is small.
        least: Members that a cluster needs to stay.

    Returns:
        New (n,) labels and (C, d) centroids; those given are left as they are.

    Raises:
        InputError: Every cluster is small, or there are fewer items than clusters.
    """
    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    counts = torch.bincount(labels, minlength=len(centroids))
    small = counts < least
    if not bool(small.any()):
        return labels, centroids
    if bool(small.all()):
        raise InputError(
            f"all {len(centroids)} clusters have fewer than {least} of the {len(labels)} items; take fewer clusters or "
            "a smaller least size."
        )
    labels, centroids = labels.clone(), centroids.clone()
    stays = (~small).nonzero()[:, 0]
    moved = small[labels]
    labels[moved] = stays[nearest_cluster(features[moved], centroids[stays])]
    for empty in small.nonzero()[:, 0].tolist():
        largest = int(torch.bincount(labels, minlength=len(centroids)).argmax())
        members = (labels == largest).nonzero()[:, 0]
        if len(members) < 2:
            raise InputError(f"{len(labels)} items cannot fill {len(centroids)} clusters; take fewer clusters.")
        second = members[_second_half(features[members], seed + empty)]
        labels[second] = empty
        for cluster in (largest, empty):
            centroids[cluster] = features[labels == cluster].mean(0)
    return labels, centroids


def _second_half(features: Tensor, seed: int) -> Tensor:
    """Return (m,) bool: which of m >= 2 rows form the second of two clusters, neither of them empty."""
    rows, generator = features.detach().cpu().double(), torch.Generator().manual_seed(seed)
    start = rows[int(torch.randint(len(rows), (), generator=generator))]
    far = (rows - start).square().sum(1)
    half = torch.arange(len(rows)) % 2 == 1  # any split will do for rows that are all alike
    if bool(far.sum() > 0):
        centres = torch.stack([start, rows[int(torch.multinomial(far, 1, generator=generator))]])
        for _ in range(_ROUNDS):
            nearer = torch.cdist(rows, centres).argmin(1) == 1
            if bool(nearer.all()) or not bool(nearer.any()) or torch.equal(nearer, half):
                break
            half = nearer
            centres = torch.stack([rows[~half].mean(0), rows[half].mean(0)])
    return half.to(features.device)
