"""The triplet loss, which couples each positive with each negative and so has no two separate sums."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metrixkit.losses.forms import ElementForm, Weight
from metrixkit.losses.pairs import PairLoss
from metrixkit.losses.relations import Relations, mean_weights
from metrixkit.losses.unit import no_autocast

_ONLY_PAIRS = "the triplet loss is defined for one positive and one negative together; take a pair of both"


@dataclass(frozen=True)
class TripletForm(ElementForm):
    """Mixtures of the triplet loss: [margin + (1 - 2y) s]_+."""

    margin: float

    def positive(self, s: Tensor) -> Tensor:
        """See :class:`~metrixkit.losses.forms.ElementForm`; the margin joins the two sides of one triplet."""
        return -s

    def negative(self, s: Tensor) -> Tensor:
        """See :class:`~metrixkit.losses.forms.ElementForm`."""
        return s

    def element(self, s: Tensor, y: Weight) -> tuple[Tensor, Tensor]:
        """See :class:`~metrixkit.losses.forms.ElementForm`."""
        slope = 1 - y * 2
        value = (s * slope).add_(self.margin).clamp_(min=0)
        return value, torch.gt(value, 0, out=torch.empty_like(s)).mul_(slope)


class Triplet(PairLoss):
    """Triplet loss on cosines: the mean of [margin - s(a, p) + s(a, n)]_+ over all triplets of an anchor, not mined.

    Anchors without a triplet are left out of the mean. Mixed, it is an extension of ours and not the paper's: a mixture
    v of label lambda takes both parts, [margin - lam s(a, v) + (1 - lam) s(a, v)]_+, averaged over V(a) whatever
    `reduction` says.

    Args:
        margin: Gap of cosines that is demanded, in [0, 2].
    """

    needs_both = True
    always_mean = True
    refused = dict.fromkeys(("positive-anchor", "positive-positive", "negative-negative"), _ONLY_PAIRS)

    def __init__(self, margin: float = 0.1) -> None:
        super().__init__(TripletForm(float(margin)))
        self.margin = float(margin)

    def clean_loss(self, relations: Relations) -> Tensor:
        """Return the scalar clean loss: the mean over anchors that have a triplet."""
        with no_autocast(relations.similarity):
            each = self.from_similarity(relations.similarity, relations.positive, relations.negative)
            valid = relations.positive.any(1) & relations.negative.any(1)
            return torch.dot(each, mean_weights(valid, each.dtype))

    def from_similarity(self, s: Tensor, w_pos: Tensor, w_neg: Tensor) -> Tensor:
        """Return (A,) weighted means of [margin - s_p + s_n]_+ with weights w_pos(p) w_neg(n); see the base class.

        An anchor without weight on either side gets 0. Memory is (pairs of anchor and positive) x M.
        """
        anchor, first = (w_pos > 0).nonzero(as_tuple=True)
        w_pos, w_neg = w_pos.detach().to(s.dtype), w_neg.detach().to(s.dtype)
        gaps = (s[anchor] + (self.margin - s[anchor, first])[:, None]).clamp(min=0)
        by_row = (gaps * w_neg[anchor]).sum(1) * w_pos[anchor, first]
        total = w_pos.sum(1) * w_neg.sum(1)
        return torch.zeros_like(s[:, 0]).index_add(0, anchor, by_row) / torch.where(total > 0, total, 1)
