"""Batches with several images of each class, for losses that need positives."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from itertools import cycle, islice
from typing import NamedTuple

import torch
from torch import Tensor

from metrixkit.data.samplers import EpochSampler, epoch_generator
from metrixkit.errors import InputError


class _Group(NamedTuple):
    label: int
    images: list[int]


class MPerClass(EpochSampler):
    """Batches of `m` images a class, in which every image of the data set occurs every epoch.

    The rules:

    - The images of a class, in random order, are cut into groups of `m`. A last group with fewer is filled up with
      images of an earlier group, so these are seen twice in the epoch, in different batches.
    - A class with fewer than `m` images is one group of what it has; the room goes to other classes. One-image classes
      occur so, as negatives of the others. With `repeat` such a group is filled up to `m` with its own images instead:
      then an image can be its own positive. Without it no image is twice in a batch.
    - The groups of a class are spread evenly over the epoch, at a random offset. A class comes once in a batch; a class
      with more groups than the epoch has batches comes as often as it must to be spread evenly.
    - All batches hold exactly `batch_size` images. Where classes smaller than `m` leave a gap that no group fits, a
      group is cut in two, one part going to the next batch. The last batch is completed with random groups.

    Args:
        labels: (N,) class indices. Given by the programme.
        seed: Given by the programme.
        rank: This process. Given by the programme.
        world_size: Number of processes. Given by the programme.
        batch_size: Images of a batch, over all processes; a multiple of `m` and at least twice of it.
        m: Images of a class in a batch, at least 2.
        repeat: Fill classes smaller than `m` with copies.

    Raises:
        InputError: Settings that contradict one another or the data set.
    """

    def __init__(
        self,
        labels: Sequence[int] | Tensor,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        *,
        batch_size: int = 100,
        m: int = 5,
        repeat: bool = False,
    ) -> None:
        super().__init__(len(labels), batch_size, seed, rank, world_size)
        self.labels = torch.as_tensor(labels, dtype=torch.int64).cpu()
        self.m = m
        self.repeat = repeat
        self.sizes = self._checked_sizes()
        groups = (self.sizes + m - 1) // m
        slots = torch.where(self.sizes < m, m if repeat else self.sizes, groups * m).sum().item()
        self._length = -(-int(slots) // batch_size)
        self._quota = ((groups + self._length - 1) // self._length).tolist()

    def _checked_sizes(self) -> Tensor:
        m, size = self.m, self.batch_size
        if m < 2:
            raise InputError(
                f"sampler.m: {m} image a class leaves no positives; set 2 or more, or sampler.name=shuffle"
            )
        if size < 2 * m:
            raise InputError(
                f"sampler.batch_size: {size} images are fewer than two classes of sampler.m={m}, so there would be no "
                f"negatives; set sampler.batch_size to {2 * m} or more, or lower sampler.m"
            )
        if size % m:
            raise InputError(
                f"sampler.batch_size: {size} is not a multiple of sampler.m={m}; "
                f"choose {size - size % m} or {size - size % m + m}"
            )
        sizes = torch.bincount(self.labels)
        classes = int((sizes > 0).sum())
        if self.count < size and not self.repeat:
            raise InputError(
                f"sampler.batch_size: {size}, but the training split holds {self.count} images; "
                "lower sampler.batch_size (no image comes twice in a batch unless sampler.repeat=true)"
            )
        if classes < 2:
            raise InputError(
                f"m-per-class needs two classes or more for negatives, the training split holds {classes}; add "
                "classes, or hold out photos instead of classes (data.split=photos)"
            )
        if int(sizes.max()) < 2 and not self.repeat:
            raise InputError(
                f"sampler: each of the {classes} classes has one image, so no image has a positive; check which column "
                "is the label, or set sampler.repeat=true to pair an image with itself"
            )
        return sizes

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        return self._length

    def plan(self, epoch: int) -> list[list[int]]:
        """Return the batches of `epoch`."""
        generator = epoch_generator(self.seed, epoch)
        members = self._shuffled_members(generator)
        waiting = deque(self._groups(members, generator))
        batches = [self._fill(waiting) for _ in range(self._length)]
        for batch in batches:
            if len(batch) < self.batch_size:
                self._complete(batch, members, generator)
        return batches

    def _shuffled_members(self, generator: torch.Generator) -> list[list[int]]:
        # One sort for all classes: the label orders, a fraction below one shuffles within it.
        keys = self.labels.double() + torch.rand(self.count, generator=generator, dtype=torch.float64)
        order = torch.argsort(keys)
        return [part.tolist() for part in order.split(self.sizes.tolist())]

    def _groups(self, members: list[list[int]], generator: torch.Generator) -> list[_Group]:
        offsets = torch.rand(len(members), generator=generator).tolist()
        placed: list[tuple[float, _Group]] = []
        for label, images in enumerate(members):
            if 0 < len(images) < self.m:
                parts = [list(islice(cycle(images), self.m)) if self.repeat else images]
            else:
                parts = [images[i : i + self.m] for i in range(0, len(images), self.m)]
                if parts and len(parts[-1]) < self.m:
                    parts[-1] = parts[-1] + images[: self.m - len(parts[-1])]
            for number, part in enumerate(parts):
                placed.append(((number + offsets[label]) / len(parts), _Group(label, part)))
        return [group for _, group in sorted(placed, key=lambda item: item[0])]

    def _fill(self, waiting: deque[_Group]) -> list[int]:
        """Take one batch from the front of `waiting`; what does not fit stays in front, in order."""
        batch: list[int] = []
        present: set[int] = set()
        used: Counter[int] = Counter()

        def put(group: _Group) -> bool:
            # An image may be there already, filled in beside an earlier group of its class: once is enough.
            new = [image for image in group.images if image not in present]
            if len(batch) + len(new) > self.batch_size:
                return False
            batch.extend(new)
            present.update(new)
            used[group.label] += 1
            return True

        passed: list[_Group] = []
        # Looking further would let one gap cost a walk over the whole epoch.
        horizon = 10 * self.batch_size
        while waiting and len(batch) < self.batch_size and len(passed) < horizon:
            group = waiting.popleft()
            if used[group.label] >= self._quota[group.label] or not put(group):
                passed.append(group)
        # Nothing within the quota fits: a class twice is better than a group cut in two.
        passed = [group for group in passed if len(batch) == self.batch_size or not put(group)]
        while passed and len(batch) < self.batch_size:
            room = self.batch_size - len(batch)
            place = min(range(len(passed)), key=lambda i: _lonely(passed[i], room, used))
            group = passed.pop(place)
            put(_Group(group.label, group.images[:room]))
            if rest := group.images[room:]:
                passed.insert(place, _Group(group.label, rest))
        waiting.extendleft(reversed(passed))
        return batch

    def _complete(self, batch: list[int], members: list[list[int]], generator: torch.Generator) -> None:
        present = {int(self.labels[image]) for image in batch}
        order = [label for label in torch.randperm(len(members), generator=generator).tolist() if members[label]]
        order.sort(key=present.__contains__)  # classes that the batch has not come first
        for label in cycle(order):
            room = self.batch_size - len(batch)
            if not room:
                return
            taken = set(batch)
            free = [image for image in members[label] if image not in taken]
            if self.repeat and (len(members[label]) < self.m or not free):
                free = list(islice(cycle(members[label]), self.m))
            batch.extend(free[: min(self.m, room)])


def _lonely(group: _Group, room: int, used: Counter[int]) -> int:
    """Return how many images would be left without a positive if `room` images of the group were cut off."""
    return int(room == 1 and not used[group.label]) + int(len(group.images) - room == 1)
