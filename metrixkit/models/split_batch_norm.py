"""Batch norm that cannot tell a query its key: statistics over parts of the batch, and shuffled keys.

With one batch norm over queries and keys of the same images, a network may find the key of a query by the statistics
both share, and learns nothing of the images (He et al., Momentum Contrast, CVPR 2020, section 3.3). The cure is that
the rows a key is normalised with are others than those of its query. Over processes the keys' images are shuffled among
them; on one process the batch is cut into groups that stand for processes, and the keys' rows are permuted before.

B rows, s groups, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metrixkit.distributed import gather, rank, world_size
from metrixkit.errors import InputError
from metrixkit.models.frozen_batch_norm import FrozenBatchNorm2d

Network = TypeVar("Network", bound=nn.Module)


class SplitBatchNorm1d(nn.BatchNorm1d):
    """Batch norm in training over each of some parts of a (B, C) or (B, C, L) batch; see :class:`SplitBatchNorm2d`."""

    splits: int

    def __init__(self, num_features: int, splits: int, **settings: Any) -> None:
        super().__init__(num_features, **settings)
        self.splits = _checked(splits)

    def forward(self, input: Tensor) -> Tensor:
        """Return (B, C) or (B, C, L) normalised.

        Raises:
            InputError: In training, B is no multiple of `splits`, or a group has one value a channel.
        """
        plain = not self.training or self.splits == 1
        return super().forward(input) if plain else _over_groups(self, input)


class SplitBatchNorm2d(nn.BatchNorm2d):
    """Batch norm in training over each of `splits` consecutive parts of a (B, C, H, W) batch.

    As many processes with a batch norm each would do. Running statistics move towards the mean, over the groups, of
    the groups' means and (unbiased) variances; a variance within groups is smaller than that of the whole batch where
    the groups' means differ. In evaluation it is plain batch norm, with the same state dict.

    Args:
        num_features: C.
        splits: s, how many groups; B is a multiple of it.
        settings: Of :class:`torch.nn.BatchNorm2d`.

    Raises:
        InputError: Fewer than one split.
    """

    splits: int

    def __init__(self, num_features: int, splits: int, **settings: Any) -> None:
        super().__init__(num_features, **settings)
        self.splits = _checked(splits)

    def forward(self, input: Tensor) -> Tensor:
        """Return (B, C, H, W) normalised.

        Raises:
            InputError: In training, B is no multiple of `splits`, or a group has one value a channel.
        """
        plain = not self.training or self.splits == 1
        return super().forward(input) if plain else _over_groups(self, input)


_SPLIT: dict[type, type] = {nn.BatchNorm1d: SplitBatchNorm1d, nn.BatchNorm2d: SplitBatchNorm2d}


def split_batch_norms(module: Network, splits: int) -> Network:
    """Give every batch norm in `module` statistics over `splits` groups, in place; names and weights stay as they are.

    Args:
        module: Any network; one without batch norm has nothing to leak and stays as it is.
        splits: s. About 32 rows a group are usual; 1 makes split batch norms plain again.

    Returns:
        `module`.

    Raises:
        InputError: Fewer than one split, or batch norms of a kind of their own (synchronised over processes, or joined
            with an activation); then nothing is changed.
    """
    _checked(splits)
    norms = [
        (path, m)
        for path, m in module.named_modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and not isinstance(m, FrozenBatchNorm2d)
    ]
    for path, norm in norms:
        if type(norm) not in _SPLIT and type(norm) not in _SPLIT.values():
            raise InputError(
                f"{path or 'the module'} is a {type(norm).__name__}, whose statistics cannot be split; expected "
                "BatchNorm1d or BatchNorm2d. Take a backbone that has those (the ResNets do), or method.groups=1."
            )
    for _, norm in norms:
        # Of another class, but the same object: whoever holds it (optimiser, hooks, a cut backbone) need not know.
        norm.__class__ = _SPLIT.get(type(norm), type(norm))
        norm.splits = splits  # type: ignore[assignment]
    return module


def shuffle_over_processes(rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Permute the rows of all processes and return this process's share, with the way back.

    On one process it is a permutation of the batch, which hides something only under split batch norms.

    Args:
        rows: (B, ...), of the same shape in every process.
        generator: A CPU generator that is equal in every process; one number is taken from it, whatever B is.

    Returns:
        (B, ...) rows from anywhere; and a function from (B, ...) results for them, row by row, to this process's own in
        their old order. Gradients go both ways.
    """
    count, start = len(rows), rank() * len(rows)
    order = shuffled(count * world_size(), generator)
    own = slice(start, start + count)
    mixed = gather(rows)[order[own].to(rows.device)]
    home = torch.argsort(order)[own]

    def back(results: Tensor) -> Tensor:
        return gather(results)[home.to(results.device)]

    return mixed, back


def shuffled(count: int, generator: torch.Generator) -> Tensor:
    """Return a permutation of `count` rows, (count,) int64 on the CPU; one number is taken from `generator`."""
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def _checked(splits: int) -> int:
    if splits < 1:
        raise InputError(f"splits={splits}: expected 1 or more groups of a batch.")
    return splits


def _over_groups(norm: SplitBatchNorm1d | SplitBatchNorm2d, x: Tensor) -> Tensor:
    norm._check_input_dim(x)
    _check_groups(x, norm.splits)
    mean, variance, seen = norm.running_mean, norm.running_var, norm.num_batches_tracked
    parts = x.chunk(norm.splits)
    if mean is None or variance is None or seen is None:
        return torch.cat([F.batch_norm(p, None, None, norm.weight, norm.bias, True, 0.0, norm.eps) for p in parts])
    seen.add_(1)
    share = 1 / float(seen) if norm.momentum is None else norm.momentum
    means, variances = (running.expand(norm.splits, -1).clone() for running in (mean, variance))
    # One call a group. Moving the groups into channels for a single call copies every map twice, which costs more.
    groups = [
        F.batch_norm(part, means[i], variances[i], norm.weight, norm.bias, True, share, norm.eps)
        for i, part in enumerate(parts)
    ]
    mean.copy_(means.mean(0))
    variance.copy_(variances.mean(0))
    return torch.cat(groups)


def _check_groups(x: Tensor, splits: int) -> None:
    count = len(x)
    if count % splits:
        raise InputError(
            f"a batch of {count} images cannot be cut into splits={splits} equal groups for batch norm. Choose "
            "sampler.batch_size as a multiple of method.groups, or fewer groups. Mixtures count: MixCo's pass has half "
            "as many images again as its batch."
        )
    if count // splits * x.shape[2:].numel() < 2:
        raise InputError(
            f"a batch of {count} rows in splits={splits} groups leaves one value a channel, which has no variance; "
            "take a larger sampler.batch_size or a smaller method.groups."
        )
