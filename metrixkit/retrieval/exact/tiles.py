"""The tiles of scores between queries and gallery, each in the cheapest precision that decides enough."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metrixkit.retrieval.exact.progress import Progress
from metrixkit.retrieval.exact.screen import ScreenRows, products
from metrixkit.retrieval.exact.setting import Pair
from metrixkit.retrieval.exact.tally import Tally, Thresholds

QUERY_BLOCK = 1024
GALLERY_TILE = 2048
FIRST = 64  # queries or items of the first tiles, while most thresholds are still low
OPEN_SHARE = 1 / 64  # of the pairs of a precision; where more stay open the next precision is cheaper
MEMORY_SHARE = 1 / 8  # of the free memory of a CUDA device, for a tile and what is made of it


def unit_of(pair: Pair) -> float | None:
    """Return what rows are multiplied by before they are screened, 0 for their own length; None: they cannot be."""
    if pair.distance == "cosine":
        return 0.0
    longest = max(float(rows.lengths.max()) for rows in (pair.queries, pair.gallery))
    return 1 / longest if pair.distance == "dot" and 1e-100 < longest < 1e100 else None


@dataclass(frozen=True)
class _Level:
    """One precision: the thresholds as it sees them, and its rows; None computes from float64 rows."""

    thresholds: Thresholds
    queries: ScreenRows | None = None
    gallery: ScreenRows | None = None


class Tiles:
    """Tiles of a pair, for one set of queries after the other.

    Args:
        pair: Queries and gallery.
        items: (N,) gallery positions in the order of the tiles.
        levels: Precisions from cheap to exact, as of :func:`~metrixkit.retrieval.exact.screen.screen_levels`.
        unit: As of :func:`unit_of`.
        bar: Is told of every pair.
    """

    def __init__(
        self, pair: Pair, items: np.ndarray, levels: tuple[str, ...], unit: float | None, bar: Progress
    ) -> None:
        self.pair, self.items, self.levels, self.bar = pair, items, levels, bar
        self.unit = unit
        self.gallery: dict[str, ScreenRows] = {}
        self.buffer = torch.empty(0)
        self.height, self.width = _tile_size(pair.queries.device)

    def count(self, tally: Tally, itself: bool) -> None:
        """Count all items for the queries of a tally; `itself`: the queries are the items, and in the same order."""
        level = self._level(tally, itself)
        seen = settled = 0
        # Rows that are rounded again for each block of queries are worth a taller one.
        height = self.height if level.gallery is None or level.gallery.kept else 4 * self.height
        for top, bottom in _steps(0, len(tally.rows), FIRST if itself else height, height):
            rows = self._take(level.queries, tally.rows, top, bottom)
            left = top if itself else 0
            for first, last in _steps(left, len(self.items), self.width if itself else FIRST, self.width):
                scores = self._scores(rows, self._take(level.gallery, self.items, first, last))
                skip = max(0, bottom - first) if itself and last > bottom else None
                tally.add(scores, level.thresholds, top, first, skip)
                seen += scores.numel()
                self.bar.add(scores.numel())
                if tally.settled == settled:
                    continue
                if tally.settled - settled > OPEN_SHARE * seen and len(self.levels) > 1:
                    self.levels = self.levels[1:]
                    level = self._level(tally, itself)
                    rows = self._take(level.queries, tally.rows, top, bottom)
                seen, settled = 0, tally.settled
        tally.settle()

    def _level(self, tally: Tally, itself: bool) -> _Level:
        """Return the first precision that is left, for the queries of a tally."""
        name = self.levels[0]
        ties = tally.ties[tally.owner]
        if name == "float64":
            return _Level(tally.thresholds(tally.scores - ties, tally.scores + ties, exact=True))
        scale = self.unit or None
        if name not in self.gallery:
            self.gallery = {name: ScreenRows(self.pair.gallery, name, scale, self.items)}
        gallery = self.gallery[name]
        queries = gallery if itself else ScreenRows(self.pair.queries, name, scale, tally.rows)
        error = queries.error(gallery).to(ties.device)[tally.owner]
        factor = self.unit**2 if self.unit else 1.0
        floor = queries.floor((tally.scores - ties) * factor, error)
        ceiling = queries.ceiling((tally.scores + ties) * factor, error)
        return _Level(tally.thresholds(floor, ceiling, exact=False), queries, gallery)

    def _take(self, screened: ScreenRows | None, positions: np.ndarray, first: int, last: int) -> Tensor:
        if screened is not None:
            return screened.block(first, last)
        rows = self.pair.queries if positions is not self.items else self.pair.gallery
        return rows.take(positions[first:last])

    def _scores(self, rows: Tensor, columns: Tensor) -> Tensor:
        if rows.dtype == torch.float64:
            return self.pair.costs(rows, columns).neg_()
        if rows.device.type != "cpu":
            return products(rows, columns)
        # One tile for all: a fresh one costs the system as much as the product does.
        size = len(rows) * len(columns)
        if len(self.buffer) < size or self.buffer.dtype != rows.dtype:
            self.buffer = torch.empty(max(size, self.height * self.width), dtype=rows.dtype)
        return products(rows, columns, self.buffer[:size].view(len(rows), len(columns)))


def _steps(start: int, stop: int, first: int, most: int) -> Iterator[tuple[int, int]]:
    """Yield consecutive ranges from `start` to `stop`: of `first`, then as long as all before, at most `most`."""
    begin = start
    while begin < stop:
        length = min(most, max(first, begin - start))
        yield begin, min(begin + length, stop)
        begin += length


def _tile_size(device: torch.device) -> tuple[int, int]:
    """Return queries and items of a tile."""
    if device.type != "cuda":
        return QUERY_BLOCK, GALLERY_TILE
    # 8 bytes a score, and as much again three times for what is made of it.
    side = int((MEMORY_SHARE * torch.cuda.mem_get_info(device)[0] / 32) ** 0.5)
    side = max(1024, min(16384, side // 1024 * 1024))
    return side, side
