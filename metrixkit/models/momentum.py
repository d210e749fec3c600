"""A copy of a network that follows it slowly: an exponential moving average of its weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from metrixkit.errors import InputError

Network = TypeVar("Network", bound=nn.Module)


def momentum_copy(module: Network) -> Network:
    """Return a copy that no gradient reaches, equal to `module` to the last bit, buffers and heads included.

    Args:
        module: Any network; it stays as it is.

    Returns:
        A copy with tensors of its own, in the same mode. Frozen parts stay frozen, all other parts are now too.
    """
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def update(target: nn.Module, online: nn.Module, momentum: float, buffers: bool = False) -> None:
    """Move `target` towards `online`: each parameter becomes ``momentum * target + (1 - momentum) * online``.

    He et al., Momentum Contrast, CVPR 2020, Eq. 2. The method says when: before the keys are made (MoCo), or after the
    optimiser's step (BYOL).

    Args:
        target: A :func:`momentum_copy` of `online`, changed in place.
        online: The network that learns; it stays as it is, and its gradients too.
        momentum: Share of itself that the target keeps, in [0, 1]; 1 leaves it, 0 copies.
        buffers: Whether buffers follow too: floating ones averaged likewise, others (counters) copied. By default they
            are left alone, and the running statistics of the target's batch norms come from its own passes in training
            mode, as in MoCo and BYOL.

    Raises:
        InputError: A momentum outside [0, 1], or two networks that differ in their tensors.
    """
    if not 0 <= momentum <= 1:
        raise InputError(f"momentum={momentum}: expected the share that an update keeps, in [0, 1]; 0.999 is usual.")
    _average(*_matched(target.named_parameters(), online.named_parameters(), "parameters"), 1 - momentum)
    if not buffers:
        return
    own, other = _matched(target.named_buffers(), online.named_buffers(), "buffers")
    averaged = [tensor.is_floating_point() for tensor in own]
    _average(
        [a for a, floating in zip(own, averaged, strict=True) if floating],
        [b for b, floating in zip(other, averaged, strict=True) if floating],
        1 - momentum,
    )
    for a, b, floating in zip(own, other, averaged, strict=True):
        if not floating:
            a.copy_(b)


def momentum_at(step: int, steps: int, base: float, end: float = 1.0) -> float:
    """Return the momentum of a step on BYOL's cosine, from `base` to `end`.

    Grill et al., Bootstrap Your Own Latent, NeurIPS 2020, section 3.3:
    ``1 - (1 - base) (cos(pi step / steps) + 1) / 2``.

    Args:
        step: Updates done so far, from 0; from `steps` on the momentum stays at `end`.
        steps: Updates of the whole run.
        base: Momentum at the start, in [0, 1].
        end: Momentum at the end, in [0, 1].

    Raises:
        InputError: A number out of range.
    """
    if steps < 1 or step < 0:
        raise InputError(f"step={step} of {steps}: expected a step from 0 and at least one step in all.")
    if not (0 <= base <= 1 and 0 <= end <= 1):
        raise InputError(f"momentum from {base} to {end}: expected shares in [0, 1].")
    return end - (end - base) * (math.cos(math.pi * min(step / steps, 1.0)) + 1) / 2


def _average(own: list[Tensor], other: list[Tensor], share: float) -> None:
    if own:
        torch._foreach_lerp_(own, other, share)  # one call for all tensors, whatever their number


def _matched(
    target: Iterable[tuple[str, Tensor]], online: Iterable[tuple[str, Tensor]], kind: str
) -> tuple[list[Tensor], list[Tensor]]:
    own, other = dict(target), dict(online)
    if own.keys() != other.keys() or any(own[name].shape != other[name].shape for name in own):
        raise InputError(f"the average and the network differ in their {kind}: {_difference(own, other)}.")
    return list(own.values()), [other[name] for name in own]


def _difference(own: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> str:
    alone = sorted(own.keys() ^ other.keys())
    if alone:
        return f"only one of them has {', '.join(alone[:3])}{', …' if len(alone) > 3 else ''}"
    name = next(name for name in own if own[name].shape != other[name].shape)
    return f"{name} is {tuple(own[name].shape)} and {tuple(other[name].shape)}"
