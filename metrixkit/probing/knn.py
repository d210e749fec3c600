"""Weighted nearest-neighbour classification of frozen features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.probing.labels import NEVER, TOP, class_codes, top_accuracy
from metrixkit.retrieval import neighbours

TIE = 1e-12  # votes this near, relative to the largest a query could get, are equal


def knn_accuracy(
    train: Any,
    train_labels: Sequence[str],
    queries: Any,
    query_labels: Sequence[str],
    k: int = 200,
    temperature: float = 0.07,
    top: Sequence[int] = TOP,
    train_ids: Sequence[str] | None = None,
    query_ids: Sequence[str] | None = None,
) -> dict[str, float]:
    """Return the share of queries whose class their k nearest training items vote for.

    A training item i among the k nearest (cosine, exact) votes for its class with weight exp(s_i / T). A class without
    a vote is not answered at any place; of equal votes the class that sorts first comes first. k = 1 is plain
    nearest-neighbour classification.

    Args:
        train: (N, d) features of the training items, tensor or array, on any device.
        train_labels: N labels.
        queries: (Q, d) features.
        query_labels: Q labels. A query of a class that training lacks counts as wrong, with a warning.
        k: Neighbours that vote; all of them where there are fewer.
        temperature: T above; 0.07 in the papers below.
        top: The k of ``knn@k``, places of the answer.
        train_ids: N ids, with `query_ids`: an item does not vote for itself.
        query_ids: Q ids.

    Returns:
        ``{"knn@1": ..., "knn@5": ...}``, shares in [0, 1].

    Raises:
        InputError: k or temperature out of range, counts that differ, bad rows, training items of one class, or no
            common class.

    Source: Wu et al., Unsupervised Feature Learning via Non-Parametric Instance Discrimination, CVPR 2018, section 3.4.
    """
    ranks = knn_ranks(train, train_labels, queries, query_labels, k, temperature, train_ids, query_ids)
    return top_accuracy(ranks, "knn", top)


def knn_ranks(
    train: Any,
    train_labels: Sequence[str],
    queries: Any,
    query_labels: Sequence[str],
    k: int = 200,
    temperature: float = 0.07,
    train_ids: Sequence[str] | None = None,
    query_ids: Sequence[str] | None = None,
) -> Tensor:
    """Return (Q,) int64 places of each query's own class, from 1, among those its neighbours vote for.

    Arguments and errors as of :func:`knn_accuracy`; a class without a vote stands beyond any place.
    """
    if not 0 < temperature < float("inf"):
        raise InputError(f"temperature={temperature}: expected a positive number, such as 0.07.")
    for rows, labels, name in ((train, train_labels, "train"), (queries, query_labels, "query")):
        if len(rows) != len(labels):
            raise InputError(f"{len(rows)} {name} features and {len(labels)} labels; each row needs exactly one.")
    if (train_ids is None) != (query_ids is None):
        raise InputError("train_ids and query_ids come together: an item is left out of its own vote by its id.")
    classes = sorted(set(train_labels))
    codes = class_codes(query_labels, classes, "queries")
    scores, index = neighbours(queries, train, k, query_ids, train_ids)
    if not index.shape[1]:
        raise InputError("no query has a neighbour to vote: the training items are the query itself.")
    own = {name: i for i, name in enumerate(classes)}
    of_item = np.array([own[label] for label in train_labels], dtype=np.int64)
    return _ranks(torch.from_numpy(scores), torch.from_numpy(of_item[index]), codes, len(classes), temperature)


def _ranks(scores: Tensor, answers: Tensor, codes: Tensor, classes: int, temperature: float) -> Tensor:
    """Return (Q,) places of the true class; a block of queries at a time holds a vote for each class."""
    ranks = torch.empty(len(codes), dtype=torch.int64)
    step = max(1, 2**22 // classes)
    for start in range(0, len(codes), step):
        s, answer, code = (x[start : start + step] for x in (scores, answers, codes))
        # Relative to the nearest item: exp(1 / 0.005) is beyond float64, and only ratios of votes matter.
        weights = ((s - s[:, :1]) / temperature).exp()
        votes = torch.zeros(len(s), classes, dtype=torch.float64).scatter_add_(1, answer, weights)
        own = votes.gather(1, code.clamp(min=0)[:, None])
        tie = TIE * votes.sum(dim=1, keepdim=True)
        ahead = (votes - own).abs() <= tie
        ahead &= torch.arange(classes) < code[:, None]
        rank = 1 + (votes > own + tie).sum(dim=1) + ahead.sum(dim=1)
        unanswered = (code < 0) | (own[:, 0] == 0)
        ranks[start : start + step] = torch.where(unanswered, NEVER, rank)
    return ranks
