"""Mixing along the sphere: the point on the great circle between two directions.

N rows, d dimensions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.mixing.partners import check_share

# Directions whose cosine is this close to 1 or -1 hold no usable angle.
_ALIGNED = 1e-6
# Of a straight mixture shorter than this the direction is noise, and its gradient is beyond use.
_SHORTEST = 1e-2


def slerp(a: Tensor, b: Tensor, lam: float | Tensor) -> Tensor:
    """Return the unit vectors ``[sin(lam t) a + sin((1 - lam) t) b] / sin t``, t the angle between a and b.

    Lambda is the share of `a`: 1 gives a, 0 gives b. Rows whose cosine is within 1e-6 of 1 or -1 are mixed linearly and
    brought to length 1; opposite ones whose straight mixture vanishes give the one with the larger share (a where they
    are equal). So values and gradients are finite everywhere.

    Args:
        a: (N, d) floating; only directions matter.
        b: (N, d).
        lam: A number in [0, 1], or (N,) of such.

    Returns:
        (N, d), in float32 or, if the rows are, float64.

    Raises:
        InputError: Shapes or lambda do not fit.

    Source: Geodesic Multi-Modal Mixup (So et al., NeurIPS 2023).
    """
    if a.shape != b.shape or a.ndim != 2 or not (a.is_floating_point() and b.is_floating_point()):
        raise InputError(
            f"slerp: got {a.dtype} {tuple(a.shape)} and {b.dtype} {tuple(b.shape)}, expected two floating (N, d)."
        )
    lam = check_share(lam, len(a))
    with torch.autocast(a.device.type, enabled=False):
        wide = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
        a, b = F.normalize(a.to(wide), dim=1), F.normalize(b.to(wide), dim=1)
        share = torch.as_tensor(lam, dtype=wide, device=a.device).expand(len(a))[:, None]
        cosine = torch.linalg.vecdot(a, b)[:, None]
        aligned = cosine.abs() > 1 - _ALIGNED
        angle = torch.where(aligned, 0, cosine).acos()  # the slope of acos is infinite at 1, so it never sees it
        first = torch.where(aligned, share, (share * angle).sin() / angle.sin())
        second = torch.where(aligned, 1 - share, ((1 - share) * angle).sin() / angle.sin())
        mixed = first * a + second * b
        vanishes = torch.linalg.vector_norm(mixed.detach(), dim=1, keepdim=True) < _SHORTEST
        return F.normalize(torch.where(vanishes, torch.where(share >= 0.5, a, b), mixed), dim=1)
