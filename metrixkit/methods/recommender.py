"""Recommending: users near the items that they like, by any loss on (user, liked item, other items)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from metrixkit.errors import InputError
from metrixkit.models.factors import Factors
from metrixkit.seam import Batch, EpochPlan, Group, Needs, Output


class Recommender(nn.Module):
    """Collaborative metric learning, BPR, or DMM on either.

    Args:
        model: The vectors.
        loss: ``loss(users, liked, others)`` on (B, d), (B, d) and (B, K, d) answers a scalar; may answer ``logs()`` and
            ``set_epoch(epoch)``.

    Raises:
        InputError: A loss that takes something else.
    """

    def __init__(self, model: Factors, loss: nn.Module) -> None:
        super().__init__()
        host = getattr(loss, "loss", loss)  # what DMM is wrapped around
        if getattr(host, "takes", "labels") != "triples":
            raise InputError(
                f"the method 'recommender' takes a loss on users, liked and other items (cml_min_triplet, "
                f"cml_sum_triplet, bpr, or dmm on one of them); {type(host).__name__} takes something else."
            )
        self.model = model
        self.loss = loss

    def needs(self) -> Needs:
        """No images and no labels: indices of users and items."""
        return Needs(views=0, labels=False, batch_coupled=hasattr(self.loss, "set_epoch"))

    def forward(self, batch: Batch) -> Output:
        """Return the loss of a batch with modalities user (B,), item (B,) and negatives (B, K)."""
        index = batch.modalities
        users, liked = self.model.user(index["user"]), self.model.item(index["item"])
        total = self.loss(users, liked, self.model.item(index["negatives"]))

        def logs() -> dict[str, float]:
            told: dict[str, float] = self.loss.logs() if hasattr(self.loss, "logs") else {}  # type: ignore[operator]
            return {name if name == "lambda" else f"loss/{name}": value for name, value in told.items()}

        return Output({"total": total}, logs)

    def encoders(self) -> dict[str, nn.Module]:
        """Return the vectors."""
        return {"factors": self.model}

    def parameter_groups(self) -> list[Group]:
        """Return both tables."""
        return self.model.parameter_groups()

    def before_epoch(self, epoch: int, embed: Callable[[], Tensor]) -> EpochPlan:
        """Tell the loss which epoch it is."""
        if hasattr(self.loss, "set_epoch"):
            self.loss.set_epoch(epoch)  # type: ignore[operator]
        return EpochPlan()

    def after_step(self, step: int) -> None:
        """Nothing follows the vectors."""
