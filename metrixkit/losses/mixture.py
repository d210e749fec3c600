"""The mixed loss of all (anchor, first, second) triples, summed without a tensor of them.

A anchors, I first elements, K candidates, T rows (anchor, first), S rows of a chunk.

For unit embeddings s(a, mix(i, j)) = (lam s_ai + (1 - lam) s_aj) / |mix(i, j)| with
|mix(i, j)|^2 = lam^2 + (1 - lam)^2 + 2 lam (1 - lam) s_ij, so that two small matrices of cosines hold everything. The
sum runs over chunks of anchors; each chunk computes value and derivative in one go and leaves only its part of three
(A, I), (A, K), (I, K) gradients behind. Cost: two exponentials and about fifteen light passes a triple.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from metrixkit.errors import InputError
from metrixkit.losses.forms import Chunk, Form, LogForm, LogSide, Weight, log_sum_exp
from metrixkit.mixing import PairPlan

# Elements of one chunk's largest tensor: on a CPU it stays in the cache of a core, on a GPU it fills the device.
_CPU_ELEMENTS = 2**18
_GPU_ELEMENTS = 2**22
_LARGEST_ANCHOR = 2**26


@dataclass(frozen=True)
class Mixtures:
    """All that the mixed loss depends on besides similarities.

    Attributes:
        plan: Which pairs.
        ratio: Weight of the first element: a number, or (I, K), one for each pair.
        share: (A,), see :class:`~metrixkit.losses.forms.Chunk`.
        weight_pos: (A,), see there.
        weight_neg: (A,), see there.
        columns_of_first: (I,) candidate that each first element is; None where it is the identity.
    """

    plan: PairPlan
    ratio: Weight
    share: Tensor
    weight_pos: Tensor
    weight_neg: Tensor
    columns_of_first: Tensor | None = None

    @property
    def first_weight(self) -> Weight:
        """The weight of a row's first element."""
        return 1 - self.ratio if self.plan.flipped else self.ratio

    @property
    def label(self) -> Weight:
        """The label y of the mixtures."""
        return self.ratio if self.plan.target is None else self.plan.target


def mixture_loss(form: Form, to_first: Tensor, to_second: Tensor, cosines: Tensor | None, mixtures: Mixtures) -> Tensor:
    """Return the mixed part of the batch loss, a scalar.

    Args:
        form: The loss.
        to_first: (A, I) similarity of anchors to first elements.
        to_second: (A, K) similarity of anchors to candidates.
        cosines: (I, K) cosines of first elements and candidates; None leaves mixtures at their own length.
        mixtures: The pairs, their ratio and their weights in the batch.

    Returns:
        Differentiable once by the three matrices; 0 without mixtures.
    """
    if cosines is None and isinstance(form, LogForm) and _factorises(mixtures):
        return _factorised(form, to_first, to_second, mixtures)
    return _MixtureLoss.apply(form, mixtures, to_first, to_second, cosines)  # type: ignore[no-any-return]


def _inverse_lengths(cosines: Tensor, w: Weight) -> Tensor:
    """Return 1 / |w u + (1 - w) v| by the cosine of unit u and v; the length of opposite vectors is held off zero."""
    both = w * (1 - w) * 2
    squares = cosines * both
    return squares.add_(w * w + (1 - w) * (1 - w)).clamp_(min=torch.finfo(cosines.dtype).eps).rsqrt_()


class _MixtureLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, form: Form, mixtures: Mixtures, to_first: Tensor, to_second: Tensor, cosines: Tensor | None
    ) -> Tensor:
        grad = any(ctx.needs_input_grad)
        inverse = None if cosines is None else _inverse_lengths(cosines, mixtures.first_weight)
        # Where one matrix plays several parts its gradient is collected in one place.
        into_first = torch.zeros_like(to_first) if grad else None
        into_second = into_first if to_second is to_first or not grad else torch.zeros_like(to_second)
        into_inverse = None if inverse is None or not grad else torch.zeros_like(inverse)
        loss = to_second.new_zeros(())
        allowed = mixtures.plan.allowed.to(to_second.dtype)  # multiplying by 0 is several times faster than filling
        for chunk in _chunks(mixtures.plan, to_second):
            loss += _one_chunk(
                form, mixtures, chunk, to_first, to_second, allowed, inverse, into_first, into_second, into_inverse
            )
        if grad:
            into_cosines = None
            if cosines is not None and inverse is not None and into_inverse is not None:
                # d|mix|^-1 / d cos = -w (1 - w) |mix|^-3; one of the three powers is already in s.
                w = mixtures.first_weight
                into_cosines = into_inverse.mul_(inverse).mul_(inverse).mul_(-w * (1 - w))
            if into_cosines is not None and cosines is to_second and into_second is not None:
                into_second += into_cosines
                into_cosines = None
            ctx.save_for_backward(into_first, None if into_second is into_first else into_second, into_cosines)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(None if part is None else part * grad for part in ctx.saved_tensors)


@dataclass(frozen=True)
class _Rows:
    start: int
    stop: int
    first_anchor: int
    stop_anchor: int


