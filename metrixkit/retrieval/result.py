"""What an evaluation hands back: metrics by name, what they rest on, and how sure they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from metrixkit.errors import InputError, did_you_mean
from metrixkit.retrieval.bootstrap import percentile_interval
from metrixkit.retrieval.measures import Measure, is_known, measures_of

LEVEL = 0.95


class QueryValues(NamedTuple):
    """A metric query by query.

    Attributes:
        ids: (Q,) of the evaluated queries.
        classes: (Q,) theirs.
        values: (Q,) float64.
        summary: What of the values the metric is.
    """

    ids: np.ndarray
    classes: np.ndarray
    values: np.ndarray
    summary: Literal["mean", "median"]


@dataclass(frozen=True)
class Evaluation(Mapping[str, float]):
    """Metrics by name, as fractions (ranks as they are), with what they rest on.

    Attributes:
        metrics: Name to value. Where ties make the optimistic value differ it stands beside as ``NAME/optimistic``.
        counts: queries, gallery (items), evaluated, without_relevant (queries left out of every mean), in_own_gallery
            (queries that left the gallery by id), tied (evaluated queries whose values ties leave open), classes (among
            the queries), gallery_classes, dimensions, and with groups gallery_groups.
        definitions: Metric name to one sentence, and "convention" for what holds for all.
        per_query: One row a query in the given order: id, label, relevant (number of relevant items), rank and
            rank_optimistic of the first relevant item (missing where there is none), and for each metric by rank its
            value of that query, missing likewise: recall@k, ap@r and ap@k (of map@r and map@k), r_precision,
            precision@k, ndcg@k, reciprocal_rank (of mrr); beside each, COLUMN/optimistic. mean_rank and median_rank
            are of the column rank.
    """

    metrics: dict[str, float]
    counts: dict[str, int]
    definitions: dict[str, str]
    per_query: pd.DataFrame = field(repr=False)

    def __getitem__(self, name: str) -> float:
        """Return one metric; a KeyError names the near ones."""
        if name not in self.metrics:
            raise KeyError(f"{name!r}.{did_you_mean(name, self.metrics)}")
        return self.metrics[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the metric names."""
        return iter(self.metrics)

    def __len__(self) -> int:
        """Return the number of metrics."""
        return len(self.metrics)

    def interval(
        self,
        name: str,
        level: float = LEVEL,
        samples: int = 2000,
        seed: int = 0,
        by: Literal["query", "class"] = "query",
    ) -> tuple[float, float]:
        """Return the percentile bootstrap interval of a metric, over the evaluated queries.

        Args:
            name: A metric by rank, or its ``NAME/optimistic``.
            level: Share of resamples inside, in (0, 1).
            samples: Number of resamples.
            seed: Of the drawing.
            by: What is drawn with replacement: single queries, or whole classes. Queries of one class rise and fall
                together, so the interval by class is the wider and, for "how would it do on other classes", the
                honest one; it needs more than a handful of classes.

        Returns:
            low, high, in the units of the metric.

        Raises:
            InputError: A metric that is not there or is no mean over queries; a bad level or number of samples; queries
                of one class, where classes are to be drawn.
        """
        if by not in ("query", "class"):
            raise InputError(f"interval: by={by!r} is not known.{did_you_mean(by, ('query', 'class'))}")
        found = self.values_of(name)
        clusters = found.classes if by == "class" else None
        if clusters is not None and len(np.unique(clusters)) < 2:
            raise InputError("interval: all evaluated queries are of one class, so drawing classes tells nothing.")
        return percentile_interval(found.values, level, samples, seed, clusters, found.summary)

    def values_of(self, name: str) -> QueryValues:
        """Return the values of a metric by rank, query by query, of the queries that have anything to find.

        Args:
            name: A metric by rank, or its ``NAME/optimistic``.

        Raises:
            InputError: A metric that is not there, or one that is not made of queries.
        """
        plain = name.removesuffix("/optimistic")
        if plain not in self.metrics:
            raise InputError(f"interval: no metric {name!r} was computed.{did_you_mean(plain, self.metrics)}")
        measure = _measure_of(plain)
        if measure is None:
            raise InputError(f"interval: {name!r} is no mean over queries, so drawing queries tells nothing of it.")
        evaluated = self.per_query[self.per_query["relevant"] > 0]
        values = evaluated[measure.column if name == plain else measure.optimistic].to_numpy(dtype=np.float64)
        return QueryValues(evaluated["id"].to_numpy(), evaluated["label"].to_numpy(), values, measure.summary)

    def intervals(self, level: float = LEVEL) -> dict[str, dict[str, Any]]:
        """Return for each recall@k its interval over queries (low, high) and over classes, for a JSON file.

        The one over classes (``by_class``) is None where all evaluated queries are of one.
        """
        several = self.per_query["label"][self.per_query["relevant"] > 0].nunique() > 1
        found: dict[str, dict[str, Any]] = {}
        for name in self.metrics:
            if name.startswith("recall@") and not name.endswith("/optimistic"):
                low, high = self.interval(name, level)
                found[name] = {
                    "low": low,
                    "high": high,
                    "by_class": list(self.interval(name, level, by="class")) if several else None,
                    "level": level,
                }
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return metrics, counts and definitions as plain numbers and strings, for a JSON file."""
        return {"metrics": dict(self.metrics), "counts": dict(self.counts), "definitions": dict(self.definitions)}


def _measure_of(name: str) -> Measure | None:
    """Return the metric by rank of this name, None for one by clustering."""
    if name.startswith("recall@"):
        return measures_of([int(name.removeprefix("recall@"))], [])[0]
    return measures_of([], [name])[0] if is_known(name) else None
