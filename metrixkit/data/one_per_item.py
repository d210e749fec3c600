"""Batches in which an item appears once: two captions of one video would be false negatives of one another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metrixkit.data.samplers import EpochSampler, epoch_generator
from metrixkit.errors import InputError


class OnePerItem(EpochSampler):
    """Captions in batches of distinct items.

    Args:
        labels: (N,) the item of each caption. Given by the programme.
        seed: Given by the programme.
        rank: This process. Given by the programme.
        world_size: Number of processes. Given by the programme.
        batch_size: Captions of a batch, over all processes, each of another item.
        captions: "all" goes through every caption once an epoch; "one" through every item once, with one of its
            captions, another each epoch.

    The last, incomplete batch of an epoch is left out (other captions every epoch). With "all", an item with more
    captions than the epoch has batches gives one of them to each batch, drawn anew each epoch.

    Raises:
        InputError: Fewer items than one batch, or a batch that cannot be shared equally.
    """

    def __init__(
        self,
        labels: Sequence[int] | Tensor,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        *,
        batch_size: int = 128,
        captions: Literal["all", "one"] = "all",
    ) -> None:
        super().__init__(len(labels), batch_size, seed, rank, world_size)
        if captions not in ("all", "one"):
            raise InputError(f"sampler.captions={captions!r}: expected 'all' or 'one'.")
        _, codes = np.unique(np.asarray(labels), return_inverse=True)
        order = np.argsort(codes, kind="stable")
        sizes = np.bincount(codes) if len(codes) else np.zeros(0, dtype=np.int64)
        self._rows: list[NDArray[np.int64]] = np.split(order, np.cumsum(sizes)[:-1])
        if len(sizes) < batch_size:
            raise InputError(
                f"sampler.batch_size: {batch_size}, but the training split has {len(sizes)} items with captions, and "
                "each is in a batch once; lower sampler.batch_size."
            )
        self._sizes = np.ones_like(sizes) if captions == "one" else sizes
        self._batches = _most_batches(self._sizes, batch_size)

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        return self._batches

    def plan(self, epoch: int) -> list[list[int]]:
        """Return the batches of `epoch`."""
        generator = epoch_generator(self.seed, epoch)
        taken = np.minimum(self._sizes, self._batches)
        # What is too much for full batches is left out at random, an item's captions one by one.
        slots = np.repeat(np.arange(len(taken)), taken)
        surplus = torch.randperm(len(slots), generator=generator)[
            : len(slots) - self._batches * self.batch_size
        ].numpy()
        taken = taken - np.bincount(slots[surplus], minlength=len(taken))
        batches: list[list[int]] = [[] for _ in range(self._batches)]
        room = torch.full((self._batches,), self.batch_size, dtype=torch.int64)
        # Each item goes to the emptiest batches, ties at random: that always works out (Ryser's construction), and as
        # no two batches ever differ by more than one, which items meet is left to chance.
        for item in torch.randperm(len(taken), generator=generator).tolist():
            if not taken[item]:
                continue
            keys = room + torch.rand(self._batches, generator=generator, dtype=torch.float64)
            chosen = torch.topk(keys, int(taken[item])).indices
            rows = self._rows[item]
            drawn = rows[torch.randperm(len(rows), generator=generator)[: len(chosen)].numpy()]
            for batch, row in zip(chosen.tolist(), drawn.tolist(), strict=True):
                batches[batch].append(row)
            room[chosen] -= 1
        return [[batch[i] for i in torch.randperm(len(batch), generator=generator).tolist()] for batch in batches]


def _most_batches(sizes: NDArray[np.int64], batch_size: int) -> int:
    """Return the most full batches of distinct items: the largest L with sum(min(size, L)) >= L * batch_size."""
    low, high = 1, max(int(sizes.sum()) // batch_size, 1)
    while low < high:
        middle = (low + high + 1) // 2
        if int(np.minimum(sizes, middle).sum()) >= middle * batch_size:
            low = middle
        else:
            high = middle - 1
    return low
