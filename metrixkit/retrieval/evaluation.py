"""Retrieval metrics of embeddings with class labels, exact to the definitions of docs/definitions.md."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch

from metrixkit.errors import InputError, did_you_mean
from metrixkit.retrieval.clusters import clustering_scores
from metrixkit.retrieval.ranks import Precision, rank_blocks
from metrixkit.retrieval.rows import Distance
from metrixkit.retrieval.setting import TIE, Labels, Pair, label_up, pair_up

RANKED = {
    "map@r": "Mean over queries of 1/R times the sum, over relevant items at rank r <= R, of (relevant items down to "
    "r) / r; R is the query's number of relevant items.",
    "r_precision": "Mean over queries of the share of its R relevant items that stand at rank <= R.",
    "mrr": "Mean over queries of 1 / (rank of the first relevant item).",
}
CLUSTERED = {
    "nmi": "Normalised mutual information (arithmetic mean) between the classes and a k-means clustering into as many "
    "clusters",
    "ami": "Mutual information between the classes and a k-means clustering into as many clusters, adjusted for chance",
}
TIES = "Ties count against the query (pessimistic rank)."
OPTIMISTIC = "The same with ties counted for the query; stands here because it differs."


@dataclass(frozen=True)
class Evaluation(Mapping[str, float]):
    """Metrics by name, as fractions, with what they rest on.

    Attributes:
        metrics: Name to value. Where ties make the optimistic value differ it stands beside as ``NAME/optimistic``.
        counts: queries, gallery (items), evaluated, without_relevant (queries left out of every mean), in_own_gallery
            (queries that left the gallery by id), tied (evaluated queries whose ranks ties leave open), classes (among
            the queries), gallery_classes, dimensions.
        definitions: Metric name to one sentence, and "convention" for what holds for all.
        per_query: One row a query in the given order: id, label, relevant (number of relevant items), rank and
            rank_optimistic of the first relevant item (missing where there is none), and with the metrics that need
            them ap@r, ap@r/optimistic, r_precision, r_precision/optimistic.
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

    def to_dict(self) -> dict[str, Any]:
        """Return metrics, counts and definitions as plain numbers and strings, for a JSON file."""
        return {"metrics": dict(self.metrics), "counts": dict(self.counts), "definitions": dict(self.definitions)}


