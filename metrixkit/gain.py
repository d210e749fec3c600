"""What training changed, and how sure that is: the same queries before the first step and after the last."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from metrixkit.errors import InputError
from metrixkit.files import replacing
from metrixkit.foreign import read_arrays
from metrixkit.retrieval.bootstrap import percentile_interval

BEFORE = "before.npz"
LEVEL, RESAMPLES = 0.95, 2000
HOW = (
    "Percentile bootstrap, {resamples:,} resamples of the queries, of the mean difference after less before, query by "
    "query; by_class draws whole classes of queries instead. It covers which queries were asked, not what another seed "
    "of training would give."
)


@dataclass(frozen=True)
class PerQuery:
    """A metric query by query: it is their mean. The constructor checks that the arrays fit together.

    Attributes:
        metric: Its name.
        ids: (Q,) unicode, unique.
        classes: (Q,) unicode, what rises and falls together: the class of a query, the video of a text.
        values: (Q,) float64.
    """

    metric: str
    ids: np.ndarray
    classes: np.ndarray
    values: np.ndarray

    def __post_init__(self) -> None:
        """Raise InputError where lengths differ or a value is no finite number."""
        if not len(self.ids) == len(self.classes) == len(self.values) or not np.isfinite(self.values).all():
            raise InputError(
                f"{self.metric}, query by query: {len(self.ids)} ids, {len(self.classes)} classes and "
                f"{len(self.values)} values; expected equally many, and finite values."
            )


def save_per_query(path: str | os.PathLike[str], kept: PerQuery) -> None:
    """Write what :func:`load_per_query` reads, whole or not at all."""
    with replacing(path) as file:
        np.savez_compressed(
            file,
            metric=np.array(kept.metric),
            ids=kept.ids.astype(str),
            classes=kept.classes.astype(str),
            values=kept.values.astype(np.float64),
        )


def load_per_query(path: str | os.PathLike[str]) -> PerQuery:
    """Read what :func:`save_per_query` wrote.

    Raises:
        InputError: The file is absent, or no such file.
    """
    try:
        file = read_arrays(path, ("metric", "ids", "classes", "values").__contains__)
        return PerQuery(str(file["metric"]), file["ids"], file["classes"], file["values"].astype(np.float64))
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except InputError:
        raise
    except (OSError, ValueError, KeyError, EOFError, TypeError, BadZipFile, MemoryError, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({error})") from error


def gain_of(before: PerQuery, after: PerQuery, seed: int = 0) -> dict[str, Any]:
    """Return the change of a metric with its 95 % interval, for a JSON file.

    Args:
        before: Of the model before training.
        after: Of the selected model; the same queries, in whatever order.
        seed: Of the resampling.

    Returns:
        metric, change (after less before), low and high (over queries), by_class ([low, high] over classes; None where
        there is one, or each query is its own), may_be_chance (whether one of the intervals holds 0), level, queries,
        definition.

    Raises:
        InputError: Another metric, or other queries.

    Source: as :func:`~metrixkit.retrieval.bootstrap.percentile_interval`.
    """
    orders = [np.argsort(side.ids, kind="stable") for side in (before, after)]
    if before.metric != after.metric:
        raise InputError(f"{before.metric} before training and {after.metric} after it cannot be compared")
    if not np.array_equal(before.ids[orders[0]], after.ids[orders[1]]):
        raise InputError(f"other queries were asked before training ({len(before.ids)}) than after ({len(after.ids)})")
    gaps = after.values[orders[1]] - before.values[orders[0]]
    low, high = percentile_interval(gaps, LEVEL, RESAMPLES, seed)
    classes = after.classes[orders[1]]
    by_class = None
    if 1 < len(np.unique(classes)) < len(classes):
        by_class = list(percentile_interval(gaps, LEVEL, RESAMPLES, seed, classes))
    ends = [(low, high), *([tuple(by_class)] if by_class else [])]
    return {
        "metric": after.metric,
        "change": float(gaps.mean()),
        "low": low,
        "high": high,
        "by_class": by_class,
        "may_be_chance": any(left <= 0 <= right for left, right in ends),
        "level": LEVEL,
        "queries": len(gaps),
        "definition": HOW.format(resamples=RESAMPLES),
    }


def run_gain(folder: Path, after: PerQuery | None) -> dict[str, Any]:
    """Return :func:`gain_of` of a run, or ``{"none": why}``.

    Args:
        folder: The run folder, which holds what :func:`save_per_query` wrote before the first step.
        after: Of the selected weights; None where the headline is no mean over queries.
    """
    if after is None:
        return {"none": "the metric is no mean over queries"}
    try:
        return gain_of(load_per_query(folder / BEFORE), after)
    except InputError as error:
        return {"none": str(error)}


def in_words(gain: Mapping[str, Any], scale: float = 100.0) -> str:
    """Return "+20.1 to +24.3 with 95 % confidence, +17.0 to +27.2 by classes" of what :func:`gain_of` returned.

    Args:
        gain: From a result file; "" is returned for one that holds no interval.
        scale: What the values are multiplied by: 100 for points of percent.
    """

    def ends(pair: Any) -> str:
        low, high = (f"{scale * float(end):+.{1 if scale == 100 else 3}f}" for end in pair)
        return f"{low} to {high}"

    try:
        told = f"{ends((gain['low'], gain['high']))} with {100 * float(gain['level']):.0f} % confidence"
        by_class = gain.get("by_class")
        return told + (f", {ends(by_class)} drawing whole classes" if by_class else "")
    except (KeyError, TypeError, ValueError):
        return ""
