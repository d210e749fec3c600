"""All pairs of items that are nearly the same, exact, and the groups they form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.retrieval.exact.screen import Precision, ScreenRows, products, screen_levels
from metrixkit.retrieval.exact.setting import TIE, Pair, pair_up

MOST_PAIRS = 5_000_000  # beyond, the threshold is too low or the embedding has collapsed
ROWS, COLUMNS = 1024, 4096


@dataclass(frozen=True)
class NearDuplicates:
    """Pairs at least as similar as a threshold.

    Attributes:
        first: (P,) int64 positions, ascending.
        second: (P,) int64 positions, each above its `first`.
        scores: (P,) float64 cosines.
        group: (N,) int64, the lowest position among the items that an item is joined to by a chain of pairs; its own
            where it has no pair.
    """

    first: np.ndarray
    second: np.ndarray
    scores: np.ndarray
    group: np.ndarray

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.first)


@torch.no_grad()
def near_duplicates(
    embeddings: Any, threshold: float = 0.98, ids: Any = None, precision: Precision = "auto", most: int = MOST_PAIRS
) -> NearDuplicates:
    """Find every pair of items whose cosine is at least `threshold`.

    Blocks are multiplied in low precision; whatever that cannot rule out (see ``exact/screen.py``) is
    computed in float64, whose scores decide. A score within 1e-12 of the threshold counts as reaching it.

    Args:
        embeddings: (N, d) tensor, array or memory map; memory beyond it is that of a tile and of the pairs.
        threshold: Cosine, above -1 and at most 1.
        ids: (N,) unique ids, for messages; or None.
        precision: What screens, never the result.
        most: Pairs from which on the search gives up.

    Raises:
        InputError: Rows as :class:`.exact.rows.Rows` refuses them, a threshold outside of its range, or
            more than `most` pairs.

    Example:
        >>> import numpy as np
        >>> found = near_duplicates(np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]]))
        >>> list(zip(found.first.tolist(), found.second.tolist(), found.scores.tolist()))
        [(0, 2, 1.0)]
        >>> found.group.tolist()
        [0, 1, 0]
    """
    if not -1 < threshold <= 1:
        raise InputError(f"threshold={threshold}: expected a cosine above -1 and at most 1, such as 0.98.")
    pair = pair_up(embeddings, None, ids, None, "cosine")
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    found = 0
    for first, second in _candidates(pair, threshold, precision):
        scores = -pair.costs_of(first, second).cpu().numpy()
        kept = scores >= threshold - TIE
        parts.append((first[kept], second[kept], scores[kept]))
        found += int(kept.sum())
        if found > most:
            raise InputError(
                f"more than {most} pairs among {pair.queries.count} items are as similar as {threshold:g}. Raise the "
                "threshold; if that does not help, the embedding has collapsed and cannot tell items apart."
            )
    empty = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    first, second, scores = (np.concatenate(column) for column in zip(empty, *parts, strict=True))
    order = np.lexsort((second, first))
    return NearDuplicates(
        first[order], second[order], scores[order], _groups(first[order], second[order], pair.queries.count)
    )


def _candidates(pair: Pair, threshold: float, precision: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield positions (first, second) of all pairs i < j that may reach the threshold."""
    rows = pair.queries
    level = screen_levels(precision, rows.count**2 // 2, rows.dim, rows.device)[0]
    screen = None if level == "float64" else ScreenRows(rows, level)
    error = None if screen is None else screen.error(screen)
    for start in range(0, rows.count, ROWS):
        stop = min(start + ROWS, rows.count)
        if screen is None or error is None:
            block, floor = rows.take(slice(start, stop)), torch.tensor(threshold - 2 * TIE, dtype=torch.float64)
        else:
            block = screen.block(start, stop)
            bound = torch.full((stop - start,), threshold - TIE, dtype=torch.float64)
            floor = screen.floor(bound, error[start:stop])[:, None]
        floor = floor.to(rows.device)
        for begin in range(start, rows.count, COLUMNS):
            end = min(begin + COLUMNS, rows.count)
            if screen is None:
                scores: Tensor = block @ rows.take(slice(begin, end)).T
            else:
                scores = products(block, screen.block(begin, end))
            hit = scores >= floor
            if begin < stop:  # each pair once, and no item with itself
                hit &= (
                    torch.arange(begin, end, device=hit.device) > torch.arange(start, stop, device=hit.device)[:, None]
                )
            found = hit.nonzero().cpu().numpy()
            if len(found):
                yield found[:, 0] + start, found[:, 1] + begin


def _groups(first: np.ndarray, second: np.ndarray, count: int) -> np.ndarray:
    """Return the lowest member of each item's connected component (union-find with halved paths)."""
    parent = list(range(count))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return np.array([root(item) for item in range(count)], dtype=np.int64)
