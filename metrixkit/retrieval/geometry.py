"""How embeddings lie on the sphere: utilization, alignment, uniformity (float64, blockwise, lower is better)."""

from __future__ import annotations

import math
from typing import Any, Literal, overload

import numpy as np
import torch

from metrixkit.errors import InputError
from metrixkit.labels import read_labels
from metrixkit.retrieval.exact.nearest import nearest_scores
from metrixkit.retrieval.exact.rows import BLOCK, Rows
from metrixkit.retrieval.exact.screen import Precision
from metrixkit.retrieval.exact.setting import Pair

TILE = 2048


@overload
def utilization(
    queries: Any, training: Any, *, per_query: Literal[False] = ..., precision: Precision = ...
) -> float: ...


@overload
def utilization(queries: Any, training: Any, *, per_query: Literal[True], precision: Precision = ...) -> np.ndarray: ...


def utilization(
    queries: Any, training: Any, *, per_query: bool = False, precision: Precision = "auto"
) -> float | np.ndarray:
    """Return the mean, over queries, of the squared distance to the nearest training item, on unit rows.

    u(Q, X) = 1/|Q| sum_q min_x |q - x|^2 = mean_q (2 - 2 max_x cos(q, x)). It is low where training examples (with
    their mixtures' help) fill the part of the space that test classes use.

    Args:
        queries: (Q, d) test embeddings; rows are normalised in float64.
        training: (N, d) training embeddings, likewise.
        per_query: Return each query's distance instead of their mean.
        precision: "auto", "bfloat16", "float32" or "float64": what screens the pairs, never the result.

    Returns:
        A value in [0, 4], lower is better; or (Q,) float64 of such values, in the order of the queries.

    Raises:
        InputError: NaN, infinite or zero rows; unequal dimensions; empty input; unknown precision.

    Source: It Takes Two to Tango: Mixup for Deep Metric Learning (ICLR 2022).
    """
    tests = Rows(queries, "queries")
    known = tests if training is queries else Rows(training, "training", device=tests.device)
    if tests.dim != known.dim:
        raise InputError(f"queries have {tests.dim} dimensions and training has {known.dim}; they must agree.")
    nobody = np.empty(0, dtype=str)
    pair = Pair(tests, known, nobody, nobody, np.full(tests.count, -1, dtype=np.int64), "cosine")
    distances = np.maximum(2 - 2 * nearest_scores(pair, precision), 0.0)
    return distances if per_query else float(distances.mean())


@torch.no_grad()
def alignment(embeddings: Any, labels: Any) -> float:
    """Return the mean squared distance between items of one class, on unit rows, over all such pairs.

    No pair is formed: the pairs of a class of n items sum to n times the squared distances to its mean.

    Args:
        embeddings: (N, d); rows are normalised in float64.
        labels: (N,) integers or strings. Classes of one item have no pair and do not count.

    Returns:
        A value in [0, 4]; lower is better.

    Raises:
        InputError: Bad rows, wrong counts, or no class with two items.

    Source: Wang and Isola, Understanding Contrastive Representation Learning through Alignment and Uniformity on the
        Hypersphere (ICML 2020), alignment with exponent 2.
    """
    rows = Rows(embeddings, "embeddings")
    values = read_labels(labels, "labels")
    if len(values) != rows.count:
        raise InputError(
            f"labels has {len(values)} values but embeddings has {rows.count} rows; each row needs exactly one."
        )
    codes, sizes = np.unique(values, return_inverse=True, return_counts=True)[1:]
    pairs = int((sizes * (sizes - 1) // 2).sum())
    if pairs == 0:
        raise InputError("alignment needs a class with at least two items; every label stands once.")
    # Class by class rather than all class means at once: the memory is that of one class.
    order = np.argsort(codes, kind="stable")
    total = 0.0
    for start, end in zip(np.cumsum(sizes) - sizes, np.cumsum(sizes), strict=True):
        if end - start > 1:
            total += int(end - start) * _scatter(rows, order[start:end])
    return total / pairs


def _scatter(rows: Rows, members: np.ndarray) -> float:
    """Return the sum of squared distances of `members` to their mean, a block at a time."""
    blocks = [members[i : i + BLOCK] for i in range(0, len(members), BLOCK)]
    # About the mean, not |x|^2 - |mean|^2, which would lose the digits of a tight class.
    mean = sum((rows.take(b).sum(0) for b in blocks), torch.zeros((), dtype=torch.float64, device=rows.device)) / len(
        members
    )
    return sum(float((rows.take(b) - mean).square().sum()) for b in blocks)


@torch.no_grad()
def uniformity(embeddings: Any) -> float:
    """Return log of the mean, over all pairs of different items, of exp(-2 |x - y|^2), on unit rows.

    Args:
        embeddings: (N, d), N >= 2; rows are normalised in float64.

    Returns:
        A value in [-8, 0]; lower is better (0 is a collapsed model).

    Raises:
        InputError: Bad rows or fewer than two.

    Source: Wang and Isola (ICML 2020), uniformity with t = 2.
    """
    rows = Rows(embeddings, "embeddings")
    if rows.count < 2:
        raise InputError("uniformity needs at least two rows.")
    total = 0.0
    for start in range(0, rows.count, TILE):
        block = rows.take(slice(start, start + TILE))
        total += float(((block @ block.T) * 4 - 4).exp().triu(1).sum())
        for other in range(start + TILE, rows.count, TILE):
            products = block @ rows.take(slice(other, other + TILE)).T
            total += float(products.mul_(4).sub_(4).exp_().sum())
    # Rounding may lift the mean of equal rows above one by 1e-16.
    return min(0.0, math.log(total / (rows.count * (rows.count - 1) // 2)))
