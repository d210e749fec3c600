"""The generalised form: what is done with similarities once positives and negatives are known.

    l(a) = tau( sigma+( SUM_x w+(x) rho+(s(a, x)) ) + sigma-( SUM_x w-(x) rho-(s(a, x)) ) )

("It Takes Two to Tango", ICLR 2022, Eq. 2-3.) A form offers itself twice: `terms` in plain autograd for (A, M)
similarities with weights, and `summed` with its derivative written out, for one chunk of comparisons or mixtures.

A anchors, M compared items, T rows of a chunk, K columns.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

Weight = float | Tensor


@dataclass(frozen=True)
class Chunk:
    """What consecutive anchors are compared with, and what the batch makes of their losses.

    Attributes:
        s: (T, K) similarity of a row's anchor to each item.
        y: Label of the items: a number or (T, K).
        alive: (T, K) of 0 and 1 in the type of `s`; 0 says that an entry takes no part.
        anchor: (T,) index of each row's anchor within the chunk.
        share: (A,) factor on every weight of an anchor: 1 for sums over V(a), 1/|V(a)| for means.
        weight_pos: (A,) factor of an anchor's positive part in the batch loss.
        weight_neg: (A,) the same of its negative part.
    """

    s: Tensor
    y: Weight
    alive: Tensor
    anchor: Tensor
    share: Tensor
    weight_pos: Tensor
    weight_neg: Tensor


class Form(Protocol):
    """What a loss in the generalised form must offer."""

    def terms(self, s: Tensor, w_pos: Tensor, w_neg: Tensor) -> tuple[Tensor, Tensor]:
        """Return sigma+ and sigma- of each anchor, (A,) each; weights are (A, M), bool or floating, constants."""
        ...

    def outer(self, pos: Tensor, neg: Tensor) -> Tensor:
        """Return tau of the two terms."""
        ...

    def summed(self, chunk: Chunk, grad: bool) -> tuple[Tensor, Tensor | None]:
        """Return the chunk's part of the batch loss and, if `grad`, its (T, K) derivative by `chunk.s`, |s| <= 1."""
        ...


@dataclass(frozen=True)
class LogSide:
    """One side of a form with exponentials: ``scale * log([1 +] SUM w exp(slope * s + offset))``.

    Attributes:
        slope: See above.
        offset: See above.
        scale: See above.
        plus_one: Whether 1 is added inside.
        empty: The side's value without any weight; the logarithm of 0 has none of its own.
    """

    slope: float
    offset: float
    scale: float
    plus_one: bool
    empty: float = 0.0

    def term(self, s: Tensor, w: Tensor) -> Tensor:
        """Return the side's value for (A, M) similarities and weights: (A,)."""
        x = torch.add(torch.tensor(self.offset, dtype=torch.float64), s, alpha=self.slope)
        x = x.masked_fill(~w, -torch.inf) if w.dtype == torch.bool else x + w.detach().log()
        value = self.scale * log_sum_exp(x, self.plus_one)
        return value if self.empty == 0 else value.masked_fill(~(w > 0).any(1), self.empty)

    def constant_shift(self, dtype: torch.dtype) -> float | None:
        """Return the shift of the exponent that is safe for every |s| <= 1, or None where each anchor needs its own."""
        room = 0.7 * math.log(torch.finfo(dtype).max)
        if self.plus_one:
            return 0.0 if abs(self.slope) + self.offset <= room else None
        return self.offset if abs(self.slope) <= room / 2 else None


def log_sum_exp(x: Tensor, plus_one: bool) -> Tensor:
    """Return log(SUM_j exp(x_ij)), or log(1 + SUM), by rows: (A, M) -> (A,). Rows of -inf give 0 in either case."""
    if x.shape[1] == 0:
        return x.sum(1)
    peak = x.detach().amax(1)
    peak = peak.clamp(min=0) if plus_one else peak.masked_fill(peak == -torch.inf, 0)
    total = (x - peak[:, None]).exp().sum(1)
    if plus_one:  # exp(-peak) + total, without loss where both are tiny beside 1
        return torch.log1p(total + torch.expm1(-peak)) + peak
    return torch.where(total == 0, 1, total).log() + peak


