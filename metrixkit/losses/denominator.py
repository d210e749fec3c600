"""The denominator of a contrast with many constant negatives, such as a queue, without ever holding its logits.

M rows, K negatives, d dimensions. The gradient by a row is the mean of the negatives under its softmax, (M, d) numbers
that can be gathered while the negatives pass by. So neither the (M, K) logits nor a normalised copy of the negatives
stays in memory, and writing into the queue afterwards disturbs no backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from metrixkit.errors import InputError
from metrixkit.losses.unit import no_autocast, products, unit_and_inverse, unit_rows


def numbers_at_once(device: torch.device) -> int:
    """Return how many intermediate numbers are held at a time: a cache full, or enough for an accelerator."""
    return 2**20 if device.type == "cpu" else 2**24


def check_negatives(negatives: Tensor, rows: Tensor, name: str = "negatives") -> None:
    """Raise InputError unless `negatives` is a floating (K, d), K at least 1, on the device of the (M, d) `rows`."""
    if not isinstance(negatives, Tensor) or not negatives.is_floating_point() or negatives.ndim != 2:
        got = (
            f"{negatives.dtype} {tuple(negatives.shape)}" if isinstance(negatives, Tensor) else type(negatives).__name__
        )
        raise InputError(f"{name}: got {got}, expected a floating tensor of shape ({name}, {rows.shape[-1]}).")
    if negatives.shape[1] != rows.shape[-1]:
        raise InputError(
            f"{name}: got shape {tuple(negatives.shape)}, expected ({name}, {rows.shape[-1]}): rows as long as the "
            "embeddings they are compared with; a queue that holds them as columns must be transposed."
        )
    if not len(negatives):
        raise InputError(f"{name} is empty: there is nothing to tell the positives from; fill the queue first.")
    if negatives.device != rows.device:
        raise InputError(f"{name} is on {negatives.device}, the embeddings on {rows.device}; move them together.")


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scaled: Tensor, negatives: Tensor, with_gradient: bool) -> Tensor:
        count = len(scaled)
        highest = scaled.new_full((count,), -torch.inf)
        total, mean = scaled.new_zeros(count), torch.zeros_like(scaled)
        for block in negatives.split(max(256, numbers_at_once(scaled.device) // count)):
            unit = unit_and_inverse(block.to(scaled.dtype))[0]
            logits = scaled @ unit.T
            new = torch.maximum(highest, logits.amax(1))
            # What was summed so far is brought to the new maximum; at first that is exp(-inf) = 0 times 0.
            fade = (highest - new).exp_()
            weights = logits.sub_(new[:, None]).exp_()
            total = total * fade + weights.sum(1)
            if with_gradient:
                mean = torch.addmm(mean * fade[:, None], weights, unit)
            highest = new
        ctx.save_for_backward(mean / total[:, None] if with_gradient else mean)
        return highest + total.log()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (mean,) = ctx.saved_tensors
        return grad[:, None] * mean, None, None


def log_denominator(rows: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Return ``log SUM_n exp(s(row, n) / T)`` for each row, s the cosine.

    Call it outside autocast. Differentiable once, by the rows; by the negatives too where they require it, at the cost
    of holding the logits.

    Args:
        rows: (M, d) unit rows in float32 or float64; the result has their type.
        negatives: (K, d) raw rows, K >= 1, of any floating type: brought to length 1 inside.
        temperature: T, > 0.

    Returns:
        (M,).
    """
    scaled = rows / temperature
    if negatives.requires_grad and torch.is_grad_enabled():
        return products(scaled, unit_rows(negatives.to(rows.dtype))).logsumexp(1)
    if not len(rows):
        return rows.new_zeros(0)
    with no_autocast(rows):
        wanted = scaled.requires_grad and torch.is_grad_enabled()
        return _LogSumExp.apply(scaled, negatives, wanted)  # type: ignore[no-any-return]


def nce_rows(positive: Tensor, rest: Tensor) -> Tensor:
    """Return ``-log e^p / (e^p + e^rest)`` from (M,) logits of the positive and logarithms of the negatives' sum."""
    # log(1 + e^x), which keeps its digits where the loss is tiny. Above 40 the 1 is beyond float64's last digit.
    return F.softplus(rest - positive, threshold=40)
