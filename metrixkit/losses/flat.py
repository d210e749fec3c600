"""The mixed loss of a list of comparisons, with its derivative written out.

A anchors, T comparisons.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from metrixkit.losses.forms import Chunk, Form


def flat_sum(
    form: Form,
    similarity: Tensor,
    anchor: Tensor,
    label: float | Tensor,
    share: Tensor,
    weight_pos: Tensor,
    weight_neg: Tensor,
) -> Tensor:
    """Return SUM_a weight_pos(a) sigma+(a) + weight_neg(a) sigma-(a) (inside tau), a scalar, differentiable once.

    Args:
        form: The loss.
        similarity: (T,) cosines.
        anchor: (T,) the anchor of each.
        label: y of all, or (T,).
        share: (A,) factor on the weights of an anchor's comparisons.
        weight_pos: (A,) factor of an anchor's positive part in the batch loss.
        weight_neg: (A,) the same of its negative part.
    """
    return _FlatSum.apply(similarity, form, anchor, label, share, weight_pos, weight_neg)  # type: ignore[no-any-return]


class _FlatSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        similarity: Tensor,
        form: Form,
        anchor: Tensor,
        label: float | Tensor,
        share: Tensor,
        weight_pos: Tensor,
        weight_neg: Tensor,
    ) -> Tensor:
        s = similarity[:, None]
        y = label[:, None] if isinstance(label, Tensor) else label
        chunk = Chunk(s, y, torch.ones_like(s), anchor, share, weight_pos, weight_neg)
        loss, derivative = form.summed(chunk, ctx.needs_input_grad[0])
        ctx.save_for_backward(None if derivative is None else derivative.squeeze(1))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (derivative,) = ctx.saved_tensors
        return (None if derivative is None else derivative * grad), *[None] * 6
