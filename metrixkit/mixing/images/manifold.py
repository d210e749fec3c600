"""ManifoldMix: MixUp of feature maps at a stage of the network (Verma et al., 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.mixing.images.mixed import MixedImages, label_share
from metrixkit.mixing.partners import check_share
from metrixkit.mixing.unique import mix


def manifoldmix(
    maps: Tensor, partner: Tensor, lam: float | Tensor, generator: torch.Generator | None = None
) -> MixedImages:
    """Return ``lam h_i + (1 - lam) h_partner(i)``: what :func:`mixup` is to images, for the maps of any stage.

    The network is run up to the stage, its maps are mixed here, and the rest of the network follows. The stage is
    drawn per step by who runs the network (SAMix's comparison draws among the input and the first two residual stages).

    Args:
        maps: (B, ...) floating, of any rank and range: feature maps, tokens, pooled features.
        partner: (B,) int64 rows of `maps`, or (B, ...) other maps of the same shape.
        lam: Share of the first map: a number in [0, 1], or (B,) of such.
        generator: Not used: nothing is drawn.

    Returns:
        The mixed maps as `images`; lambda is the one given, the mask None.

    Raises:
        InputError: Types, shapes or values do not fit.
    """
    if not isinstance(maps, Tensor) or maps.ndim < 2 or not maps.is_floating_point():
        got = f"{maps.dtype} {tuple(maps.shape)}" if isinstance(maps, Tensor) else type(maps).__name__
        raise InputError(f"maps to mix: got {got}, expected floating (B, ...).")
    rows = partner.ndim == 1 and not partner.is_floating_point() and partner.dtype != torch.bool
    if partner.shape != (maps.shape[:1] if rows else maps.shape):
        raise InputError(
            f"partner: got {partner.dtype} {tuple(partner.shape)}, expected ({len(maps)},) integers, one row number a "
            f"map, or the partners' maps {tuple(maps.shape)}."
        )
    others = maps[partner.to(maps.device)] if rows else partner.to(maps.dtype)
    lam = check_share(lam, len(maps))
    weight = lam.to(maps.device) if isinstance(lam, Tensor) else lam
    shares = torch.as_tensor(lam, dtype=torch.float64).expand(len(maps))
    return MixedImages(mix(maps, others, weight), label_share(shares, maps), None)
