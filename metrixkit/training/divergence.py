"""How the loop notices that a run has diverged, and what it says then, without waiting for the device once more.

The loss of a step is read anyway, to be shown. The norm of the gradient is known only after the backward pass, so that
it stays on the device and is read together with the next step's loss: one wait a step, as without it. Meanwhile the
weights have taken the bad gradient, but no checkpoint has: :meth:`Watch.settle` stands before each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from metrixkit.errors import InputError

_IDS_SHOWN = 8


class Diverged(InputError):
    """A loss or a gradient is not finite: the message names the step, ids, losses, rates and the last checkpoint."""


@dataclass
class Step:
    """What a step was about, for the message.

    Attributes:
        number: Of the step, from 0.
        epoch: From 0.
        ids: Of the batch.
        losses: All of them, scalars on the device.
        rates: Learning rates by group.
        norm: Of the gradient before it was clipped, a scalar on the device; None where no update was made.
    """

    number: int
    epoch: int
    ids: list[str]
    losses: Mapping[str, Tensor]
    rates: Mapping[str, float]
    norm: Tensor | None = None


class Watch:
    """Holds the last step until the norm of its gradient is read.

    Args:
        last_good: The checkpoint to name.
    """

    def __init__(self, last_good: Path) -> None:
        self.last_good = last_good
        self._waiting: Step | None = None

    def read(self, step: Step) -> float:
        """Return the total loss of a step, before its backward pass; wait for the device once.

        Raises:
            Diverged: It is not finite, or the last step's gradient was not.
        """
        total = step.losses["total"].detach()
        before = self._waiting
        if before is None or before.norm is None:
            value = float(total)
        else:
            value, norm = torch.stack([total, before.norm.to(total)]).tolist()
            self._check(before, norm)
        if not math.isfinite(value):
            raise self._diverged(f"the loss is {value}", step)
        self._waiting = step
        return value

    def settle(self) -> None:
        """Read what is still to be read, before anything is kept that the last update made.

        Raises:
            Diverged: The last step's gradient was not finite.
        """
        if self._waiting is not None and self._waiting.norm is not None:
            self._check(self._waiting, float(self._waiting.norm))
        self._waiting = None

    def _check(self, step: Step, norm: float) -> None:
        if not math.isfinite(norm):
            raise self._diverged(f"the norm of the gradient is {norm}", step)

    def _diverged(self, what: str, step: Step) -> Diverged:
        ids = ", ".join(step.ids[:_IDS_SHOWN])
        if len(step.ids) > _IDS_SHOWN:
            ids += f", ... ({len(step.ids)} in all)"
        losses = ", ".join(f"{name} {float(part.detach()):.6g}" for name, part in step.losses.items())
        rates = ", ".join(f"{name} {rate:g}" for name, rate in step.rates.items())
        return Diverged(
            f"{what} at step {step.number} (epoch {step.epoch + 1}). Losses: {losses}. Learning rates: {rates}. "
            f"Ids of the batch: {ids}. The last good checkpoint is {self.last_good}. Lower optimizer.lr, set "
            "training.clip_norm, or look at these items."
        )


def gradient_norm(optimizer: Optimizer) -> Tensor:
    """Return the Euclidean norm of all gradients, a scalar on their device; it reads each of them once."""
    return get_total_norm(_gradients(optimizer))


def _gradients(optimizer: Optimizer) -> Iterable[Tensor]:
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
