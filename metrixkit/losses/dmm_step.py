"""The pieces of a step of the dynamic mixed margin that need none of its settings.

N rows or pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.losses.levels import check_features, own_part
from metrixkit.mixing import mix_inputs

Schedule = Literal["lambda", "2lambda-1", "constant"]


@dataclass(frozen=True)
class Step:
    """What the last step consisted of.

    Attributes:
        clean: Clean loss, a detached scalar.
        mixed: Mixed loss before its weight, the same; None where its weight was 0.
        ratio: lambda, or the mean over rows; NaN where nothing was mixed.
        weight: Of the mixed loss.
    """

    clean: Tensor
    mixed: Tensor | None
    ratio: float
    weight: float


def demanded_share(lam: float | Tensor, schedule: Schedule) -> float | Tensor:
    """Return m(lambda), which part of the margin is demanded of a mixture: in [0, 1], shaped as `lam`.

    Raises:
        InputError: With "2lambda-1" lambda is below 1/2.
    """
    if schedule == "constant":
        return torch.ones_like(lam) if isinstance(lam, Tensor) else 1.0
    if schedule == "lambda":
        return lam
    if bool((torch.as_tensor(lam) < 0.5).any()):
        raise InputError("schedule='2lambda-1' is negative below lambda = 1/2; keep lambda, and low, at 1/2 or above.")
    return 2 * lam - 1


def encoded_mixtures(
    level: str,
    parts: tuple[Tensor, ...],
    lam: float | Tensor,
    partner: Tensor,
    features: Tensor | None,
    head: Callable[[Tensor], Tensor] | None,
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return this process's own embeddings and labels, and the embeddings of its mixed features or inputs.

    Args:
        level: "feature" or "input".
        parts: (N, d) embeddings and (N,) labels of all processes.
        lam: A number, or one for each row of `features`.
        partner: One index for each row of `features`.
        features: (own N, ...) what is mixed.
        head: Encodes it.

    Raises:
        InputError: `features` do not belong to this level, are missing or do not fit.
    """
    if level == "embed":
        raise InputError("features and head belong to the levels 'feature' and 'input'; this one is 'embed'.")
    maps, head = check_features(features, head, level)
    own = own_part(len(maps), len(parts[0]))
    return tuple(part[own] for part in parts), head(mix_inputs(maps, lam, partner))
