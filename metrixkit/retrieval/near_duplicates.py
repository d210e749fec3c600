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
HELD = 500_000  # pairs from which on the worse ones of each item are let go, where few of each are wanted
ROWS, COLUMNS, PORTION = 1024, 4096, 2**17  # of a tile, and pairs of it that are scored at a time
Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]  # first, second, scores
_NONE: Pairs = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))


@dataclass(frozen=True)
class NearDuplicates:
    """Pairs at least as similar as a threshold.

    Attributes:
        first: (P,) int64 positions, ascending.
        second: (P,) int64 positions, each above its `first`.
        scores: (P,) float64 cosines.
        group: (N,) int64, the lowest position among the items that an item is joined to by a chain of pairs; its own
            where it has no pair. All pairs count, also those that are not listed.
        total: Pairs found; P where all are listed.
    """

    first: np.ndarray
    second: np.ndarray
    scores: np.ndarray
    group: np.ndarray
    total: int

    def __len__(self) -> int:
        """Return the number of pairs listed."""
        return len(self.first)


@torch.no_grad()
def near_duplicates(
    embeddings: Any,
    threshold: float = 0.98,
    ids: Any = None,
    precision: Precision = "auto",
    most: int = MOST_PAIRS,
    per_item: int | None = None,
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
        per_item: List a pair only if it is among so many best of one of its two items, so that n equal items give about
            `per_item` n pairs instead of n^2 / 2; groups stay whole. None lists all.

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
    if per_item is not None and per_item < 1:
        raise InputError(f"per_item={per_item}: expected at least one pair of each item, or None for all.")
    pair = pair_up(embeddings, None, ids, None, "cosine")
    count = pair.queries.count
    groups, pairs, total, held = _Groups(count), [_NONE], 0, 0
    for first, second in _candidates(pair, threshold, precision):
        scores = -pair.costs_of(first, second).cpu().numpy()
        kept = scores >= threshold - TIE
        pairs.append((first[kept], second[kept], scores[kept]))
        groups.join(first[kept], second[kept])
        total += int(kept.sum())
        held += int(kept.sum())
        if total > most:
            raise InputError(
                f"more than {most} pairs among {count} items are as similar as {threshold:g}. Raise the "
                "threshold; if that does not help, the embedding has collapsed and cannot tell items apart."
            )
        if per_item is not None and held > HELD:
            pairs = [_best(_joined(pairs), per_item)]
            held = len(pairs[0][0])
    first, second, scores = _joined(pairs) if per_item is None else _best(_joined(pairs), per_item)
    order = np.lexsort((second, first))
    return NearDuplicates(first[order], second[order], scores[order], groups.lowest(), total)


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
            for some in range(0, len(found), PORTION):  # of equal items a tile is full
                yield found[some : some + PORTION, 0] + start, found[some : some + PORTION, 1] + begin


def _joined(pairs: list[Pairs]) -> Pairs:
    first, second, scores = (np.concatenate(column) for column in zip(*pairs, strict=True))
    return first, second, scores


def _best(pairs: Pairs, per_item: int) -> Pairs:
    """Return the pairs that are among the best of one of their items; of equal ones those with the lowest items."""
    first, second, scores = pairs
    owner, other = np.concatenate([first, second]), np.concatenate([second, first])
    order = np.lexsort((other, -np.concatenate([scores, scores]), owner))
    sorted_owner = owner[order]
    place = np.arange(len(order)) - np.searchsorted(sorted_owner, sorted_owner)
    kept = np.zeros(len(first), dtype=bool)
    kept[order[place < per_item] % max(1, len(first))] = True
    return first[kept], second[kept], scores[kept]


class _Groups:
    """Which items are joined by chains of pairs: a forest whose roots are the lowest members."""

    def __init__(self, count: int) -> None:
        self._parent = np.arange(count)

    def join(self, first: np.ndarray, second: np.ndarray) -> None:
        from scipy.sparse import coo_array  # imported where it is needed: it takes half a second
        from scipy.sparse.csgraph import connected_components

        roots, where = np.unique(np.concatenate([self._root(first), self._root(second)]), return_inverse=True)
        ends = where.reshape(2, -1)
        links = coo_array((np.ones(len(first), bool), (ends[0], ends[1])), shape=(len(roots), len(roots)))
        number, component = connected_components(links, directed=False)
        lowest = np.full(number, len(self._parent))
        np.minimum.at(lowest, component, roots)
        self._parent[roots] = lowest[component]

    def lowest(self) -> np.ndarray:
        """Return the (N,) lowest member of each item's group."""
        return self._root(np.arange(len(self._parent)))

    def _root(self, items: np.ndarray) -> np.ndarray:
        while ((above := self._parent[items]) != items).any():
            items = above
        return items
