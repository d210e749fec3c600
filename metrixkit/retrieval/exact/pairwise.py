"""The float64 scores of all pairs of a query and a gallery item, tile by tile, and which pairs share a label."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metrixkit.retrieval.exact.setting import Labels, Pair

ROWS, COLUMNS = 1024, 2048


@dataclass(frozen=True)
class Pairs:
    """Some queries against some gallery items.

    Attributes:
        rows: Of the queries.
        scores: (b, t) float64, higher is nearer; its receiver may write into it.
        same: (b, t) bool, equal labels.
        absent: (b, t) bool, pairs that do not count: a query and itself, and for unordered pairs the second of the
            two; None where all count.
    """

    rows: slice
    scores: Tensor
    same: Tensor
    absent: Tensor | None


def all_pairs(pair: Pair, labels: Labels, unordered: bool = False) -> Iterator[Pairs]:
    """Yield every pair of a query and a gallery item, once.

    Args:
        pair: Queries and gallery.
        labels: Their labels.
        unordered: In self-retrieval, yield (i, j) without (j, i): half the work.
    """
    device = pair.queries.device
    query_codes = torch.from_numpy(labels.query_codes).to(device)
    gallery_codes = torch.from_numpy(labels.gallery_codes).to(device)
    for start in range(0, pair.queries.count, ROWS):
        rows = slice(start, min(start + ROWS, pair.queries.count))
        queries = pair.queries.take(rows)
        own = pair.own[rows]
        for first in range(start - start % COLUMNS if unordered else 0, pair.gallery.count, COLUMNS):
            columns = slice(first, min(first + COLUMNS, pair.gallery.count))
            scores = pair.costs(queries, pair.gallery.take(columns)).neg_()
            same = query_codes[rows, None] == gallery_codes[columns]
            absent = None
            if unordered and first < rows.stop:
                here = torch.arange(columns.start, columns.stop, device=device)
                absent = here <= torch.arange(rows.start, rows.stop, device=device)[:, None]
            elif ((own >= columns.start) & (own < columns.stop)).any():
                absent = torch.from_numpy(own[:, None] == np.arange(columns.start, columns.stop)).to(device)
            yield Pairs(rows, scores, same, absent)
