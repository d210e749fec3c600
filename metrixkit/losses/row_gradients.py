"""Losses of single rows whose gradient reaches nothing but the rows: computed part by part, with nothing kept.

Where all else is constant, the gradient by the rows is as small as the rows themselves, so it is worked out along with
the value, one part of the rows after the other, and what a part needed is freed before the next one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _ByParts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, loss: Callable[[Tensor, slice], Tensor], size: int, wanted: bool) -> Tensor:
        values: list[Tensor] = []
        gradients: list[Tensor] = []
        for start in range(0, len(rows), size):
            part = slice(start, min(start + size, len(rows)))
            with torch.set_grad_enabled(wanted):
                leaf = rows[part].detach().requires_grad_(wanted)
                value = loss(leaf, part)
            values.append(value.detach())
            if wanted:
                gradients += torch.autograd.grad(value, leaf, torch.ones_like(value))
        ctx.save_for_backward(torch.cat(gradients) if wanted else rows.new_zeros(0))
        return torch.cat(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return grad[:, None] * gradient, None, None, None


def by_parts(rows: Tensor, loss: Callable[[Tensor, slice], Tensor], size: int) -> Tensor:
    """Return ``loss`` of all rows, called with at most `size` of them at a time. Differentiable once, by the rows.

    Args:
        rows: (M, d), M >= 1.
        loss: Takes (m, d) rows and which of all rows they are, and returns (m,) values, each depending on its own row
            and constants only.
        size: Rows at a time, >= 1.

    Returns:
        (M,).
    """
    return _ByParts.apply(rows, loss, size, rows.requires_grad and torch.is_grad_enabled())  # type: ignore[no-any-return]
