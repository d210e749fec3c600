"""Losses of pytorch-metric-learning in the generalised form, with that package's ways of averaging.

A anchors, K candidates. Made by :func:`~metrixkit.losses.from_pml.from_pml`, which knows which class fits.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from metrixkit.errors import InputError
from metrixkit.losses.clean import clean_sum
from metrixkit.losses.forms import Form
from metrixkit.losses.pairs import PairLoss
from metrixkit.losses.proxies import ProxyAnchor, ProxyNCA
from metrixkit.losses.relations import Relations, mean_weights
from metrixkit.losses.triplet import Triplet
from metrixkit.losses.unit import full_precision, no_autocast

Averaging = Literal["sum", "anchors", "pairs", "pairs of each anchor", "own"]

_ONE_POOL = (
    "all labels are 1 or all are 0, so that one of the two sums is empty and the loss has no gradient; take a pair of "
    "both"
)
_ONE_RATIO = dict.fromkeys(
    ("positive-negative", "positive-negative-first", "anchor-negative", "anchor-negative-official"),
    "every mixture carries the same label lambda, so that the loss is the constant -log(lambda) with zero gradient; "
    "take ratio_per='pair'",
)


class PairsFromPML(PairLoss):
    """A loss between the rows of a batch.

    Args:
        form: Its functions.
        averaging: "anchors": mean over the rows of the batch; "sum"; "pairs": mean over all positive pairs plus mean
            over all negative ones; "pairs of each anchor": the same for each row, then the mean over rows.
        miner: Of pytorch-metric-learning; P(a) and N(a) are then the pairs that it returns.
        slack: Of the margin, in terms of what the form's inner functions see; see :class:`PairLoss`.
    """

    def __init__(
        self,
        form: Form,
        averaging: Averaging,
        miner: nn.Module | None = None,
        slack: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(form, slack)
        self.averaging = averaging
        self.miner = miner

    def relations(self, embeddings: Tensor, labels: Tensor) -> Relations:
        """Compare each row with those that the miner leaves; see :meth:`PairLoss.relations`."""
        relations = super().relations(embeddings, labels)
        if self.miner is None:
            return relations
        with no_autocast(embeddings):
            positive, negative = mined_masks(self.miner, full_precision(embeddings.detach()), labels)
        return replace(relations, positive=positive, negative=negative)

    def clean_loss(self, relations: Relations) -> Tensor:
        """Return the scalar clean loss: what the wrapped loss gives."""
        with no_autocast(relations.similarity):
            return clean_sum(self.form, relations, *self.clean_weights(relations))

    def clean_weights(self, relations: Relations) -> tuple[Tensor, Tensor]:
        """Return the (A,) factors of an anchor's positive and negative part in the clean loss."""
        every = torch.ones_like(relations.similarity[:, 0])
        if self.averaging == "sum":
            return every, every
        if self.averaging == "anchors":
            return every / len(every), every / len(every)
        counts = [mask.sum(1).to(every.dtype) for mask in (relations.positive, relations.negative)]
        if self.averaging == "pairs":
            pos, neg = (every / n.sum().clamp(min=1) for n in counts)
        else:
            pos, neg = (every / n.clamp(min=1) / len(every) for n in counts)
        return pos, neg

    def batch_weights(self, relations: Relations, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factors of anchors with mixtures: their sum, or their mean."""
        dtype = relations.similarity.dtype
        weights = valid.to(dtype) if self.averaging == "sum" else mean_weights(valid, dtype)
        return weights, weights


class MeanPairsFromPML(PairsFromPML):
    """The same where pairs are averaged: mixtures are too, within their anchor and then over anchors."""

    always_mean = True


class NCAFromPML(PairsFromPML):
    """-log of the softmax share of an anchor's positives; anchors without a positive are left out."""

    refused = dict.fromkeys(("positive-anchor", "positive-positive", "negative-negative"), _ONE_POOL)
    refused_with_one_ratio = _ONE_RATIO

    def clean_weights(self, relations: Relations) -> tuple[Tensor, Tensor]:
        """Return the factors of the anchors that have a positive; see the base class."""
        return self.batch_weights(relations, relations.positive.any(1))


class TripletFromPML(Triplet):
    """The mean over all triplets of the batch, where :class:`Triplet` is the mean over anchors of their means."""

    def clean_loss(self, relations: Relations) -> Tensor:
        """Return the scalar clean loss; see the base class."""
        with no_autocast(relations.similarity):
            each = self.from_similarity(relations.similarity, relations.positive, relations.negative)
            triplets = (relations.positive.sum(1) * relations.negative.sum(1)).to(each.dtype)
            return torch.dot(each, triplets) / triplets.sum().clamp(min=1)


class ProxyAnchorFromPML(ProxyAnchor):
    """Proxy anchor on the proxies of another object, which they stay shared with.

    Args:
        form: Its functions.
        proxies: (C, d).
        averaging: "own": by proxies with a positive and by all proxies, as published; "anchors": by all; or "sum".
        slack: Of the margin; see :class:`PairLoss`.
    """

    def __init__(
        self, form: Form, proxies: nn.Parameter, averaging: Averaging, slack: tuple[float, float] | None = None
    ) -> None:
        PairLoss.__init__(self, form, slack)
        self.proxies = proxies
        self.averaging = averaging

    def batch_weights(self, relations: Relations, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factors of each proxy's parts, for the clean loss and for mixtures alike."""
        if self.averaging == "own":
            return super().batch_weights(relations, valid)
        every = torch.ones_like(relations.similarity[:, 0])
        weights = every if self.averaging == "sum" else every / len(every)
        return weights, weights


class ProxyNCAFromPML(ProxyNCA):
    """-log of the own proxy's softmax share among all proxies, on the proxies of another object.

    Args:
        form: Its functions.
        proxies: (C, d).
        averaging: "anchors" or "sum".
    """

    refused = {"positive-positive": _ONE_POOL, "positive-anchor": _ONE_POOL, "negative-negative": _ONE_POOL}  # noqa: RUF012
    refused_with_one_ratio = _ONE_RATIO

    def __init__(self, form: Form, proxies: nn.Parameter, averaging: Averaging) -> None:
        PairLoss.__init__(self, form)
        self.proxies = proxies
        self.averaging = averaging

    def batch_weights(self, relations: Relations, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factors of the rows that have a loss, or mixtures: their sum, or their mean."""
        dtype = relations.similarity.dtype
        weights = valid.to(dtype) if self.averaging == "sum" else mean_weights(valid, dtype)
        return weights, weights


def mined_masks(miner: nn.Module, rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return (B, B) bool masks of the positive and negative pairs that a miner chooses.

    Raises:
        InputError: It returns triplets, or a pair more than once.
    """
    found = miner(rows, labels)
    name = type(miner).__name__
    if len(found) != 4:
        raise InputError(
            f"miner {name} has no generalised form: it returns triplets, which couple each positive with its own "
            "negative; take a miner of pairs, such as MultiSimilarityMiner, or none."
        )
    masks = []
    for first, second in (found[:2], found[2:]):
        mask = torch.zeros(len(rows), len(rows), dtype=torch.bool, device=rows.device)
        mask[first, second] = True
        if int(mask.sum()) != len(first):
            raise InputError(
                f"miner {name} has no generalised form: it returns a pair more than once, and sets do not "
                "repeat; take MultiSimilarityMiner, PairMarginMiner or none."
            )
        masks.append(mask)
    return masks[0], masks[1]
