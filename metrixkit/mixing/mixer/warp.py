"""How the Mixer is told lambda: an S-shaped warp, and the factor on the features of both images.

B pairs; lambda is the share of the first image.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from metrixkit.errors import InputError
from metrixkit.mixing.partners import check_share


def shares(lam: float | Tensor, like: Tensor) -> Tensor:
    """Return lambda as constants (B, 1, 1, 1) in the type and on the device of `like`, (B, ...).

    A tensor on an accelerator is checked by shape only: to look at its values would be to wait for them.

    Raises:
        InputError: Neither a number nor (B,) of such, or outside [0, 1].
    """
    count = len(like)
    if isinstance(lam, Tensor) and lam.device.type != "cpu" and lam.shape in ((), (count,)):
        return lam.detach().to(like).expand(count).view(-1, 1, 1, 1)
    share = check_share(lam, count)
    return (share.to(like) if isinstance(share, Tensor) else like.new_full((count,), share)).view(-1, 1, 1, 1)


def warp_lambda(lam: Tensor, k: float) -> Tensor:
    """Return ``(4/3 l^3 - 2 l^2 + (k + 1) l) / (k + 1/3)``: an S that keeps 0, 1/2 and 1 and is symmetric about 1/2.

    Li et al., Boosting Discriminative Visual Representation Learning with Scenario-Agnostic Mixup (2021), as released;
    the paper does not mention it. The larger k, the straighter; at 0 the slope in the middle vanishes.

    Args:
        lam: Any shape, in [0, 1].
        k: >= 0. The releases take 0.25 on CIFAR-100 and 1 on CUB and Aircraft.

    Raises:
        InputError: A negative k.
    """
    if not k >= 0:
        raise InputError(f"warp k={k}: expected a number >= 0; no warp at all is the Mixer's warp=-1.")
    return (4 / 3 * lam**3 - 2 * lam**2 + (k + 1) * lam) / (k + 1 / 3)


class _HeldInUnit(torch.autograd.Function):
    """Clamp to [0, 1]; what has left the range is only pulled back into it, so that it neither drifts nor sticks."""

    @staticmethod
    def forward(ctx: Any, raw: Tensor) -> Tensor:
        ctx.save_for_backward(raw)
        return raw.clamp(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (raw,) = ctx.saved_tensors
        outwards = ((raw <= 0) & (grad > 0)) | ((raw >= 1) & (grad < 0))  # a step goes against the gradient
        return grad.masked_fill(outwards, 0)


def held_in_unit(raw: Tensor) -> Tensor:
    """Return `raw` clamped to [0, 1], with the projected gradient of descent. Differentiable once."""
    return _HeldInUnit.apply(raw)  # type: ignore[no-any-return]
