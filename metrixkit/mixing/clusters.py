"""k-means by faiss, with an assignment that is exact and the same everywhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metrixkit._faiss import load_faiss
from metrixkit.errors import InputError
from metrixkit.mixing.nearest import Points, nearest
from metrixkit.mixing.shares import collect, from_first, part_of


@dataclass(frozen=True)
class Clusters:
    """A clustering of n items.

    Attributes:
        centres: (m, d) float32.
        assignment: (n,) int64, the nearest centre of each item; of several equally near, the first.
        distances: (n,) float64, squared distance of each item to its centre.
        reseeded: How often a cluster lost its last member on the way and took half of another's.
    """

    centres: Tensor
    assignment: Tensor
    distances: Tensor
    reseeded: int = 0

    @property
    def sizes(self) -> Tensor:
        """(m,) int64, items of each cluster; the last assignment may leave clusters with none."""
        return torch.bincount(self.assignment, minlength=len(self.centres))


def assign(points: Points, centres: Tensor, reseeded: int = 0) -> Clusters:
    """Assign every point to its nearest centre; in a process group each process does a part.

    Args:
        points: n points.
        centres: (m, d), on the device of the points and equal in every process.
        reseeded: Passed on.
    """
    mine = torch.arange(len(points), device=centres.device)[part_of(len(points))]
    squares, index = nearest(points, mine, Points(centres), 1)
    return Clusters(centres, collect(index[:, 0], len(points)), collect(squares[:, 0], len(points)), reseeded)


def fit_clusters(
    points: Points, clusters: int, seed: int, niter: int = 25, init_centres: Tensor | None = None
) -> Clusters:
    """Cluster by Lloyd's k-means (Euclidean, all points in every iteration), then assign exactly.

    In a process group the first process computes the centres and the others receive them.

    Args:
        points: n points, equal in every process.
        clusters: m, at most n.
        seed: Of the start, which takes m of the points.
        niter: Iterations, >= 1.
        init_centres: (m, d) to start from instead.

    Raises:
        InputError: Fewer items than clusters, niter < 1, a start of another shape, or faiss is absent.
    """
    count, dim = points.rows.shape
    if not 1 <= clusters <= count:
        raise InputError(
            f"clusters={clusters}, but there are {count} images: fewer images than clusters. Expected 1 to {count}; "
            f"about one for 128 images is the paper's ({max(1, count // 128)} here)."
        )
    if niter < 1:
        raise InputError(f"niter={niter}: expected at least one iteration of k-means; 25 is usual.")
    if init_centres is not None and init_centres.shape != (clusters, dim):
        raise InputError(f"init_centres has shape {tuple(init_centres.shape)}, expected ({clusters}, {dim}).")
    faiss = load_faiss()  # in every process, so that all of them say so where it is absent
    centres = torch.zeros(clusters, dim)
    reseeded = torch.zeros((), dtype=torch.int64)
    if part_of(count).start == 0:
        means = faiss.Kmeans(
            dim,
            clusters,
            niter=niter,
            seed=seed % 2**31,
            gpu=points.rows.is_cuda and hasattr(faiss, "StandardGpuResources"),
            # faiss would draw 256 points a cluster, silently, and complain on the terminal below 39.
            max_points_per_centroid=count,
            min_points_per_centroid=1,
        )
        start = None if init_centres is None else np.ascontiguousarray(init_centres.float().cpu().numpy())
        means.train(np.ascontiguousarray(points.rows.float().cpu().numpy()), init_centroids=start)
        centres = torch.from_numpy(means.centroids.copy())
        reseeded += sum(int(step["nsplit"]) for step in means.iteration_stats or [])
    return assign(points, from_first(centres).to(points.rows.device), int(from_first(reseeded)))
