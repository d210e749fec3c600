"""The paired bootstrap: how sure the difference of two models is, given the queries they were tested on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metrixkit.errors import InputError
from metrixkit.retrieval.bootstrap import resampled_means

RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Answers:
    """The rank of the first relevant item of each query, in the order of the ids.

    Attributes:
        ids: (Q,) text, sorted.
        ranks: (Q,) from 1; 0 for a query without a relevant item.
    """

    ids: np.ndarray
    ranks: np.ndarray

    def hits(self, k: int) -> np.ndarray:
        """Return, for each query that has a relevant item, whether one stands at rank <= k."""
        ranks = self.ranks[self.ranks > 0]
        return ranks <= k


@dataclass(frozen=True)
class Difference:
    """A difference of shares and its two-sided interval, as fractions."""

    value: float
    low: float
    high: float


def read_answers(path: Path) -> Answers:
    """Read query ids and ranks from ``predictions.npz``, leaving the (much larger) neighbours alone.

    Raises:
        InputError: The file is absent or no such file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            ids, ranks = file["query_ids"], file["rank_of_first"]
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise InputError(f"{path} cannot be read as predictions ({error})") from error
    order = np.argsort(ids, kind="stable")
    return Answers(ids[order], ranks[order])


def why_not_paired(answers: list[Answers]) -> str:
    """Return why these runs did not answer the same queries, or ""."""
    first = answers[0]
    for other in answers[1:]:
        if len(other.ids) != len(first.ids):
            return f"they were asked {len(first.ids)} and {len(other.ids)} queries"
        if not np.array_equal(other.ids, first.ids):
            return "they were asked different queries"
        if not np.array_equal(other.ranks > 0, first.ranks > 0):
            return "the queries that have a relevant item differ"
    return ""


def paired_bootstrap(
    ours: list[np.ndarray],
    theirs: list[np.ndarray],
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Difference:
    """Return the difference in hits, averaged over seeds, with its percentile interval over queries.

    Query i contributes d_i = mean over our runs of hit_i - mean over theirs. A resample draws Q queries with
    replacement and takes the mean of d.

    Args:
        ours: One (Q,) array of hits for each run (seed), the same queries in the same order throughout.
        theirs: The same for the reference; as many runs or not.
        seed: Of the resampling.
        resamples: Number of resamples.
        level: Share of resamples inside the interval.

    Raises:
        InputError: No run or no query on a side, or lengths that differ.

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, the percentile interval.
    """
    lengths = {len(hits) for hits in [*ours, *theirs]}
    if not ours or not theirs or len(lengths) != 1 or 0 in lengths:
        raise InputError(f"paired bootstrap: expected runs on both sides, of equally many queries; got {lengths}.")
    gaps = np.mean(ours, axis=0) - np.mean(theirs, axis=0)
    means = resampled_means(gaps, resamples, seed)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Difference(float(gaps.mean()), float(low), float(high))
