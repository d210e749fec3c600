"""The mixing ratio lambda and the kind of pair: what is drawn once a step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from metrixkit.errors import InputError


def draw_ratio(alpha: float, generator: torch.Generator, shape: tuple[int, ...] = ()) -> Tensor:
    """Draw mixing ratios from Beta(alpha, alpha).

    One number is taken from `generator` whatever the shape is, so that processes with equal generators stay together
    even where their shapes differ.

    Args:
        alpha: Concentration, > 0. 2 favours the middle, 1 is uniform.
        generator: A CPU generator; it is advanced by one draw.
        shape: Shape of the result.

    Returns:
        float64 CPU tensor of `shape` with values in [0, 1].

    Raises:
        InputError: `alpha` is not positive, or not finite.
    """
    if not 0 < alpha < float("inf"):
        raise InputError(
            f"alpha is {alpha}, expected a number > 0 (the ratio is drawn from Beta(alpha, alpha)); 2.0 is usual."
        )
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    return torch.as_tensor(np.random.default_rng(seed).beta(alpha, alpha, shape), dtype=torch.float64)


def draw_one(options: Sequence[str], generator: torch.Generator) -> str:
    """Return one of `options`, each equally likely; a single option costs no draw."""
    if len(options) == 1:
        return options[0]
    return options[int(torch.randint(len(options), (), generator=generator))]


def draw_between(low: float, high: float, generator: torch.Generator, shape: tuple[int, ...] = ()) -> Tensor:
    """Draw mixing ratios evenly from [low, high); one number is taken from `generator` whatever the shape is.

    Args:
        low: Least ratio, >= 0.
        high: Greatest ratio, >= low and <= 1.
        generator: A CPU generator; it is advanced by one draw.
        shape: Shape of the result.

    Returns:
        float64 CPU tensor of `shape`.

    Raises:
        InputError: The bounds are not 0 <= low <= high <= 1.
    """
    if not 0 <= low <= high <= 1:
        raise InputError(f"low={low} and high={high}: lambda is drawn between them, expected 0 <= low <= high <= 1.")
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    child = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(shape, generator=child, dtype=torch.float64)
