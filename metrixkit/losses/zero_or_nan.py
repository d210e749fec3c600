"""How a loss shows that something it was given is not finite, where its own sums would hide it.

Most losses need nothing: a NaN passes through products, exponentials and sums. What hides it are choices - the nearest
negative, a hinge, a mean over terms that count, a pair that was not drawn. There the loss is added what stands here.
"""

from __future__ import annotations

import torch
from torch import Tensor


def zero_or_nan(*tensors: Tensor) -> Tensor:
    """Return a scalar to be added to a loss: 0, or NaN where a number of the tensors is NaN or infinite.

    Without gradient, so that those of finite input stay what they are to the last bit, and without a look at values:
    nothing waits for the device. It reads each tensor once; give it what is small, such as distances and not rows.

    Args:
        tensors: Floating, of any shape, on one device; at least one. Empty ones count for nothing.
    """
    # The greatest absolute value never overflows, as a sum would, and needs no room.
    norms = [torch.linalg.vector_norm(t.detach(), torch.inf) if t.numel() else t.new_zeros(()) for t in tensors]
    return sum(norms[1:], norms[0]) * 0
