"""Retrieval metrics of embeddings with class labels, exact to the definitions of docs/definitions.md."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from metrixkit.errors import InputError, did_you_mean
from metrixkit.retrieval.clusters import clustering_scores
from metrixkit.retrieval.exact.ranks import Precision, RankBlock, rank_blocks, relevant_counts
from metrixkit.retrieval.exact.rows import Distance
from metrixkit.retrieval.exact.setting import TIE, Labels, Pair, label_up, pair_up
from metrixkit.retrieval.groups import Groups, group_blocks, group_up
from metrixkit.retrieval.measures import Measure, cap_of, depth_of, is_known, known, measures_of
from metrixkit.retrieval.result import Evaluation

CLUSTERED = {
    "nmi": "Normalised mutual information (arithmetic mean) between the classes and a k-means clustering into as many "
    "clusters",
    "ami": "Mutual information between the classes and a k-means clustering into as many clusters, adjusted for chance",
}
TIES = "Ties count against the query (pessimistic rank)."
OPTIMISTIC = "The same with ties counted for the query; stands here because it differs."


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
    gallery_groups: Any = None,
    processes: bool = False,
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
        metrics: Of "map@r", "r_precision", "mrr", "mean_rank", "median_rank", "map@k", "precision@k", "ndcg@k" (k a
            number: "ndcg@10"), "nmi", "ami"; docs/definitions.md defines each.
        distance: "cosine", "dot" (larger is nearer) or "euclidean" (squared distance, smaller is nearer). Ties of very
            long rows are as wide as their rounding, see docs/definitions.md.
        precision: "auto", "bfloat16", "float32" or "float64": what screens the pairs, never the result.
        seed: Of the k-means behind nmi and ami.
        gallery_groups: (N,) the group (product) of each gallery item, or of each query where there is no gallery.
            Groups are then ranked instead of items: a group scores as its best item, it is relevant where its label is
            the query's, and the query leaves its own group, which stays if it has other items. All items of a group
            bear one label. Computed in float64, whatever `precision`.
        processes: Share the queries among the processes of the default group (torch.distributed), each of which holds
            all data and calls this; each gets the whole result. Groups are ranked by every process alone.

    Returns:
        An :class:`Evaluation`, a mapping such as ``{"recall@1": 0.63, ..., "map@r": 0.24}``.

    Raises:
        InputError: NaN, infinite or (cosine) zero rows, naming the first; wrong counts or shapes; repeated ids; no
            query with a relevant item; a gallery of one class, among which nothing wrong can be found; a group with
            two labels; unknown names.

    Warns:
        UserWarning: A cutoff k beyond the gallery; the metric is defined all the same.

    Example:
        >>> import numpy as np
        >>> result = evaluate(np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), ["a", "a", "b"], recall_at=(1,))
        >>> result["recall@1"], result.counts["without_relevant"]
        (1.0, 1)
    """
    measures, clustered = check_names(recall_at, metrics)
    pair = pair_up(queries, gallery, query_ids, gallery_ids, distance)
    labels = label_up(pair, query_labels, gallery_labels)
    groups = None if gallery_groups is None else group_up(pair, labels, gallery_groups)
    _warn_beyond(measures, pair, groups)
    depth = depth_of(measures)
    if groups is None:
        cap = cap_of(measures, relevant_counts(pair, labels))
        blocks = rank_blocks(pair, labels, depth, precision, cap, processes=processes)
    else:
        blocks = group_blocks(pair, labels, groups, depth)
    table, values, definitions = summarise(pair, labels, blocks, measures)
    for name, (value, how) in _cluster(pair, labels, clustered, seed).items():
        values[name], definitions[name] = value, how
    definitions["convention"] = _convention(pair, groups, table)
    counts = count(pair, labels, table, measures)
    if groups is not None:
        counts["gallery_groups"] = len(groups.label_codes)
    return Evaluation(values, counts, definitions, table)


def check_names(recall_at: Sequence[int], metrics: Sequence[str]) -> tuple[list[Measure], list[str]]:
    """Return the metrics by rank and the names of those by clustering."""
    names = list(dict.fromkeys([metrics] if isinstance(metrics, str) else metrics))
    for name in names:
        if name in ("utilization", "alignment", "uniformity"):
            raise InputError(f"metric {name!r} is a function of its own: metrixkit.retrieval.{name}(...).")
        if name.startswith("recall@"):
            raise InputError(f"metric {name!r}: recall is asked for by recall_at=({name.removeprefix('recall@')},).")
        if not is_known(name) and name not in CLUSTERED:
            raise InputError(f"no metric is called {name!r}.{did_you_mean(name, [*known(), *CLUSTERED])}")
    cutoffs = list(dict.fromkeys([recall_at] if isinstance(recall_at, int) else recall_at))
    measures = measures_of(cutoffs, [name for name in names if name not in CLUSTERED])
    if not cutoffs and not names:
        raise InputError("nothing to evaluate: recall_at and metrics are both empty.")
    return measures, [name for name in names if name in CLUSTERED]


def _warn_beyond(measures: Sequence[Measure], pair: Pair, groups: Groups | None) -> None:
    available = pair.gallery.count - int((pair.own >= 0).all()) if groups is None else len(groups.label_codes)
    for measure in measures:
        if isinstance(measure.within, int) and measure.within > available:
            what = "items" if groups is None else "groups"
            sense = (
                "it is the share of queries with a relevant item anywhere"
                if measure.name.startswith("recall@")
                else "places beyond the last hold nothing relevant"
            )
            warnings.warn(
                f"{measure.name} asks for more than the {available} gallery {what} of a query; {sense}.",
                UserWarning,
                stacklevel=3,
            )
            return


