"""Backbones that are one's own ``nn.Module``, and the ones this package brings."""

from __future__ import annotations

from torch import Tensor, nn

from metrixkit.errors import InputError
from metrixkit.families import Kind, class_of, lookup
from metrixkit.models.small import Small
from metrixkit.models.trunk import Card, stages_by_prefix

BACKBONES: dict[str, type[nn.Module]] = {"small": Small}
BACKBONE = Kind("backbone", "nn.Module class", class_of(nn.Module))


class OwnTrunk(nn.Module):
    """An ``nn.Module`` class as a backbone; see :class:`metrixkit.models.trunk.Trunk`.

    The class is built without arguments. Its ``forward`` takes (B, 3, H, W) normalised images and returns maps
    (B, C, H, W), tokens (B, N, C) or vectors (B, C). Class attributes ``image_size``, ``mean``, ``std`` and
    ``prefix_tokens``, where it has them, are its card.

    Args:
        name: A name of :data:`BACKBONES` or ``package.module:Name``.

    Raises:
        InputError: Nothing goes by that name, or it is no ``nn.Module`` class that can be built without arguments.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        found = lookup(name, BACKBONES, BACKBONE, by_caller=True)
        try:
            self.model: nn.Module = found()
        except TypeError as error:
            raise InputError(f"backbone {name!r}: {error}. Its class must be built without arguments.") from error
        default = Card()
        self.card = Card(
            int(getattr(found, "image_size", default.image_size)),
            tuple(getattr(found, "mean", default.mean)),
            tuple(getattr(found, "std", default.std)),
        )
        self.prefix_tokens = int(getattr(found, "prefix_tokens", 0))
        self.head_names: tuple[str, ...] = ()

    def forward(self, images: Tensor) -> Tensor:
        """Return what the module returns."""
        return self.model(images)  # type: ignore[no-any-return]

    def own_pool(self, features: Tensor) -> Tensor:
        """Return vectors as they are.

        Raises:
            NotImplementedError: The module returns maps or tokens, so that nothing of its own pools them.
        """
        if features.ndim != 2:
            raise NotImplementedError("it returns maps or tokens")
        return features

    def stages(self) -> list[list[str]]:
        """Return parameter names by stage: a stage is a child; containers (Sequential, ModuleList) count by theirs."""
        prefixes: list[str] = []
        for name, child in self.model.named_children():
            inner = [f"{name}.{key}" for key, _ in child.named_children()]
            opens = isinstance(child, (nn.Sequential, nn.ModuleList)) and bool(prefixes)
            prefixes += inner if opens else [name]
        return stages_by_prefix((name for name, _ in self.model.named_parameters()), prefixes)

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return `state` as it is."""
        return state
