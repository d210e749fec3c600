"""Work on the rows of one table divided over processes."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from metrixkit.distributed import gather, rank, world_size


def part_of(count: int) -> slice:
    """Return which of `count` rows are this process's; the last processes may have fewer, or none."""
    size = -(-count // world_size())
    return slice(min(rank() * size, count), min((rank() + 1) * size, count))


def collect(rows: Tensor, count: int) -> Tensor:
    """Return all `count` rows from what each process holds of its :func:`part_of` them; `rows` outside a group."""
    if world_size() == 1:
        return rows
    padded = rows.new_zeros(-(-count // world_size()), *rows.shape[1:])
    padded[: len(rows)] = rows
    return gather(padded.to(_meeting_place(rows)))[:count].to(rows.device)


def from_first(values: Tensor) -> Tensor:
    """Return the first process's `values`; `values` has the same shape and type in every process."""
    if world_size() == 1:
        return values
    sent = values.to(_meeting_place(values)).contiguous()
    dist.broadcast(sent, 0)
    return sent.to(values.device)


def _meeting_place(values: Tensor) -> torch.device:
    # NCCL moves nothing but what lies on a GPU.
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else values.device
