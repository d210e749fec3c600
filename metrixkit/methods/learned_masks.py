"""The learned Mixer as a part of a recipe: on which maps it stands, its lambdas, what holds its masks, its rate.

N images of this process.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from metrixkit.distributed import world_size
from metrixkit.errors import InputError, did_you_mean
from metrixkit.inference import evaluating
from metrixkit.losses import mask_loss
from metrixkit.losses.mask_loss import MaskLossKind
from metrixkit.methods.momentum_tower import own_share
from metrixkit.methods.samix_presets import RatioPer
from metrixkit.methods.samix_schedules import Schedule, decayed_weight
from metrixkit.mixing import MaskPair, Mixer, draw_ratio
from metrixkit.mixing.mixer import channels_first
from metrixkit.seam import Group

# What is looked at for the logs: so many pairs at each of these lambdas.
_PAIRS, _LAMBDAS = 8, (0.1, 0.3, 0.5, 0.7, 0.9)


class LearnedMasks(nn.Module):
    """A Mixer with how its lambdas are drawn and its masks are held to them.

    Args:
        mixer: The network; see :mod:`metrixkit.methods.mixer_start`.
        stage: Stage of the encoder whose maps it reads.
        steps: Of the whole run.
        alpha: Lambda is drawn from Beta(alpha, alpha).
        ratio_per: One lambda a batch, or one a sample.
        kind: Of the mask loss.
        margin: By how much a mask's mean may miss lambda.
        beta: Weight of the mask loss at the start.
        beta_schedule: How the weight falls.
        frozen: The Mixer keeps its weights and stays in evaluation mode.

    Attributes:
        mixer: The network.
        stage: Where its maps come from.

    Raises:
        InputError: A number out of range.
    """

    def __init__(
        self,
        mixer: Mixer,
        stage: int | None,
        steps: int,
        alpha: float = 2.0,
        ratio_per: RatioPer = "batch",
        kind: MaskLossKind = "l1+variance",
        margin: float = 0.1,
        beta: float = 0.1,
        beta_schedule: Schedule = "linear",
        frozen: bool = False,
    ) -> None:
        super().__init__()
        if frozen:
            mixer.requires_grad_(False)
        self.mixer, self.stage, self.steps, self.frozen = mixer, stage, steps, frozen
        self.alpha, self.ratio_per, self.kind, self.margin = alpha, ratio_per, kind, margin
        self.beta, self.beta_schedule = beta, beta_schedule
        # Each refuses what it cannot take, now and not at the first step.
        draw_ratio(alpha, torch.Generator())
        decayed_weight(0, steps, beta, beta_schedule)
        mask_loss(torch.full((1, 1, 1, 1), 0.5), 0.5, kind, margin)

    def train(self, mode: bool = True) -> LearnedMasks:
        """Set training mode, except for a frozen Mixer."""
        super().train(mode)
        if self.frozen:
            self.mixer.eval()
        return self

    def draw(self, count: int, generator: torch.Generator) -> float | Tensor:
        """Return lambda for `count` images: a number, or (N,) float64 on the CPU.

        Args:
            count: N.
            generator: A CPU generator that is equal in every process; one number is taken from it.
        """
        if self.ratio_per == "batch":
            return float(draw_ratio(self.alpha, generator))
        return own_share(draw_ratio(self.alpha, generator, (count * world_size(),)), count)

    def forward(self, first: Tensor, second: Tensor, lam: float | Tensor, images: Tensor) -> MaskPair:
        """Return the masks of N pairs of maps, as the stage answers them, at the size of (N, 3, H, W) images."""
        z_i, z_j = (channels_first(maps, self.mixer.channels) for maps in (first, second))
        return self.mixer(z_i, z_j, lam, (images.shape[2], images.shape[3]))  # type: ignore[no-any-return]

    def loss(self, mask: Tensor, lam: float | Tensor) -> Tensor:
        """Return the mask loss of (N, 1, H, W) masks with gradient, before its weight."""
        return mask_loss(mask, lam, self.kind, self.margin, "batch" if self.ratio_per == "batch" else "sample")

    def weight(self, step: int) -> float:
        """Return the weight of the mask loss at a step."""
        return decayed_weight(step, self.steps, self.beta, self.beta_schedule)

    def groups(self, lr: float, minimum: float | None) -> list[Group]:
        """Return the Mixer's group, or none where it is frozen.

        Args:
            lr: Factor on the base rate.
            minimum: Where a cosine of its own ends, as a share of the rate; None takes the run's schedule.
        """
        if self.frozen:
            return []
        return [Group("mixer", list(self.mixer.parameters()), lr, schedule=cosine_to(minimum))]

    @torch.no_grad()
    def look(self, maps: Tensor, images: Tensor) -> dict[str, float]:
        """Return how masks of a few pairs follow lambda, in evaluation mode, so that nothing is drawn or moved.

        Args:
            maps: (N, C, h, w), or (N, h, w, C) of a backbone that answers so.
            images: (N, 3, H, W), for their size.

        Returns:
            ``mixer/slope``, of the masks' mean against lambda by least squares: 1 is wanted, 0 is what an untrained
            Mixer has; ``mixer/spread``, the mean over masks of the standard deviation of their pixels; ``mixer/gamma``.
        """
        some = maps[:_PAIRS]
        # One lambda after another: never more pairs at once than the step itself has.
        with evaluating(self.mixer):
            masks = torch.cat([self(some, some.roll(1, 0), lam, images).first.flatten(1) for lam in _LAMBDAS])
        lam = torch.tensor(_LAMBDAS).repeat_interleave(len(some)).to(masks)
        centred = lam - lam.mean()
        return {
            "mixer/slope": float((centred * masks.mean(1)).sum() / centred.square().sum()),
            "mixer/spread": float(masks.std(1, correction=0).mean()),
            "mixer/gamma": float(self.mixer.gamma),
        }


def cosine_to(minimum: float | None) -> Callable[[float, int], float] | None:
    """Return half a cosine from 1 to `minimum` as a factor of (fractional epoch, epochs); None for None.

    Raises:
        InputError: Outside [0, 1].
    """
    if minimum is None:
        return None
    if not 0 <= minimum <= 1:
        raise InputError(f"method.mixer_minimum={minimum}: expected a share of the Mixer's rate, in [0, 1], or null.")

    def factor(epoch: float, epochs: int) -> float:
        return minimum + (1 - minimum) * (1 + math.cos(math.pi * min(epoch / max(epochs, 1), 1.0))) / 2

    return factor


def check_choice(name: str, value: str, options: tuple[str, ...]) -> None:
    """Raise InputError unless `value` is one of `options`."""
    if value not in options:
        raise InputError(f"method.{name}={value!r}.{did_you_mean(str(value), options)} Known: {', '.join(options)}.")


def checked_factor(name: str, value: float) -> float:
    """Return a factor on a loss or a rate; InputError unless it is at least 0 and finite."""
    if not 0 <= value < float("inf"):
        raise InputError(f"method.{name}={value}: expected a factor of at least 0.")
    return float(value)
