"""SAMix-C: a Mixer learned beside MoCo v2 from clusters of the images; no labels.

N images of this process, K negatives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from metrixkit.distributed import gather
from metrixkit.losses import cluster_losses, same_label
from metrixkit.losses.eta_class import check_eta
from metrixkit.losses.mask_loss import MaskLossKind
from metrixkit.methods.cluster_memory import ClusterMemory
from metrixkit.methods.learned_masks import LearnedMasks, checked_factor, cosine_to
from metrixkit.methods.samix_core import MixedContrast, core_options
from metrixkit.methods.samix_presets import CONTRAST, RatioPer, Views, chosen
from metrixkit.methods.samix_schedules import Schedule
from metrixkit.seam import Batch, EpochPlan, Group, Needs, Output


class SAMixC(nn.Module):
    """SAMix-C (Li et al., 2021): MoCo v2 with mixtures whose masks are learned from clusters of the images.

    As :class:`~metrixkit.methods.samix_contrast.SAMixI`, but the Mixer is judged by a linear classifier of clusters on
    the momentum tower's embeddings. That classifier learns from mixtures and clean images, from embeddings without
    gradient (in the release its loss reaches the Mixer, too, and doubles its gradient). Clusters come from k-means
    before the first epoch and follow the keys of every step (Online Deep Clustering). Needs faiss, as CLIM. A Mixer
    that is frozen learns from no clusters: that is SAMix-I with ``freeze_mixer``.

    Args:
        model: As for SAMixI, like everything that is not named here.
        count: Training images. Given by the programme.
        clusters: C; 200 is the paper's.
        memory_momentum: Share of a fresh key in the memory's feature.
        refresh: Steps between updates of the centroids and of small clusters.
        least: Images that a cluster needs to stay.
        cluster_lr: Factor on the base rate for the cluster classifier.
        filter_negatives: Keys of the queue in the cluster of either image are no negatives of a mixture for the query
            tower.

    Raises:
        InputError: As SAMixI; too many clusters for the images.
    """

    queued: Tensor

    def __init__(
        self,
        model: nn.Module,
        count: int,
        preset: str = "samix",
        stage: int = 3,
        alpha: float = 2.0,
        ratio_per: RatioPer | None = None,
        views: Views | None = None,
        eta: float | None = None,
        mask_kind: MaskLossKind | None = None,
        mask_margin: float = 0.1,
        beta: float = 0.1,
        beta_schedule: Schedule | None = None,
        adjust_margin: float = 0.1,
        mixer_options: dict[str, Any] | None = None,
        mixer_lr: float = 1.0,
        mixer_minimum: float | None = None,
        mixer_from: str | None = None,
        clean_weight: float = 1.0,
        clusters: int = 200,
        memory_momentum: float = 0.5,
        refresh: int = 10,
        least: int = 20,
        cluster_lr: float = 1.0,
        filter_negatives: bool = False,
        dim: int = 128,
        hidden: int | None = None,
        queue_size: int = 65536,
        momentum: float = 0.999,
        momentum_end: float | None = None,
        temperature: float = 0.2,
        groups: int = 8,
        steps: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.choices = chosen(CONTRAST, preset, locals())
        self.official = self.choices.eta_mode == "official"
        self.core = MixedContrast(model, **core_options(locals(), self.choices))
        self.memory = ClusterMemory(count, clusters, dim, memory_momentum, refresh, least, seed)
        self.classifier = nn.Linear(dim, clusters)
        check_eta(self.choices.eta)
        self.filter_negatives, self.cluster_lr = filter_negatives, checked_factor("cluster_lr", cluster_lr)
        self.clean_weight = checked_factor("clean_weight", clean_weight)
        self.mixer_lr, self.mixer_minimum = checked_factor("mixer_lr", mixer_lr), mixer_minimum
        cosine_to(mixer_minimum)
        self.register_buffer("queued", torch.full((queue_size,), -1, dtype=torch.int64))

    @property
    def learned_masks(self) -> LearnedMasks:
        """The Mixer with its stage."""
        return self.core.learned_masks

    def needs(self) -> Needs:
        """Two views of each image, no labels; its clusters are its own."""
        return Needs(views=2, labels=False, batch_coupled=True)

    def forward(self, batch: Batch) -> Output:
        """Return the losses of a batch.

        Raises:
            RuntimeError: :meth:`before_epoch` has not been called, so there are no clusters yet.
        """
        if not self.memory.started:
            raise RuntimeError("SAMixC: before_epoch makes the clusters; call it before the first step.")
        assert batch.index is not None  # the loop brings it with every image
        core, index = self.core, batch.index.to(self.queued.device)
        labels = self.memory.labels[index]
        same = (lambda partner: self._same(labels, labels[partner])) if self.filter_negatives else None
        sides = core.sides(batch, clean_keys=True, same=same)
        assert sides.clean is not None  # asked for
        assert sides.generated is not None  # the Mixer is never frozen here
        head, mixer = cluster_losses(
            sides.generated,
            sides.clean,
            self.classifier,
            labels,
            labels[sides.partner],
            labels,
            sides.lam,
            self.choices.eta,
            self.memory.weights(self.official),
            self.official,
        )
        losses = {**sides.losses, "generation": mixer, "clusters": head}
        total = core.total(losses, self.clean_weight)
        if self.training:
            self._note(index)
        core.tower.enqueue(sides.key)
        if self.training:
            self.memory.update(index, sides.key)

        def logs() -> dict[str, float]:
            counts = self.memory.counts().double()
            return sides.logs() | {"clusters/largest": float(counts.max() / counts.sum())}

        return Output({"total": total, **losses}, logs)

    def _same(self, first: Tensor, second: Tensor) -> Tensor:
        """Return (N, K) which keys of the queue lie in the cluster of either image."""
        queued = torch.where(self.queued < 0, -1, self.memory.labels[self.queued.clamp(min=0)])
        return same_label(first, second, queued)

    def _note(self, index: Tensor) -> None:
        """Note whose keys are about to join the queue."""
        items = gather(index)
        if len(items) <= len(self.queued):  # the queue refuses more
            places = self.core.tower.queue.pointer + torch.arange(len(items), device=items.device)
            self.queued[places % len(self.queued)] = items

    def encoders(self) -> dict[str, nn.Module]:
        """Return the query encoder, and the key tower, whose embeddings are clustered at the start."""
        return {"image": self.core.tower.model, "selection": self.core.tower.key_tower()}

    def parameter_groups(self) -> list[Group]:
        """Return the query tower's groups, the cluster classifier and the Mixer."""
        rate = Group("clusters", list(self.classifier.parameters()), lr_scale=self.cluster_lr)
        return [*self.core.parameter_groups(self.mixer_lr, self.mixer_minimum), rate]

    def before_epoch(self, epoch: int, embed: Callable[[], Tensor]) -> EpochPlan:
        """Make the first clusters; `embed` answers the key tower's embeddings."""
        if self.memory.started:
            return EpochPlan()
        return EpochPlan(logs={"clusters/largest": self.memory.begin(embed())})

    def after_step(self, step: int) -> None:
        """Count the step; queue, key tower and memory have moved in it."""
        self.core.step = step + 1
