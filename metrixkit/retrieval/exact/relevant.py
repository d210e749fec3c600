"""The exact scores of the relevant items of each query: what all others are held against."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metrixkit.retrieval.exact.rows import BLOCK
from metrixkit.retrieval.exact.setting import Labels, Pair

ELEMENTS = 2**22  # float64 numbers of rows or scores held at once (32 MB each)


@dataclass(frozen=True)
class Members:
    """Which gallery items have which class.

    Attributes:
        order: (N,) gallery positions, class by class.
        start: (C + 1,) where each class code starts in `order`.
        counts: (Q,) number of relevant items of each query: items of its class other than itself.
    """

    order: np.ndarray
    start: np.ndarray
    counts: np.ndarray


def members_of(pair: Pair, labels: Labels) -> Members:
    """Return :class:`Members` of a pair and its labels."""
    classes = int(max(labels.query_codes.max(), labels.gallery_codes.max())) + 1
    order = np.argsort(labels.gallery_codes, kind="stable")
    sizes = np.bincount(labels.gallery_codes, minlength=classes)
    return Members(order, np.r_[0, np.cumsum(sizes)], sizes[labels.query_codes] - (pair.own >= 0))


def relevant_scores(pair: Pair, labels: Labels, members: Members, rows: np.ndarray, followed: np.ndarray) -> Tensor:
    """Return the float64 scores of the nearest relevant items of each query, nearest first.

    Args:
        pair: Queries and gallery.
        labels: Their labels.
        members: Of the same pair.
        rows: (n,) positions of the queries.
        followed: (n,) how many relevant items of each to return, at most `members.counts`.

    Returns:
        (sum of `followed`,) the scores (negative costs) of the first query, then of the second, and so on.
    """
    start = np.r_[0, np.cumsum(followed)]
    scores = torch.empty(int(start[-1]), dtype=torch.float64, device=pair.queries.device)
    codes = labels.query_codes[rows]
    by_class = np.argsort(codes, kind="stable")
    by_class = by_class[followed[by_class] > 0]
    asked, first, several = np.unique(codes[by_class], return_index=True, return_counts=True)
    shapes = np.stack([several, members.start[asked + 1] - members.start[asked]], 1)
    # Classes with alike numbers of queries and items are multiplied together.
    for queries, items in np.unique(shapes, axis=0).tolist():
        alike = np.flatnonzero((shapes == (queries, items)).all(1))
        for some in _portions(alike, queries, items, pair.queries.dim):
            gallery = members.order[members.start[asked[some]][:, None] + np.arange(items)]
            step = max(1, ELEMENTS // max(items, pair.queries.dim))
            for a in range(0, queries, step):
                block = by_class[first[some][:, None] + np.arange(a, min(a + step, queries))]
                _fill(pair, scores, start, rows, followed, block, gallery)
    return scores


def _portions(alike: np.ndarray, queries: int, items: int, dim: int) -> list[np.ndarray]:
    step = max(1, ELEMENTS // max(queries * items, (queries + min(items, BLOCK)) * dim))
    return [alike[a : a + step] for a in range(0, len(alike), step)]


def _fill(
    pair: Pair,
    scores: Tensor,
    start: np.ndarray,
    rows: np.ndarray,
    followed: np.ndarray,
    block: np.ndarray,
    gallery: np.ndarray,
) -> None:
    """Write the sorted scores of (C, q) queries `block` with their (C, g) class members `gallery` into `scores`."""
    positions = rows[block]
    left = pair.queries.take(positions.ravel()).view(*block.shape, -1)
    found = left.new_empty(*block.shape, gallery.shape[1])
    for a in range(0, gallery.shape[1], BLOCK):
        some = gallery[:, a : a + BLOCK]
        right = pair.gallery.take(some.ravel()).view(*some.shape, -1)
        torch.neg(pair.costs(left, right), out=found[:, :, a : a + BLOCK])
    own = torch.from_numpy(pair.own[positions][:, :, None] == gallery[:, None, :])
    found[own.to(found.device)] = -torch.inf
    width = int(followed[block].max())
    nearest = found.sort(dim=2, descending=True).values[:, :, :width] if width > 1 else found.amax(2, keepdim=True)
    place = np.arange(width)
    there = place < followed[block][:, :, None]
    where = (start[block][:, :, None] + place)[there]
    scores[torch.from_numpy(where).to(scores.device)] = nearest[torch.from_numpy(there).to(scores.device)]
