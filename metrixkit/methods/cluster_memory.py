"""The memory of Online Deep Clustering: a feature and a cluster of every image, refreshed as images are seen."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metrixkit.distributed import gather
from metrixkit.errors import InputError
from metrixkit.losses import cluster_weights
from metrixkit.methods.online_clusters import blended_features, member_means, nearest_cluster, refilled_clusters
from metrixkit.mixing.clusters import fit_clusters
from metrixkit.mixing.nearest import Points


class ClusterMemory(nn.Module):
    """Pseudo labels of n images in C clusters (Zhan et al., Online Deep Clustering, CVPR 2020).

    All of it lies in buffers, the same in every process: what a step brings is gathered first.

    Args:
        count: n.
        clusters: C.
        dim: Length of the features.
        momentum: Share of a fresh feature in the memory's.
        refresh: Steps between updates of the centroids, at which small clusters are dissolved and refilled.
        least: Members that a cluster needs to stay.
        seed: Of the first clusters and of the halves of those that are split.
        section: Whose settings clusters and least are, for messages.

    Attributes:
        features: (n, dim) unit rows.
        labels: (n,) int64.
        centroids: (C, dim).

    Raises:
        InputError: Too many clusters for the images, or a number out of range.
    """

    features: Tensor
    labels: Tensor
    centroids: Tensor

    def __init__(
        self,
        count: int,
        clusters: int,
        dim: int,
        momentum: float = 0.5,
        refresh: int = 10,
        least: int = 20,
        seed: int = 0,
        section: str = "method",
    ) -> None:
        super().__init__()
        if clusters < 2 or least < 1 or refresh < 1:
            raise InputError(
                f"{section}.clusters={clusters}, {section}.least={least}, refresh={refresh}: expected two clusters, "
                "one member and one step, or more."
            )
        if clusters * least > count:
            raise InputError(
                f"{section}.clusters={clusters} of at least {section}.least={least} images need {clusters * least}, "
                f"and there are {count}; choose fewer, such as {section}.clusters={max(2, count // (2 * least))}."
            )
        if not 0 <= momentum <= 1:
            raise InputError(f"method.memory_momentum={momentum}: expected the share of fresh features, in [0, 1].")
        self.momentum, self.refresh, self.least, self.seed = momentum, refresh, least, seed
        self.register_buffer("features", torch.zeros(count, dim))
        self.register_buffer("labels", torch.zeros(count, dtype=torch.int64))
        self.register_buffer("centroids", torch.zeros(clusters, dim))
        self.generator = torch.Generator().manual_seed(seed)
        self.updates = -1

    @property
    def started(self) -> bool:
        """Whether there are clusters."""
        return self.updates >= 0

    def begin(self, embeddings: Tensor) -> float:
        """Make the first clusters of all images and return the share of the largest.

        Args:
            embeddings: (n, dim), as for :meth:`start`.

        Raises:
            InputError: Another number of embeddings than of images.
        """
        if len(embeddings) != len(self.labels):
            raise InputError(f"{len(embeddings)} embeddings for {len(self.labels)} images.")
        self.start(embeddings)
        return float(self.counts().max()) / len(self.labels)

    @torch.no_grad()
    def start(self, features: Tensor) -> None:
        """Cluster all images by k-means.

        Args:
            features: (n, dim) raw, in the order of the training split and equal in every process.
        """
        rows = F.normalize(features.to(self.features), dim=1)
        self.features.copy_(rows)
        found = fit_clusters(Points(rows), len(self.centroids), self.seed)
        labels, centroids = refilled_clusters(
            rows, found.assignment, found.centres.to(rows), self.generator, self.least
        )
        self.labels.copy_(labels)
        self.centroids.copy_(member_means(rows, labels, centroids))
        self.updates = 0

    @torch.no_grad()
    def update(self, index: Tensor, keys: Tensor) -> None:
        """Let a step's keys into the memory, those of all processes; every few steps move the clusters.

        Args:
            index: (N,) int64 rows of the training split.
            keys: (N, dim) raw features of these images.
        """
        index, keys = gather(index.to(self.labels.device)), gather(keys)
        fresh = blended_features(self.features[index], keys, self.momentum)
        self.features[index] = fresh
        self.labels[index] = nearest_cluster(fresh, self.centroids)
        self.updates += 1
        if self.updates % self.refresh == 0:
            self.centroids.copy_(member_means(self.features, self.labels, self.centroids))
            moved = refilled_clusters(self.features, self.labels, self.centroids, self.generator, self.least)
            self.labels.copy_(moved[0])
            self.centroids.copy_(moved[1])

    def counts(self) -> Tensor:
        """Return (C,) int64 members of each cluster."""
        return torch.bincount(self.labels, minlength=len(self.centroids))

    def weights(self, official: bool = False) -> Tensor:
        """Return (C,) factors that let small clusters count more; see :func:`metrixkit.losses.cluster_weights`."""
        return cluster_weights(self.counts(), official)

    def get_extra_state(self) -> dict[str, Any]:
        """Return what a resumed run needs beside tensors."""
        return {"generator": self.generator.get_state(), "updates": self.updates}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`get_extra_state`."""
        self.generator.set_state(state["generator"].cpu())
        self.updates = int(state["updates"])