def _chunks(plan: PairPlan, to_second: Tensor) -> list[_Rows]:
    """Cut the rows between anchors so that a chunk's tensors stay small."""
    width = to_second.shape[1] if plan.columns is None else plan.columns.shape[1]
    ends = torch.bincount(plan.anchor, minlength=len(to_second)).cumsum(0).tolist()
    limit = max(1, (_CPU_ELEMENTS if to_second.device.type == "cpu" else _GPU_ELEMENTS) // max(1, width))
    chunks, start, first = [], 0, 0
    for a, end in enumerate(ends):
        last = a + 1 == len(ends)
        if last or ends[a + 1] - start > limit:
            if (end - start) * width > _LARGEST_ANCHOR and first == a:
                raise InputError(
                    f"anchor {a} has {end - start} x {width} mixtures, too many to hold at once; "
                    "narrow them with hardest=K, or mix another kind of pairs."
                )
            if end > start:
                chunks.append(_Rows(start, end, first, a + 1))
            start, first = end, a + 1
    return chunks


def _one_chunk(
    form: Form,
    mixtures: Mixtures,
    rows: _Rows,
    to_first: Tensor,
    to_second: Tensor,
    allowed: Tensor,
    inverse: Tensor | None,
    into_first: Tensor | None,
    into_second: Tensor | None,
    into_inverse: Tensor | None,
) -> Tensor:
    plan, w, y = mixtures.plan, mixtures.first_weight, mixtures.label
    anchor, first = plan.anchor[rows.start : rows.stop], plan.first[rows.start : rows.stop]
    among = slice(rows.first_anchor, rows.stop_anchor)
    local = anchor - rows.first_anchor
    pick = _Picker(plan.columns, anchor, first)

    u = to_first[anchor, first].unsqueeze(1)
    s = pick.by_anchor(to_second)
    if isinstance(w, Tensor):
        w = pick.by_first(w)
        s += w * (u - s)
    else:
        s.mul_(1 - w).add_(u * w)
    r = None
    if inverse is not None:
        r = pick.by_first(inverse)
        s *= r
    alive = pick.by_anchor(allowed)
    if plan.distinct:
        own = first if mixtures.columns_of_first is None else mixtures.columns_of_first[first]
        pick.bar(alive, own)
    chunk = Chunk(
        s,
        pick.by_first(y) if isinstance(y, Tensor) else y,
        alive,
        local,
        mixtures.share[among],
        mixtures.weight_pos[among],
        mixtures.weight_neg[among],
    )
    loss, derivative = form.summed(chunk, grad=into_first is not None)
    if derivative is None or into_first is None or into_second is None:
        return loss
    if into_inverse is not None:
        pick.add_by_first(into_inverse, s.mul_(derivative))
    if r is not None:
        derivative.mul_(r)
    if isinstance(w, Tensor):
        to_u = derivative.mul(w)
        derivative.sub_(to_u)
        along = to_u.sum(1)
    else:
        along = derivative.sum(1).mul_(w)
        derivative.mul_(1 - w)
    into_first.index_put_((anchor, first), along, accumulate=True)
    pick.add_by_anchor(into_second, derivative)
    return loss


class _Picker:
    """Reads and adds to (A, K) and (I, K) matrices by the rows of a chunk, over all columns or each anchor's own."""

    def __init__(self, columns: Tensor | None, anchor: Tensor, first: Tensor) -> None:
        self.columns = None if columns is None else columns.index_select(0, anchor)
        self.anchor, self.first = anchor, first

    def _get(self, matrix: Tensor, row: Tensor) -> Tensor:
        return matrix.index_select(0, row) if self.columns is None else matrix[row[:, None], self.columns]

    def _add(self, matrix: Tensor, row: Tensor, values: Tensor) -> None:
        if self.columns is None:
            matrix.index_add_(0, row, values)
        else:
            matrix.index_put_((row[:, None], self.columns), values, accumulate=True)

    def by_anchor(self, matrix: Tensor) -> Tensor:
        return self._get(matrix, self.anchor)

    def by_first(self, matrix: Tensor) -> Tensor:
        return self._get(matrix, self.first)

    def add_by_anchor(self, matrix: Tensor, values: Tensor) -> None:
        self._add(matrix, self.anchor, values)

    def add_by_first(self, matrix: Tensor, values: Tensor) -> None:
        self._add(matrix, self.first, values)

    def bar(self, alive: Tensor, own: Tensor) -> None:
        """Take column own[t] out of every row t."""
        if self.columns is None:
            alive.scatter_(1, own[:, None], 0)
        else:
            alive.mul_(self.columns != own[:, None])


def _factorises(mixtures: Mixtures) -> bool:
    plan = mixtures.plan
    return not isinstance(mixtures.ratio, Tensor) and not plan.distinct and plan.columns is None


def _factorised(form: LogForm, to_first: Tensor, to_second: Tensor, mixtures: Mixtures) -> Tensor:
    """As :class:`_MixtureLoss` where SUM_ij exp(f_i + g_j) = SUM_i exp(f_i) SUM_j exp(g_j): O(A (I + K))."""
    plan = mixtures.plan
    rows = torch.zeros(to_first.shape, dtype=torch.bool, device=to_first.device)
    rows[plan.anchor, plan.first] = True
    filled = rows.any(1) & plan.allowed.any(1)

    def side(side: LogSide, y: float) -> Tensor:
        if y == 0:
            return torch.full_like(mixtures.share, side.empty)
        w = float(mixtures.first_weight)
        over_first = log_sum_exp((to_first * (side.slope * w)).masked_fill(~rows, -torch.inf), plus_one=False)
        over_second = log_sum_exp(
            (to_second * (side.slope * (1 - w))).masked_fill(~plan.allowed, -torch.inf), plus_one=False
        )
        total = over_first + over_second + (mixtures.share * y).log() + side.offset
        if side.plus_one:
            total = torch.logaddexp(total, torch.zeros_like(total))
        return torch.where(filled, total * side.scale, side.empty)

    y = float(mixtures.label)
    pos, neg = side(form.pos, y), side(form.neg, 1 - y)
    loss = pos * mixtures.weight_pos + neg * mixtures.weight_neg
    if form.clamp:
        loss = torch.where(pos + neg <= 0, 0, loss)
    return loss.sum()
