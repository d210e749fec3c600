"""From a backbone's name to a trunk with its weights."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from metrixkit.errors import InputError, did_you_mean
from metrixkit.models.own_trunk import BACKBONES, OwnTrunk
from metrixkit.models.stem import StemName, check_stem, small_stem
from metrixkit.models.trunk import Trunk
from metrixkit.models.weights import load_weights


def build_trunk(
    backbone: str,
    weights: str = "none",
    image_size: int | None = None,
    own_pooling: bool = False,
    stem: StemName = "imagenet",
) -> Trunk:
    """Return the trunk called `backbone` with `weights`.

    Args:
        backbone: ``timm/NAME``, ``torchvision/NAME``, ``transformers/NAME_OR_FOLDER``, a name of
            :data:`metrixkit.models.BACKBONES`, or ``package.module:Name``.
        weights: ``none`` (random, from torch's global generator), ``pretrained`` (the library's own route; downloads
            what is not cached), or the path of a ``.pt``, ``.pth`` or ``.safetensors`` file in the library's layout.
        image_size: Side of the input in pixels, None for the card's.
        own_pooling: Whether the model's own pooling will be used, so that its weights are wanted too.
        stem: ``imagenet`` leaves the backbone as it is; for ``small`` see :func:`metrixkit.models.stem.small_stem`.

    Raises:
        InputError: No such backbone or stem, or weights that are missing, cannot be had or belong to another
            architecture.
    """
    check_stem(stem, weights, backbone)
    pretrained = weights == "pretrained"
    library, _, name = backbone.partition("/")
    trunk: object
    if library == "timm" and name:
        from metrixkit.models.timm_trunk import TimmTrunk

        trunk = TimmTrunk(name, image_size, pretrained)
    elif library == "torchvision" and name:
        from metrixkit.models.torchvision_trunk import TorchvisionTrunk

        trunk = TorchvisionTrunk(name, image_size, pretrained)
    elif library == "transformers" and name:
        from metrixkit.models.transformers_trunk import TransformersTrunk

        trunk = TransformersTrunk(name, image_size, pretrained)
    elif backbone in BACKBONES or ":" in backbone:
        if pretrained:
            raise InputError(f"backbone {backbone!r} has no pretrained weights; use weights: none or a file.")
        trunk = OwnTrunk(backbone)
    else:
        raise InputError(_unknown(backbone))
    built = cast(Trunk, trunk)
    if stem == "small":
        small_stem(built.model, backbone)
        backbone += " with stem small"
    if weights not in ("none", "pretrained"):
        load_weights(built, Path(weights), backbone, own_pooling)
    return built


def _unknown(backbone: str) -> str:
    import timm
    from torchvision import models

    name = backbone.rpartition("/")[2]
    base = name.partition(".")[0]
    whole = [f"timm/{name}"] if timm.is_model(base) else []
    whole += [f"torchvision/{name}"] if base in models.list_models(module=models) else []
    if whole:
        hint = f" Did you mean {' or '.join(repr(w) for w in whole)}?"
    else:
        hint = did_you_mean(name, [*BACKBONES, *timm.list_models(), *models.list_models(module=models)])
    return (
        f"no backbone is called {backbone!r}.{hint} Expected timm/NAME, torchvision/NAME, transformers/NAME_OR_FOLDER, "
        f"{', '.join(BACKBONES)}, or a class of your own as package.module:Name."
    )
