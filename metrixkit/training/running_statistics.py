"""Batch norms of several processes: each has seen its own images, and all of them shall be one network."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from metrixkit.distributed import world_size


@torch.no_grad()
def average_running_statistics(module: nn.Module) -> None:
    """Give the batch norms in `module` the mean over processes of their running means and variances, in place.

    To be called by every process between an epoch and its evaluation, for which items are shared out: with statistics
    of their own, processes would embed them by networks that differ, and the first one's alone would be kept. Batch
    norms in evaluation mode (frozen ones) are left alone, as is everything that is no batch norm: queues and memories
    are each process's own or equal already. In a single process nothing happens.

    Args:
        module: In training mode.
    """
    processes = world_size()
    if processes == 1:
        return
    for norm in module.modules():
        if isinstance(norm, _BatchNorm) and norm.training and norm.running_mean is not None:
            assert norm.running_var is not None  # it has both or none
            for statistics in (norm.running_mean, norm.running_var):
                dist.all_reduce(statistics)
                statistics /= processes
