"""Learning-rate schedules: pure functions of the progress, so that a resumed run needs no state of theirs."""

from __future__ import annotations

import math

from metrixkit.errors import InputError


class Constant:
    """The base rate throughout."""

    def __call__(self, epoch: float, epochs: int) -> float:
        """Return the factor on the base rate at a fractional `epoch` of `epochs`."""
        return 1.0


class Step:
    """Multiply the rate by `gamma` every `every` epochs (StepLR)."""

    def __init__(self, every: int = 10, gamma: float = 0.1) -> None:
        if every < 1:
            raise InputError(f"schedule.every: expected at least 1 epoch, got {every}.")
        self.every, self.gamma = every, gamma

    def __call__(self, epoch: float, epochs: int) -> float:
        """Return the factor on the base rate at a fractional `epoch` of `epochs`."""
        return self.gamma ** (int(epoch) // self.every)


class Cosine:
    """Half a cosine from 1 down to `minimum`, after `warmup_epochs` of a linear rise; changes every step."""

    def __init__(self, minimum: float = 0.0, warmup_epochs: float = 0.0) -> None:
        if not 0 <= minimum <= 1:
            raise InputError(f"schedule.minimum: expected a factor between 0 and 1, got {minimum}.")
        self.minimum, self.warmup_epochs = minimum, warmup_epochs

    def __call__(self, epoch: float, epochs: int) -> float:
        """Return the factor on the base rate at a fractional `epoch` of `epochs`."""
        if epoch < self.warmup_epochs:
            return epoch / self.warmup_epochs
        done = (epoch - self.warmup_epochs) / max(epochs - self.warmup_epochs, 1e-12)
        return self.minimum + (1 - self.minimum) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


SCHEDULES: dict[str, type] = {"constant": Constant, "step": Step, "cosine": Cosine}
