"""Losses that compare a batch with learned proxies, one for each class.

B rows, C classes, d dimensions. Proxies are kept and used in float32, also under autocast; with float64 embeddings in
float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from metrixkit.errors import InputError
from metrixkit.losses.forms import LogForm, LogSide
from metrixkit.losses.pairs import CONSTANT_KINDS, PairLoss, positive_number
from metrixkit.losses.relations import Relations, mean_weights
from metrixkit.losses.unit import check_batch, cosines, full_precision, no_autocast, products, unit_rows

_NEVER_MIXED = (
    "the anchors are proxies, and proxies are never mixed (Metrix, ICLR 2022: positives and negatives are examples)"
)
_ONLY_EMBEDDED = (
    "its positives and negatives are proxies, which exist as embeddings only and have no maps or pixels to mix"
)
_ONE_PROXY = "a class has a single proxy, so there is no second positive to mix it with"


def _proxies(num_classes: int, dim: int, seed: int) -> nn.Parameter:
    if num_classes < 1 or dim < 1:
        raise InputError(f"num_classes={num_classes} and dim={dim} must both be at least 1.")
    # Kaiming's normal by fan-out, as proxy losses are usually started; only directions enter the loss.
    generator = torch.Generator().manual_seed(seed)
    return nn.Parameter(torch.randn(num_classes, dim, generator=generator) * math.sqrt(2 / num_classes))


class ProxyLoss(PairLoss):
    """Shared by losses with proxies.

    Attributes:
        proxies: (C, d) float32 parameter; it wants its own learning rate (100 times the base rate in the papers).
    """

    def __init__(
        self, form: LogForm, num_classes: int, dim: int, seed: int, slack: tuple[float, float] | None = None
    ) -> None:
        super().__init__(form, slack)
        self.proxies = _proxies(num_classes, dim, seed)

    def _unit(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return unit rows (B, d), unit proxies (C, d) and (C, B) bool: who belongs to which proxy."""
        check_batch(embeddings, labels)
        classes, dim = self.proxies.shape
        if embeddings.shape[1] != dim:
            raise InputError(
                f"embeddings have {embeddings.shape[1]} dimensions, the proxies {dim}; set dim to the model's."
            )
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            low, high = int(labels.min()), int(labels.max())
            raise InputError(f"labels run from {low} to {high}, expected 0 to {classes - 1}: one proxy for each class.")
        rows = full_precision(embeddings)
        proxies = unit_rows(self.proxies.to(rows.dtype))
        member = torch.arange(classes, device=labels.device)[:, None] == labels
        return rows, proxies, member


class ProxyAnchor(ProxyLoss):
    """Proxy anchor (Kim et al., CVPR 2020, Eq. 4): each proxy is an anchor, the batch its positives and negatives.

    Positive parts log(1 + SUM e^{-beta (s - delta)}) are averaged over proxies with a positive in the batch, negative
    parts log(1 + SUM e^{beta (s + delta)}) over all proxies, for mixtures too. Mixed are examples, never proxies.

    Args:
        num_classes: C.
        dim: d.
        beta: Sharpness, > 0.
        delta: Margin on cosines, added on both sides.
        seed: Of the first proxies.
    """

    refused = dict.fromkeys(("anchor-negative", "anchor-negative-official", "positive-anchor"), _NEVER_MIXED)

    def __init__(self, num_classes: int, dim: int, beta: float = 32.0, delta: float = 0.1, seed: int = 0) -> None:
        beta = positive_number("beta", beta)
        pos = LogSide(-beta, beta * delta, 1.0, plus_one=True)
        form = LogForm(pos, LogSide(beta, beta * delta, 1.0, plus_one=True))
        super().__init__(form, num_classes, dim, seed, slack=(delta, delta))

    def relations(self, embeddings: Tensor, labels: Tensor) -> Relations:
        """Compare each proxy with the batch; see :meth:`PairLoss.relations`."""
        with no_autocast(embeddings):
            rows, proxies, member = self._unit(embeddings, labels)
            similarity = products(proxies, unit_rows(rows))

        def among_candidates(chosen: Tensor | None) -> Tensor:
            with no_autocast(embeddings):
                every = cosines(rows)
            return every if chosen is None else every[chosen]

        def among_proxies() -> Tensor:
            raise InputError(_NEVER_MIXED)

        return Relations(similarity, member, ~member, among_candidates, False, among_proxies)

    def anchor_rows(self, embeddings: Tensor) -> Tensor:
        """Return the unit proxies (C, d)."""
        with no_autocast(embeddings):
            return unit_rows(self.proxies.to(full_precision(embeddings).dtype))

    def batch_weights(self, relations: Relations, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1 / (proxies with a positive) and 1 / C, for the clean loss and for mixtures alike."""
        pos = mean_weights(relations.positive.any(1), relations.similarity.dtype)
        return pos, torch.full_like(pos, 1 / len(pos))


class ProxyNCA(ProxyLoss):
    """ProxyNCA: -s/T to the own proxy plus log SUM e^{s/T} over the others (Movshovitz-Attias et al., ICCV 2017).

    With a temperature it is close to ProxyNCA++, whose denominator also holds the own proxy. Mixtures are of proxies
    and exist at embedding level only. All other proxies are mixed, so large C wants `hardest`.

    Args:
        num_classes: C, at least 2.
        dim: d.
        temperature: T, > 0.
        seed: Of the first proxies.
    """

    needs_both = True
    refused = {"positive-positive": _ONE_PROXY}  # noqa: RUF012 - declared ClassVar in the base class
    refused_with_one_ratio = CONSTANT_KINDS
    refused_levels = dict.fromkeys(("feature", "input"), _ONLY_EMBEDDED)

    def __init__(self, num_classes: int, dim: int, temperature: float = 1.0, seed: int = 0) -> None:
        slope = 1 / positive_number("temperature", temperature)
        form = LogForm(LogSide(slope, 0.0, -1.0, plus_one=False), LogSide(slope, 0.0, 1.0, plus_one=False))
        super().__init__(form, num_classes, dim, seed)

    def relations(self, embeddings: Tensor, labels: Tensor) -> Relations:
        """Compare each row with all proxies; see :meth:`PairLoss.relations`."""
        with no_autocast(embeddings):
            rows, proxies, member = self._unit(embeddings, labels)
            similarity = products(unit_rows(rows), proxies)

        def among_candidates(chosen: Tensor | None) -> Tensor:
            with no_autocast(embeddings):
                return products(proxies if chosen is None else proxies[chosen], proxies)

        def among_rows() -> Tensor:
            with no_autocast(embeddings):
                return cosines(rows)

        return Relations(similarity, member.T, ~member.T, among_candidates, False, among_rows)
