"""The paired bootstrap: how sure the difference of two models is, given the queries they were tested on."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from metrixkit.errors import InputError
from metrixkit.foreign import read_arrays
from metrixkit.retrieval.bootstrap import resampled_means
from metrixkit.retrieval.predicted import CLASS_RANK

RESAMPLES = 10_000
LEVEL = 0.95
_CUT = re.compile(r"(recall@|top|linear@|knn@)(\d+)")


@dataclass(frozen=True)
class Answers:
    """Where what was asked for stands among the answers to each query, in the order of the ids.

    Attributes:
        ids: (Q,) text, sorted.
        ranks: (Q,) of the first relevant item, from 1; 0 for a query without a relevant item.
        class_ranks: (Q,) of the own class, from 1, by the metric that they make, see
            :class:`~metrixkit.retrieval.Predictions`; empty where no classes were asked for.
    """

    ids: np.ndarray
    ranks: np.ndarray
    class_ranks: Mapping[str, np.ndarray] = field(default_factory=dict)

    def hits(self, metric: str) -> np.ndarray | None:
        """Return whether each query was answered right in the sense of a metric, of which the metric is the mean.

        Args:
            metric: recall@k (of the queries that have a relevant item), or topk, linear@k, knn@k.

        Returns:
            None where the metric is no such mean, or its ranks were not kept.
        """
        parts = _CUT.fullmatch(metric)
        if parts is None:
            return None
        if parts[1] == "recall@":
            return self.ranks[self.ranks > 0] <= int(parts[2])  # type: ignore[no-any-return]
        ranks = self.class_ranks.get(parts[1])
        return None if ranks is None else ranks <= int(parts[2])


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
        found = read_arrays(path, lambda name: name in ("query_ids", "rank_of_first") or name.startswith(CLASS_RANK))
        ids, ranks = found.pop("query_ids"), found.pop("rank_of_first")
        classes = {name.removeprefix(CLASS_RANK): places for name, places in found.items()}
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except InputError:
        raise
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, MemoryError, zlib.error) as error:
        raise InputError(f"{path} cannot be read as predictions ({error})") from error
    numbers = all(array.shape == ids.shape and array.dtype.kind in "biuf" for array in (ranks, *classes.values()))
    if ids.ndim != 1 or not numbers:
        raise InputError(f"{path} cannot be read as predictions (its ids and ranks do not go together)")
    order = np.argsort(ids, kind="stable")
    return Answers(ids[order], ranks[order], {name: places[order] for name, places in classes.items()})


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
