"""Which images meet in a batch. Samplers own their randomness: an epoch's batches follow from (seed, epoch) alone.

A batch is planned globally and cut into equal contiguous parts, one a process, so that rows gathered in rank order are
the batch of a single process.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from metrixkit.errors import InputError

_MASK = (1 << 64) - 1
# Tells the seed of a partner's choice from that of an augmentation.
_PARTNER = 1


class Draw(NamedTuple):
    """One image of a batch, the seed of its augmentation, and the row of its partner (-1 where none is asked for)."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a pair
    seed: int
    partner: int = -1


def mix_seed(*parts: int) -> int:
    """Return 63 well-mixed bits of some integers: neighbouring epochs or positions share nothing (splitmix64)."""
    state = 0
    for part in parts:
        state = (state + part + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


class EpochSampler(ABC):
    """What all samplers share: epochs, resuming, the parts of several processes. Subclasses plan an epoch.

    Iterating yields this process's part of each batch as a list of :class:`Draw`.
    """

    def __init__(self, count: int, batch_size: int, seed: int, rank: int, world_size: int) -> None:
        if batch_size < 1 or batch_size % world_size:
            raise InputError(
                f"sampler.batch_size: {batch_size} images cannot be cut into {world_size} equal parts, one a process; "
                f"choose a multiple of {world_size}"
            )
        if not 0 <= rank < world_size:
            raise InputError(f"rank {rank} is not one of the {world_size} processes")
        self.count = count
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self._start = 0
        self._pools: Tensor | None = None
        self._pool_sizes: list[int] = []

    @abstractmethod
    def plan(self, epoch: int) -> list[list[int]]:
        """Return the global batches of `epoch` as lists of item indices; a pure function of (seed, epoch)."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the batches of an epoch, the same for every epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration goes through. A loaded position of this same epoch stays."""
        if epoch != self.epoch:
            self.epoch, self._start = epoch, 0

    def set_partners(self, pools: Tensor | None) -> None:
        """Choose whom an item may be paired with, from the next iteration on. Not part of :meth:`state_dict`.

        A draw's partner is chosen evenly from its row's pool, a function of (seed, epoch, place in the epoch): not of
        workers, processes, or where a run was resumed.

        Args:
            pools: (items, p) int64, each row the items that may be a partner; one that stands in it twice is twice as
                likely. -1 at the end of a row is padding; a row that begins with -1 has no partner yet, and the item
                stands in for its own. None pairs nothing.

        Raises:
            InputError: Another type or shape, a row of items that are not there, or an item behind a -1.
        """
        self._pools = None if pools is None else _checked_pools(pools, self.count)
        self._pool_sizes = [] if self._pools is None else (self._pools >= 0).sum(1).tolist()

    def state_dict(self, position: int) -> dict[str, int]:
        """Return what :meth:`load_state_dict` takes.

        Args:
            position: Batches of the current epoch that have been trained on. Only the loop knows: loaders run ahead.
        """
        return {"epoch": self.epoch, "position": position}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Let the next iteration begin behind the first ``state["position"]`` batches of ``state["epoch"]``.

        Raises:
            InputError: A position outside the epoch.
        """
        epoch, position = int(state["epoch"]), int(state["position"])
        if not 0 <= position <= len(self):
            raise InputError(
                f"sampler state: position {position} of an epoch with {len(self)} batches; "
                "it was saved with another data set, batch size or sampler"
            )
        self.epoch, self._start = epoch, position

    def __iter__(self) -> Iterator[list[Draw]]:
        """Go through the epoch, from a loaded position once, then from its beginning."""
        # A generator, so that the position is taken with the first batch: the data loader calls iter() twice when it
        # has workers and throws one away.
        epoch, start, self._start = self.epoch, self._start, 0
        # Held, for a loader runs ahead: pools that are set while an epoch goes on belong to the next.
        pools, sizes = self._pools, self._pool_sizes
        for number, batch in enumerate(self.plan(epoch)[start:], start):
            share = len(batch) // self.world_size
            first = self.rank * share
            # The seed counts places in the global epoch, so it does not depend on the number of processes.
            place = number * self.batch_size + first
            mine = batch[first : first + share]
            draws = [Draw(index, mix_seed(self.seed, epoch, place + offset)) for offset, index in enumerate(mine)]
            yield draws if pools is None else [_paired(draw, pools, sizes) for draw in draws]


class Shuffle(EpochSampler):
    """All images in random order, each once an epoch.

    Args:
        labels: (N,) class indices; only their number matters here. Given by the programme.
        seed: Given by the programme.
        rank: This process. Given by the programme.
        world_size: Number of processes. Given by the programme.
        batch_size: Images of a batch, over all processes.
        drop_last: Leave out the last, incomplete batch of an epoch (other images every epoch), as is usual.

    Raises:
        InputError: Fewer images than one batch, or a batch that cannot be shared equally.
    """

    def __init__(
        self,
        labels: Sequence[int] | Tensor,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        *,
        batch_size: int = 100,
        drop_last: bool = True,
    ) -> None:
        super().__init__(len(labels), batch_size, seed, rank, world_size)
        self.drop_last = drop_last
        if self.count == 0 or (drop_last and self.count < batch_size):
            raise InputError(
                f"sampler.batch_size: {batch_size}, but the training split holds {self.count} images, not one full "
                "batch; lower sampler.batch_size, or set sampler.drop_last=false"
            )
        rest = self.count % batch_size
        if not drop_last and rest % world_size:
            raise InputError(
                f"sampler.drop_last: the last batch of {rest} images cannot be cut into {world_size} equal parts; "
                "set sampler.drop_last=true"
            )

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        return self.count // self.batch_size if self.drop_last else -(-self.count // self.batch_size)

    def plan(self, epoch: int) -> list[list[int]]:
        """Return the batches of `epoch`, cut from one permutation."""
        order = torch.randperm(self.count, generator=epoch_generator(self.seed, epoch)).tolist()
        return [order[i * self.batch_size : (i + 1) * self.batch_size] for i in range(len(self))]


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """Return the generator of an epoch, a pure function of (seed, epoch)."""
    return torch.Generator().manual_seed(mix_seed(seed, epoch))


def partner_seed(draw: Draw) -> int:
    """Return the seed of the partner's augmentation."""
    return mix_seed(draw.seed, _PARTNER + 1)


def _paired(draw: Draw, pools: Tensor, sizes: list[int]) -> Draw:
    size = sizes[draw.index]
    if size == 0:
        return draw._replace(partner=draw.index)
    # 63 bits over a few thousand partners: none is likelier than another by more than 1e-15.
    return draw._replace(partner=int(pools[draw.index, mix_seed(draw.seed, _PARTNER) % size]))


def _checked_pools(pools: Tensor, count: int) -> Tensor:
    if pools.dtype != torch.int64 or pools.ndim != 2 or len(pools) != count or pools.shape[1] < 1:
        raise InputError(
            f"partners: expected int64 of shape ({count}, 1 or more), a row for each training image, got "
            f"{str(pools.dtype).removeprefix('torch.')} of shape {tuple(pools.shape)}"
        )
    pools = pools.detach().to("cpu", copy=True)
    outside = (pools < -1) | (pools >= count)
    if outside.any():
        row, place = outside.nonzero()[0].tolist()
        raise InputError(
            f"partners: row {row} holds {int(pools[row, place])}, which is no row of the {count} training images (-1 "
            "is padding)"
        )
    behind = (pools[:, :-1] < 0) & (pools[:, 1:] >= 0)
    if behind.any():
        row = int(behind.nonzero()[0, 0])
        raise InputError(f"partners: row {row} has a partner behind a -1; padding belongs at the end of a row")
    return pools
