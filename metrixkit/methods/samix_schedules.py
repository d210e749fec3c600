"""How SAMix' weights and momentum move over a run: pure functions of the step, so that a resumed run needs no state."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from metrixkit.errors import InputError, did_you_mean
from metrixkit.models.momentum import momentum_at

Schedule = Literal["linear", "cosine", "constant", "official"]
SAMIX_SCHEDULES: tuple[str, ...] = get_args(Schedule)


def decayed_weight(step: int, steps: int, base: float = 0.1, schedule: Schedule = "linear") -> float:
    """Return the weight of a step: of the mask loss (beta), or of an auxiliary term.

    - ``linear``: ``base (1 - step / steps)``, as the paper has it.
    - ``cosine``: ``base (1 + cos(pi step / steps)) / 2``, as the release means it.
    - ``constant``: `base`, as released for CIFAR-100 and Tiny-ImageNet.
    - ``official``: as released elsewhere: the cosine's factors are multiplied up step by step, so that the weight is a
      thousandth of `base` after a few per cent of the run.

    Args:
        step: Steps done so far, from 0; from `steps` on the weight stays where it ended.
        steps: Steps of the whole run.
        base: Weight at the start, >= 0.
        schedule: Which of the above.

    Raises:
        InputError: An unknown name, or a number out of range.

    Source: Li et al. (SAMix, 2021) and its released hook.
    """
    if schedule not in SAMIX_SCHEDULES:
        raise InputError(f"schedule={schedule!r}.{did_you_mean(str(schedule), SAMIX_SCHEDULES)}")
    if steps < 1 or step < 0:
        raise InputError(f"step={step} of {steps}: expected a step from 0 and at least one step in all.")
    if not 0 <= base < float("inf"):
        raise InputError(f"base={base}: expected a weight >= 0; 0.1 is usual for the mask loss.")
    step = min(step, steps)
    if schedule == "constant":
        return float(base)
    if schedule == "linear":
        return base * (1 - step / steps)
    factors = (1 + np.cos(np.pi * np.arange(step + 1) / steps)) / 2
    return float(base * (factors[-1] if schedule == "cosine" else factors.prod()))


def samix_momentum(step: int, steps: int, base: float = 0.999, end: float = 1.0, official: bool = False) -> float:
    """Return the momentum of the teacher at a step: half a cosine from `base` to `end`.

    Args:
        step: Updates done so far, from 0.
        steps: Updates of the whole run.
        base: Momentum at the start, in [0, 1].
        end: Momentum at the end, in [0, 1]; the releases stop at 0.999999 (CIFAR-100, Tiny-ImageNet), 0.99999 (CUB,
            ImageNet, iNaturalist) and 0.99996 (Aircraft).
        official: Keep `base` for the first tenth of the run, then join the cosine where it is: a small jump.

    Raises:
        InputError: A number out of range.

    Source: Li et al. (SAMix, 2021) and its released hook.
    """
    if official and 0 <= step < 0.1 * steps:
        return momentum_at(0, steps, base, end)
    return momentum_at(step, steps, base, end)
