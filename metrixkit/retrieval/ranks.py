"""Exact ranks of relevant items by counting, tile by tile.

Legend of shapes: b queries of a block, t gallery items of a tile, K relevant items a query is followed for, d
dimensions.

The cost of a pair is its negative score. The k-th nearest relevant item of a query, at cost c_k, has rank k plus the
number of non-relevant items with cost <= c_k + tie (pessimistic) or cost < c_k - tie (optimistic). The relevant costs
come first, class by class, in float64; then each tile of costs is sorted into the intervals between them and counted.
Nothing is sorted but the K relevant costs, and no more than one tile exists at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from metrixkit.errors import InputError, did_you_mean
from metrixkit.retrieval.setting import Labels, Pair

Precision = Literal["auto", "bfloat16", "float32", "float64"]

QUERY_BLOCK = 1024
GALLERY_TILE = 2048
THRESHOLDS = 2**21  # b * K at most
SCREEN_PAYS = 2**26  # pairs from which the float32 screen is faster than float64 alone (measured: not at 6k x 6k)
WIDEST_SCREEN = 2**20  # dimensions; beyond, the bound of the float32 error says nothing
RECHECK_SHARE = 1 / 32  # of a tile; above it the whole tile is computed in float64
FAR = 3e38  # cost of what is not to be counted: beyond any real one, yet below the infinity that pads the thresholds


@dataclass(frozen=True)
class RankBlock:
    """Ranks of some queries that have a relevant item.

    Attributes:
        rows: (b,) positions of the queries.
        relevant: (b,) number of relevant items of each, >= 1.
        pessimistic: (b, K) int64 ranks, 1-based, of the 1st..K-th relevant item; 0 beyond the last one of a query.
        optimistic: (b, K) int64 likewise.
    """

    rows: np.ndarray
    relevant: np.ndarray
    pessimistic: np.ndarray
    optimistic: np.ndarray


def rank_blocks(pair: Pair, labels: Labels, depth: int | None = None, precision: str = "auto") -> Iterator[RankBlock]:
    """Yield the exact ranks of the relevant items of every query that has one, in blocks.

    Args:
        pair: Queries and gallery.
        labels: Their labels.
        depth: Follow only this many relevant items of each query (1 is enough for recall); None follows all.
        precision: What screens the tiles; the ranks are the same for each. "float64" computes every pair in float64.
            "float32" and "bfloat16" (which falls back on float32) screen in float32 and compute in float64 whatever the
            proven bound of the float32 error leaves open. "auto" chooses by size. Only cosine on a CPU is screened.

    Raises:
        InputError: Unknown precision.
    """
    if precision not in get_args(Precision):
        raise InputError(f"precision={precision!r} is not known.{did_you_mean(precision, get_args(Precision))}")
    order, start, end = _by_class(labels)
    sizes = (end - start)[labels.query_codes]
    relevant = sizes - (pair.own >= 0)
    # Queries of one class lie together, and those with alike numbers of relevant items: little padding, few products.
    queue = np.lexsort((labels.query_codes, relevant))
    queue = queue[relevant[queue] > 0]
    followed = relevant if depth is None else np.minimum(relevant, depth)
    pairs = pair.queries.count * pair.gallery.count
    # float64 is at home on data-centre GPUs, and float32 there may silently mean TF32, for which the bound is wrong.
    able = pair.distance == "cosine" and pair.queries.device.type == "cpu" and pair.queries.dim < WIDEST_SCREEN
    screened = able and precision != "float64"
    screened = screened and (precision != "auto" or pairs >= SCREEN_PAYS)
    position = 0
    while position < len(queue):
        rows = queue[position : position + QUERY_BLOCK]
        rows = rows[: max(1, THRESHOLDS // int(followed[rows[-1]]))]
        position += len(rows)
        counter = _Counter(pair, labels, rows, followed[rows], order, start, end)
        for tile in range(0, pair.gallery.count, GALLERY_TILE):
            counter.add(tile, screened)
        worse, better = counter.ranks()
        yield RankBlock(rows, relevant[rows], worse, better)


def screen_product(queries: Tensor, gallery: Tensor) -> Tensor:
    """Return the (b, t) float32 dots of unit float64 rows, each within :func:`screen_error` of the true one."""
    # numpy's product: torch's may run in TF32 or bfloat16 if somebody set the switch for it.
    return torch.from_numpy(queries.float().numpy() @ gallery.float().numpy().T)


def screen_error(dim: int) -> float:
    """Return how far a screened dot of unit rows, held against a float32 threshold, can be off; for dim < 2^20.

    With u = 2^-24: rounding the rows to float32 moves a dot by at most 2u + u^2, a float32 sum of d products in any
    order by d u / (1 - d u) more, and rounding the thresholds (at most 1.1) by 2u. Then some to spare.
    """
    unit = 2.0**-24
    return 1.001 * dim * unit / (1 - dim * unit) + 8 * unit


def _by_class(labels: Labels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return gallery positions in class order and, by class code, where each class starts and ends in them."""
    order = np.argsort(labels.gallery_codes, kind="stable")
    codes = np.arange(max(labels.query_codes.max(), labels.gallery_codes.max()) + 1)
    ranked = labels.gallery_codes[order]
    return order, np.searchsorted(ranked, codes, "left"), np.searchsorted(ranked, codes, "right")


