"""Two sides whose rows belong together: what every loss on matched pairs checks and compares.

N pairs, d dimensions; row i of one side belongs to row i of the other.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.losses.unit import no_autocast, products, unit_rows

Takes = Literal["labels", "pairs", "triples"]
"""How a loss is called: (embeddings, labels), (a, b), or (user, positive, negatives)."""


def check_sides(a: Tensor, b: Tensor, names: tuple[str, str] = ("a", "b")) -> None:
    """Raise InputError unless both are floating (N, d) on one device, with N and d alike and N at least 1."""
    for name, side in zip(names, (a, b), strict=True):
        if not isinstance(side, Tensor) or side.ndim != 2 or not side.is_floating_point():
            got = f"{side.dtype} {tuple(side.shape)}" if isinstance(side, Tensor) else type(side).__name__
            raise InputError(
                f"{name}: got {got}, expected a floating tensor of shape (pairs, dimensions). This loss compares two "
                f"matched sides, {names[0]} and {names[1]}, not embeddings with labels."
            )
    if a.shape != b.shape:
        raise InputError(
            f"{names[0]} has shape {tuple(a.shape)} and {names[1]} {tuple(b.shape)}; expected the same: row i of one "
            "belongs to row i of the other."
        )
    if not len(a):
        raise InputError(f"{names[0]} and {names[1]} are empty; expected at least one pair.")
    if a.device != b.device:
        raise InputError(f"{names[0]} is on {a.device}, {names[1]} on {b.device}; move them to the same device.")


def common_precision(*sides: Tensor) -> list[Tensor]:
    """Return the tensors in float32, or all in float64 if one of them is."""
    wide = torch.float64 if any(side.dtype == torch.float64 for side in sides) else torch.float32
    return [side.to(wide) for side in sides]


def unit_sides(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return both sides checked, at least in float32, at length 1. Call it outside autocast."""
    check_sides(a, b)
    a, b = common_precision(a, b)
    return unit_rows(a), unit_rows(b)


def matched_cosines(a: Tensor, b: Tensor) -> Tensor:
    """Return the (N, N) cosines of the rows of `a` with those of `b`, pairs on the diagonal; differentiable once.

    Raises:
        InputError: The sides do not fit; see :func:`check_sides`.
    """
    check_sides(a, b)
    with no_autocast(a):
        return products(*unit_sides(a, b))


def check_margin(margin: float | Tensor, count: int) -> float | Tensor:
    """Return a margin as a number, or as a detached (N,) tensor; raise InputError unless it is one of these."""
    if not isinstance(margin, Tensor) or margin.ndim == 0:
        return float(margin)
    if margin.shape != (count,):
        raise InputError(f"margin has shape {tuple(margin.shape)}, expected one number, or ({count},): one a pair.")
    return margin.detach()


def margin_of(name: str, margin: float, most: float = float("inf")) -> float:
    """Return `margin` as float, or raise InputError unless it lies in [0, most]."""
    if not 0 <= margin <= most:
        raise InputError(f"{name}={margin}: expected a gap in [0, {most:g}].")
    return float(margin)
