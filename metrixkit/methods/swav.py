"""SwAV, with small crops, plain or with Un-Mix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from metrixkit.distributed import gather, rank, world_size
from metrixkit.errors import InputError
from metrixkit.losses.pairs import positive_number
from metrixkit.losses.swav import sinkhorn, swav_loss
from metrixkit.losses.unit import full_precision, unit_rows
from metrixkit.methods.instance_mixers import check_host
from metrixkit.methods.instance_mixture import InstanceMixer, Mixture
from metrixkit.methods.momentum_tower import pixels, pooled_features
from metrixkit.models.projector import Projector, Prototypes
from metrixkit.models.queue import Queue
from metrixkit.seam import Batch, EpochPlan, Group, Needs, Output


class SwAV(nn.Module):
    """SwAV (Caron et al., NeurIPS 2020): each view predicts the codes that the others get among learned prototypes.

    Codes are shared out evenly over prototypes by Sinkhorn's iterations in float32, over the batch of all processes,
    and carry no gradient. Only the two large views are given codes; small views predict them.

    Args:
        model: Encoder of images to pooled features (``model.dim=null``, ``model.normalize=false``).
        mixer: none, or unmix: the first large view is mixed, and predicts the codes of both parents' second view.
        dim: Length of projections.
        hidden: Width of the projector's inner layer.
        prototypes: Their number.
        temperature: T of the predictions.
        epsilon: Smoothness of the codes.
        iterations: Of Sinkhorn's normalisation.
        small_views: Further views of a small part (multi-crop); 0 for none.
        small_size: Their side in pixels; null is 3 / 7 of the model's.
        freeze_epochs: First epochs in which prototypes stand still.
        queue_size: Past embeddings of each large view that take part in sharing out the codes, for batches that are
            small beside the number of prototypes; 0 for none.
        queue_epoch: First epoch, from 0, in which they do.
        seed: Of lambda and the queues' first rows.

    Raises:
        InputError: A mixer that is not defined on SwAV, a model that projects by itself, a number out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        mixer: InstanceMixer | None = None,
        dim: int = 128,
        hidden: int = 2048,
        prototypes: int = 3000,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        iterations: int = 3,
        small_views: int = 0,
        small_size: int | None = None,
        freeze_epochs: int = 1,
        queue_size: int = 0,
        queue_epoch: int = 15,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.mixer = check_host(mixer, "swav")
        if small_views < 0:
            raise InputError(f"method.small_views={small_views}: expected 0 or more.")
        self.model = model
        self.projector = Projector(pooled_features(model), hidden, dim, batch_norm=True)
        self.prototypes = Prototypes(dim, prototypes)
        self.temperature, self.epsilon = (
            positive_number("temperature", temperature),
            positive_number("epsilon", epsilon),
        )
        self.iterations, self.small_views, self.small_size = iterations, small_views, small_size
        self.freeze_epochs, self.queue_epoch, self.epoch = freeze_epochs, queue_epoch, 0
        self.queues = nn.ModuleList(Queue(queue_size, dim, seed + i) for i in range(2 if queue_size else 0))
        self.generator = torch.Generator().manual_seed(seed)

    def needs(self) -> Needs:
        """Two large views and the small ones, no labels."""
        return Needs(
            views=2, labels=False, small_views=self.small_views, small_size=self.small_size, batch_coupled=True
        )

    def forward(self, batch: Batch) -> Output:
        """Return the loss of a batch."""
        views = [pixels(view) for view in batch.views]
        self.prototypes.normalize_()
        z1, z2 = self._embed(torch.cat(views[:2])).chunk(2)
        past = self._past()
        losses = {
            "clean": swav_loss(
                z1,
                z2,
                self.prototypes.weight,
                self.epsilon,
                self.temperature,
                self.iterations,
                [self._embed(small) for small in views[2:]],
                past,
            )
        }
        total = self.mixer.clean_weight * losses["clean"]
        mixture = self.mixer.mix(views[0], views[1], self.generator)
        if mixture is not None:
            losses["mixed"] = self._mixed(mixture, z2, past)
            total = total + self.mixer.weight * losses["mixed"]
        for queue, rows in zip(self.queues, (z1, z2), strict=False):
            queue.push(gather(unit_rows(full_precision(rows.detach()))))  # type: ignore[operator]

        def logs() -> dict[str, float]:
            return {} if mixture is None else {"lambda": float(mixture.lam.mean())}

        return Output({"total": total, **losses}, logs)

    def _mixed(self, mixture: Mixture, z2: Tensor, past: tuple[Tensor, Tensor] | None) -> Tensor:
        """Return the cross-entropy of mixtures with the codes that their parents' second views get, by lambda: those
        of the clean loss, shared out beside the same past embeddings.
        """
        scores = self._scores(z2.detach()).detach()
        if past is not None:
            scores = torch.cat([scores, self._scores(past[1]).detach()])
        codes = sinkhorn(scores, self.epsilon, self.iterations)[: len(z2)]
        share = mixture.lam.to(codes).unsqueeze(1)
        target = share * codes[mixture.first] + (1 - share) * codes[mixture.second]
        predicted = (self._scores(self._embed(mixture.images)) / self.temperature).log_softmax(1)
        return -torch.linalg.vecdot(target, predicted).mean()

    def _past(self) -> tuple[Tensor, Tensor] | None:
        if not self.queues or self.epoch < self.queue_epoch:
            return None
        # Queues are alike in all processes, and codes are shared out over the rows of all: each brings its part.
        own = slice(rank(), None, world_size())
        first, second = (queue.negatives()[own] for queue in self.queues)  # type: ignore[operator]
        return first, second

    def _embed(self, images: Tensor) -> Tensor:
        return self.projector(self.model(images))  # type: ignore[no-any-return]

    def _scores(self, embeddings: Tensor) -> Tensor:
        return self.prototypes(unit_rows(full_precision(embeddings)))  # type: ignore[no-any-return]

    def encoders(self) -> dict[str, nn.Module]:
        """Return the one tower."""
        return {"image": self.model}

    def parameter_groups(self) -> list[Group]:
        """Return the tower's groups, the projector, and the prototypes, which wait for their epoch."""
        backbone: list[Group] = self.model.parameter_groups()  # type: ignore[operator]
        return [
            *backbone,
            Group("projector", list(self.projector.parameters())),
            Group("prototypes", list(self.prototypes.parameters()), freeze_epochs=self.freeze_epochs),
        ]

    def before_epoch(self, epoch: int, embed: Callable[[], Tensor]) -> EpochPlan:
        """Note the epoch, for the queues."""
        self.epoch = epoch
        return EpochPlan()

    def after_step(self, step: int) -> None:
        """Nothing follows the weights."""

    def get_extra_state(self) -> dict[str, Any]:
        """Return the generator's state and the epoch."""
        return {"generator": self.generator.get_state(), "epoch": self.epoch}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue the draws of :meth:`get_extra_state`."""
        self.generator.set_state(state["generator"].cpu())
        self.epoch = int(state["epoch"])
