"""Who is compared with whom: what a loss reads off a batch before anything is summed.

A anchors, K candidates. For pair losses both are the batch; for proxy losses one of them is the proxies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from metrixkit.losses.zero_or_nan import zero_or_nan


@dataclass(frozen=True)
class Relations:
    """Similarities of anchors to candidates, and which of these are relevant.

    Attributes:
        similarity: (A, K) cosines, with gradient.
        positive: (A, K) bool, P(a); never the anchor itself.
        negative: (A, K) bool, N(a).
        candidate_cosines: Given the (I,) indices of some candidates, their (I, K) cosines to all candidates, with
            gradient; None stands for all of them. Called only where mixtures are re-normalised.
        itself: Whether anchors and candidates are the same rows in the same order.
        anchor_cosines: Returns the (A, A) cosines of the anchors with one another; called where an anchor is mixed.
    """

    similarity: Tensor
    positive: Tensor
    negative: Tensor
    candidate_cosines: Callable[[Tensor | None], Tensor]
    itself: bool
    anchor_cosines: Callable[[], Tensor]

    def zero_or_nan(self) -> Tensor:
        """Return 0, or NaN where a row is not finite: for sums over some of the rows; see :mod:`.zero_or_nan`."""
        # All similarities of such a row are NaN, so that one column shows the anchors and one row the candidates.
        return zero_or_nan(self.similarity[:1], self.similarity[:, :1])


def pair_masks(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return (B, B) bool masks of positives (same label, not itself) and negatives from (B,) labels."""
    same = labels[:, None] == labels[None, :]
    negative = ~same
    same.fill_diagonal_(False)
    return same, negative


def mean_weights(valid: Tensor, dtype: torch.dtype) -> Tensor:
    """Return (A,) weights that average over the anchors where `valid`; all zero where there is none."""
    weights = valid.to(dtype)
    return weights / weights.sum().clamp(min=1)
