"""What a step of a mixed loss consisted of, and how its two terms compare."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from metrixkit.losses.levels import own_part
from metrixkit.losses.similarities import Head


@dataclass(frozen=True)
class Terms:
    """What the last step consisted of; tensors are detached scalars.

    Attributes:
        clean: Clean loss.
        mixed: Mixed loss before its weight.
        ratio: lambda, or the mean of the lambdas drawn for the pairs.
        pairs: Kind of pair.
        level: Where examples were mixed.
    """

    clean: Tensor
    mixed: Tensor
    ratio: float
    pairs: str
    level: str = "embed"


@contextmanager
def kept(generator: torch.Generator) -> Iterator[None]:
    """Give a generator its state back, whatever was drawn inside."""
    state = generator.get_state()
    try:
        yield
    finally:
        generator.set_state(state)


def embedded_again(embeddings: Tensor, features: Tensor, head: Head) -> tuple[Tensor, float]:
    """Return the batch's (detached) embeddings with this process's own made from `features` again, with gradient.

    Returns:
        The embeddings, and the share of a mixed term in what is minimised beside a clean loss that holds the rows of
        all processes: each adds its part of the clean gradient, while the mean is taken of their mixed terms.
    """
    own = own_part(len(features), len(embeddings))
    rows = embeddings.detach()
    rows = torch.cat([rows[: own.start], head(features).to(rows.dtype), rows[own.stop :]])
    return rows, len(features) / len(embeddings)


def relative_gradient(top: Tensor, bottom: Tensor, by: Tensor) -> float:
    """Return |d top / d by| / |d bottom / d by| of scalars: infinite where only the second is 0, 0 where both are."""
    (of_top,) = torch.autograd.grad(top, by, retain_graph=True)
    (of_bottom,) = torch.autograd.grad(bottom, by)
    above, below = float(of_top.norm()), float(of_bottom.norm())
    return above / below if below else (float("inf") if above else 0.0)
