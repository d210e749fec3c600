"""Losses that compare the rows of a batch with one another.

B rows, d dimensions; A anchors, M compared items. All take raw embeddings and normalise them to cosines inside.
Table 1 of "It Takes Two to Tango" (ICLR 2022) writes them in the generalised form; the defaults are the usual settings.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from metrixkit.errors import InputError
from metrixkit.losses.clean import clean_sum
from metrixkit.losses.forms import BinomialForm, ContrastiveForm, Form, LogForm, LogSide
from metrixkit.losses.relations import Relations, mean_weights, pair_masks
from metrixkit.losses.unit import check_batch, cosines, full_precision, no_autocast, unit_rows

_CONSTANT = (
    "every mixture carries the same label lambda, so that the loss is the constant log((1 - lambda) / lambda) with "
    "zero gradient; take pairs='positive-positive' or 'negative-negative', or ratio_per='pair'"
)
CONSTANT_KINDS: dict[str, str] = {
    kind: _CONSTANT
    for kind in ("positive-negative", "positive-negative-first", "anchor-negative", "anchor-negative-official")
}


class PairLoss(nn.Module):
    """A loss in the generalised form whose anchors, positives and negatives are the rows of the batch.

    Attributes:
        form: The functions inside and outside the sums.
        refused: Kind of pair to the reason why mixing it makes no sense with this loss.
        refused_with_one_ratio: The same, where one lambda holds for the whole step.
        refused_levels: Level ("feature", "input") to the reason why examples cannot be mixed there with this loss.
        needs_both: Whether an anchor without a positive or without a negative has no loss at all and is left out of
            the mean.
        always_mean: Whether mixtures of an anchor are always averaged, never summed.
        slack: How far similarities of positives may fall and those of negatives rise, both >= 0, until the margin
            demands nothing; None without a margin. At a share m of the margin, (1 - m) of it is allowed; see
            :class:`~metrixkit.losses.DynamicMixedMargin`.
    """

    refused: ClassVar[dict[str, str]] = {}
    refused_with_one_ratio: ClassVar[dict[str, str]] = {}
    refused_levels: ClassVar[dict[str, str]] = {}
    needs_both: ClassVar[bool] = False
    always_mean: ClassVar[bool] = False

    def __init__(self, form: Form, slack: tuple[float, float] | None = None) -> None:
        super().__init__()
        self.form = form
        self.slack = slack

    def relations(self, embeddings: Tensor, labels: Tensor) -> Relations:
        """Compare each row of the batch with all others.

        Args:
            embeddings: (B, d) raw rows of any floating type; computed in float32 or, if they are, float64.
            labels: (B,) integers.

        Raises:
            InputError: Shapes, types or devices do not fit.
        """
        check_batch(embeddings, labels)
        with no_autocast(embeddings):
            similarity = cosines(full_precision(embeddings))
        positive, negative = pair_masks(labels)

        def among_candidates(rows: Tensor | None) -> Tensor:
            return similarity if rows is None else similarity[rows]

        return Relations(similarity, positive, negative, among_candidates, True, lambda: similarity)

    def anchor_rows(self, embeddings: Tensor) -> Tensor:
        """Return the unit vectors (A, d) that :meth:`relations` compares with others: here the batch's own rows.

        Mixtures that the model itself encodes are compared with them.
        """
        with no_autocast(embeddings):
            return unit_rows(full_precision(embeddings))

    def from_similarity(self, s: Tensor, w_pos: Tensor, w_neg: Tensor) -> Tensor:
        """Return the generalised form itself, with soft weights.

        Args:
            s: (A, M) similarities.
            w_pos: (A, M) how much each item counts as a positive (y); bool or floating >= 0, not differentiated.
            w_neg: (A, M) how much it counts as a negative (1 - y).

        Returns:
            (A,) loss of each anchor. A side without any weight adds 0 (lifted structure: makes the loss 0).
        """
        return self.form.outer(*self.form.terms(s, w_pos, w_neg))

    def clean_loss(self, relations: Relations) -> Tensor:
        """Return the scalar clean loss: the mean over all anchors for which it is defined."""
        positive = relations.positive
        valid = positive.any(1) & relations.negative.any(1) if self.needs_both else torch.ones_like(positive[:, 0])
        with no_autocast(relations.similarity):
            return clean_sum(self.form, relations, *self.batch_weights(relations, valid))

    def batch_weights(self, relations: Relations, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the (A,) factors of an anchor's positive and negative part in the batch loss.

        Args:
            relations: Of the batch.
            valid: (A,) bool: whose loss is defined, or who has mixtures.
        """
        weights = mean_weights(valid, relations.similarity.dtype)
        return weights, weights

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the clean loss of (B, d) raw embeddings with (B,) integer labels: a scalar >= its form's minimum.

        A batch without a single comparison gives 0 with zero gradient.

        Raises:
            InputError: Shapes, types or devices do not fit.
        """
        return self.clean_loss(self.relations(embeddings, labels))


def positive_number(name: str, value: float) -> float:
    """Return `value` as float, or raise InputError unless it is > 0."""
    if not value > 0:
        raise InputError(f"{name} is {value}, expected a number > 0.")
    return float(value)


class Contrastive(PairLoss):
    """Contrastive loss on cosines: rho+ = -s, rho- = [s - margin]_+ (Hadsell et al., CVPR 2006, in the form of Metrix).

    Args:
        margin: Cosine in [-1, 1] above which a negative is pushed away.
    """

    def __init__(self, margin: float = 0.5) -> None:
        super().__init__(ContrastiveForm(float(margin)), slack=(0.0, 1 - margin))


class MultiSimilarity(PairLoss):
    """Multi-similarity loss, without its miner (Wang et al., CVPR 2019, Eq. 15).

    log(1 + SUM e^{-beta (s - margin)}) / beta over positives plus log(1 + SUM e^{gamma (s - margin)}) / gamma over
    negatives.

    Args:
        beta: Sharpness among positives, > 0.
        gamma: Sharpness among negatives, > 0.
        margin: Cosine at which both exponents are 0. The defaults are those of the Metrix release.
    """

    def __init__(self, beta: float = 17.97, gamma: float = 75.66, margin: float = 0.77) -> None:
        beta, gamma = positive_number("beta", beta), positive_number("gamma", gamma)
        pos = LogSide(-beta, beta * margin, 1 / beta, plus_one=True)
        neg = LogSide(gamma, -gamma * margin, 1 / gamma, plus_one=True)
        super().__init__(LogForm(pos, neg), slack=(0.0, 1 - margin))


class BinomialDeviance(PairLoss):
    """Binomial deviance: log(1 + e^{-beta (s - m)}) and log(1 + e^{gamma (s - m)}) over pairs (Yi et al., ICPR 2014).

    Args:
        beta: Sharpness of positive pairs, > 0.
        gamma: Sharpness of negative pairs, > 0.
        margin: Cosine at which both exponents are 0.
    """

    def __init__(self, beta: float = 2.0, gamma: float = 40.0, margin: float = 0.5) -> None:
        form = BinomialForm(positive_number("beta", beta), positive_number("gamma", gamma), float(margin))
        super().__init__(form, slack=(0.0, 1 - margin))


class LiftedStructure(PairLoss):
    """Lifted structure on cosines: [log SUM e^{-s} + log SUM e^{s - margin}]_+ (Oh Song et al., CVPR 2016).

    Anchors without a positive or without a negative have no loss and are left out of the mean.

    Args:
        margin: Shift of the negatives' exponent.
    """

    needs_both = True
    refused = dict.fromkeys(
        ("positive-anchor", "positive-positive", "negative-negative"),
        "all labels are 1 or all are 0, one of the two sums is empty, and the loss is always 0; take a pair of both",
    )

    def __init__(self, margin: float = 0.5) -> None:
        # Without weight on one side the sum of logarithms is minus infinity, which the outer function brings to 0.
        pos = LogSide(-1.0, 0.0, 1.0, plus_one=False, empty=-math.inf)
        neg = LogSide(1.0, -float(margin), 1.0, plus_one=False, empty=-math.inf)
        super().__init__(LogForm(pos, neg, clamp=True), slack=(0.0, 1 - margin))


class NCA(PairLoss):
    """Neighbourhood components analysis: -log SUM_P e^{s/T} + log SUM_N e^{s/T} (Goldberger et al., NeurIPS 2004).

    As in the Metrix table the second sum holds the negatives only. Anchors without a positive or without a negative
    have no loss and are left out of the mean. With one lambda for all mixtures, labels that are all lambda make it
    constant; such pairs are refused by :class:`~metrixkit.losses.Metrix`.

    Args:
        temperature: T, > 0.
    """

    needs_both = True
    refused_with_one_ratio = CONSTANT_KINDS

    def __init__(self, temperature: float = 1.0) -> None:
        slope = 1 / positive_number("temperature", temperature)
        super().__init__(LogForm(LogSide(slope, 0.0, -1.0, plus_one=False), LogSide(slope, 0.0, 1.0, plus_one=False)))
