"""What a loss needs to know of other processes: their rows, with gradient."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Return the number of processes, 1 outside a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number, 0 outside a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        # Every rank computes the loss of the whole batch, so every rank holds a gradient for my rows: their sum is
        # world_size times the true one, and the averaging of data-parallel training divides it again.
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad.chunk(world_size())[rank()]


def gather(rows: Tensor) -> Tensor:
    """Return the rows of all processes in rank order, with gradient to this process's own.

    Args:
        rows: (B, ...) with the same shape in every process.

    Returns:
        (world * B, ...); `rows` itself outside a process group. Where each process computes the same loss on it and
        gradients are averaged over processes, parameters get the gradient of one process with the whole batch.
    """
    if world_size() == 1:
        return rows
    if rows.dtype.is_floating_point:
        return _GatherRows.apply(rows)  # type: ignore[no-any-return]
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)
