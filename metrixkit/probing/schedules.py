"""The published ways to train a classifier on an encoder, by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from metrixkit.errors import InputError
from metrixkit.families import lookup
from metrixkit.schema import check_value, instantiate


@dataclass(frozen=True)
class ProbeSchedule:
    """How a classifier is trained: stochastic gradient descent, momentum 0.9, on one random crop and flip a step.

    Attributes:
        lr: Rate of the classifier.
        epochs: Passes over the training images.
        batch_size: Images a step; all of them where there are fewer.
        decay: ``steps`` multiplies the rate by 0.1 at each of `steps`; ``cosine`` brings it to 0, epoch by epoch.
        steps: Shares of the epochs after which the rate falls, so that they follow `epochs`.
        weight_decay: On all that trains.
        nesterov: Whether the momentum looks ahead.
        backbone_lr: Rate of the encoder; None leaves it frozen.
    """

    lr: float
    epochs: int = 100
    batch_size: int = 256
    decay: Literal["steps", "cosine"] = "steps"
    steps: list[float] = field(default_factory=lambda: [0.6, 0.8])
    weight_decay: float = 0.0
    nesterov: bool = False
    backbone_lr: float | None = None

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.epochs < 1 or self.batch_size < 1 or self.weight_decay < 0:
            raise InputError(
                f"lr {self.lr}, epochs {self.epochs}, batch_size {self.batch_size}, weight_decay {self.weight_decay}: "
                "expected a positive rate, an epoch and an image at least, and no negative decay."
            )
        if self.backbone_lr is not None and self.backbone_lr < 0:
            raise InputError(f"backbone_lr {self.backbone_lr}: expected a rate of 0 or more.")
        if any(not 0 <= step <= 1 for step in self.steps):
            raise InputError(f"steps {self.steps}: expected shares of the epochs, between 0 and 1.")

    def factor(self, epoch: int) -> float:
        """Return the factor on the rates in an epoch, counted from 0."""
        if self.decay == "cosine":
            return 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))
        # Rounded, for 2/3 of 60 epochs is 40 and not 40.000000000000004.
        return 0.1 ** sum(epoch >= round(step * self.epochs, 6) for step in self.steps)

    def __str__(self) -> str:
        """Return the schedule in words, for definitions."""
        rates = f"lr {self.lr:g}" + ("" if self.backbone_lr is None else f", of the encoder {self.backbone_lr:g}")
        falls = (
            "cosine to 0"
            if self.decay == "cosine"
            else "x0.1 after epoch " + ", ".join(f"{step * self.epochs:g}" for step in self.steps)
            if self.steps
            else "constant"
        )
        return (
            f"SGD{' (Nesterov)' if self.nesterov else ''}, {rates}, {falls}, {self.epochs} epochs, batch "
            f"{self.batch_size}, momentum 0.9, weight decay {self.weight_decay:g}, random crop and flip"
        )


LINEAR: dict[str, ProbeSchedule] = {
    "moco": ProbeSchedule(lr=30.0),
    "clim": ProbeSchedule(lr=30.0),
    "mixco": ProbeSchedule(lr=3.0),
    "samix": ProbeSchedule(lr=0.1),
    "byol": ProbeSchedule(lr=0.2, epochs=80, batch_size=1024, decay="cosine", nesterov=True),
}
"""Linear classification on a frozen encoder, after each paper: MoCo and CLIM (and SAMix) on ImageNet; MixCo on
Tiny-ImageNet and CIFAR (its ImageNet rate is that of ``moco``); SAMix on Tiny-ImageNet and STL-10; BYOL, whose rate is
chosen among 0.4, 0.3, 0.2, 0.1 and 0.05 on held-out images there (``linear.lr`` sets another)."""

SEMI = ProbeSchedule(lr=10.0, epochs=60, steps=[1 / 3, 2 / 3], backbone_lr=1e-4)
"""Fine-tuning on a part of the labels, after CLIM: all layers, x0.1 every 20 of 60 epochs."""


def linear_schedule(name: str, changes: Mapping[str, Any] | None = None) -> ProbeSchedule:
    """Return the schedule called `name` with some settings changed.

    Raises:
        InputError: No such name, no such setting, or a value of another kind or out of range.
    """
    schedule = changed(lookup(name, LINEAR, "linear protocol"), changes or {}, "linear")
    if schedule.backbone_lr is not None:
        raise InputError("linear.backbone_lr: a linear probe leaves the encoder frozen; --semi trains it as well.")
    return schedule


def changed(schedule: ProbeSchedule, changes: Mapping[str, Any], section: str) -> ProbeSchedule:
    """Return a schedule with the settings of a section of overrides; errors as :func:`linear_schedule`."""
    return instantiate(check_value({**vars(schedule), **changes}, ProbeSchedule, section), ProbeSchedule)  # type: ignore[no-any-return]
