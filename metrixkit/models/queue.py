"""A queue of past keys, from which a contrast takes its negatives. K keys, d dimensions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metrixkit.errors import InputError


class Queue(nn.Module):
    """The last K keys, in a ring (He et al., Momentum Contrast, CVPR 2020, section 3.2).

    Keys and the place of the next one are buffers of the state dict, so that a resumed run goes on with the same
    negatives. Of several processes each has the same queue: the caller gathers their keys first
    (:func:`metrixkit.distributed.gather`).

    Args:
        size: K. It need be no multiple of the batch.
        dim: d.
        seed: Of the unit rows that stand in the queue before the first keys.

    Attributes:
        rows: (K, d) float32.
        pointer: int64 scalar, the row that the next key goes to.

    Raises:
        InputError: A size or dimension below 1.
    """

    rows: Tensor
    pointer: Tensor

    def __init__(self, size: int, dim: int, seed: int = 0) -> None:
        super().__init__()
        if size < 1 or dim < 1:
            raise InputError(f"a queue of queue_size={size} keys with {dim} dimensions: expected 1 or more of each.")
        drawn = torch.randn(size, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.register_buffer("rows", F.normalize(drawn, dim=1).float())
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Put keys in place of the oldest, in their order; what reaches the end of the ring goes on at its start.

        Args:
            keys: (B, d) with B <= K, stored as they are: unit rows where the contrast is of cosines.

        Raises:
            InputError: Another shape, or more keys than the queue holds.
        """
        size, dim = self.rows.shape
        if keys.ndim != 2 or keys.shape[1] != dim:
            raise InputError(f"keys of shape {tuple(keys.shape)}: expected (B, {dim}).")
        count = len(keys)
        if count > size:
            raise InputError(
                f"a step brings {count} keys (sampler.batch_size times processes), but the queue holds "
                f"method.queue_size={size}; make the queue at least {count} or the batch smaller."
            )
        # Places are reckoned where the pointer lies: to read it would make the host wait for the device.
        places = (self.pointer + torch.arange(count, device=self.rows.device)) % size
        self.rows.index_copy_(0, places, keys.to(self.rows))
        self.pointer.add_(count).remainder_(size)

    def negatives(self) -> Tensor:
        """Return (K, d) the keys as they are now; a copy, which a later :meth:`push` leaves alone.

        A backward pass after the push needs what the queue held before it.
        """
        return self.rows.clone()
