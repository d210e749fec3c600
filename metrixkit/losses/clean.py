"""The clean loss of a batch with its derivative written out: the same sums as for mixtures, with labels 0 and 1.

A anchors, K candidates.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from metrixkit.losses.forms import Chunk, Form
from metrixkit.losses.relations import Relations

# Elements of a block of anchors; see mixture.py.
_CPU_ELEMENTS = 2**17
_GPU_ELEMENTS = 2**22


def clean_sum(form: Form, relations: Relations, weight_pos: Tensor, weight_neg: Tensor) -> Tensor:
    """Return SUM_a weight_pos(a) sigma+(a) + weight_neg(a) sigma-(a) (inside tau), a scalar, differentiable once.

    Args:
        form: The loss.
        relations: Similarities and who is positive or negative.
        weight_pos: (A,) factors; equal to `weight_neg` where the form has an outer function.
        weight_neg: (A,) factors.
    """
    return _CleanSum.apply(form, relations, weight_pos, weight_neg, relations.similarity)  # type: ignore[no-any-return]


class _CleanSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, form: Form, relations: Relations, weight_pos: Tensor, weight_neg: Tensor, similarity: Tensor
    ) -> Tensor:
        grad = ctx.needs_input_grad[-1]
        derivative = torch.empty_like(similarity) if grad else None
        loss = similarity.new_zeros(())
        anchors, candidates = similarity.shape
        elements = _CPU_ELEMENTS if similarity.device.type == "cpu" else _GPU_ELEMENTS
        step = max(1, elements // max(1, candidates))
        every = torch.arange(min(step, anchors), device=similarity.device)
        for start in range(0, anchors, step):
            block = slice(start, min(start + step, anchors))
            positive, negative = relations.positive[block], relations.negative[block]
            chunk = Chunk(
                similarity[block],
                positive.to(similarity.dtype),
                (positive | negative).to(similarity.dtype),
                every[: len(positive)],
                torch.ones_like(weight_pos[block]),
                weight_pos[block],
                weight_neg[block],
            )
            part, slope = form.summed(chunk, grad)
            loss += part
            if derivative is not None and slope is not None:
                derivative[block] = slope
        ctx.save_for_backward(derivative)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (derivative,) = ctx.saved_tensors
        return None, None, None, None, None if derivative is None else derivative * grad
