"""The k highest scores of each row, the same ones everywhere: among equals the first column is taken."""

from __future__ import annotations

import torch
from torch import Tensor


def hardest_columns(scores: Tensor, count: int) -> Tensor:
    """Return the columns of the `count` highest scores of each row, highest first, equal ones in column order.

    Args:
        scores: (M, K) float32 or float64 without NaN; K below 2^32.
        count: From 1 to K.

    Returns:
        (M, count) int64.
    """
    scores = scores.detach()
    columns = scores.shape[1]
    if scores.dtype != torch.float32:
        return scores.sort(dim=1, descending=True, stable=True).indices[:, :count]
    # A float32 has room for its column beside it in an int64: no two are equal then, and topk has nothing to decide.
    # The bits of a float, read as an integer, are in its order; below zero the order is turned by flipping them.
    bits = (scores + 0.0).view(torch.int32)  # -0 becomes 0
    bits = bits ^ (bits >> 31).bitwise_and_(0x7FFFFFFF)
    from_last = torch.arange(columns - 1, -1, -1, device=scores.device)
    packed = bits.long().bitwise_left_shift_(32).bitwise_or_(from_last)
    return columns - 1 - packed.topk(count, dim=1).values.bitwise_and_(0xFFFFFFFF)
