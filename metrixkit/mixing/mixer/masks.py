"""From the Mixer's masks to the masks that images are mixed with.

B masks of H x W pixels, each the share of the first image; the other mask is the rest to 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.mixing.mixer.network import MaskPair
from metrixkit.mixing.mixer.warp import shares

# Bounds of a mask in the release before it is scaled.
_OFFICIAL_EDGE = 1e-10


def adjust_mask(mask: Tensor, lam: float | Tensor, margin: float = 0.0, official: bool = False) -> Tensor:
    """Return masks whose mean is lambda: what is too large is scaled down, and of what is too small the rest is.

    With mu the mean of a mask s: ``s lambda / mu`` where mu > lambda, ``1 - (1 - s) (1 - lambda) / (1 - mu)`` where
    mu < lambda. The result stays in [0, 1] and pixels keep their order. The formula that the paper prints scales the
    wrong way; this is what its authors' code does.

    Args:
        mask: (B, 1, H, W) floating in [0, 1], share of the first image.
        lam: What the mean shall be: a number in [0, 1], or (B,) of such.
        margin: Masks whose mean is no further than this from lambda stay as they are, in [0, 1]; the release takes 0.1
            for self-supervised learning, where masks are always adjusted.
        official: Keep masks 1e-10 away from 0 and 1 first, as the release does where it adjusts.

    Returns:
        (B, 1, H, W) in float32 or, if the masks are, float64; differentiable.

    Raises:
        InputError: Shapes, types or numbers do not fit.

    Source: Li et al. (SAMix, 2021), adjusting lambda; corrected.
    """
    _check(mask)
    if not 0 <= margin <= 1:
        raise InputError(f"adjust_mask: margin={margin}, expected a distance of means in [0, 1].")
    mask = mask.to(torch.promote_types(mask.dtype, torch.float32))
    share = shares(lam, mask)
    held = mask.clamp(_OFFICIAL_EDGE, 1 - _OFFICIAL_EDGE) if official else mask
    mean = held.mean((1, 2, 3), keepdim=True)
    larger, smaller = mean > share + margin, mean < share - margin
    # The branch that is not taken may not divide by 0: its gradient would be NaN.
    shrunk = held * (share / torch.where(larger, mean, 1))
    grown = 1 - (1 - held) * ((1 - share) / (1 - torch.where(smaller, mean, 0)))
    return torch.where(larger, shrunk, torch.where(smaller, grown, mask))


def lam_margin(mask: Tensor, lam: float | Tensor, margin: float) -> Tensor:
    """Return masks that are lambda everywhere (plain MixUp) where lambda or 1 - lambda is at most `margin`.

    Of the release, not of the paper: 0.08 for supervised learning, and only for the mixture that the encoder learns
    from; off for self-supervised learning.

    Args:
        mask: (B, 1, H, W) in [0, 1], share of the first image.
        lam: A number in [0, 1], or (B,) of such.
        margin: Below 0.5; negative leaves all masks.

    Raises:
        InputError: Shapes, types or numbers do not fit.
    """
    _check(mask)
    if not margin < 0.5:
        raise InputError(
            f"lam_margin={margin}: expected less than 0.5, or no mask of the Mixer would be left; the release takes "
            "0.08, and a negative number leaves all masks."
        )
    share = shares(lam, mask)
    return torch.where(torch.minimum(share, 1 - share) <= margin, share, mask)


def auto_label(mask: Tensor, lam: float | Tensor, same: Tensor) -> Tensor:
    """Return masks that are lambda everywhere (plain MixUp) for pairs of one label or pseudo label.

    Args:
        mask: (B, 1, H, W) in [0, 1], share of the first image.
        lam: A number in [0, 1], or (B,) of such.
        same: (B,) bool, whether both images of a pair carry the same label.

    Raises:
        InputError: Shapes, types or numbers do not fit.
    """
    _check(mask)
    if not isinstance(same, Tensor) or same.dtype != torch.bool or same.shape != mask.shape[:1]:
        got = f"{same.dtype} {tuple(same.shape)}" if isinstance(same, Tensor) else type(same).__name__
        raise InputError(f"same: got {got}, expected ({len(mask)},) bool: whether a pair's labels are equal.")
    return torch.where(same.to(mask.device).view(-1, 1, 1, 1), shares(lam, mask), mask)


def mask_from_pair(
    pair: MaskPair,
    lam: float | Tensor,
    *,
    adjust: float | None = 0.0,
    least: float = -1.0,
    same: Tensor | None = None,
    official: bool = False,
) -> Tensor:
    """Return the mask that the encoder's mixture is made with: detached, and by the rules above.

    ============================= =====================================================================
    as in                         arguments
    ============================= =====================================================================
    SAMix, self-supervised        ``adjust=0.1`` ("auto"), with ``same`` "auto_label"
    SAMix, supervised             ``adjust=None, least=0.08``; ``adjust=0`` in a share of the steps
    ============================= =====================================================================

    Args:
        pair: What the Mixer returned for the encoder's partners and lambda.
        lam: The encoder's lambda: a number in [0, 1], or (B,) of such. (The release adjusts to the Mixer's lambda in
            supervised learning, which belongs to other pairs.)
        adjust: Margin of :func:`adjust_mask`; None adjusts nothing.
        least: Margin of :func:`lam_margin`.
        same: (B,) bool of :func:`auto_label`; None looks at no labels.
        official: That of :func:`adjust_mask`.

    Returns:
        (B, 1, H, W) share of the first image, without gradient.

    Raises:
        InputError: Shapes, types or numbers do not fit.
    """
    mask = lam_margin(pair.first.detach(), lam, least)
    if same is not None:
        mask = auto_label(mask, lam, same)
    return mask if adjust is None else adjust_mask(mask, lam, adjust, official)


def _check(mask: Tensor) -> None:
    if not isinstance(mask, Tensor) or mask.ndim != 4 or mask.shape[1] != 1 or not mask.is_floating_point():
        got = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        raise InputError(f"mask: got {got}, expected floating (B, 1, H, W), the first image's share of every pixel.")
    if not mask.numel():
        raise InputError(f"mask is empty: {tuple(mask.shape)}, expected at least one pixel.")
