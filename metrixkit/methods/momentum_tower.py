"""MoCo's towers: a query encoder that learns, a key encoder that follows it, and the queue of past keys."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from metrixkit.distributed import gather, rank, world_size
from metrixkit.errors import InputError
from metrixkit.losses.unit import full_precision, unit_rows
from metrixkit.mixing.images import manifoldmix
from metrixkit.models.momentum import momentum_copy, update
from metrixkit.models.projector import Projector
from metrixkit.models.queue import Queue
from metrixkit.models.split_batch_norm import shuffle_over_processes, split_batch_norms
from metrixkit.seam import Group


class MomentumTower(nn.Module):
    """What every method on MoCo v2 shares (Chen et al., 2020; He et al., CVPR 2020).

    N images of this process, d dimensions. Keys are made without gradient by an exponential moving average of the
    query encoder, in a batch whose rows are shuffled, so that batch norm cannot tell a query its key: over processes
    where there are several, over the groups of a split batch norm on one.

    Args:
        model: Encoder of images to pooled features, not normalised; it is the tower that is evaluated.
        dim: Length d of queries and keys.
        hidden: Width of the projector's inner layer; None takes the features' own.
        queue_size: Keys kept as negatives.
        momentum: Share of the key encoder that an update keeps, in [0, 1].
        groups: Parts of the batch with batch-norm statistics of their own, on one process; about 32 images each are
            usual. 1 leaves batch norm as it is, and then, on one process, nothing is hidden from it.
        seed: Of the queue's first rows.

    Raises:
        InputError: A model whose embedding is normalised or projected, or a number out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        dim: int = 128,
        hidden: int | None = None,
        queue_size: int = 65536,
        momentum: float = 0.999,
        groups: int = 8,
        seed: int = 0,
    ) -> None:
        super().__init__()
        features = pooled_features(model)
        if not 0 <= momentum <= 1:
            raise InputError(
                f"momentum={momentum}: expected the share that an update keeps, in [0, 1]; 0.999 is usual."
            )
        if groups < 1:
            raise InputError(f"groups={groups}: expected 1 or more parts of a batch.")
        self.momentum, self.groups, self.dim = momentum, groups, dim
        self.model = model if groups == 1 else split_batch_norms(model, groups)
        self.projector = Projector(features, hidden or features, dim)
        self.key_model, self.key_projector = momentum_copy(self.model), momentum_copy(self.projector)
        self.queue = Queue(queue_size, dim, seed)

    def query(self, images: Tensor) -> Tensor:
        """Return (N, d) raw queries of (N, 3, H, W) images."""
        return self.projector(self.model(images))  # type: ignore[no-any-return]

    def query_maps(self, images: Tensor, first: Tensor, second: Tensor, lam: Tensor, stage: int) -> Tensor:
        """Return (M, d) raw queries of mixtures of the maps that a stage of the encoder makes of images.

        Args:
            images: (N, 3, H, W).
            first: (M,) rows of which a mixture holds lam.
            second: (M,) rows of which it holds the rest.
            lam: (M,) in [0, 1].
            stage: 0 is the stem.

        Raises:
            InputError: The model cannot be cut, or has no such stage.
        """
        if not hasattr(self.model, "features") or not hasattr(self.model, "head_from"):
            raise InputError(
                f"mixer.image=manifoldmix mixes maps, and {type(self.model).__name__} has no features(images, stage) "
                "and head_from(stage); metrixkit.models.ImageEncoder has."
            )
        maps = self.model.features(images, stage)  # type: ignore[operator]
        mixed = manifoldmix(maps[first], maps[second], lam).images
        return self.projector(self.model.head_from(stage)(mixed))  # type: ignore[no-any-return, operator]

    def query_together(self, clean: Tensor, mixed: Tensor) -> tuple[Tensor, Tensor]:
        """Return the queries of clean and of mixed images from one pass, whose batch norms see both kinds.

        Args:
            clean: (N, 3, H, W).
            mixed: (M, 3, H, W). Every group of a split batch norm gets its share of both.

        Raises:
            InputError: N or M is no multiple of the groups.
        """
        n, m = len(clean), len(mixed)
        if n % self.groups or m % self.groups:
            raise InputError(
                f"{n} images and {m} mixtures cannot both be cut into method.groups={self.groups} equal parts; choose "
                "sampler.batch_size so that they can, or fewer groups."
            )
        shape = (self.groups, -1, *clean.shape[1:])
        parts = torch.cat([clean.view(shape), mixed.view(shape)], 1)
        rows = self.query(parts.flatten(0, 1)).view(self.groups, -1, self.dim)
        return rows[:, : n // self.groups].flatten(0, 1), rows[:, n // self.groups :].flatten(0, 1)

    @torch.no_grad()
    def follow(self) -> None:
        """Move the key encoder towards the query encoder, of whose last update it then knows."""
        if self.training:
            update(self.key_model, self.model, self.momentum)
            update(self.key_projector, self.projector, self.momentum)

    @torch.no_grad()
    def keys(self, images: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
        """Return (N, d) raw keys of each of some batches of (N, 3, H, W) images, made in one shuffled pass.

        Args:
            images: Of one size.
            generator: Shuffles; a CPU generator that is equal in every process.
        """
        rows = torch.cat(list(images))
        mixed, back = shuffle_over_processes(rows, generator)
        return list(back(self.key_projector(self.key_model(mixed))).split(len(images[0])))

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Put the (N, d) keys of all processes into the queue, in place of the oldest."""
        if self.training:
            self.queue.push(gather(unit_rows(full_precision(keys))))

    def key_tower(self) -> nn.Module:
        """Return the key encoder with its projector: images to (N, d) raw keys."""
        return nn.Sequential(self.key_model, self.key_projector)

    def parameter_groups(self) -> list[Group]:
        """Return the query encoder's groups and its projector."""
        backbone: list[Group] = self.model.parameter_groups()  # type: ignore[operator]
        return [*backbone, Group("projector", list(self.projector.parameters()))]


def pooled_features(model: nn.Module) -> int:
    """Return the length of a model's pooled features.

    Raises:
        InputError: The model normalises or projects them: a self-supervised method brings a projector of its own.
    """
    said = model.settings() if hasattr(model, "settings") else {}  # type: ignore[operator]
    if said.get("normalize") or said.get("dim") is not None:
        raise InputError(
            "a self-supervised method projects and normalises by itself, and what is kept are the pooled features: set "
            "model.dim=null and model.normalize=false."
        )
    return int(model.embedding_dim)  # type: ignore[arg-type]


def pixels(view: Tensor) -> Tensor:
    """Return (N, 3, H, W) images as floating point in [0, 1], in which they are mixed."""
    return view if view.is_floating_point() else view.float() / 255


def own_share(drawn: Tensor, count: int) -> Tensor:
    """Return this process's `count` of numbers that were drawn for all processes by equal generators."""
    return drawn[rank() * count : (rank() + 1) * count] if world_size() > 1 else drawn
