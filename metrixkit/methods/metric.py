"""Metric learning on one image tower: encode a batch, gather it over processes, take a loss."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from metrixkit.distributed import gather
from metrixkit.seam import Batch, EpochPlan, Group, Needs, Output


class MetricLearning(nn.Module):
    """Any metric loss, clean or mixed by Metrix, on labelled images.

    Args:
        model: Encoder of (B, 3, H, W) images to (B, d) embeddings; answers ``parameter_groups()``.
        loss: ``loss(embeddings, labels)`` answers a scalar. It may hold proxies, and may
            answer ``logs()`` and ``gradient_ratio(embeddings, labels)``, which are written on logged steps.
        proxy_lr: Factor on the base rate for the loss's own parameters (100 in the proxy-anchor recipe).
        proxy_weight_decay: Weight decay of those; null takes the optimiser's.
    """

    def __init__(
        self, model: nn.Module, loss: nn.Module, proxy_lr: float = 100.0, proxy_weight_decay: float | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.proxy_lr = proxy_lr
        self.proxy_weight_decay = proxy_weight_decay

    def needs(self) -> Needs:
        """One view with labels; pairs couple the rows of a batch."""
        return Needs(views=1, labels=True, batch_coupled=True)

    def forward(self, batch: Batch) -> Output:
        """Return the loss of a batch; in several processes, that of all their rows together."""
        embeddings = gather(self.model(batch.views[0]))
        assert batch.labels is not None  # the loop brings what needs() asks for
        labels = gather(batch.labels)
        total = self.loss(embeddings, labels)
        return Output({"total": total}, lambda: self._logs(embeddings.detach(), labels))

    def _logs(self, embeddings: Tensor, labels: Tensor) -> dict[str, float]:
        """Return what the loss tells of its last step; of a mixed one also how its gradient compares to the clean."""
        told: dict[str, float] = self.loss.logs() if hasattr(self.loss, "logs") else {}  # type: ignore[operator]
        logs = {name if name == "lambda" else f"loss/{name}": value for name, value in told.items()}
        if hasattr(self.loss, "gradient_ratio"):
            logs["gradient_ratio/mixed_to_clean"] = self.loss.gradient_ratio(embeddings, labels)  # type: ignore[operator]
        return logs

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
        """Nothing to settle."""
        return EpochPlan()

    def after_step(self, step: int) -> None:
        """Nothing follows the weights."""
