"""Image mixers as Metrix' input level: a mask instead of an interpolation, labels by the share that it leaves."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.families import lookup
from metrixkit.mixing import UniqueMixtures
from metrixkit.mixing.images import IMAGE_MIXER, IMAGE_MIXERS, MixedImages

NOT_HERE = {
    "puzzlemix": "it needs gradients of the loss at the images, one more pass that this level does not make",
    "inter-intra": "it chooses by whether the classes are alike, which the kinds of pairs have settled",
}


def find_mixer(name: str, levels: list[str]) -> Callable[..., MixedImages] | None:
    """Return what mixes the images of a step at level "input"; None for "mixup", which needs no images of its own.

    Args:
        name: A name of :data:`metrixkit.mixing.images.IMAGE_MIXERS`, or ``package.module:name`` with their signature.
        levels: Where the criterion mixes.

    Raises:
        InputError: No such mixer, one that does not fit, or level "input" is not among the levels.
    """
    if name == "mixup":
        return None
    mixer: Callable[..., MixedImages] = lookup(name, IMAGE_MIXERS, IMAGE_MIXER, by_caller=True)
    if name in NOT_HERE:
        raise InputError(f"image_mixer={name!r}: {NOT_HERE[name]}.")
    if "input" not in levels:
        raise InputError(f"image_mixer={name!r} mixes images, and level={levels} does not; set level=input.")
    return mixer


def mix_pairs(
    mixer: Callable[..., MixedImages],
    generator: torch.Generator,
    images: Tensor,
    pairs: UniqueMixtures,
    share: float | Tensor,
) -> tuple[Tensor, Tensor]:
    """Return (U, C, H, W) mixtures and the (U,) shares of the first images that their masks leave.

    Args:
        mixer: What :func:`find_mixer` returned.
        generator: Draws boxes and masks; a CPU generator.
        images: (B, C, H, W) floating.
        pairs: U pairs of their rows.
        share: Of the first ones, as asked for: a number, or (U,).
    """
    wanted = share.detach().cpu() if isinstance(share, Tensor) else share
    found = mixer(images[pairs.first], images[pairs.second], wanted, generator)
    return found.images, found.lam.to(images.device)
