"""Exact ranks between texts and videos, both directions in one pass over the scores, by counting.

Legend of shapes: T texts, V videos, n texts of a tile.

Text t has one right video v(t), with score s_t. Its rank is one plus the number of other videos that score s_t or more.
Video v is searched for the first of its texts, the one of score b_v = max over its texts. Its rank is one plus the
number of other videos' texts that score b_v or more, or, grouped, of other videos with any such text. So the T right
scores are enough to know all thresholds, and each tile of scores is compared with them once and forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metrixkit.retrieval.exact.crossscores import Scores
from metrixkit.retrieval.exact.setting import TIE

COMPILED_PAYS = 2**23  # scores from which numba is called up, which takes 0.3 s once a process


@dataclass(frozen=True)
class CrossRanks:
    """First ranks of both directions, 1-based.

    Attributes:
        texts: (T, 2) int64, pessimistic and optimistic rank of each text's video.
        videos: (V, 2) int64, likewise of each video's first text; 0 for a video without text.
    """

    texts: np.ndarray
    videos: np.ndarray


@torch.no_grad()
def cross_ranks(scores: Scores, video_of_text: np.ndarray, grouped: bool, compiled: bool | None = None) -> CrossRanks:
    """Return the exact first ranks of both directions; scores within 1e-12 of each other are equal.

    Args:
        scores: (T, V) of them.
        video_of_text: (T,) int64, the right video of each text.
        grouped: Whether a video is ranked among videos by their best text, instead of its texts among all texts.
        compiled: Whether tiles on a CPU are compared by numba instead of torch; the ranks are the same. None does so
            for large matrices where numba is installed.
    """
    count, videos = scores.shape
    right = scores.right(video_of_text)
    best = np.full(videos, -np.inf)
    np.maximum.at(best, video_of_text, right)
    wanted = np.isfinite(best)
    best[~wanted] = 0.0  # a video without text: counted along, thrown away below
    if compiled is None:
        compiled = count * videos >= COMPILED_PAYS and find_spec("numba") is not None
    bounds = (*_thresholds(right, scores), *_thresholds(best, scores))
    compare = (_Compiled if compiled and scores.device.type == "cpu" else _Compared)(videos, *bounds)
    found = np.empty((count, 2), dtype=np.int64)
    for texts, sizes in _parts(video_of_text, scores.step, grouped):
        tile = scores.tile(texts)
        own = torch.from_numpy(video_of_text[texts]).to(tile.device)
        # What is right stands in nobody's way: neither in its text's nor in its video's.
        tile[torch.arange(len(tile), device=tile.device), own] = -torch.inf
        found[texts] = compare.add(tile, texts, sizes)
    return CrossRanks(found + 1, (compare.columns() + 1) * wanted[:, None])


class _Compared:
    """Counts of scores in front, by torch: four comparisons of each tile.

    Args:
        videos: V.
        row_least: (T,) the lowest number that counts as equal to the text's right score.
        row_most: (T,) the highest one.
        column_least: (V,) likewise of the video's best right score.
        column_most: (V,) likewise.
    """

    def __init__(
        self, videos: int, row_least: Tensor, row_most: Tensor, column_least: Tensor, column_most: Tensor
    ) -> None:
        self._rows, self._columns = (row_least, row_most), (column_least, column_most)
        self._ahead = torch.zeros(2, videos, dtype=torch.int64, device=row_least.device)
        self._flags = row_least.new_empty(0, videos)

    def add(self, tile: Tensor, texts: slice | np.ndarray, sizes: np.ndarray | None) -> np.ndarray:
        """Count a (n, V) tile; return (n, 2), how many scores reach each row's bounds and pass them."""
        if len(tile) > len(self._flags):
            self._flags = torch.empty_like(tile)
        flags = self._flags[: len(tile)]
        found = [
            compare(tile, bound[texts, None], out=flags).sum(1)
            for compare, bound in zip((torch.ge, torch.gt), self._rows, strict=True)
        ]
        items = tile if sizes is None else _best_of_groups(tile, sizes)
        flags = self._flags[: len(items)]
        for side, compare in enumerate((torch.ge, torch.gt)):
            self._ahead[side] += compare(items, self._columns[side], out=flags).sum(0).long()
        return torch.stack(found, dim=1).long().cpu().numpy()

    def columns(self) -> np.ndarray:
        """Return (V, 2), how many texts or groups of all tiles reach each column's bounds and pass them."""
        return self._ahead.T.cpu().numpy()


