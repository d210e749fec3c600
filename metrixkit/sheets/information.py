"""How much a mixture still tells of its first image: mutual information by MINE, against lambda.

N images of side S; B of them a step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from metrixkit.errors import InputError
from metrixkit.sheets.mixers import Mixers
from metrixkit.sheets.pairs import Pairs

BATCH, LEAST = 64, 40
RATE, DECAY = 1e-3, 0.01  # of Adam; of the moving average that corrects the gradient
LAST = 0.25  # share of the steps, at the end, whose bounds are averaged
ROLLS = 8  # other images that each held-out mixture is put beside


def donsker_varadhan(joint: Tensor, product: Tensor) -> Tensor:
    """Return mean(joint) - log(mean(exp(product))); of the true means it is at most the mutual information in nats.

    Args:
        joint: Values of the statistics network T on pairs that belong together, any shape.
        product: Values on pairs that do not.

    Source: Belghazi et al., MINE: Mutual Information Neural Estimation, ICML 2018, Eq. 5 (Donsker and Varadhan, 1983).
    """
    return joint.mean() - _log_mean(product)


class Ascent:
    """What is maximised: the bound, with the gradient of its logarithm divided by a moving average of mean(exp(T)).

    The mean of a batch inside the logarithm makes its gradient biased; the average over many batches hardly does.

    Source: Belghazi et al., ICML 2018, section 3.2.
    """

    def __init__(self, decay: float = DECAY) -> None:
        self.decay = decay
        self.log_average: Tensor | None = None

    def __call__(self, joint: Tensor, product: Tensor) -> Tensor:
        """Return a scalar whose gradient is the corrected one; its value means nothing."""
        log_mean = _log_mean(product)
        now = log_mean.detach()
        if self.log_average is None:
            self.log_average = now
        parts = torch.stack([self.log_average + math.log1p(-self.decay), now + math.log(self.decay)])
        self.log_average = parts.logsumexp(0)
        return joint.mean() - (log_mean - self.log_average).exp()


class Statistics(nn.Module):
    """T: four convolutions that halve the side over both images on top of one another, then a mean and a number.

    No network is told in the papers; this one has no batch norm, which would let rows of a batch see one another.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((6, 32), (32, 64), (64, 128), (128, 128)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.GroupNorm(8, outputs), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.last = nn.Linear(128, 1)

    def forward(self, mixed: Tensor, images: Tensor) -> Tensor:
        """Return (B,) of (B, 3, S, S) mixtures and images in [0, 1]."""
        maps = self.layers(torch.cat([mixed, images], 1) * 2 - 1)
        return self.last(maps.mean((2, 3)))[:, 0]  # type: ignore[no-any-return]


def mutual_information(
    mixers: Mixers,
    images: Tensor,
    labels: Sequence[str],
    lambdas: Sequence[float],
    steps: int = 300,
    repeats: int = 3,
    seed: int = 0,
) -> pd.DataFrame:
    """Estimate I(mixture; first image) for every mixer and lambda (SAMix, Li et al., 2021, Fig. 8d).

    A network T is trained by ascent of the bound of :func:`donsker_varadhan` on mixtures of four fifths of the images,
    paired anew at each step, and what is told is the bound on mixtures of the other fifth: on images that T was trained
    on it would grow without end. A mixture is never put beside its own partner as an image that it knows nothing of.
    Two things to know of the numbers. Short training shows less than there is, so that they are to be compared with one
    another and not with those of other programmes. And from a sample of n unrelated pairs no more than log(n) nats can
    be vouched for (McAllester and Stratos, AISTATS 2020): above that `limit`, as where the mixture is the image itself,
    the order of lines means something and the height little.

    Args:
        mixers: Which.
        images: (N, 3, S, S) in [0, 1], N at least 40, S at least 16.
        labels: N classes, for mixers that ask.
        lambdas: Shares asked of the first image, each in [0, 1].
        steps: Of training, for each network.
        repeats: Networks for each mixer and lambda, of seeds `seed`, `seed` + 1, ...
        seed: Of split, pairs, boxes and networks.

    Returns:
        A row a mixer and lambda: ``mixer``, ``lambda``, ``information`` in nats, mean over the repeats of the mean over
        the last quarter of the steps; ``deviation`` over the repeats (n - 1), NaN of a single one; ``repeats``;
        ``limit``, the log(n) above.

    Raises:
        InputError: Too few or too small images, counts that differ, fewer than 8 steps or no repeat.
    """
    if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < 16 or len(images) < LEAST:
        raise InputError(
            f"images of shape {tuple(images.shape)}: mutual information is estimated on at least {LEAST} images of "
            "(3, S, S), S at least 16; name more images, or a larger --size."
        )
    if len(labels) != len(images):
        raise InputError(f"{len(images)} images and {len(labels)} labels; each image needs exactly one.")
    if steps < 8 or repeats < 1:
        raise InputError(f"{steps} steps, {repeats} repeats: expected at least 8 steps and one repeat.")
    rows = []
    held = len(images) // 5
    limit = math.log(held * len(_rolls(held)))
    for name in mixers.names:
        for lam in lambdas:
            found = [_estimate(mixers, name, images, labels, lam, steps, seed + r) for r in range(repeats)]
            spread = float(np.std(found, ddof=1)) if repeats > 1 else float("nan")
            told = {"information": float(np.mean(found)), "deviation": spread, "repeats": repeats, "limit": limit}
            rows.append({"mixer": name, "lambda": lam, **told})
    return pd.DataFrame(rows)


def _estimate(
    mixers: Mixers, name: str, images: Tensor, labels: Sequence[str], lam: float, steps: int, seed: int
) -> float:
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    own, held = order[len(order) // 5 :], order[: len(order) // 5]
    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Statistics()
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    ascent, bounds = Ascent(), []
    first = images[held]
    asked = mixers.mix(name, _ring(images, labels, held), lam, seed).images
    for step in range(steps):
        some = own[torch.randperm(len(own), generator=draw)[:BATCH]]
        pairs = _ring(images, labels, some)
        mixed = mixers.mix(name, pairs, lam, seed + step).images
        # Row i was mixed with row i + 1: what it knows nothing of stands further on.
        roll = int(torch.randint(2, len(some), (1,), generator=draw))
        with torch.enable_grad():
            value = ascent(network(mixed, pairs.first), network(mixed, pairs.first.roll(-roll, 0)))
            optimizer.zero_grad(set_to_none=True)
            (-value).backward()
        optimizer.step()
        if step >= (1 - LAST) * steps and (steps - 1 - step) % 5 == 0:
            with torch.no_grad():
                product = torch.cat([network(asked, first.roll(-roll, 0)) for roll in _rolls(len(held))])
                bounds.append(float(donsker_varadhan(network(asked, first).double(), product.double())))
    return float(np.mean(bounds))


def _ring(images: Tensor, labels: Sequence[str], rows: Tensor) -> Pairs:
    """Return pairs of each row with the next one."""
    after = rows.roll(-1)
    names = [(labels[a], labels[b]) for a, b in zip(rows.tolist(), after.tolist(), strict=True)]
    return Pairs(images[rows], images[after], names)


def _rolls(count: int) -> range:
    """Return how far on stand the images that a held-out mixture tells nothing of."""
    return range(2, min(2 + ROLLS, count))


def _log_mean(values: Tensor) -> Tensor:
    return values.flatten().logsumexp(0) - math.log(values.numel())
