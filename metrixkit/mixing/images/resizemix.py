"""ResizeMix: the whole partner, made small, is pasted into a box (Qin et al., 2020)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from metrixkit.errors import InputError, did_you_mean
from metrixkit.mixing.images.boxes import Boxes, inside, relative_side, share_outside
from metrixkit.mixing.images.mixed import MixedImages, branch, label_share, prepare, with_mask

Scale = Literal["share", "uniform", "drawn"]
# Bounds of tau, the side of the pasted image as a share of the whole (the paper's).
TAU = (0.1, 0.8)


def resizemix(
    images: Tensor,
    partner: Tensor,
    lam: float | Tensor,
    generator: torch.Generator,
    scale: Scale = "share",
    shared_box: bool = False,
) -> MixedImages:
    """Paste the whole partner, resized (nearest) to a box that is placed as CutMix places its own.

    The box is clipped first and the partner is resized into what is left of it, as the authors do, so that nothing of
    the partner is lost at the border.

    Args:
        images: (B, C, H, W) floating, [0, 1]; or uint8.
        partner: (B,) int64 rows of `images`, or (B, C, H, W) other images.
        lam: Share of the first image asked for: a number in [0, 1], or (B,) of such.
        generator: A CPU generator, advanced by one draw; the boxes are the same on every device.
        scale: What the box's side tau, as a share of the image's, is. "share": ``sqrt(1 - lam)``, so that the box has
            the area 1 - lambda that is asked for. "uniform": drawn from U(0.1, 0.8) whatever lambda is, the paper's.
            "drawn": lambda itself read as tau, drawn anew from U(0.1, 0.8) where it lies outside; this is what the
            released comparison does, with lambda from Beta(alpha, alpha).
        shared_box: One centre, and one new tau, for the whole batch, as the first implementations do.

    Returns:
        The mixtures; lambda is what is left of the first image, ``1 - area / (H W)``, and the mean of the mask. The
        mask lies where the partner was pasted (the released code transposes it).

    Raises:
        InputError: Types, shapes or values do not fit, or another `scale`.
    """
    images, others, shares = prepare(images, partner, lam)
    count, _, height, width = images.shape
    own = branch(generator)
    drawn = torch.rand((1 if shared_box else count, 3), generator=own, dtype=torch.float64).expand(count, 3)
    edges = Boxes(_side(scale, shares, drawn[:, 2]), drawn[:, :2]).edges(height, width)
    inner = inside(edges, height, width, images.device)
    small = _resized(others, edges)
    lam = label_share(share_outside(edges, height, width), images)
    return MixedImages(with_mask(images, small, ~inner), lam, (~inner).to(images.dtype))


def _side(scale: str, shares: Tensor, drawn: Tensor) -> Tensor:
    """Return tau (B,): the boxes' side as a share of the image's; `drawn` is uniform in [0, 1)."""
    low, high = TAU
    uniform = low + (high - low) * drawn
    if scale == "share":
        return relative_side(shares, len(shares))
    if scale == "uniform":
        return uniform
    if scale == "drawn":
        return torch.where((shares >= low) & (shares <= high), shares, uniform)
    raise InputError(
        f"scale={scale!r}.{did_you_mean(str(scale), get_args(Scale))} Known: {', '.join(get_args(Scale))}."
    )


def _resized(others: Tensor, edges: Tensor) -> Tensor:
    """Return (B, C, H, W) images that hold, in each box, the whole of the image; what is outside is of no account.

    A pixel of the box takes the pixel at ``floor(place * size / box size)``, in integers: the rule of nearest
    resizing, without the rounding of its ratio.
    """
    height, width = others.shape[-2:]
    top, left, bottom, right = edges.to(others.device)[:, :, None].unbind(1)
    rows = (torch.arange(height, device=others.device) - top) * height // (bottom - top).clamp(min=1)
    columns = (torch.arange(width, device=others.device) - left) * width // (right - left).clamp(min=1)
    flat = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    index = flat.flatten(1)[:, None].expand(-1, others.shape[1], -1)
    return others.flatten(2).gather(2, index).view_as(others)
