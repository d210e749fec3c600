"""Metrics that follow from ranks: one value a query, then their mean (or median) over queries.

Legend of shapes: b queries of a block, K relevant items each is followed for. Ranks are 1-based; a rank of 0 stands for
a relevant item that does not exist or is not followed. R is the number of relevant items of a query, r_1 < ... < r_R
their ranks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from metrixkit.errors import InputError, did_you_mean

PLAIN = ("map@r", "r_precision", "mrr", "mean_rank", "median_rank")
AT = ("map", "precision", "ndcg")  # NAME@k
LOWER_IS_BETTER = ("mean_rank", "median_rank")
Values = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Measure:
    """A metric by rank.

    Attributes:
        name: As asked for ("map@10").
        column: Of the per-query table. "rank" is the rank of the first relevant item itself.
        sentence: Its definition.
        follows: How many relevant items of a query it looks at; None for all.
        within: Ranks beyond this one do not matter to it: a number, "r" for R, or None where every rank matters.
        values: From ranks (b, K) and R (b,) to (b,) float64.
        summary: What is taken over queries.
    """

    name: str
    column: str
    sentence: str
    follows: int | None
    within: int | Literal["r"] | None
    values: Values
    summary: Literal["mean", "median"] = "mean"

    @property
    def optimistic(self) -> str:
        """The column of the optimistic value."""
        return "rank_optimistic" if self.column == "rank" else f"{self.column}/optimistic"

    def over(self, values: np.ndarray) -> float:
        """Return the mean, or the median, over queries."""
        return float(np.median(values) if self.summary == "median" else values.mean())


def measures_of(recall_at: Sequence[int], names: Sequence[str]) -> list[Measure]:
    """Return the metrics of recall@k for the given k, then those of other names.

    Raises:
        InputError: A cutoff that is no whole number >= 1, or a name that is not known.
    """
    return [*(_recall(k) for k in recall_at), *(measure(name) for name in names)]


def measure(name: str) -> Measure:
    """Return the metric of a name of :data:`PLAIN`, or ``map@k``, ``precision@k``, ``ndcg@k``.

    Raises:
        InputError: No such name, with the near ones, or k < 1.
    """
    found = re.fullmatch(r"(\w+)@(\d+)", name)
    if found and found[1] in AT:
        k = int(found[2])
        if k < 1:
            raise InputError(f"metric {name!r}: the cutoff must be at least 1.")
        return {"map": _map_at, "precision": _precision, "ndcg": _ndcg}[found[1]](k)
    if name not in _PLAIN:
        raise InputError(f"no metric is called {name!r}.{did_you_mean(name, known())}")
    return _PLAIN[name]


def known() -> list[str]:
    """Return the names of :func:`measure`, those with a cutoff for k = 10."""
    return [*PLAIN, *(f"{name}@10" for name in AT)]


def is_known(name: str) -> bool:
    """Return whether :func:`measure` has a metric of this name."""
    return name in _PLAIN or bool(re.fullmatch(rf"({'|'.join(AT)})@\d+", name))


def depth_of(asked: Sequence[Measure]) -> int | None:
    """Return how many relevant items of each query must be followed for these; None for all."""
    counts = [m.follows for m in asked]
    return None if None in counts else max([1, *(c for c in counts if c is not None)])


def cap_of(asked: Sequence[Measure], relevant: np.ndarray) -> np.ndarray | None:
    """Return (Q,) the rank beyond which nothing but the first relevant item matters to these metrics.

    Args:
        asked: The metrics. That first rank itself is wanted always.
        relevant: (Q,) number of relevant items of each query.

    Returns:
        None where only first relevant items are followed.
    """
    deep = [m.within for m in asked if m.follows != 1]
    if not deep:
        return None
    cap = np.maximum(relevant, 1) if "r" in deep else np.ones_like(relevant)
    return np.maximum(cap, max([1, *(k for k in deep if isinstance(k, int))]))


def _recall(k: int) -> Measure:
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise InputError(f"recall_at holds {k!r}; expected whole numbers >= 1.")
    sentence = f"Share of queries with any relevant item at rank <= {k}."
    return Measure(f"recall@{k}", f"recall@{k}", sentence, 1, int(k), lambda ranks, _: (ranks[:, 0] <= k).astype(float))


def _map_at(k: int) -> Measure:
    def values(ranks: np.ndarray, relevant: np.ndarray) -> np.ndarray:
        return _precisions(ranks, np.full_like(relevant, k)) / np.minimum(relevant, k)

    sentence = (
        f"Mean over queries of 1/min(R, {k}) times the sum, over relevant items at rank r <= {k}, of (relevant items "
        "down to r) / r; R is the query's number of relevant items."
    )
    return Measure(f"map@{k}", f"ap@{k}", sentence, k, k, values)


def _precision(k: int) -> Measure:
    def values(ranks: np.ndarray, relevant: np.ndarray) -> np.ndarray:
        return ((ranks > 0) & (ranks <= k)).sum(1) / k

    sentence = f"Mean over queries of the number of relevant items at rank <= {k}, divided by {k}."
    return Measure(f"precision@{k}", f"precision@{k}", sentence, k, k, values)


def _ndcg(k: int) -> Measure:
    def values(ranks: np.ndarray, relevant: np.ndarray) -> np.ndarray:
        inside = (ranks > 0) & (ranks <= k)
        # Added up in the order of the ideal, so that a perfect list has exactly 1.
        gained = np.where(inside, 1 / np.log2(1 + np.maximum(ranks, 1)), 0.0).cumsum(1)[:, -1]
        longest = int(np.minimum(relevant.max(initial=1), k))  # no query needs a longer ideal list
        ideal = np.cumsum(1 / np.log2(2 + np.arange(longest)))
        return gained / ideal[np.minimum(relevant, k) - 1]

    sentence = (
        f"Mean over queries of the sum of 1/log2(1 + r) over relevant items at rank r <= {k}, divided by the same sum "
        f"for min(R, {k}) relevant items at the first ranks; R is the query's number of relevant items."
    )
    return Measure(f"ndcg@{k}", f"ndcg@{k}", sentence, k, k, values)


def _ap_at_r(ranks: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    return _precisions(ranks, relevant) / relevant


def _precisions(ranks: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Return the sum of t / r_t over the t with r_t <= last."""
    place = np.arange(1, ranks.shape[1] + 1)
    inside = (ranks > 0) & (ranks <= last[:, None])
    return (inside * (place / np.maximum(ranks, 1))).sum(1)


