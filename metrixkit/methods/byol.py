"""BYOL, plain or with i-Mix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from metrixkit.errors import InputError
from metrixkit.losses import byol_loss, imix_byol_loss
from metrixkit.methods.instance_mixers import check_host
from metrixkit.methods.instance_mixture import InstanceMixer
from metrixkit.methods.momentum_tower import pixels, pooled_features
from metrixkit.models.momentum import momentum_at, momentum_copy, update
from metrixkit.models.projector import Projector
from metrixkit.seam import Batch, EpochPlan, Group, Needs, Output


class BYOL(nn.Module):
    """BYOL (Grill et al., NeurIPS 2020): each view predicts the other one's projection by a slow copy; no negatives.

    The copy follows after each update of the weights, by a momentum that rises to 1 over the run as a cosine.

    Args:
        model: Encoder of images to pooled features (``model.dim=null``, ``model.normalize=false``).
        mixer: none, or imix: mixtures of one view predict both parents' projections of the other, with no clean loss.
        dim: Length of projections.
        hidden: Width of the inner layers of projector and predictor.
        momentum: Share that the first update keeps, in [0, 1].
        symmetric: Whether views also change roles, the losses being added, as published; i-Mix by default does not.
        steps: Updates of the run. Given by the programme.
        seed: Of lambda and partners.

    Raises:
        InputError: A mixer that is not defined on BYOL, a model that projects by itself, a number out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        mixer: InstanceMixer | None = None,
        dim: int = 256,
        hidden: int = 4096,
        momentum: float = 0.996,
        symmetric: bool = True,
        steps: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.mixer = check_host(mixer, "byol")
        if not 0 <= momentum <= 1:
            raise InputError(f"momentum={momentum}: expected the share that an update keeps, in [0, 1].")
        features = pooled_features(model)
        self.momentum, self.symmetric, self.steps = momentum, symmetric, steps
        self.model = model
        self.projector = Projector(features, hidden, dim, batch_norm=True)
        self.predictor = Projector(dim, hidden, dim, batch_norm=True)
        self.target_model, self.target_projector = momentum_copy(model), momentum_copy(self.projector)
        self.generator = torch.Generator().manual_seed(seed)

    def needs(self) -> Needs:
        """Two views of each image, no labels; only batch norm couples the rows."""
        return Needs(views=2, labels=False, batch_coupled=False)

    def forward(self, batch: Batch) -> Output:
        """Return the loss of a batch."""
        a, b = (pixels(view) for view in batch.views)
        ways = [(a, b), (b, a)] if self.symmetric else [(a, b)]
        parts, shares = [], []
        for view, other in ways:
            mixture = self.mixer.mix(view, other, self.generator)
            if mixture is None:
                parts.append(byol_loss(self._predict(view), self._target(other)))
            else:
                parts.append(
                    imix_byol_loss(self._predict(mixture.images), self._target(other), mixture.second, mixture.lam)
                )
                shares.append(mixture.lam)
        total = torch.stack(parts).sum()
        return Output({"total": total}, lambda: {"lambda": float(torch.cat(shares).mean())} if shares else {})

    def _predict(self, images: Tensor) -> Tensor:
        return self.predictor(self.projector(self.model(images)))  # type: ignore[no-any-return]

    @torch.no_grad()
    def _target(self, images: Tensor) -> Tensor:
        return self.target_projector(self.target_model(images))  # type: ignore[no-any-return]

    def encoders(self) -> dict[str, nn.Module]:
        """Return the learning tower."""
        return {"image": self.model}

    def parameter_groups(self) -> list[Group]:
        """Return the tower's groups, the projector and the predictor."""
        backbone: list[Group] = self.model.parameter_groups()  # type: ignore[operator]
        return [
            *backbone,
            Group("projector", list(self.projector.parameters())),
            Group("predictor", list(self.predictor.parameters())),
        ]

    def before_epoch(self, epoch: int, embed: Callable[[], Tensor]) -> EpochPlan:
        """Nothing to settle."""
        return EpochPlan()

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Move the copy towards the updated weights."""
        momentum = momentum_at(step, self.steps, self.momentum)
        update(self.target_model, self.model, momentum)
        update(self.target_projector, self.projector, momentum)

    def get_extra_state(self) -> dict[str, Any]:
        """Return the generator's state."""
        return {"generator": self.generator.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue the draws of :meth:`get_extra_state`."""
        self.generator.set_state(state["generator"].cpu())
