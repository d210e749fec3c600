"""Mixtures of unit embeddings: which similarities of the batch stand for them.

A anchors, I first elements, K candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from metrixkit.losses.mixture import Mixtures, mixture_loss
from metrixkit.losses.pairs import PairLoss
from metrixkit.losses.relations import Relations
from metrixkit.losses.unit import no_autocast
from metrixkit.mixing import PairPlan


@dataclass(frozen=True)
class EmbeddedMixtures:
    """The mixed loss of a step at embedding level, up to its lambda.

    Attributes:
        loss: Whose form is taken.
        relations: Of the batch.
        plan: The pairs.
        to_first: (A, I) similarities of anchors to first elements.
        columns_of_first: (I,) candidate that each first element is; None where it is the identity.
        cosines: Returns the (I, K) cosines of first elements and candidates; called only to re-normalise.
        average: Whether an anchor's mixtures are averaged instead of summed.
    """

    loss: PairLoss
    relations: Relations
    plan: PairPlan
    to_first: Tensor
    columns_of_first: Tensor | None
    cosines: Callable[[], Tensor] | None
    average: bool

    @property
    def shape(self) -> tuple[int, int]:
        """(I, K): one lambda for each where pairs have their own."""
        return self.to_first.shape[1], self.plan.allowed.shape[1]

    def value(self, ratio: float | Tensor) -> Tensor:
        """Return the mixed loss, a scalar, by a number or (I, K) lambdas."""
        plan, similarity = self.plan, self.relations.similarity
        with no_autocast(similarity):
            counts = plan.counts()
            weight_pos, weight_neg = self.loss.batch_weights(self.relations, counts > 0)
            ones = torch.ones_like(weight_pos)
            share = 1 / counts.clamp(min=1).to(similarity.dtype) if self.average else ones
            mixtures = Mixtures(plan, ratio, share, weight_pos, weight_neg, self.columns_of_first)
            cosines = self.cosines() if self.cosines is not None else None
            mixed = mixture_loss(self.loss.form, self.to_first, similarity, cosines, mixtures)
            return mixed + self.relations.zero_or_nan()


def embedded_mixtures(
    loss: PairLoss, relations: Relations, plan: PairPlan, renormalize: bool, average: bool
) -> EmbeddedMixtures:
    """Choose the matrices in which a plan's similarities stand.

    Args:
        loss: Whose form is taken.
        relations: Of the batch.
        plan: The pairs.
        renormalize: Whether mixtures are brought to length 1.
        average: Whether an anchor's mixtures are averaged instead of summed.
    """
    similarity = relations.similarity
    to_first, used = similarity, None
    cosines: Callable[[], Tensor] = lambda: similarity  # noqa: E731
    if not relations.itself and plan.first_is_anchor:
        to_first = relations.anchor_cosines()
    elif not relations.itself and len(plan.anchor) >= similarity.shape[1]:
        cosines = lambda: relations.candidate_cosines(None)  # noqa: E731
    elif not relations.itself:
        # Few of many candidates come first (the batch's proxies of all): only their rows of cosines are needed.
        used, first = plan.first.unique(return_inverse=True)
        plan, to_first = replace(plan, first=first), similarity[:, used]
        cosines = lambda: relations.candidate_cosines(used)  # noqa: E731
    return EmbeddedMixtures(loss, relations, plan, to_first, used, cosines if renormalize else None, average)
