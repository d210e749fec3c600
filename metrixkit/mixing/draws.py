"""Draws that belong to an item: made from (seed, epoch, item) by counting, without a generator that moves on.

So they are the same on every device, in any order and however the items are divided over processes.
"""

from __future__ import annotations

import torch
from torch import Tensor

_STEP = 0x9E3779B97F4A7C15
_FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def hashed(seed: int, *counters: int | Tensor, device: torch.device | None = None) -> Tensor:
    """Return numbers that look drawn evenly from [0, 2^62), one for each combination of `counters`.

    The finaliser of SplitMix64 (Steele, Lea, Flood, Fast splittable pseudorandom number generators, OOPSLA 2014),
    applied to each counter and to the sum of what came before.

    Args:
        seed: Any integer.
        counters: int64 tensors that broadcast against one another, or integers.
        device: Of the result, where no counter is a tensor.

    Returns:
        int64 tensor of the broadcast shape.
    """
    state = _mixed(torch.tensor(_signed(seed), device=device))
    for counter in counters:
        if not isinstance(counter, Tensor):
            counter = torch.tensor(_signed(counter), device=state.device)
        state = _mixed(state.to(counter.device) + _mixed(counter))
    return state & (2**62 - 1)


def draw_others(items: Tensor, assignment: Tensor, count: int, seed: int, epoch: int) -> Tensor:
    """Draw for each item `count` different others of its group, every set equally likely (Floyd's sampling).

    Args:
        items: (b,) int64.
        assignment: (n,) int64 group of every item; equal numbers throughout make one group.
        count: p.
        seed: Any integer.
        epoch: Changes every draw.

    Returns:
        (b, p) int64; where a group has fewer than p others, all of them and then -1.
    """
    order = assignment.argsort(stable=True)
    sizes = torch.bincount(assignment)
    starts = (sizes.cumsum(0) - sizes)[assignment[items]]
    position = torch.empty_like(order)
    position[order] = torch.arange(len(order), device=order.device)
    own = position[items] - starts
    others = sizes[assignment[items]] - 1
    drawn = torch.full((len(items), count), -1, dtype=torch.int64, device=items.device)
    for turn in range(count):
        last = others - count + turn
        chosen = hashed(seed, epoch, items, turn) % (last + 1).clamp(min=1)
        taken = (drawn[:, :turn] == chosen[:, None]).any(1)
        chosen = torch.where(taken, last, chosen)
        drawn[:, turn] = torch.where(others >= count, chosen, torch.where(turn < others, turn, -1))
    index = starts[:, None] + drawn + (drawn >= own[:, None])
    return torch.where(drawn < 0, -1, order[index.clamp(min=0, max=len(order) - 1)])


def _mixed(x: Tensor) -> Tensor:
    x = x + _signed(_STEP)
    x = (x ^ _shifted(x, 30)) * _signed(_FACTORS[0])
    x = (x ^ _shifted(x, 27)) * _signed(_FACTORS[1])
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, by: int) -> Tensor:
    return (x >> by) & (2 ** (64 - by) - 1)  # int64 brings the sign down; unsigned numbers have none


def _signed(number: int) -> int:
    number %= 2**64
    return number - 2**64 if number >= 2**63 else number