def evaluate(
    queries: Any,
    query_labels: Any,
    gallery: Any = None,
    gallery_labels: Any = None,
    query_ids: Any = None,
    gallery_ids: Any = None,
    recall_at: Sequence[int] = (1, 2, 4, 8),
    metrics: Sequence[str] = ("map@r", "r_precision"),
    distance: Distance = "cosine",
    precision: Precision = "auto",
    seed: int = 0,
) -> Evaluation:
    """Evaluate retrieval of items of the same class, exactly.

    The k-th relevant item of a query has rank k + number of non-relevant items that score better or equal. Scores are
    those of float64 rows (normalised in float64 for cosine); scores within 1e-12 are equal. A query is never searched
    in the gallery item that it is itself: the same position without a gallery, the same id with one. Duplicates under
    other ids stay. Memory is that of a tile, never queries x gallery.

    Args:
        queries: (Q, d) tensor, array or memory map, on CPU or GPU.
        query_labels: (Q,) integers or strings.
        gallery: (N, d); None searches each query among all the others.
        gallery_labels: (N,), with a gallery.
        query_ids: (Q,) unique strings or integers; positions where None.
        gallery_ids: (N,) unique; ids that also stand in `query_ids` are the same item.
        recall_at: The k of recall@k: the share of queries with any relevant item at rank <= k.
        metrics: Of "map@r", "r_precision", "mrr", "nmi", "ami".
        distance: "cosine", "dot" (larger is nearer) or "euclidean" (squared distance, smaller is nearer). Ties of very
            long rows are as wide as their rounding, see docs/definitions.md.
        precision: "auto", "bfloat16", "float32" or "float64": what screens the pairs, never the result.
        seed: Of the k-means behind nmi and ami.

    Returns:
        An :class:`Evaluation`, a mapping such as ``{"recall@1": 0.63, ..., "map@r": 0.24}``.

    Raises:
        InputError: NaN, infinite or (cosine) zero rows, naming the first; wrong counts or shapes; repeated ids; no
            query with a relevant item; unknown names.

    Warns:
        UserWarning: A k of `recall_at` beyond the gallery; the recall is defined all the same.

    Example:
        >>> import numpy as np
        >>> result = evaluate(np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), ["a", "a", "b"], recall_at=(1,))
        >>> result["recall@1"], result.counts["without_relevant"]
        (1.0, 1)
    """
    cutoffs, names = _check_names(recall_at, metrics)
    pair = pair_up(queries, gallery, query_ids, gallery_ids, distance)
    labels = label_up(pair, query_labels, gallery_labels)
    available = pair.gallery.count - int((pair.own >= 0).all())
    beyond = [k for k in cutoffs if k > available]
    if beyond:
        warnings.warn(
            f"recall@{beyond[0]} asks for more than the {available} gallery items of a query; it is the share of "
            "queries with a relevant item anywhere.",
            UserWarning,
            stacklevel=2,
        )
    table = _per_query(pair, labels, deep="map@r" in names or "r_precision" in names, precision=precision)
    evaluated = table[table["relevant"] > 0]
    if evaluated.empty:
        raise InputError(
            f"no query has a relevant item in its gallery ({pair.queries.count} queries, {pair.gallery.count} gallery "
            f"items; first query label {labels.queries[0]!r}, first gallery label {labels.gallery[0]!r}). Are the "
            "labels of the same kind, and does any class have two items?"
        )
    values, definitions = _summarise(evaluated, cutoffs, names)
    for name, (value, how) in _cluster(pair, labels, names, seed).items():
        values[name], definitions[name] = value, how
    definitions["convention"] = _convention(pair)
    counts = {
        "queries": pair.queries.count,
        "gallery": pair.gallery.count,
        "evaluated": len(evaluated),
        "without_relevant": pair.queries.count - len(evaluated),
        "in_own_gallery": int((pair.own >= 0).sum()),
        "tied": int(_open(evaluated).sum()),
        "classes": len(np.unique(labels.query_codes)),
        "gallery_classes": len(np.unique(labels.gallery_codes)),
        "dimensions": pair.queries.dim,
    }
    return Evaluation(values, counts, definitions, table)


def _check_names(recall_at: Sequence[int], metrics: Sequence[str]) -> tuple[list[int], list[str]]:
    names = list(dict.fromkeys([metrics] if isinstance(metrics, str) else metrics))
    for name in names:
        if name in ("utilization", "alignment", "uniformity"):
            raise InputError(f"metric {name!r} is a function of its own: metrixkit.retrieval.{name}(...).")
        if name.startswith("recall@"):
            raise InputError(f"metric {name!r}: recall is asked for by recall_at=({name.removeprefix('recall@')},).")
        if name not in RANKED and name not in CLUSTERED:
            raise InputError(f"no metric is called {name!r}.{did_you_mean(name, [*RANKED, *CLUSTERED])}")
    cutoffs = list(dict.fromkeys([recall_at] if isinstance(recall_at, int) else recall_at))
    for k in cutoffs:
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise InputError(f"recall_at holds {k!r}; expected whole numbers >= 1.")
    if not cutoffs and not names:
        raise InputError("nothing to evaluate: recall_at and metrics are both empty.")
    return cutoffs, names