@dataclass(frozen=True)
class LogForm:
    """Exponentials inside, logarithms outside: multi-similarity, proxy anchor, lifted structure, NCA."""

    pos: LogSide
    neg: LogSide
    clamp: bool = False

    def terms(self, s: Tensor, w_pos: Tensor, w_neg: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Form.terms`."""
        return self.pos.term(s, w_pos), self.neg.term(s, w_neg)

    def outer(self, pos: Tensor, neg: Tensor) -> Tensor:
        """See :meth:`Form.outer`."""
        return (pos + neg).clamp(min=0) if self.clamp else pos + neg

    def summed(self, chunk: Chunk, grad: bool) -> tuple[Tensor, Tensor | None]:
        """See :meth:`Form.summed`. Exponentials are computed once and serve the derivative too."""
        values, slopes, exponentials = [], [], []
        for side, y in ((self.pos, chunk.y), (self.neg, 1 - chunk.y)):
            if isinstance(y, float | int) and y == 0:
                values.append(torch.full_like(chunk.share, side.empty))
                continue
            value, slope, e = log_side(side, y, chunk)
            values.append(value)
            slopes.append(slope * (chunk.weight_pos if side is self.pos else chunk.weight_neg))
            exponentials.append(e)
        pos, neg = values
        loss = pos * chunk.weight_pos + neg * chunk.weight_neg
        if self.clamp:
            dropped = pos + neg <= 0  # not "> 0", which would drop what is NaN
            loss, slopes = torch.where(dropped, 0, loss), [slope * ~dropped for slope in slopes]
        if not grad:
            return loss.sum(), None
        by_row = [slope.index_select(0, chunk.anchor)[:, None] for slope in slopes]
        derivative = exponentials[0].mul_(by_row[0])
        if len(exponentials) == 2:
            derivative.addcmul_(exponentials[1], by_row[1])
        return loss.sum(), derivative


def log_side(side: LogSide, y: Weight, chunk: Chunk) -> tuple[Tensor, Tensor, Tensor]:
    """Return a side's value and its derivative's factor by anchor (A,), and the (T, K) exponentials it belongs to."""
    shift: Weight | None = side.constant_shift(chunk.s.dtype)
    if shift is None:
        e = torch.add(torch.tensor(side.offset, dtype=torch.float64), chunk.s, alpha=side.slope)
        e.masked_fill_(chunk.alive * y == 0, -torch.inf)
        shift = torch.full_like(chunk.share, -torch.inf).scatter_reduce_(0, chunk.anchor, e.amax(1), "amax")
        shift = shift.clamp(min=0) if side.plus_one else shift.masked_fill(shift == -torch.inf, 0)
        e.sub_(shift.index_select(0, chunk.anchor)[:, None]).exp_()
    else:
        e = torch.add(torch.tensor(side.offset - shift, dtype=torch.float64), chunk.s, alpha=side.slope).exp_()
        e.mul_(chunk.alive)
    factor = chunk.share
    if isinstance(y, Tensor):
        e.mul_(y)
    else:
        factor = factor * y
    total = torch.zeros_like(chunk.share).index_add_(0, chunk.anchor, e.sum(1)) * factor
    if side.plus_one:
        if not isinstance(shift, Tensor):  # 0, see constant_shift
            return side.scale * torch.log1p(total), side.scale * side.slope * factor / (1 + total), e
        # Weights may be as small as lambda, and so the total beside a shift that was found without them: 1, which is
        # exp(-shift) here, is added to it as it stands, never by a detour over total - 1.
        whole = total + torch.exp(-shift)
        value = torch.where(shift > 0, whole.log() + shift, torch.log1p(total))
        return side.scale * value, side.scale * side.slope * factor / whole, e
    empty = total == 0  # an anchor that is NaN is not empty
    safe = torch.where(empty, 1, total)
    value = torch.where(empty, side.empty, (safe.log() + shift) * side.scale)
    return value, side.scale * side.slope * factor / safe, e


class ElementForm(ABC):
    """Identity outside: the loss of an anchor is a sum over what it is compared with.

    Subclasses give both sides and `element`, the loss of one mixture of label y and its derivative by s.
    """

    @abstractmethod
    def positive(self, s: Tensor) -> Tensor:
        """Return rho+ of similarities of any shape."""

    @abstractmethod
    def negative(self, s: Tensor) -> Tensor:
        """Return rho- of similarities of any shape."""

    @abstractmethod
    def element(self, s: Tensor, y: Weight) -> tuple[Tensor, Tensor]:
        """Return ``y rho+(s) + (1 - y) rho-(s)`` and its derivative by s, each of the shape of `s`."""

    def terms(self, s: Tensor, w_pos: Tensor, w_neg: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Form.terms`."""
        return (self.positive(s) * w_pos.detach()).sum(1), (self.negative(s) * w_neg.detach()).sum(1)

    def outer(self, pos: Tensor, neg: Tensor) -> Tensor:
        """See :meth:`Form.outer`."""
        return pos + neg

    def summed(self, chunk: Chunk, grad: bool) -> tuple[Tensor, Tensor | None]:
        """See :meth:`Form.summed`."""
        value, derivative = self.element(chunk.s, chunk.y)
        factor = (chunk.share * chunk.weight_pos).index_select(0, chunk.anchor)
        loss = torch.dot(value.mul_(chunk.alive).sum(1), factor)
        return loss, derivative.mul_(chunk.alive).mul_(factor[:, None]) if grad else None


@dataclass(frozen=True)
class ContrastiveForm(ElementForm):
    """rho+ = -s, rho- = [s - m]_+."""

    margin: float

    def positive(self, s: Tensor) -> Tensor:
        """See :class:`ElementForm`."""
        return -s

    def negative(self, s: Tensor) -> Tensor:
        """See :class:`ElementForm`."""
        return (s - self.margin).clamp(min=0)

    def element(self, s: Tensor, y: Weight) -> tuple[Tensor, Tensor]:
        """See :class:`ElementForm`."""
        value = (s - self.margin).clamp_(min=0)
        derivative = torch.gt(value, 0, out=torch.empty_like(s))
        return value.mul_(1 - y).sub_(s * y), derivative.mul_(1 - y).sub_(y)


@dataclass(frozen=True)
class BinomialForm(ElementForm):
    """rho+ = log(1 + e^{-beta (s - m)}), rho- = log(1 + e^{gamma (s - m)})."""

    beta: float
    gamma: float
    margin: float

    def positive(self, s: Tensor) -> Tensor:
        """See :class:`ElementForm`."""
        return _softplus((s - self.margin) * -self.beta)

    def negative(self, s: Tensor) -> Tensor:
        """See :class:`ElementForm`."""
        return _softplus((s - self.margin) * self.gamma)

    def element(self, s: Tensor, y: Weight) -> tuple[Tensor, Tensor]:
        """See :class:`ElementForm`."""
        x = s - self.margin
        pos, neg = x * -self.beta, x.mul_(self.gamma)
        value = _softplus(pos).mul_(y).add_(_softplus(neg).mul_(1 - y))
        derivative = pos.sigmoid_().mul_(y).mul_(-self.beta)
        return value, derivative.add_(neg.sigmoid_().mul_(1 - y), alpha=self.gamma)


def _softplus(x: Tensor) -> Tensor:
    # torch's default threshold of 20 costs 2e-9, more than a float64 check may lose.
    return F.softplus(x, threshold=50)
