"""The triplet loss, which couples each positive with each negative and so has no two separate sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from metrixkit.losses.checks import check_known
from metrixkit.losses.forms import ElementForm, Weight
from metrixkit.losses.pairs import PairLoss
from metrixkit.losses.relations import Relations, mean_weights
from metrixkit.losses.unit import no_autocast
from metrixkit.mixing import PAIR_KINDS

Over = Literal["all", "min", "sum"]
_ONLY_AVERAGED = "mixtures of triplets are averaged over V(a), which goes with over='all' only"
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
    """Triplet loss on cosines: the mean of [margin - s(a, p) + s(a, n)]_+ over the triplets of an anchor.

    Anchors without a triplet are left out of the mean. Mixed, it is an extension of ours and not the paper's: a mixture
    v of label lambda takes both parts, [margin - lam s(a, v) + (1 - lam) s(a, v)]_+, averaged over V(a) whatever
    `reduction` says.

    Args:
        margin: Gap of cosines that is demanded, in [0, 2].
        over: "all" averages all triplets of an anchor, none is mined; "min" takes of each positive only the nearest
            negative; "sum" adds all triplets up instead of averaging them. Only "all" can be mixed by Metrix.
    """

    needs_both = True
    always_mean = True
    refused = dict.fromkeys(("positive-anchor", "positive-positive", "negative-negative"), _ONLY_PAIRS)

    def __init__(self, margin: float = 0.1, over: Over = "all") -> None:
        check_known("over", over, get_args(Over))
        super().__init__(TripletForm(float(margin)), slack=(0.0, float(margin)))
        self.margin, self.over = float(margin), over
        if over != "all":
            self.refused = dict.fromkeys(PAIR_KINDS, _ONLY_AVERAGED)  # type: ignore[misc]

    def clean_loss(self, relations: Relations) -> Tensor:
        """Return the scalar clean loss: the mean over anchors that have a triplet."""
        with no_autocast(relations.similarity):
            each = self.from_similarity(relations.similarity, relations.positive, relations.negative)
            valid = relations.positive.any(1) & relations.negative.any(1)
            return torch.dot(each, mean_weights(valid, each.dtype)) + relations.zero_or_nan()

    def from_similarity(self, s: Tensor, w_pos: Tensor, w_neg: Tensor) -> Tensor:
        """Return (A,) weighted means of [margin - s_p + s_n]_+ with weights w_pos(p) w_neg(n); see the base class.

        With over="sum" sums, with "min" means over positives alone. An anchor without weight on either side gets 0.
        Memory is (pairs of anchor and positive) x M.
        """
        anchor, first = (w_pos > 0).nonzero(as_tuple=True)
        w_pos, w_neg = w_pos.detach().to(s.dtype), w_neg.detach().to(s.dtype)
        if self.over == "min" and s.shape[1]:
            there = w_neg > 0
            nearest = s.detach().masked_fill(~there, -torch.inf).argmax(1, keepdim=True)
            w_neg = torch.zeros_like(w_neg).scatter(1, nearest, there.any(1, keepdim=True).to(s.dtype))
        gaps = (s[anchor] + (self.margin - s[anchor, first])[:, None]).clamp(min=0)
        by_row = (gaps * w_neg[anchor]).sum(1) * w_pos[anchor, first]
        each = torch.zeros_like(s[:, 0]).index_add(0, anchor, by_row)
        if self.over == "sum":
            return each
        total = w_pos.sum(1) * w_neg.sum(1)
        return each / torch.where(total > 0, total, 1)
