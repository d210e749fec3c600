"""Which two examples are mixed for which anchor, and what label the mixture gets.

Shapes: A anchors, K candidates (what an anchor's positives and negatives are taken from), T rows.

A plan lists the first elements of the mixtures as rows (anchor, first) and lets the second elements be columns: the
mixtures of a row are its first element with every allowed column. Storage is O(T + A K) where the mixtures number up
to T K.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metrixkit.errors import InputError, did_you_mean

PAIR_KINDS: dict[str, str] = {
    "positive-negative": "each positive with each negative; label lambda",
    "anchor-negative": "the anchor itself with each negative; label lambda",
    "positive-anchor": "each positive with the anchor; label 1",
    "positive-positive": "each positive with each other positive; label 1",
    "negative-negative": "each negative with each other negative; label 0",
    "positive-negative-first": "only the first positive of the batch with each negative, as released; label lambda",
    "anchor-negative-official": "as anchor-negative, only for anchors without a positive, as released; label lambda",
}
"""Kind of pair to what is mixed. The first element named gets the weight lambda, the second 1 - lambda; pairs are
ordered and distinct. Section 2 of "It Takes Two to Tango" (ICLR 2022) allows all; its experiments use the first two."""

ANCHOR_KINDS = frozenset({"anchor-negative", "anchor-negative-official", "positive-anchor"})
"""Kinds in which the anchor itself is mixed."""


@dataclass(frozen=True)
class PairPlan:
    """The mixtures of one step.

    Attributes:
        anchor: (T,) anchor of each row, ascending.
        first: (T,) first element of each row: an index of a candidate, or of an anchor where `first_is_anchor`.
        allowed: (A, K) bool: which candidates may be the second element, by anchor.
        columns: (A, k) candidates to which the second elements are narrowed, or None for all K.
        distinct: Whether a row's own first element must be left out of its columns.
        target: The label of every mixture, or None where it is lambda.
        first_is_anchor: Whether the first element is the anchor itself.
        flipped: Whether lambda weighs the column instead of the row's first element.
    """

    anchor: Tensor
    first: Tensor
    allowed: Tensor
    columns: Tensor | None = None
    distinct: bool = False
    target: float | None = None
    first_is_anchor: bool = False
    flipped: bool = False

    def counts(self) -> Tensor:
        """Return |V(a)|, the number of mixtures of each anchor: (A,) int64."""
        anchors, _ = self.allowed.shape
        rows = torch.bincount(self.anchor, minlength=anchors)
        columns = self.allowed.sum(1) if self.columns is None else self.allowed.gather(1, self.columns).sum(1)
        return rows * (columns - int(self.distinct)).clamp(min=0)


def check_kind(kind: str) -> None:
    """Raise InputError with the near names unless `kind` is one of :data:`PAIR_KINDS`."""
    if kind not in PAIR_KINDS:
        raise InputError(
            f"pairs={kind!r} is no kind of pair.{did_you_mean(str(kind), PAIR_KINDS)} Known: {', '.join(PAIR_KINDS)}."
        )


def plan_pairs(
    kind: str,
    positive: Tensor,
    negative: Tensor,
    similarity: Tensor | None = None,
    hardest: int | None = None,
    positives: int | None = None,
) -> PairPlan:
    """List the mixtures of each anchor.

    Args:
        kind: A key of :data:`PAIR_KINDS`.
        positive: (A, K) bool, P(a).
        negative: (A, K) bool, N(a).
        similarity: (A, K) clean similarities; needed for `hardest` only.
        hardest: Keep only this many negatives of each anchor, those nearest to it; None keeps all.
        positives: Keep only this many positives of each anchor as first elements, those that follow it in the batch
            (round its end); None keeps all.

    Raises:
        InputError: Unknown kind.
    """
    check_kind(kind)
    device = positive.device
    every, positive = positive, positive if positives is None else _following(positive, positives)
    columns = None
    if hardest is not None and similarity is not None and "negative" in kind and hardest < negative.shape[1]:
        # Anchors with fewer negatives get other candidates as filling; `allowed` leaves those out.
        columns = similarity.masked_fill(~negative, -torch.inf).topk(hardest, dim=1).indices
    if kind in ANCHOR_KINDS:
        rows = torch.ones(len(positive), dtype=torch.bool, device=device)
        if kind == "anchor-negative-official":
            rows = ~positive.any(1)
        anchor = rows.nonzero().squeeze(1)
        if kind == "positive-anchor":
            return PairPlan(anchor, anchor, positive, target=1.0, first_is_anchor=True, flipped=True)
        return PairPlan(anchor, anchor, negative, columns, first_is_anchor=True)
    if kind == "negative-negative":
        rows = negative
        if columns is not None:
            rows = torch.zeros_like(negative).scatter_(1, columns, True) & negative
        anchor, first = rows.nonzero(as_tuple=True)
        return PairPlan(anchor, first, negative, columns, distinct=True, target=0.0)
    if kind == "positive-negative-first":
        positive = positive & (positive.cumsum(1) == 1)
    anchor, first = positive.nonzero(as_tuple=True)
    if kind == "positive-positive":
        return PairPlan(anchor, first, every, distinct=True, target=1.0)
    return PairPlan(anchor, first, negative, columns)


def _following(positive: Tensor, count: int) -> Tensor:
    """Return the (A, K) mask of the first `count` of each anchor's positives after its own place, round the end.

    Within a class of the batch each member is so the first positive of exactly one other.
    """
    anchors, candidates = positive.shape
    if count >= candidates:
        return positive
    place = torch.arange(candidates, device=positive.device)
    after = (place - torch.arange(anchors, device=positive.device)[:, None] - 1) % candidates
    nearest = after.masked_fill(~positive, candidates).topk(count, dim=1, largest=False).indices
    return torch.zeros_like(positive).scatter_(1, nearest, True) & positive
