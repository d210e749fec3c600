"""Metric learning on one image tower: encode a batch, gather it over processes, take a loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from metrixkit.distributed import gather, world_size
from metrixkit.errors import InputError
from metrixkit.seam import Batch, EpochPlan, Group, Needs, Output


class MetricLearning(nn.Module):
    """Any metric loss, clean or mixed by Metrix, on labelled images.

    Args:
        model: Encoder of (B, 3, H, W) images to (B, d) embeddings; answers ``parameter_groups()``. Mixing features
            takes one that answers ``features(images)`` and ``head(features)`` too, and inner stages
            ``features(images, stage)`` and ``head_from(stage)``.
        loss: ``loss(embeddings, labels)`` answers a scalar. It may hold proxies, and may
            answer ``logs()`` and ``gradient_ratio(embeddings, labels)``, which are written on logged steps, and
            ``set_epoch(epoch)``, which is called before each epoch, counted from 0. One that
            mixes elsewhere says where by ``next_level()``, called before each step, or an attribute ``level``:
            "embed", "feature" or "input"; it is then called with ``features=`` and ``head=``.
        proxy_lr: Factor on the base rate for the loss's own parameters (100 in the proxy-anchor recipe).
        proxy_weight_decay: Weight decay of those; null takes the optimiser's.
        stage: Where level "feature" mixes: after this stage of the backbone, 0 being the stem, counted as the model's
            `train` does; null takes the last maps, before pooling.

    Raises:
        InputError: `stage` without level "feature", or a stage at which the model cannot be cut.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        proxy_lr: float = 100.0,
        proxy_weight_decay: float | None = None,
        stage: int | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.proxy_lr = proxy_lr
        self.proxy_weight_decay = proxy_weight_decay
        self.stage = stage
        mixes_features = "feature" in _levels(loss)
        if stage is not None and not mixes_features:
            raise InputError(f"method.stage={stage} says where features are mixed; set loss.level=feature, or drop it.")
        if mixes_features:
            self._head()  # a model that cannot be cut is refused now and not at the first such step

    def needs(self) -> Needs:
        """One view with labels; pairs couple the rows of a batch."""
        return Needs(views=1, labels=True, batch_coupled=True)

    def forward(self, batch: Batch) -> Output:
        """Return the loss of a batch; in several processes, that of all their rows together.

        Mixtures of features and of inputs are of this process's own rows, and the mean over processes is minimised.
        """
        images = batch.views[0]
        mixed: dict[str, Any] = {}
        level = self.loss.next_level() if hasattr(self.loss, "next_level") else _levels(self.loss)[0]  # type: ignore[operator]
        if level == "feature":
            features: Tensor = self.model.features(images, **self._stage())  # type: ignore[operator]
            mixed = {"features": features, "head": self._head()}
            own = mixed["head"](features)
        else:
            own = self.model(images)
            if level == "input":
                mixed = {"features": images, "head": self.model}
        embeddings = gather(own)
        assert batch.labels is not None  # the loop brings what needs() asks for
        labels = gather(batch.labels)
        total = self.loss(embeddings, labels, **mixed)
        device = images.device.type
        precision = torch.autocast(
            device, dtype=torch.get_autocast_dtype(device), enabled=torch.is_autocast_enabled(device)
        )

        def logs() -> dict[str, float]:
            with precision:
                return self._logs(level, embeddings.detach(), labels, mixed)

        return Output({"total": total}, logs)

    def _logs(self, level: str, embeddings: Tensor, labels: Tensor, mixed: dict[str, Any]) -> dict[str, float]:
        """Return what the loss tells of its last step; of a mixed one also how its gradient compares to the clean."""
        told: dict[str, float] = self.loss.logs() if hasattr(self.loss, "logs") else {}  # type: ignore[operator]
        logs = {name if name == "lambda" else f"loss/{name}": value for name, value in told.items()}
        # One process writes the logs, and synchronised batch norms would wait for the others.
        waits = level != "embed" and world_size() > 1 and any(isinstance(m, nn.SyncBatchNorm) for m in self.modules())
        if hasattr(self.loss, "gradient_ratio") and not waits:
            ratio: float = self.loss.gradient_ratio(embeddings, labels, **mixed)  # type: ignore[operator]
            logs["gradient_ratio/mixed_to_clean"] = ratio
        return logs

    def _stage(self) -> dict[str, int]:
        return {} if self.stage is None else {"stage": self.stage}

    def _head(self) -> Callable[[Tensor], Tensor]:
        missing = [name for name in ("features", "head") if not hasattr(self.model, name)]
        if missing:
            raise InputError(
                f"level 'feature' needs a model with features(images) and head(features); {type(self.model).__name__} "
                f"has no {missing[0]}."
            )
        if self.stage is None:
            return self.model.head  # type: ignore[return-value]
        if not hasattr(self.model, "head_from"):
            raise InputError(f"method.stage={self.stage}: {type(self.model).__name__} has no head_from(stage).")
        return self.model.head_from(self.stage)  # type: ignore[no-any-return, operator]

    def encoders(self) -> dict[str, nn.Module]:
        """Return the one image tower."""
        return {"image": self.model}

    def parameter_groups(self) -> list[Group]:
        """Return the tower's groups and, where the loss has parameters, the proxies with their own rate."""
        groups: list[Group] = self.model.parameter_groups()  # type: ignore[operator]
        proxies = [p for p in self.loss.parameters() if p.requires_grad]
        if proxies:
            groups = [
                *groups,
                Group("proxies", proxies, lr_scale=self.proxy_lr, weight_decay=self.proxy_weight_decay, warm=True),
            ]
        return groups

    def before_epoch(self, epoch: int, embed: Callable[[], Tensor]) -> EpochPlan:
        """Tell the epoch to a loss that weighs its parts by it."""
        if hasattr(self.loss, "set_epoch"):
            self.loss.set_epoch(epoch)  # type: ignore[operator]
        return EpochPlan()

    def after_step(self, step: int) -> None:
        """Nothing follows the weights."""


def _levels(loss: nn.Module) -> list[str]:
    """Return where a criterion may mix; one that says nothing takes embeddings."""
    levels: list[str] | None = getattr(loss, "levels", None)
    return levels if levels is not None else [str(getattr(loss, "level", "embed"))]
