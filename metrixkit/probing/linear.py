"""Linear classification of features that are at hand: one view of each image, embedded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.probing.labels import TOP, class_codes, top_accuracy, tops, true_rank

STRENGTHS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
STEPS = 100


@dataclass(frozen=True)
class FeatureProbe:
    """A multinomial logistic regression on standardised features.

    Attributes:
        classes: C names, sorted.
        weight: (C, d) float64.
        bias: (C,) float64.
        mean: (d,) float64, taken off the features first.
        deviation: (d,) float64, what they are divided by then.
        strength: Factor on half the squared weights that was chosen or given.
    """

    classes: list[str]
    weight: Tensor
    bias: Tensor
    mean: Tensor
    deviation: Tensor
    strength: float

    def scores(self, features: Any) -> Tensor:
        """Return (N, C) float64 logits of (N, d) features."""
        return F.linear((_rows(features, "features") - self.mean) / self.deviation, self.weight, self.bias)

    def accuracy(self, features: Any, labels: Sequence[str], top: Sequence[int] = TOP) -> dict[str, float]:
        """Return ``{"linear@1": ..., "linear@5": ...}``; arguments and errors as of :meth:`ranks`.

        A k that is no less than the number of classes is left out: of so many answers every item has its own.
        """
        return top_accuracy(self.ranks(features, labels), "linear", tops(len(self.classes), top))

    def ranks(self, features: Any, labels: Sequence[str]) -> Tensor:
        """Return (N,) int64 places of each item's own class, from 1; ties count against the item.

        Raises:
            InputError: Bad features, counts that differ, or no common class.
        """
        scores = self.scores(features)
        if len(scores) != len(labels):
            raise InputError(f"{len(scores)} features and {len(labels)} labels; each row needs exactly one.")
        return true_rank(scores, class_codes(labels, self.classes, "test items"))


def fit_probe(
    features: Any,
    labels: Sequence[str],
    strengths: Sequence[float] = STRENGTHS,
    held_out: float = 0.2,
    seed: int = 0,
) -> FeatureProbe:
    """Fit a logistic regression; how strongly it is regularised is chosen on held-out training items.

    Minimised is the mean cross-entropy plus strength / 2 times the squared weights (not the biases), in float64, by
    L-BFGS with at most 100 steps, from zero weights at the greatest strength and from one strength to the next. The
    strength with most held-out items right (of equal ones the least held-out cross-entropy) is then fitted to all.

    Args:
        features: (N, d) numbers on any device; computed there.
        labels: N labels, of two classes or more.
        strengths: What is tried, each >= 0; a single one is taken without a choice.
        held_out: Share of each class's items to choose on, in (0, 1); a class of one item keeps it.
        seed: Of the choice of these items.

    Raises:
        InputError: Features that are not finite, counts that differ, fewer than two classes, or a setting out of range.
    """
    rows = _rows(features, "features")
    if len(rows) != len(labels):
        raise InputError(f"{len(rows)} features and {len(labels)} labels; each row needs exactly one.")
    if not 0 < held_out < 1 or not strengths or min(strengths) < 0:
        raise InputError(
            f"held_out={held_out}, strengths={list(strengths)}: expected a share between 0 and 1, and numbers >= 0."
        )
    names, found = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
    if len(names) < 2:
        raise InputError(f"a linear probe needs two classes or more, and the training items are of {len(names)}.")
    codes = torch.from_numpy(found).to(rows.device)
    path = sorted(set(strengths), reverse=True)
    apart = torch.from_numpy(hold_out(found, held_out, seed)).to(rows.device)
    if len(path) > 1 and apart.any():
        path = path[: 1 + _choose(rows, codes, apart, path, len(names))]
    mean, deviation = _standard(rows)
    weight, bias = _start(rows, len(names))
    for strength in path:
        # The whole path again, not its end alone: that is what was chosen, also where the steps ran out.
        weight, bias = _fit((rows - mean) / deviation, codes, strength, weight, bias)
    return FeatureProbe([str(name) for name in names], weight, bias, mean, deviation, path[-1])


def hold_out(codes: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """Return (N,) whether an item is held out: about `share` of each class, at least one and not all of it."""
    draw = np.random.default_rng(seed)
    apart = np.zeros(len(codes), dtype=bool)
    order = draw.permutation(len(codes))
    for code in np.unique(codes):
        own = order[codes[order] == code]
        apart[own[: min(max(1, round(share * len(own))), len(own) - 1)]] = True
    return apart


def _choose(rows: Tensor, codes: Tensor, apart: Tensor, path: Sequence[float], classes: int) -> int:
    """Return which strength of the path answers the held-out items best."""
    mean, deviation = _standard(rows[~apart])
    known, asked = ((rows[part] - mean) / deviation for part in (~apart, apart))
    weight, bias = _start(rows, classes)
    worth = []
    for strength in path:
        weight, bias = _fit(known, codes[~apart], strength, weight, bias)
        logits = F.linear(asked, weight, bias)
        right = int((true_rank(logits, codes[apart].cpu()) == 1).sum())
        worth.append((right, -float(F.cross_entropy(logits, codes[apart]))))
    return max(range(len(worth)), key=worth.__getitem__)


def _standard(rows: Tensor) -> tuple[Tensor, Tensor]:
    deviation = rows.std(dim=0, correction=0)
    # A constant feature tells nothing; divided by its rounding it would tell a lot.
    flat = deviation <= 1e-12 * rows.abs().amax(dim=0)
    return rows.mean(dim=0), torch.where(flat, 1.0, deviation)


def _start(rows: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    return rows.new_zeros(classes, rows.shape[1]), rows.new_zeros(classes)


def _fit(rows: Tensor, codes: Tensor, strength: float, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    weight, bias = (x.clone().requires_grad_() for x in (weight, bias))
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=STEPS, tolerance_grad=1e-5, tolerance_change=1e-8, line_search_fn="strong_wolfe"
    )

    def loss() -> float:
        optimizer.zero_grad()
        value = F.cross_entropy(F.linear(rows, weight, bias), codes) + 0.5 * strength * weight.square().sum()
        value.backward()
        return float(value.detach())

    with torch.enable_grad():
        optimizer.step(loss)
    return weight.detach(), bias.detach()


def _rows(features: Any, name: str) -> Tensor:
    rows = torch.as_tensor(features).detach().to(torch.float64)
    if rows.ndim != 2 or not rows.numel() or not torch.isfinite(rows).all():
        raise InputError(f"{name}: expected (N, d) finite numbers, found shape {tuple(rows.shape)} or NaN, infinity.")
    return rows