class _Counter:
    """Counts, for a block of queries, the non-relevant items in front of each relevant one."""

    def __init__(
        self,
        pair: Pair,
        labels: Labels,
        rows: np.ndarray,
        followed: np.ndarray,
        order: np.ndarray,
        start: np.ndarray,
        end: np.ndarray,
    ) -> None:
        self.pair, self.order, self.followed = pair, order, followed
        self.queries = pair.queries.take(rows)
        codes = labels.query_codes[rows]
        breaks = np.flatnonzero(np.diff(codes)) + 1
        # One group: neighbouring queries of one class, and where that class stands in the ordered gallery.
        self.groups = [
            (int(a), int(z), int(start[codes[a]]), int(end[codes[a]]))
            for a, z in zip(np.r_[0, breaks], np.r_[breaks, len(rows)], strict=True)
        ]
        costs = self._relevant_costs(pair.own[rows])
        tie = pair.tie(rows)[:, None]
        self.upper, self.lower = costs + tie, costs - tie
        bins = costs.shape[1] + 1
        self.offsets = torch.arange(len(rows), device=costs.device)[:, None] * bins
        self.not_better = torch.zeros(len(rows) * bins, dtype=torch.int64, device=costs.device)
        self.strictly = torch.zeros_like(self.not_better)

    def _relevant_costs(self, own: np.ndarray) -> Tensor:
        """Return (b, K) ascending float64 costs of the relevant items, padded with infinity."""
        width = int(self.followed.max())
        costs = self.queries.new_full((len(own), width), torch.inf)
        for a, z, first, last in self.groups:
            members = self.order[first:last]
            block = self.pair.costs(self.queries[a:z], self.pair.gallery.take(members))
            block[torch.from_numpy(own[a:z, None] == members[None]).to(block.device)] = torch.inf
            nearest = block.sort(dim=1).values[:, :width]
            costs[a:z, : nearest.shape[1]] = nearest
        # A query followed less far than its block is wide must not show what lies beyond.
        beyond = torch.arange(width)[None] >= torch.from_numpy(self.followed)[:, None]
        return costs.masked_fill_(beyond.to(costs.device), torch.inf)

    def add(self, tile: int, screened: bool) -> None:
        """Count the gallery items at positions tile..tile + GALLERY_TILE of the class order."""
        gallery = self.pair.gallery.take(self.order[tile : tile + GALLERY_TILE])
        if screened and self._count_screened(gallery, tile):
            return
        costs = self._without_relevant(self.pair.costs(self.queries, gallery), tile)
        self.not_better += self._histogram(torch.searchsorted(self.upper, costs))
        self.strictly += self._histogram(torch.searchsorted(self.lower, costs, right=True))

    def _count_screened(self, gallery: Tensor, tile: int) -> bool:
        """Count from float32 costs, with float64 where they leave it open; False where that is too often."""
        costs = self._without_relevant(-screen_product(self.queries, gallery), tile)
        bound = screen_error(self.queries.shape[1])
        upper, lower = (self.upper + bound).float(), (self.lower - bound).float()
        bins = torch.searchsorted(upper, costs)  # first relevant item that is not certainly in front
        padded = torch.cat([lower, lower.new_full((len(lower), 1), torch.inf)], dim=1)
        # Thresholds ascend, so what is certainly in front of that one is certainly in front of all later ones.
        row, column = (costs >= padded.gather(1, bins)).nonzero(as_tuple=True)
        if len(row) > RECHECK_SHARE * costs.numel():
            return False
        counted = self._histogram(bins)
        width = self.upper.shape[1] + 1
        counted -= torch.bincount(row * width + bins[row, column], minlength=len(counted))
        self.not_better += counted
        self.strictly += counted
        step = max(1, 2**21 // max(self.queries.shape[1], width))
        for r, c in zip(row.split(step), column.split(step), strict=True):
            exact = -(self.queries[r] * gallery[c]).sum(1, keepdim=True)
            worse = torch.searchsorted(self.upper[r], exact)[:, 0]
            better = torch.searchsorted(self.lower[r], exact, right=True)[:, 0]
            self.not_better += torch.bincount(r * width + worse, minlength=len(counted))
            self.strictly += torch.bincount(r * width + better, minlength=len(counted))
        return True

    def _without_relevant(self, costs: Tensor, tile: int) -> Tensor:
        """Move the query's own class (and with it the query itself) out of reach, in place."""
        for a, z, first, last in self.groups:
            if first < tile + costs.shape[1] and last > tile:
                costs[a:z, max(first - tile, 0) : last - tile] = FAR
        return costs

    def _histogram(self, bins: Tensor) -> Tensor:
        return torch.bincount((bins + self.offsets).flatten(), minlength=len(self.not_better))

    def ranks(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (b, K) pessimistic and optimistic ranks."""
        rows, width = self.upper.shape
        place = torch.arange(1, width + 1, device=self.upper.device)
        there = place[None] <= torch.from_numpy(self.followed).to(self.upper.device)[:, None]
        worse, better = (
            (place + counts.view(rows, width + 1)[:, :width].cumsum(1)) * there
            for counts in (self.not_better, self.strictly)
        )
        return worse.cpu().numpy(), better.cpu().numpy()