def _found_within_r(ranks: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    return ((ranks > 0) & (ranks <= relevant[:, None])).sum(1) / relevant


def _first(ranks: np.ndarray, _: np.ndarray) -> np.ndarray:
    return ranks[:, 0].astype(float)


_PLAIN = {
    m.name: m
    for m in (
        Measure(
            "map@r",
            "ap@r",
            "Mean over queries of 1/R times the sum, over relevant items at rank r <= R, of (relevant items down to r) "
            "/ r; R is the query's number of relevant items.",
            None,
            "r",
            _ap_at_r,
        ),
        Measure(
            "r_precision",
            "r_precision",
            "Mean over queries of the share of its R relevant items that stand at rank <= R.",
            None,
            "r",
            _found_within_r,
        ),
        Measure(
            "mrr",
            "reciprocal_rank",
            "Mean over queries of 1 / (rank of the first relevant item).",
            1,
            None,
            lambda ranks, _: 1.0 / ranks[:, 0],
        ),
        Measure(
            "mean_rank",
            "rank",
            "Mean over queries of the rank of the first relevant item; from 1, lower is better.",
            1,
            None,
            _first,
        ),
        Measure(
            "median_rank",
            "rank",
            "Median over queries of the rank of the first relevant item; from 1, lower is better.",
            1,
            None,
            _first,
            "median",
        ),
    )
}
