"""BYOL (Grill et al., NeurIPS 2020): the prediction from a view meets the momentum projection of the other one."""

from __future__ import annotations

import torch
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.losses.matched import common_precision
from metrixkit.losses.mixed_contrast import check_same
from metrixkit.losses.unit import no_autocast, unit_rows


def byol_loss(p1: Tensor, z2: Tensor, p2: Tensor | None = None, z1: Tensor | None = None) -> Tensor:
    """Return the mean of ``2 - 2 cos(p1, z2)``, plus that of ``2 - 2 cos(p2, z1)`` where they are given.

    Args:
        p1: (N, d) raw predictions from view 1.
        z2: (N, d) raw target projections of view 2; no gradient.
        p2: (N, d) raw predictions from view 2, or None for one direction.
        z1: (N, d) raw target projections of view 1, or None.

    Returns:
        A scalar in [0, 4], or in [0, 8] for two directions.

    Raises:
        InputError: Shapes or types do not fit, or only one of `p2` and `z1` is given.

    Source: Eq. 2 and the symmetric loss below it.
    """
    if (p2 is None) != (z1 is None):
        raise InputError(f"{'p2' if z1 is None else 'z1'} is given alone; the other direction needs both p2 and z1.")
    check_same("p1", p1, "z2", z2)
    with no_autocast(p1):
        p, z = (unit_rows(rows) for rows in common_precision(p1, z2.detach()))
        loss = 2 - 2 * torch.linalg.vecdot(p, z).mean()
    return loss if p2 is None or z1 is None else loss + byol_loss(p2, z1)
