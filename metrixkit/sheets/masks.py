"""What masks are like, over lambda: their mean, how it spreads, how hard they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from metrixkit.errors import InputError
from metrixkit.sheets.mixers import Mixers, full_mask
from metrixkit.sheets.pairs import Pairs

NEARLY = 0.1  # a pixel is nearly binary where it is no further from 0 or 1
TOGETHER = 4  # pairs a call: mixers that flip one coin a batch so flip many


def mask_statistics(mixers: Mixers, pairs: Pairs, lambdas: Sequence[float], seed: int = 0) -> pd.DataFrame:
    """Return what the masks of `pairs` are like for every mixer and lambda.

    Args:
        mixers: Which.
        pairs: P pairs.
        lambdas: Shares asked of the first image, each in [0, 1].
        seed: Of boxes, noise and coins.

    Returns:
        A row a mixer and lambda. ``mask_mean`` is the mean, over pairs, of the mean of a mask over its pixels,
        ``mask_mean_deviation`` the standard deviation (of the population) of these over pairs; ``label_share`` the mean
        of the share that labels must use; ``pixel_deviation`` the mean over pairs of the deviation of a mask's pixels;
        ``nearly_binary`` the share of pixels within 0.1 of 0 or 1. Where a mixer has no mask, an even one of its share.
    """
    rows = []
    for name in mixers.names:
        for lam in lambdas:
            means, deviations, binary, labels = [], [], [], []
            for number, part in enumerate(pairs.parts(TOGETHER)):
                mixed = mixers.mix(name, part, lam, seed + number)
                mask = full_mask(mixed).double().flatten(1)
                means.append(mask.mean(1))
                deviations.append(mask.std(1, correction=0))
                binary.append(((mask <= NEARLY) | (mask >= 1 - NEARLY)).double().mean(1))
                labels.append(mixed.lam.double())
            mean = torch.cat(means)
            rows.append(
                {
                    "mixer": name,
                    "lambda": lam,
                    "pairs": len(pairs),
                    "mask_mean": float(mean.mean()),
                    "mask_mean_deviation": float(mean.std(correction=0)),
                    "label_share": float(torch.cat(labels).mean()),
                    "pixel_deviation": float(torch.cat(deviations).mean()),
                    "nearly_binary": float(torch.cat(binary).mean()),
                }
            )
    return pd.DataFrame(rows)


def slopes(found: pd.DataFrame) -> pd.DataFrame:
    """Return for each mixer the line that fits its mask means best (least squares over all lambdas).

    Args:
        found: As :func:`mask_statistics` returns it; all lambdas have the same number of pairs.

    Returns:
        A row a mixer: ``mixer``, ``slope``, ``intercept``; a mask that follows lambda has 1 and 0.

    Raises:
        InputError: Fewer than two lambdas.
    """
    rows = []
    for name, part in found.groupby("mixer", sort=False):
        lam = part["lambda"].to_numpy(dtype=float)
        if len(np.unique(lam)) < 2:
            raise InputError("a slope needs two lambdas or more, such as --lambdas 0,0.25,0.5,0.75,1.")
        slope, intercept = np.polyfit(lam, part["mask_mean"].to_numpy(dtype=float), 1)
        rows.append({"mixer": name, "slope": float(slope), "intercept": float(intercept)})
    return pd.DataFrame(rows)
