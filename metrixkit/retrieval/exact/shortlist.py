"""The few gallery items that can be among the nearest of a query, with their exact costs.

Legend of shapes: b queries of a block, N gallery items, G groups of them, k nearest items wanted, C items of a list.

A screen in low precision (``screen.py``) gives each pair a product p that is off by at most e.
Only the largest product of each group of :data:`GROUP` items is kept. Let t be the k-th largest of these. k items have
p >= t, so k true scores are at least t - e, and so is the k-th best of all. An item that is among the k best, or ties
with the k-th, therefore has a product of at least t - 2e, and its group a maximum of at least that. The groups that
reach it are computed in float64, group by group, and of their items those are handed out whose true score reaches
t - e. The exact scores alone decide after that; the screen has only said where not to look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metrixkit.retrieval.exact.rows import BLOCK
from metrixkit.retrieval.exact.screen import ScreenRows, products, screen_levels
from metrixkit.retrieval.exact.setting import Pair

GROUP = (
    32  # items; fewer cost memory and time to look through, more cost float64 products (measured: 16 and 64 are worse)
)
TILE = 2048  # gallery items of a product
QUERIES = 1024  # queries of a product
MAXIMA = 2**25  # group maxima held at once (64 MB in bfloat16)
SCORES = 2**24  # exact costs held at once (128 MB)
CROWDED = 1 / 2  # of the groups; queries with more to look at are computed against everything (measured: 1/8 is worse)


@dataclass(frozen=True)
class Shortlist:
    """Candidates of some queries.

    Attributes:
        rows: (b,) positions of the queries.
        costs: (b, C) float64 exact costs; infinity where the query itself stands, and as padding.
        index: (b, C) int64 gallery positions, ascending up to the padding.
    """

    rows: np.ndarray
    costs: Tensor
    index: Tensor


def shortlists(pair: Pair, k: int, precision: str = "auto") -> Iterator[Shortlist]:
    """Yield, in blocks that hold each query once, all items that are among its k nearest or tie with the k-th.

    Args:
        pair: Queries and gallery. Euclidean distances are computed without a screen.
        k: 1 <= k <= N.
        precision: "auto", "bfloat16", "float32" or "float64": what screens, never the result.

    Raises:
        InputError: Unknown precision.
    """
    count, gallery = pair.queries.count, pair.gallery.count
    level = screen_levels(precision, count * gallery, pair.queries.dim, pair.queries.device)[0]
    longest = [float(rows.lengths.max()) for rows in (pair.queries, pair.gallery)]
    groups = -(-gallery // GROUP)
    if level == "float64" or pair.distance == "euclidean" or min(longest) == 0 or k > CROWDED * groups:
        yield from _against_all(pair, np.arange(count))
        return
    scales = [None if pair.distance == "cosine" else 1 / length for length in longest]
    screen = _Screen(pair, ScreenRows(pair.queries, level, scales[0]), ScreenRows(pair.gallery, level, scales[1]))
    unit = 1.0 if pair.distance == "cosine" else longest[0] * longest[1]
    step = max(QUERIES, MAXIMA // groups // QUERIES * QUERIES)
    for start in range(0, count, step):
        rows = np.arange(start, min(start + step, count))
        reach, marked = screen.marked(rows, k, pair.tie(rows) / unit)
        many = marked.sum(1) > max(1, int(CROWDED * groups))
        marked[many] = False
        yield from _listed(pair, rows, marked, (reach * unit - pair.tie(rows)).neg_(), screen.members)
        yield from _against_all(pair, rows[many.cpu().numpy()])


def _against_all(pair: Pair, rows: np.ndarray) -> Iterator[Shortlist]:
    """Yield the costs of all items to the queries `rows`."""
    step = max(1, min(QUERIES, SCORES // pair.gallery.count))
    everything = torch.arange(pair.gallery.count, device=pair.queries.device)
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        block = pair.queries.take(part)
        tiles = (pair.gallery.take(slice(at, at + BLOCK)) for at in range(0, pair.gallery.count, BLOCK))
        costs = torch.cat([pair.costs(block, tile) for tile in tiles], dim=1)
        own = torch.from_numpy(pair.own[part]).to(costs.device)
        inside = (own >= 0).nonzero()[:, 0]
        costs[inside, own[inside]] = torch.inf
        yield Shortlist(part, costs, everything.expand(len(part), -1))


class _Screen:
    """Group maxima of low-precision products, and what they leave open."""

    def __init__(self, pair: Pair, queries: ScreenRows, gallery: ScreenRows) -> None:
        self._pair, self._queries, self._gallery = pair, queries, gallery
        self._error, self._total = queries.error(gallery), queries.total_error(gallery)
        # A group is every s-th item of a tile: the maximum over such a group is one over whole rows of numbers.
        self._tiles = [(start, min(start + TILE, gallery.count)) for start in range(0, gallery.count, TILE)]
        self._strides = [-(-(stop - start) // GROUP) for start, stop in self._tiles]
        self._first = np.concatenate([[0], np.cumsum(self._strides)])

    def members(self, group: int) -> np.ndarray:
        """Return the ascending gallery positions of a group."""
        tile = int(np.searchsorted(self._first, group, "right")) - 1
        start, stop = self._tiles[tile]
        return np.arange(start + group - self._first[tile], stop, self._strides[tile])

    def marked(self, rows: np.ndarray, k: int, tie: Tensor) -> tuple[Tensor, Tensor]:
        """Return (b,) float64 what the k-th best true score reaches at least, and (b, G) bool groups to look into.

        Scores are those of the scaled rows, and `tie` (b,) is how far apart they may be and still be equal.
        """
        largest = torch.empty(
            len(rows), int(self._first[-1]), dtype=self._queries.product_dtype, device=self._queries.device
        )
        for at in range(0, len(rows), QUERIES):
            part = rows[at : at + QUERIES]
            block = self._queries.block(int(part[0]), int(part[-1]) + 1)
            for tile in range(len(self._tiles)):
                largest[at : at + QUERIES, self._first[tile] : self._first[tile + 1]] = self._maxima(block, part, tile)
        last = (largest.amax(1) if k == 1 else largest.topk(k, dim=1).values[:, -1]).double()
        error, total = (x[rows].to(last.device) for x in (self._error, self._total))
        reach = last - total
        return reach, largest >= self._queries.floor(reach - tie, error)[:, None]

    def _maxima(self, block: Tensor, part: np.ndarray, tile: int) -> Tensor:
        """Return (b, groups of this tile)."""
        start, stop = self._tiles[tile]
        scores = products(block, self._gallery.block(start, stop))
        own = self._pair.own[part] - start
        inside = np.flatnonzero((own >= 0) & (own < stop - start))
        if len(inside):
            scores[torch.from_numpy(inside), torch.from_numpy(own[inside])] = -torch.inf
        stride = self._strides[tile]
        missing = stride * GROUP - (stop - start)
        if missing:
            scores = torch.nn.functional.pad(scores, (0, missing), value=-torch.inf)
        return scores.view(len(part), GROUP, stride).amax(1)


def _listed(
    pair: Pair, rows: np.ndarray, marked: Tensor, limit: Tensor, members: Callable[[int], np.ndarray]
) -> Iterator[Shortlist]:
    """Yield the items of the marked groups whose exact cost is at most `limit` (b,)."""
    row, group = marked.nonzero(as_tuple=True)
    order = torch.argsort(group, stable=True)
    row, group = row[order], group[order]
    present, sizes = torch.unique_consecutive(group, return_counts=True)
    queries = pair.queries.take(rows)
    own = torch.from_numpy(pair.own[rows]).to(queries.device)
    found = []
    for number, which in zip(present.tolist(), row.split(sizes.tolist()), strict=True):
        items = members(number)
        costs = pair.costs(queries[which], pair.gallery.take(items))
        at = torch.from_numpy(items).to(costs.device)
        near = (costs <= limit[which, None]) & (at != own[which, None])
        r, c = near.nonzero(as_tuple=True)
        found.append((which[r], at[c], costs[r, c]))
    if not found:
        return
    row, index, costs = (torch.cat(parts) for parts in zip(*found, strict=True))
    order = torch.argsort(row * pair.gallery.count + index)
    yield from _padded(rows, row[order], index[order], costs[order])


def _padded(rows: np.ndarray, row: Tensor, index: Tensor, costs: Tensor) -> Iterator[Shortlist]:
    """Yield flat triples, ordered by row and index, as blocks; rows without any are left out."""
    sizes = torch.bincount(row, minlength=len(rows))
    first = sizes.cumsum(0) - sizes
    there = sizes.nonzero()[:, 0]
    step = max(1, SCORES // int(sizes.max()))
    for part in there.split(step):
        width = int(sizes[part].max())
        place = torch.arange(width, device=costs.device)
        inside = place < sizes[part, None]
        at = (first[part, None] + place).clamp_(max=len(costs) - 1)
        yield Shortlist(
            rows[part.cpu().numpy()], costs[at].masked_fill_(~inside, torch.inf), index[at].masked_fill_(~inside, 0)
        )
