"""Batch norms whose statistics are those of the batch of all processes, made of plain ones in place."""

from __future__ import annotations

from torch import nn

from metrixkit.errors import InputError
from metrixkit.models.frozen_batch_norm import FrozenBatchNorm2d


def _synchronised() -> dict[type, type]:
    """Return which class takes the place of which."""
    from timm.layers.norm_act import BatchNormAct2d, SyncBatchNormAct  # seconds to import

    return {
        nn.BatchNorm1d: nn.SyncBatchNorm,
        nn.BatchNorm2d: nn.SyncBatchNorm,
        nn.BatchNorm3d: nn.SyncBatchNorm,
        BatchNormAct2d: SyncBatchNormAct,
    }


def synchronise_batch_norms(module: nn.Module) -> int:
    """Give every batch norm that can move statistics over all processes (:class:`torch.nn.SyncBatchNorm`).

    Those that are frozen use none and stay as they are. In evaluation mode nothing changes; in training mode, with
    several processes, inputs must be on an accelerator.

    Args:
        module: Any network, changed in place; names and weights stay as they are.

    Returns:
        How many there are now.

    Raises:
        InputError: A batch norm of a kind of its own, such as one split into groups; then nothing is changed.
    """
    norms = [
        (path, norm)
        for path, norm in module.named_modules()
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and not isinstance(norm, FrozenBatchNorm2d)
    ]
    synchronised = _synchronised()
    for path, norm in norms:
        if type(norm) not in synchronised and not isinstance(norm, nn.SyncBatchNorm):
            raise InputError(
                f"training.sync_batch_norm: {path or 'the module'} is a {type(norm).__name__}, which cannot be "
                "synchronised over processes. Leave training.sync_batch_norm=false (with split batch norms, or set "
                "method.groups=1), or take a backbone with plain batch norms."
            )
    for _, norm in norms:
        if type(norm) in synchronised:
            # Of another class, but the same object: whoever holds it (optimiser, hooks, a cut backbone) need not know.
            norm.__class__ = synchronised[type(norm)]
            norm.process_group = None  # type: ignore[assignment]  # all processes
    return len(norms)