class _Compiled:
    """The same as :class:`_Compared`, by numba: one look at each tile."""

    def __init__(
        self, videos: int, row_least: Tensor, row_most: Tensor, column_least: Tensor, column_most: Tensor
    ) -> None:
        self._rows = (row_least.numpy(), row_most.numpy())
        self._columns = (column_least.numpy(), column_most.numpy())
        self._ahead = np.zeros((2, videos), dtype=np.int64)
        self._scratch = tuple(np.empty(videos, dtype=np.int32) for _ in range(2))

    def add(self, tile: Tensor, texts: slice | np.ndarray, sizes: np.ndarray | None) -> np.ndarray:
        """Count a (n, V) tile; return (n, 2), how many scores reach each row's bounds and pass them."""
        from metrixkit.retrieval.exact import _cross_kernel

        compare: Any = _cross_kernel.compare
        found = np.empty((len(tile), 2), dtype=np.int64)
        groups = np.ones(len(tile), dtype=np.int64) if sizes is None else sizes
        rows = (bound[texts] for bound in self._rows)
        compare(tile.numpy(), groups, *rows, *self._columns, found, self._ahead, *self._scratch)
        return found

    def columns(self) -> np.ndarray:
        """Return (V, 2), how many texts or groups of all tiles reach each column's bounds and pass them."""
        return self._ahead.T


def _thresholds(values: np.ndarray, scores: Scores) -> tuple[Tensor, Tensor]:
    """Return (lowest number that counts as equal, highest one), in the scores' own type and exact for it."""
    low, high = values - TIE, values + TIE
    least, most = low.astype(scores.dtype), high.astype(scores.dtype)
    end = np.array(np.inf, dtype=scores.dtype)
    least = np.where(least.astype(np.float64) < low, np.nextafter(least, end), least)
    most = np.where(most.astype(np.float64) > high, np.nextafter(most, -end), most)
    return torch.from_numpy(least).to(scores.device), torch.from_numpy(most).to(scores.device)


def _parts(
    video_of_text: np.ndarray, step: int, grouped: bool
) -> Iterator[tuple[slice | np.ndarray, np.ndarray | None]]:
    """Yield the texts of each tile; grouped, all texts of some videos, video by video, and how many each has."""
    if not grouped:
        for start in range(0, len(video_of_text), step):
            yield slice(start, min(start + step, len(video_of_text))), None
        return
    sizes = np.bincount(video_of_text)
    # Videos of alike size together, so that hardly any group of a tile must be filled up.
    order = np.lexsort((video_of_text, sizes[video_of_text]))
    sizes = np.sort(sizes[sizes > 0])
    ends = np.cumsum(sizes)
    group, start = 0, 0
    while group < len(sizes):
        after = max(group + 1, int(np.searchsorted(ends, start + step, "right")))
        yield order[start : ends[after - 1]], sizes[group:after]
        group, start = after, int(ends[after - 1])


def _best_of_groups(tile: Tensor, sizes: np.ndarray) -> Tensor:
    """Return (g, V), the largest score of each group of consecutive rows; `sizes` ascends and sums to n."""
    widest = int(sizes[-1])
    if sizes[0] < widest:
        first = np.cumsum(sizes) - sizes
        member = np.minimum(np.arange(widest), sizes[:, None] - 1)  # filled up with the last text again
        tile = tile[torch.from_numpy((first[:, None] + member).ravel()).to(tile.device)]
    return tile.view(len(sizes), widest, -1).amax(1)
