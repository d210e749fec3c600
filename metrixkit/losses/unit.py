"""From raw rows to cosines, in float32 at least, with a backward of our own.

B, K rows; d dimensions. Cosines of a batch with itself need one matrix product in each direction instead of the two
that autograd spends on ``z @ z.T``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from metrixkit.errors import InputError

# Below this length a row is treated as zero: its direction is noise.
_SHORTEST = 1e-12


def no_autocast(tensor: Tensor) -> torch.autocast:
    """Return a context in which nothing on the tensor's device is cast down."""
    return torch.autocast(tensor.device.type, enabled=False)


def full_precision(tensor: Tensor) -> Tensor:
    """Return `tensor` in float32, or as it is if that is wider."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def check_batch(embeddings: Tensor, labels: Tensor) -> None:
    """Raise InputError unless embeddings are (B, d) floating and labels (B,) integers on the same device."""
    if not isinstance(embeddings, Tensor) or embeddings.ndim != 2 or not embeddings.is_floating_point():
        got = (
            f"{embeddings.dtype} {tuple(embeddings.shape)}"
            if isinstance(embeddings, Tensor)
            else type(embeddings).__name__
        )
        raise InputError(f"embeddings: got {got}, expected a floating tensor of shape (batch, dimensions).")
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        got = str(labels.dtype) if isinstance(labels, Tensor) else type(labels).__name__
        raise InputError(f"labels: got {got}, expected an integer tensor; map names to indices first.")
    if labels.shape != embeddings.shape[:1]:
        raise InputError(
            f"labels: got shape {tuple(labels.shape)}, expected ({len(embeddings)},): one for each embedding."
        )
    if labels.device != embeddings.device:
        raise InputError(
            f"labels are on {labels.device}, embeddings on {embeddings.device}; move them to the same device."
        )


def unit_and_inverse(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return (B, d) rows at length 1 and their inverse lengths (B, 1), both 0 for a zero row.

    A row whose length is not finite becomes NaN as a whole, so that every similarity with it is NaN.
    """
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    # 0 * length is NaN where the length is infinite, whose inverse would be a harmless 0.
    inverse = torch.where(length <= _SHORTEST, 0, 1 / length + 0 * length)
    return rows * inverse, inverse


def through_unit(grad: Tensor, unit: Tensor, inverse: Tensor) -> Tensor:
    """Return the gradient by raw rows from that by unit rows, with what :func:`unit_and_inverse` returned."""
    along = torch.linalg.vecdot(grad, unit).unsqueeze(1)
    return torch.addcmul(grad, unit, along, value=-1).mul_(inverse)


class _Cosines(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        unit, inverse = unit_and_inverse(rows)
        ctx.save_for_backward(unit, inverse)
        return unit @ unit.T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        unit, inverse = ctx.saved_tensors
        with no_autocast(unit):
            # A copy of the transpose first: added as it stands it costs three times as much in strided reads. A true
            # copy, because of a gradient that lies transposed in memory contiguous() is the gradient itself.
            both = grad.T.clone(memory_format=torch.contiguous_format).add_(grad)
            return through_unit(both @ unit, unit, inverse)


class _UnitRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        unit, inverse = unit_and_inverse(rows)
        ctx.save_for_backward(unit, inverse)
        return unit

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        unit, inverse = ctx.saved_tensors
        with no_autocast(unit):
            return through_unit(grad, unit, inverse)


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return a @ b.T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = ctx.saved_tensors
        with no_autocast(a):
            by_a, by_b = ctx.needs_input_grad
            return grad @ b if by_a else None, grad.T @ a if by_b else None


def products(a: Tensor, b: Tensor) -> Tensor:
    """Return ``a @ b.T`` for (A, d) and (K, d), at their own precision in both directions. Differentiable once."""
    return _Products.apply(a, b)  # type: ignore[no-any-return]


def cosines(rows: Tensor) -> Tensor:
    """Return the (B, B) cosines of (B, d) raw rows; a zero row has cosine 0 with everything and no gradient.

    Differentiable once.
    """
    return _Cosines.apply(rows)  # type: ignore[no-any-return]


def unit_rows(rows: Tensor) -> Tensor:
    """Return (B, d) raw rows at length 1; a zero row stays zero and has no gradient. Differentiable once."""
    return _UnitRows.apply(rows)  # type: ignore[no-any-return]
