"""Forms that only losses of pytorch-metric-learning need: distances instead of cosines, hinges on both sides, softplus.

A anchors, M compared items, T rows of a chunk, K columns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from metrixkit.losses.forms import Chunk, ElementForm, Form, LogSide, Weight, log_side


@dataclass(frozen=True)
class DistanceForm:
    """A form of t = 1 - 2 (d / 2)^power, a similarity in [-1, 1] made of the distance d of unit vectors.

    d^2 = 2 - 2 s, so that t is s itself for the squared distance and 1 - d for the distance. Rows that agree within
    rounding stand at distance 0 and pass no gradient, as in `torch.cdist`.

    Attributes:
        inner: The form, in terms of t.
        power: Exponent of the distance, > 0.
    """

    inner: Form
    power: float

    def similarity(self, s: Tensor) -> Tensor:
        """Return t of cosines of any shape, differentiable."""
        return self._similarity(s)[0]

    def _similarity(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """Return t and its derivative by s."""
        half = (1 - s) / 2
        at_zero = half <= 4 * torch.finfo(s.dtype).eps  # NaN is not
        half = torch.where(at_zero, 1, half)  # keeps the derivative finite where it is not used
        root = half.pow(self.power / 2)
        slope = self.power / 2 * root.detach() / half.detach()
        return torch.where(at_zero, 1, 1 - 2 * root), torch.where(at_zero, 0, slope)

    def terms(self, s: Tensor, w_pos: Tensor, w_neg: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`~metrixkit.losses.forms.Form.terms`."""
        return self.inner.terms(self._similarity(s)[0], w_pos, w_neg)

    def outer(self, pos: Tensor, neg: Tensor) -> Tensor:
        """See :meth:`~metrixkit.losses.forms.Form.outer`."""
        return self.inner.outer(pos, neg)

    def summed(self, chunk: Chunk, grad: bool) -> tuple[Tensor, Tensor | None]:
        """See :meth:`~metrixkit.losses.forms.Form.summed`."""
        t, slope = self._similarity(chunk.s)
        loss, derivative = self.inner.summed(replace(chunk, s=t), grad)
        return loss, None if derivative is None else derivative.mul_(slope)


@dataclass(frozen=True)
class HingeForm(ElementForm):
    """rho+ = scale [pos - s]_+, rho- = scale [s - neg]_+, each side with its own weights in the batch.

    Attributes:
        pos: Similarity below which positives are pulled.
        neg: Similarity above which negatives are pushed.
        scale: See above.
    """

    pos: float
    neg: float
    scale: float = 1.0

    def positive(self, s: Tensor) -> Tensor:
        """See :class:`~metrixkit.losses.forms.ElementForm`."""
        return self.scale * (self.pos - s).clamp(min=0)

    def negative(self, s: Tensor) -> Tensor:
        """See :class:`~metrixkit.losses.forms.ElementForm`."""
        return self.scale * (s - self.neg).clamp(min=0)

    def element(self, s: Tensor, y: Weight) -> tuple[Tensor, Tensor]:
        """See :class:`~metrixkit.losses.forms.ElementForm`."""
        return self._sides(s, y * self.scale, (1 - y) * self.scale)

    def summed(self, chunk: Chunk, grad: bool) -> tuple[Tensor, Tensor | None]:
        """See :meth:`~metrixkit.losses.forms.Form.summed`; sides may weigh differently, as means over pairs do."""
        pull, push = (
            (self.scale * chunk.share * weight).index_select(0, chunk.anchor)[:, None] * chunk.alive
            for weight in (chunk.weight_pos, chunk.weight_neg)
        )
        value, derivative = self._sides(chunk.s, pull * chunk.y, push * (1 - chunk.y))
        return value.sum(), derivative if grad else None

    def _sides(self, s: Tensor, pull: Weight, push: Weight) -> tuple[Tensor, Tensor]:
        """Return ``pull [pos - s]_+ + push [s - neg]_+`` and its derivative by s, each of the shape of `s`."""
        near, far = (self.pos - s).clamp_(min=0), (s - self.neg).clamp_(min=0)
        derivative = (far > 0).to(s.dtype).mul_(push).sub_((near > 0).to(s.dtype).mul_(pull))
        return near.mul_(pull).add_(far.mul_(push)), derivative


@dataclass(frozen=True)
class SoftplusForm:
    """tau(x) = log(1 + e^x) around -log SUM w+ e^{slope s} + log SUM w- e^{slope s}: softmax over one pool of items.

    -log(P / (P + N)) = log(1 + e^{log N - log P}), with P and N the sums over positives and negatives.

    Attributes:
        slope: Sharpness.
    """

    slope: float

    @property
    def pos(self) -> LogSide:
        """The positives' side. Without any positive its value is a mere 0; such anchors have weight 0."""
        return LogSide(self.slope, 0.0, -1.0, plus_one=False)

    @property
    def neg(self) -> LogSide:
        """The negatives' side; without any negative the loss is 0."""
        return LogSide(self.slope, 0.0, 1.0, plus_one=False, empty=-torch.inf)

    def terms(self, s: Tensor, w_pos: Tensor, w_neg: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`~metrixkit.losses.forms.Form.terms`."""
        return self.pos.term(s, w_pos), self.neg.term(s, w_neg)

    def outer(self, pos: Tensor, neg: Tensor) -> Tensor:
        """See :meth:`~metrixkit.losses.forms.Form.outer`."""
        return F.softplus(pos + neg, threshold=50)

    def summed(self, chunk: Chunk, grad: bool) -> tuple[Tensor, Tensor | None]:
        """See :meth:`~metrixkit.losses.forms.Form.summed`."""
        pos, pull, e_pos = log_side(self.pos, chunk.y, chunk)
        neg, push, e_neg = log_side(self.neg, 1 - chunk.y, chunk)
        inside = pos + neg
        loss = (self.outer(pos, neg) * chunk.weight_pos).sum()
        if not grad:
            return loss, None
        outside = inside.sigmoid() * chunk.weight_pos
        pull, push = ((part * outside).index_select(0, chunk.anchor)[:, None] for part in (pull, push))
        return loss, e_pos.mul_(pull).addcmul_(e_neg, push)
