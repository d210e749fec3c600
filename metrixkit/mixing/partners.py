"""Who a row of a batch is mixed with, and the mixing of inputs that keep one label.

N rows. The mixture of row i is an item of its own: (1 - lambda) of it belongs to its partner, its label does not.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from metrixkit.errors import InputError, did_you_mean
from metrixkit.mixing.unique import mix

Partner = Literal["flip", "permutation"]
PARTNERS: tuple[str, ...] = get_args(Partner)


def draw_partners(count: int, how: str = "flip", generator: torch.Generator | None = None) -> Tensor:
    """Return the partner of each of `count` rows.

    Args:
        count: N.
        how: "flip" pairs row i with row N-1-i; of an odd number of rows the middle one is its own partner.
            "permutation" draws one evenly, in which a row may meet itself.
        generator: A CPU generator, needed for "permutation". One number is taken from it whatever N is, so that
            processes with equal generators stay together.

    Returns:
        (N,) int64 on the CPU.

    Raises:
        InputError: Another `how`, or no generator where one is needed.
    """
    if how == "flip":
        return torch.arange(count - 1, -1, -1)
    if how != "permutation":
        raise InputError(f"partner={how!r}.{did_you_mean(str(how), PARTNERS)} Known: {', '.join(PARTNERS)}.")
    if generator is None:
        raise InputError("partner='permutation' is drawn: give a torch.Generator.")
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def mix_inputs(x: Tensor, lam: float | Tensor, partner: str | Tensor = "flip") -> Tensor:
    """Return ``lam x_i + (1 - lam) x_partner(i)``: plain linear interpolation, of which nothing is re-normalised.

    Sequences are mixed place by place with their padding; the mask of the mixture is that of row i, so that a longer
    partner is cut and a shorter one adds its zeros.

    Args:
        x: (N, ...) floating, or uint8 images or frames, which become [0, 1].
        lam: Share of row i: a number in [0, 1], or (N,) of such.
        partner: "flip", or (N,) indices such as :func:`draw_partners` returns.

    Returns:
        (N, ...) in the type of `x` (float32 for uint8); row i itself where its share is 1 or it is its own partner.

    Raises:
        InputError: Types, shapes or values do not fit.

    Example:
        >>> mix_inputs(torch.tensor([[0.0], [1.0], [4.0]]), 0.75).flatten().tolist()
        [1.0, 1.0, 3.0]
    """
    if not isinstance(x, Tensor) or x.ndim < 1 or not (x.is_floating_point() or x.dtype == torch.uint8):
        got = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise InputError(f"inputs to mix: got {got}, expected floating (N, ...), or uint8 images.")
    x = x.float() / 255 if x.dtype == torch.uint8 else x
    if isinstance(partner, str):
        if partner != "flip":
            raise InputError(f"partner={partner!r}: expected 'flip', or (N,) indices that draw_partners(...) returns.")
        partner = draw_partners(len(x))
    if partner.shape != x.shape[:1] or partner.is_floating_point():
        raise InputError(
            f"partner: got {partner.dtype} {tuple(partner.shape)}, expected ({len(x)},) integers: one index a row."
        )
    lam = check_share(lam, len(x))
    return mix(x, x[partner.to(x.device)], lam.to(x.device) if isinstance(lam, Tensor) else lam)


def check_share(lam: float | Tensor, count: int) -> float | Tensor:
    """Return lambda as a number, or as a detached (N,) tensor; raise InputError unless it is one of these in [0, 1]."""
    if not isinstance(lam, Tensor) or lam.ndim == 0:
        lam = float(lam)
        if not 0 <= lam <= 1:
            raise InputError(f"lam is {lam}, expected a number in [0, 1].")
        return lam
    if lam.shape != (count,) or bool(((lam < 0) | (lam > 1)).any()):
        raise InputError(f"lam has shape {tuple(lam.shape)}, expected one number, or shape ({count},), all in [0, 1].")
    return lam.detach()
