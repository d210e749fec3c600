"""SimCLR, plain or with mixed views."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from metrixkit.distributed import gather, rank
from metrixkit.losses import mixed_info_nce, nt_xent
from metrixkit.losses.pairs import positive_number
from metrixkit.methods.instance_mixers import IMix, check_host
from metrixkit.methods.instance_mixture import InstanceMixer
from metrixkit.methods.momentum_tower import pixels, pooled_features
from metrixkit.models.projector import Projector
from metrixkit.seam import Batch, EpochPlan, Group, Needs, Output


class SimCLR(nn.Module):
    """SimCLR (Chen et al., ICML 2020): the two views of an image find each other in the batch of all processes.

    With ``mixer=mixco``, mixtures of each view are contrasted with the embeddings of the other, both of which learn; in
    training mode mixtures have a batch norm of their own. With ``mixer=imix`` the loss is i-Mix' N-pair form: mixtures
    of the first view against the second, both in one pass, in one direction.

    Args:
        model: Encoder of images to pooled features (``model.dim=null``, ``model.normalize=false``).
        mixer: none, mixco or imix.
        dim: Length of the projected embedding.
        hidden: Width of the projector's inner layer; null takes the features' own.
        batch_norm: Whether the projector has batch norm: SimCLR's own does, MixCo's does not.
        temperature: T of the contrast.
        seed: Of lambda and partners.

    Raises:
        InputError: A mixer that is not defined on SimCLR, a model that projects by itself, a number out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        mixer: InstanceMixer | None = None,
        dim: int = 128,
        hidden: int | None = None,
        batch_norm: bool = True,
        temperature: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.mixer = check_host(mixer, "simclr")
        features = pooled_features(model)
        self.model = model
        self.projector = Projector(features, hidden or features, dim, batch_norm=batch_norm)
        self.temperature = positive_number("temperature", temperature)
        self.generator = torch.Generator().manual_seed(seed)

    def needs(self) -> Needs:
        """Two views of each image, no labels."""
        return Needs(views=2, labels=False, batch_coupled=True)

    def forward(self, batch: Batch) -> Output:
        """Return the losses of a batch."""
        a, b = (pixels(view) for view in batch.views)
        if isinstance(self.mixer, IMix):
            return self._n_pair(a, b)
        z_a, z_b = self._embed(a), self._embed(b)
        losses = {"clean": nt_xent(gather(z_a), gather(z_b), self.temperature)}
        total = losses["clean"]
        shares: list[Tensor] = []
        mixed = []
        for view, other in ((a, z_b), (b, z_a)):
            mixture = self.mixer.mix(view, view, self.generator)
            if mixture is not None:
                z = self._embed(mixture.images)
                temperature = self.mixer.temperature or self.temperature
                mixed.append(mixed_info_nce(z, other, mixture.first, mixture.second, mixture.lam, temperature))
                shares.append(mixture.lam)
        if mixed:
            losses["mixed"] = torch.stack(mixed).mean()
            total = total + self.mixer.weight * losses["mixed"]
        return Output({"total": total, **losses}, lambda: {"lambda": float(torch.cat(shares).mean())} if shares else {})

    def _n_pair(self, a: Tensor, b: Tensor) -> Output:
        mixture = self.mixer.mix(a, b, self.generator)
        assert mixture is not None
        # One pass for mixtures and clean views, as published: batch norm sees both.
        z, key = self._embed(torch.cat([mixture.images, b])).chunk(2)
        offset = rank() * len(b)
        temperature = self.mixer.temperature or self.temperature
        total = mixed_info_nce(
            z, gather(key), mixture.first + offset, mixture.second + offset, mixture.lam, temperature
        )
        return Output({"total": total, "mixed": total}, lambda: {"lambda": float(mixture.lam.mean())})

    def _embed(self, images: Tensor) -> Tensor:
        return self.projector(self.model(images))  # type: ignore[no-any-return]

    def encoders(self) -> dict[str, nn.Module]:
        """Return the one tower."""
        return {"image": self.model}

    def parameter_groups(self) -> list[Group]:
        """Return the tower's groups and the projector."""
        backbone: list[Group] = self.model.parameter_groups()  # type: ignore[operator]
        return [*backbone, Group("projector", list(self.projector.parameters()))]

    def before_epoch(self, epoch: int, embed: Callable[[], Tensor]) -> EpochPlan:
        """Nothing to settle."""
        return EpochPlan()

    def after_step(self, step: int) -> None:
        """Nothing follows the weights."""

    def get_extra_state(self) -> dict[str, Any]:
        """Return the generator's state."""
        return {"generator": self.generator.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue the draws of :meth:`get_extra_state`."""
        self.generator.set_state(state["generator"].cpu())
