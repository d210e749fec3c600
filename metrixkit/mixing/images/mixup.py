"""MixUp: every pixel is the same interpolation of two images (Zhang et al., 2018)."""

from __future__ import annotations

import torch
from torch import Tensor

from metrixkit.mixing.images.mixed import MixedImages, label_share, prepare
from metrixkit.mixing.unique import mix


def mixup(
    images: Tensor, partner: Tensor, lam: float | Tensor, generator: torch.Generator | None = None
) -> MixedImages:
    """Return ``lam x_i + (1 - lam) x_partner(i)``, exactly one of the two at lambda 1 and 0.

    Args:
        images: (B, C, H, W) floating, [0, 1]; or uint8.
        partner: (B,) int64 rows of `images`, or (B, C, H, W) other images.
        lam: Share of the first image: a number in [0, 1], or (B,) of such.
        generator: Not used: nothing is drawn.

    Returns:
        The mixtures; lambda is the one given, the mask None.

    Raises:
        InputError: Types, shapes or values do not fit.
    """
    images, others, shares = prepare(images, partner, lam)
    # One number for all costs less than a tensor of equal ones, and is the same.
    weight = label_share(shares, images) if isinstance(lam, Tensor) and lam.ndim else float(lam)
    return MixedImages(mix(images, others, weight), label_share(shares, images), None)
