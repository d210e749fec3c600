"""How sure a mean or a median over queries is: the percentile bootstrap, over queries or over their classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from metrixkit.errors import InputError, did_you_mean

SUMMARIES = ("mean", "median")
FEW = 64  # distinct values up to which drawing how often each of them comes is cheaper than drawing queries
DRAWN = 2**21  # drawn units held at once


def percentile_interval(
    values: np.ndarray,
    level: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
    clusters: np.ndarray | None = None,
    summary: Literal["mean", "median"] = "mean",
) -> tuple[float, float]:
    """Return the interval that holds the central share `level` of the resampled means (or medians).

    Args:
        values: (Q,) one a query.
        level: In (0, 1).
        samples: Number of resamples, each as many queries (or clusters) as there are, drawn with replacement.
        seed: Of the drawing.
        clusters: (Q,) integers or strings: whole clusters are drawn instead of queries, because the queries of one
            class rise and fall together. A resample then holds as many clusters, and about as many queries.
        summary: "mean" or "median".

    Returns:
        low, high.

    Raises:
        InputError: No value or one that is not finite, a level outside (0, 1), fewer than one sample, clusters of
            another length, or a summary that is not known.

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993: the percentile interval; clusters as units as in
        Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8.
    """
    values = np.asarray(values, dtype=np.float64)
    if summary not in SUMMARIES:
        raise InputError(
            f"bootstrap: no summary is called {summary!r}.{did_you_mean(str(summary), SUMMARIES)} There are "
            f"{' and '.join(SUMMARIES)}."
        )
    if not len(values):
        raise InputError("bootstrap: there is no value to draw from.")
    if not np.isfinite(values).all():
        where = int(np.argmax(~np.isfinite(values)))
        raise InputError(f"bootstrap: value {where} is {values.flat[where]}; every value must be a finite number.")
    if not 0 < level < 1:
        raise InputError(f"bootstrap: level={level} must lie between 0 and 1, for example 0.95.")
    if samples < 1:
        raise InputError(f"bootstrap: samples={samples} must be at least 1; 2000 is usual.")
    if clusters is not None and len(clusters) != len(values):
        raise InputError(f"bootstrap: {len(clusters)} clusters for {len(values)} values; each value needs one.")
    if summary == "median":
        drawn = _medians(values, samples, seed, clusters)
    elif clusters is None:
        drawn = resampled_means(values, samples, seed)
    else:
        drawn = _cluster_means(values, samples, seed, clusters)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def resampled_means(values: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Return (samples,) means of as many values as there are, drawn with replacement.

    Where only a few values exist (hits and misses), drawing how often each of them comes, a multinomial, is the same as
    drawing the queries and costs nothing that grows with their number.
    """
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= FEW:
        drawn = np.random.default_rng(seed).multinomial(len(values), counts / len(values), size=samples)
        return np.asarray(drawn @ distinct / len(values))
    return np.concatenate([values[index].mean(1) for index in _draws(len(values), samples, seed)])


def _cluster_means(values: np.ndarray, samples: int, seed: int, clusters: np.ndarray) -> np.ndarray:
    codes = np.unique(clusters, return_inverse=True)[1]
    sums, sizes = np.bincount(codes, weights=values), np.bincount(codes)
    return np.concatenate([sums[i].sum(1) / sizes[i].sum(1) for i in _draws(len(sums), samples, seed)])


def _medians(values: np.ndarray, samples: int, seed: int, clusters: np.ndarray | None) -> np.ndarray:
    """Return medians of resamples, from how often each unit was drawn: nothing is sorted but the values, once."""
    codes = np.arange(len(values)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    order = np.argsort(values, kind="stable")
    ranked, units = values[order], int(codes.max()) + 1
    found = []
    for index in _draws(units, samples, seed, len(values)):
        times = np.stack([np.bincount(row, minlength=units) for row in index])
        below = times[:, codes[order]].cumsum(1)
        total = below[:, -1:]
        # The two middle ones, which are one where the total is odd.
        lower, upper = (below < (total + 1) // 2).sum(1), (below < total // 2 + 1).sum(1)
        found.append((ranked[lower] + ranked[upper]) / 2)
    return np.concatenate(found)


def _draws(units: int, samples: int, seed: int, width: int = 0) -> Iterator[np.ndarray]:
    """Yield blocks of (n, units) unit numbers; `width` numbers more are held by the caller for each resample."""
    generator = np.random.default_rng(seed)
    step = max(1, DRAWN // max(units, width))
    for start in range(0, samples, step):
        yield generator.integers(units, size=(min(step, samples - start), units))