def summarise(
    pair: Pair, labels: Labels, blocks: Iterable[RankBlock], measures: Sequence[Measure]
) -> tuple[pd.DataFrame, dict[str, float], dict[str, str]]:
    """Return the table of :class:`Evaluation`, the metrics, and their definitions.

    Raises:
        InputError: No query has a relevant item, or none can find anything else.
    """
    _refuse_one_class(pair, labels)
    table = _per_query(pair, labels, blocks, measures)
    evaluated = table[table["relevant"] > 0]
    if evaluated.empty:
        raise InputError(
            f"no query has a relevant item in its gallery ({pair.queries.count} queries, {pair.gallery.count} gallery "
            f"items; first query label {labels.queries[0]!r}, first gallery label {labels.gallery[0]!r}). Are the "
            "labels of the same kind, and does any class have two items?"
        )
    values: dict[str, float] = {}
    definitions: dict[str, str] = {}
    for measure in measures:
        name = measure.name
        values[name] = measure.over(evaluated[measure.column].to_numpy(dtype=np.float64))
        best = measure.over(evaluated[measure.optimistic].to_numpy(dtype=np.float64))
        definitions[name] = f"{measure.sentence} {TIES}"
        if best != values[name]:
            values[f"{name}/optimistic"], definitions[f"{name}/optimistic"] = best, OPTIMISTIC
    return table, values, definitions


def _refuse_one_class(pair: Pair, labels: Labels) -> None:
    """Raise InputError where all that can be found is relevant: every metric would be perfect for any embeddings."""
    if (labels.gallery_codes == labels.gallery_codes[0]).all() and np.isin(labels.gallery_codes[0], labels.query_codes):
        what = "items" if pair.gallery is pair.queries else "gallery items"
        raise InputError(
            f"all {pair.gallery.count} {what} are of one class ({str(labels.gallery[0])!r}): whatever is found is "
            "right, so recall, map@r and every other metric would be 100 % of any embeddings. Evaluate items of two "
            "classes or more; if they are, see to the labels."
        )


def count(pair: Pair, labels: Labels, table: pd.DataFrame, measures: Sequence[Measure]) -> dict[str, int]:
    """Return the counts of :class:`Evaluation`."""
    evaluated = table[table["relevant"] > 0]
    tied = evaluated["rank"] != evaluated["rank_optimistic"]
    for measure in measures:
        tied |= evaluated[measure.column] != evaluated[measure.optimistic]
    return {
        "queries": pair.queries.count,
        "gallery": pair.gallery.count,
        "evaluated": len(evaluated),
        "without_relevant": pair.queries.count - len(evaluated),
        "in_own_gallery": int((pair.own >= 0).sum()),
        "tied": int(tied.sum()),
        "classes": len(np.unique(labels.query_codes)),
        "gallery_classes": len(np.unique(labels.gallery_codes)),
        "dimensions": pair.queries.dim,
    }


@torch.no_grad()
def _per_query(pair: Pair, labels: Labels, blocks: Iterable[RankBlock], measures: Sequence[Measure]) -> pd.DataFrame:
    total = pair.queries.count
    relevant = np.zeros(total, dtype=np.int64)
    first = {column: np.zeros(total, dtype=np.int64) for column in ("rank", "rank_optimistic")}
    valued = [measure for measure in measures if measure.column != "rank"]
    columns = {column: np.full(total, np.nan) for m in valued for column in (m.column, m.optimistic)}
    for block in blocks:
        relevant[block.rows] = block.relevant
        first["rank"][block.rows] = block.pessimistic[:, 0]
        first["rank_optimistic"][block.rows] = block.optimistic[:, 0]
        for measure in valued:
            columns[measure.column][block.rows] = measure.values(block.pessimistic, block.relevant)
            columns[measure.optimistic][block.rows] = measure.values(block.optimistic, block.relevant)
    ranked = {name: pd.arrays.IntegerArray(ranks, mask=relevant == 0) for name, ranks in first.items()}
    return pd.DataFrame({"id": pair.query_ids, "label": labels.queries, "relevant": relevant, **ranked, **columns})


def _cluster(pair: Pair, labels: Labels, asked: list[str], seed: int) -> dict[str, tuple[float, str]]:
    """Return nmi and ami, as asked, over queries and gallery together, each item once."""
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


def _convention(pair: Pair, groups: Groups | None, table: pd.DataFrame) -> str:
    own = (
        "each query is searched among all other items"
        if pair.gallery is pair.queries
        else "a query leaves the gallery where its id stands there"
        if (pair.own >= 0).any()
        else "queries and gallery are different items"
    )
    width = f"{TIE:g}" + ("" if pair.distance == "cosine" else " (or their rounding, if wider)")
    ranked = "" if groups is None else "groups of gallery items are ranked, each by its best, relevant by their label; "
    asked = table["label"][table["relevant"] > 0].unique()
    alone = f" All evaluated queries are of one class ({str(asked[0])!r}): this tells of no other."
    return (
        f"Fractions in [0, 1] (ranks from 1); {ranked}{pair.distance} on float64 rows, scores within {width} are "
        f"equal; {own}; queries without a relevant item are counted as without_relevant and left out of the means."
        + (alone if len(asked) == 1 else "")
    )
