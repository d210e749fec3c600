"""The contrastive loss of the Metrix release, for comparison: distances, means of non-zero terms, first positive."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metrixkit.errors import InputError, did_you_mean
from metrixkit.losses.relations import pair_masks
from metrixkit.losses.unit import check_batch, full_precision, no_autocast, unit_rows
from metrixkit.losses.zero_or_nan import zero_or_nan

_KINDS = ("positive-negative", "anchor-negative")


def _mean_of_nonzero(values: Tensor) -> Tensor:
    return values.sum() / (values > 0).sum().clamp(min=1)


def _length(vectors: Tensor) -> Tensor:
    # The root of exactly zero has no slope; identical rows stand at distance 0 and are not moved.
    squares = vectors.square().sum(-1)
    same = squares == 0  # a row that is NaN is not the same as another
    return torch.where(same, 1, squares).sqrt() * ~same


class OfficialContrastive(nn.Module):
    """What the released Metrix computes for the contrastive loss at embedding level.

    Clean: the mean non-zero distance of positive pairs plus the mean non-zero [margin - distance]_+ of negative ones,
    over the whole batch. Mixed: the same two means over mixtures, times lambda and 1 - lambda. Positive-negative mixes
    only the first positive of each anchor, repeated |P(a)| times; anchor-negative serves only anchors without a
    positive. The paper's form is :class:`~metrixkit.losses.Contrastive` in :class:`~metrixkit.losses.Metrix`. Where the
    release stops with an error for want of pairs, the mixed term is 0 here.

    Args:
        margin: Euclidean distance of unit vectors below which negatives are pushed away, in (0, 2].
    """

    def __init__(self, margin: float = 0.5) -> None:
        super().__init__()
        self.margin = float(margin)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the clean loss of (B, d) raw embeddings with (B,) integer labels, a scalar >= 0."""
        check_batch(embeddings, labels)
        with no_autocast(embeddings):
            rows = unit_rows(full_precision(embeddings))
            positive, negative = pair_masks(labels)
            a, p = positive.nonzero(as_tuple=True)
            b, n = negative.nonzero(as_tuple=True)
            near, far = _length(rows[a] - rows[p]), _length(rows[b] - rows[n])
            return _mean_of_nonzero(near) + _mean_of_nonzero((self.margin - far).clamp(min=0)) + zero_or_nan(rows)

    def mixed_loss(self, embeddings: Tensor, labels: Tensor, lam: float, pairs: str = "positive-negative") -> Tensor:
        """Return the mixed term, unweighted (the release multiplies by 0.4, and by 0.3 for anchor-negative).

        Args:
            embeddings: (B, d) raw embeddings.
            labels: (B,) integers.
            lam: Weight of the positive, in [0, 1].
            pairs: "positive-negative" or "anchor-negative".

        Raises:
            InputError: Another kind of pair, which the release does not have, or input that does not fit.
        """
        check_batch(embeddings, labels)
        if pairs not in _KINDS:
            raise InputError(f"pairs={pairs!r} does not exist in the release.{did_you_mean(pairs, _KINDS)}")
        with no_autocast(embeddings):
            rows = unit_rows(full_precision(embeddings))
            positive, negative = pair_masks(labels)
            if pairs == "positive-negative":
                first, repeats = positive.int().argmax(1), positive.sum(1)
            else:
                first, repeats = torch.arange(len(rows), device=rows.device), (~positive.any(1)).long()
            a, n = (negative & (repeats > 0)[:, None]).nonzero(as_tuple=True)
            mixture = unit_rows(lam * rows[first[a]] + (1 - lam) * rows[n])
            distance, times = _length(rows[a] - mixture), repeats[a].to(rows.dtype)
            near = (distance * times).sum() / (times * (distance > 0)).sum().clamp(min=1)
            gap = (self.margin - distance).clamp(min=0)
            far = (gap * times).sum() / (times * (gap > 0)).sum().clamp(min=1)
            return lam * near + (1 - lam) * far + zero_or_nan(rows)
