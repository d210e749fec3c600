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


class Draw(NamedTuple):
    """One image of a batch, and the seed of its augmentation."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a pair
    seed: int


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
        for number, batch in enumerate(self.plan(epoch)[start:], start):
            share = len(batch) // self.world_size
            first = self.rank * share
            # The seed counts places in the global epoch, so it does not depend on the number of processes.
            place = number * self.batch_size + first
            mine = batch[first : first + share]
            yield [Draw(index, mix_seed(self.seed, epoch, place + offset)) for offset, index in enumerate(mine)]


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