@torch.no_grad()
def _per_query(pair: Pair, labels: Labels, deep: bool, precision: str) -> pd.DataFrame:
    """Return the table of :class:`Evaluation`; `deep` follows all relevant items instead of the first."""
    count = pair.queries.count
    relevant = np.zeros(count, dtype=np.int64)
    first = {side: np.zeros(count, dtype=np.int64) for side in ("", "_optimistic")}
    shares = {name + side: np.full(count, np.nan) for name in ("ap@r", "r_precision") for side in ("", "/optimistic")}
    for block in rank_blocks(pair, labels, depth=None if deep else 1, precision=precision):
        relevant[block.rows] = block.relevant
        total = block.relevant[:, None]
        place = np.arange(1, block.pessimistic.shape[1] + 1)
        for side, ranks in (("", block.pessimistic), ("/optimistic", block.optimistic)):
            first[side.replace("/", "_")][block.rows] = ranks[:, 0]
            inside = (ranks > 0) & (ranks <= total)
            shares["ap@r" + side][block.rows] = (inside * (place / np.maximum(ranks, 1))).sum(1) / total[:, 0]
            shares["r_precision" + side][block.rows] = inside.sum(1) / total[:, 0]
    table = pd.DataFrame({"id": pair.query_ids, "label": labels.queries, "relevant": relevant})
    for side, ranks in first.items():
        table["rank" + side] = pd.arrays.IntegerArray(ranks, mask=relevant == 0)
    if deep:
        for name, values in shares.items():
            table[name] = values
    return table


def _open(evaluated: pd.DataFrame) -> pd.Series:
    """Return which queries' ranks ties leave open."""
    tied = evaluated["rank"] != evaluated["rank_optimistic"]
    for name in ("ap@r", "r_precision"):
        if name in evaluated:
            tied |= evaluated[name] != evaluated[name + "/optimistic"]
    return tied


def _summarise(
    evaluated: pd.DataFrame, cutoffs: list[int], names: list[str]
) -> tuple[dict[str, float], dict[str, str]]:
    values: dict[str, float] = {}
    definitions: dict[str, str] = {}

    def add(name: str, sentence: str, pessimistic: np.ndarray, optimistic: np.ndarray) -> None:
        values[name], best = float(pessimistic.mean()), float(optimistic.mean())
        definitions[name] = f"{sentence} {TIES}"
        if best != values[name]:
            values[f"{name}/optimistic"], definitions[f"{name}/optimistic"] = best, OPTIMISTIC

    rank, best_rank = (evaluated[c].to_numpy(dtype=np.int64) for c in ("rank", "rank_optimistic"))
    for k in cutoffs:
        add(f"recall@{k}", f"Share of queries with any relevant item at rank <= {k}.", rank <= k, best_rank <= k)
    for name, column in (("map@r", "ap@r"), ("r_precision", "r_precision")):
        if name in names:
            add(name, RANKED[name], evaluated[column].to_numpy(), evaluated[column + "/optimistic"].to_numpy())
    if "mrr" in names:
        add("mrr", RANKED["mrr"], 1.0 / rank, 1.0 / best_rank)
    return values, definitions


def _cluster(pair: Pair, labels: Labels, names: list[str], seed: int) -> dict[str, tuple[float, str]]:
    """Return nmi and ami, as asked, over queries and gallery together, each item once."""
    asked = [name for name in names if name in CLUSTERED]
    if not asked:
        return {}
    extra = np.array([], dtype=np.int64)
    if pair.gallery is not pair.queries:
        extra = np.setdiff1d(np.arange(pair.gallery.count), pair.own)
    rows = pair.queries.take(slice(None))
    if len(extra):
        rows = torch.cat([rows, pair.gallery.take(extra)])
    codes = np.concatenate([labels.query_codes, labels.gallery_codes[extra]])
    scores, how = clustering_scores(rows, codes, seed)
    return {name: (scores[name], f"{CLUSTERED[name]}: {how}") for name in asked}


def _convention(pair: Pair) -> str:
    own = (
        "each query is searched among all other items"
        if pair.gallery is pair.queries
        else "a query leaves the gallery where its id stands there"
        if (pair.own >= 0).any()
        else "queries and gallery are different items"
    )
    width = f"{TIE:g}" + ("" if pair.distance == "cosine" else " (or their rounding, if wider)")
    return (
        f"Fractions in [0, 1]; {pair.distance} on float64 rows, scores within {width} are equal; {own}; queries "
        "without a relevant item are counted as without_relevant and left out of the means."
    )
