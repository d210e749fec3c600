"""Re-ranking: what a second look at the scores gains, and what it assumes. Separate rows, never the headline.

Embeddings: :func:`k_reciprocal`, :func:`alpha_query_expansion`; :func:`reranked` evaluates them. Similarities between
two modalities: :func:`dual_softmax`, :func:`querybank_norm`; evaluate what they return by
``crossmodal(similarity=...)``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from metrixkit.errors import InputError, did_you_mean
from metrixkit.retrieval.evaluation import check_names, count, evaluate, summarise
from metrixkit.retrieval.exact.dense import ranks_of_costs
from metrixkit.retrieval.exact.nearest import neighbours
from metrixkit.retrieval.exact.ranks import RankBlock
from metrixkit.retrieval.exact.rows import Rows
from metrixkit.retrieval.exact.setting import Labels, Pair, label_up, pair_up
from metrixkit.retrieval.k_reciprocal import Rule, k_reciprocal, k_reciprocal_blocks
from metrixkit.retrieval.result import Evaluation

__all__ = [
    "ASSUMPTIONS",
    "METHODS",
    "alpha_query_expansion",
    "dual_softmax",
    "k_reciprocal",
    "k_reciprocal_blocks",
    "querybank_norm",
    "reranked",
]

ASSUMPTIONS = {
    "k_reciprocal": "After k-reciprocal re-ranking by the released rule (more than two thirds shared), which sees all "
    "queries at once and uses them as one another's neighbours.",
    "k_reciprocal_paper": "After k-reciprocal re-ranking by the paper's rule (at least two thirds shared), which sees "
    "all queries at once and uses them as one another's neighbours.",
    "alpha_qe": "After alpha query expansion, which searches twice: each query is first averaged with its nearest "
    "gallery items, right or wrong.",
    "dual_softmax": "After a dual softmax, which sees all queries at once and lets them compete for each item.",
    "querybank_norm": "After querybank normalisation, which needs a bank of other queries, taken from training.",
}
METHODS = ("k_reciprocal", "k_reciprocal_paper", "alpha_qe")  # of embeddings
_RULES: dict[str, Rule] = {"k_reciprocal": "released", "k_reciprocal_paper": "paper"}


@torch.no_grad()
def alpha_query_expansion(
    queries: Any,
    gallery: Any = None,
    k: int = 10,
    alpha: float = 3.0,
    query_ids: Any = None,
    gallery_ids: Any = None,
) -> np.ndarray:
    """Return queries averaged with their nearest gallery items.

    The new query is the direction of q + sum over its k nearest x of max(cos(q, x), 0)^alpha x. It assumes nothing
    about other queries, but searches twice and trusts what the first search found. Search the same
    gallery again with what it returns, a query still leaving it by its id.

    Args:
        queries: (Q, d); rows are normalised in float64.
        gallery: (N, d); None takes the other queries.
        k: Neighbours of each query; 0 returns the normalised queries.
        alpha: 0 weighs all neighbours alike; the larger, the less the far ones count.
        query_ids: (Q,) unique, or None.
        gallery_ids: (N,) unique; a query is no neighbour of its own.

    Returns:
        (Q, d) float64 unit rows.

    Raises:
        InputError: As :func:`~metrixkit.retrieval.evaluate`; k < 0, alpha < 0.

    Source:
        Radenovic, Tolias and Chum, Fine-tuning CNN Image Retrieval with No Human Annotation, TPAMI 2019, section 3.3.
    """
    if k < 0 or alpha < 0:
        raise InputError(f"alpha_query_expansion: k={k} and alpha={alpha} must not be negative.")
    rows = Rows(queries, "queries")
    found = rows.take(slice(None)).cpu().numpy()
    if k == 0:
        return found
    there = rows if gallery is None else Rows(gallery, "gallery")
    scores, index = neighbours(queries, gallery, k, query_ids, gallery_ids)
    weights = np.where(index >= 0, np.maximum(scores, 0), 0) ** alpha * (index >= 0)
    for place in range(index.shape[1]):  # one neighbour at a time: Q x d numbers, not Q x k x d
        found += weights[:, place, None] * there.take(np.maximum(index[:, place], 0)).cpu().numpy()
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))


def dual_softmax(similarity: Any, temperature: float = 0.01) -> np.ndarray:
    """Return similarities multiplied by a softmax over the queries: s_qi * exp(s_qi / T) / sum over p of exp(s_pi / T).

    It assumes that all queries are at hand at once and that each item belongs to few of them; a service that answers
    one query at a time has neither.

    Args:
        similarity: (Q, N), rows are queries; give the transpose for the other direction. Each row needs a positive
            value: a negative one times a small factor would come before one times a large factor.
        temperature: T > 0. For cosines of a model with a logit scale of 100 it is 0.01.

    Returns:
        (Q, N) float64 with the order of the product in each row, on a logarithmic scale (positive for positive
        products) so that small products stay apart.

    Raises:
        InputError: No finite matrix, a row without a positive value, or a temperature <= 0.

    Source:
        Cheng et al., Improving Video-Text Retrieval by Multi-Stream Corpus Alignment and Dual Softmax Loss, 2021.
    """
    scores = _matrix(similarity, "similarity")
    if not temperature > 0:
        raise InputError(f"dual_softmax: temperature={temperature} must be positive; 0.01 is usual for cosines.")
    hopeless = np.flatnonzero((scores <= 0).all(axis=1))
    if len(hopeless):
        raise InputError(
            f"dual_softmax: row {hopeless[0]} of the similarity holds no positive value ({len(hopeless)} such rows), "
            "and the product would turn its order round. Add a constant to all similarities."
        )
    with np.errstate(divide="ignore"):
        product = np.log(np.abs(scores)) + scores / temperature - _log_sum_exp(scores / temperature)
    least = product[np.isfinite(product)].min()
    return np.asarray(np.sign(scores) * (np.maximum(product, least) - least + 1))


def querybank_norm(similarity: Any, bank_similarity: Any, beta: float = 20.0, k: int = 1) -> np.ndarray:
    """Return similarities with the items that attract every query held back: the dynamic inverted softmax.

    Items among the k nearest of any query of the bank are hubs. A query whose nearest item is a hub is scored by
    exp(beta s_qi) / sum over bank queries b of exp(beta s_bi); the others keep their similarities.

    It assumes a bank of queries other than the test's, from training, and says nothing of the test queries to one
    another: it works one query at a time.

    Args:
        similarity: (Q, N), rows are queries.
        bank_similarity: (B, N) of the bank's queries to the same items.
        beta: Inverse temperature > 0; 20 suits cosines.
        k: Neighbours of a bank query that are hubs.

    Returns:
        (Q, N) float64 with that order in each row: s_qi - log(sum over b of exp(beta s_bi)) / beta where the nearest
        item is a hub, s_qi elsewhere.

    Raises:
        InputError: No finite matrices, another number of items, beta <= 0, or k < 1.

    Source:
        Bogolin, Croitoru, Jin, Liu and Albanie, Cross Modal Retrieval with Querybank Normalisation, CVPR 2022.
    """
    scores, bank = _matrix(similarity, "similarity"), _matrix(bank_similarity, "bank_similarity")
    if scores.shape[1] != bank.shape[1]:
        raise InputError(
            f"querybank_norm: similarity has {scores.shape[1]} items and bank_similarity {bank.shape[1]}; both must "
            "be to the same items in the same order."
        )
    if not beta > 0 or k < 1:
        raise InputError(f"querybank_norm: beta={beta} must be positive and k={k} at least 1; 20 and 1 are usual.")
    k = min(k, bank.shape[1])
    hubs = np.unique(np.argpartition(-bank, k - 1, axis=1)[:, :k])
    held_back = np.isin(scores.argmax(axis=1), hubs)
    return np.where(held_back[:, None], scores - _log_sum_exp(beta * bank) / beta, scores)


def reranked(
    method: str,
    queries: Any,
    query_labels: Any,
    gallery: Any = None,
    gallery_labels: Any = None,
    query_ids: Any = None,
    gallery_ids: Any = None,
    recall_at: Sequence[int] = (1, 2, 4, 8),
    metrics: Sequence[str] = ("map@r", "r_precision"),
    **settings: Any,
) -> Evaluation:
    """Evaluate retrieval after re-ranking, by cosine.

    Args:
        method: "k_reciprocal", by the released rule, "k_reciprocal_paper", by the paper's, or "alpha_qe".
        queries: As all the others in :func:`~metrixkit.retrieval.evaluate`.
        query_labels: (Q,).
        gallery: (N, d) or None.
        gallery_labels: (N,) or None.
        query_ids: (Q,) or None.
        gallery_ids: (N,) or None.
        recall_at: The k of recall@k.
        metrics: Metrics by rank.
        settings: k1, k2, weight of :func:`k_reciprocal`; k, alpha of :func:`alpha_query_expansion`.

    Returns:
        Metrics named ``rerank/METHOD/recall@1``, each with a definition that says what the method assumes.

    Raises:
        InputError: As :func:`~metrixkit.retrieval.evaluate`; an unknown method.
    """
    if method not in METHODS:
        raise InputError(f"no re-ranking is called {method!r}.{did_you_mean(method, METHODS)}")
    pair = pair_up(queries, gallery, query_ids, gallery_ids, "cosine")
    labels = label_up(pair, query_labels, gallery_labels)
    if method == "alpha_qe":
        expanded = alpha_query_expansion(queries, gallery, query_ids=query_ids, gallery_ids=gallery_ids, **settings)
        there = queries if gallery is None else gallery
        ids = (pair.query_ids, pair.gallery_ids) if (pair.own >= 0).any() else (query_ids, gallery_ids)
        plain = evaluate(expanded, labels.queries, there, labels.gallery, ids[0], ids[1], recall_at, metrics)
    else:
        measures, clustered = check_names(recall_at, metrics)
        if clustered:
            raise InputError(f"re-ranking changes no clustering: leave out {clustered[0]!r}.")
        table, values, definitions = summarise(
            pair, labels, _blocks(pair, labels, _RULES[method], **settings), measures
        )
        plain = Evaluation(values, count(pair, labels, table, measures), definitions, table)
    kept = {f"rerank/{method}/{name}": value for name, value in plain.items()}
    sentences = {name: f"{ASSUMPTIONS[method]} {plain.definitions[name.split('/', 2)[2]]}" for name in kept}
    return Evaluation(kept, plain.counts, sentences, plain.per_query)


def _blocks(pair: Pair, labels: Labels, rule: Rule, **settings: Any) -> Iterator[RankBlock]:
    codes = torch.from_numpy(labels.gallery_codes)
    for rows, distances in k_reciprocal_blocks(pair, rule=rule, **settings):
        costs = torch.from_numpy(distances)
        own = pair.own[rows]
        costs[torch.from_numpy(np.flatnonzero(own >= 0)), torch.from_numpy(own[own >= 0])] = math.inf
        relevant = torch.from_numpy(labels.query_codes[rows])[:, None] == codes
        yield ranks_of_costs(rows, costs, relevant, pair.tie(rows).cpu())


def _matrix(values: Any, name: str) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().double().numpy()
    try:
        matrix = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: cannot be read as a matrix of numbers ({error}).") from error
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise InputError(f"{name}: expected a matrix (queries, items), found shape {matrix.shape}.")
    bad = ~np.isfinite(matrix)
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        raise InputError(
            f"{name}: the value at ({row}, {column}) is not finite; {int(bad.sum())} of {bad.size} are so."
        )
    return matrix


def _log_sum_exp(values: np.ndarray) -> np.ndarray:
    """Return (N,) log of the sum of exp over the rows."""
    highest = values.max(axis=0)
    return np.asarray(highest + np.log(np.exp(values - highest).sum(axis=0)))
