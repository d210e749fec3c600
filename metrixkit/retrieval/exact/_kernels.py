"""Compiled counting (numba, the extra `fast`): what ``tally.py`` does in passes, in one loop.

Imported only where it is used. Compiling takes some seconds once; the code is kept beside this file, in the user's
cache folder where that cannot be written, or else in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np

FLAGS = 8  # flags looked at together, as one 64-bit word


class Level(NamedTuple):
    """:class:`~metrixkit.retrieval.exact.tally.Thresholds` as arrays; `top` is what no score reaches."""

    floor: np.ndarray
    ceiling: np.ndarray
    lowest: np.ndarray
    top: float
    exact: bool


class State(NamedTuple):
    """The arrays of a ``tally.Tally``; `above`: (n,) items in front of the last active."""

    start: np.ndarray
    active: np.ndarray
    above: np.ndarray
    caps: np.ndarray
    worse: np.ndarray
    better: np.ndarray
    codes: np.ndarray
    item_codes: np.ndarray


def _compiled(**options: Any) -> Callable[[Callable], Callable]:
    def decorate(function: Callable) -> Callable:
        try:
            return numba.njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # no folder to keep it in
            return numba.njit(nogil=True, **options)(function)

    return decorate


@numba.njit(inline="always")
def _count(query: int, item: int, score: float, level: Level, state: State, opened: np.ndarray, waiting: int) -> int:
    """Count one score for one query; return the new number of open pairs."""
    first = state.start[query]
    last = first + state.active[query]
    # Bounds descend: the first whose floor the score reaches, then the first whose ceiling it passes.
    low, high = first, last
    while low < high:
        middle = (low + high) >> 1
        if score >= level.floor[middle]:
            high = middle
        else:
            low = middle + 1
    begin = high
    low, high = begin, last
    while low < high:
        middle = (low + high) >> 1
        if score > level.ceiling[middle]:
            high = middle
        else:
            low = middle + 1
    end = high
    state.better[end + query] += 1
    if level.exact:
        state.worse[begin + query] += 1
    else:
        state.worse[end + query] += 1
        if begin < end:
            opened[waiting, 0] = query
            opened[waiting, 1] = item
            opened[waiting, 2] = begin
            opened[waiting, 3] = end
            waiting += 1
    if end < last:
        active = state.active[query]
        above = state.above[query] + 1
        # The last active item has rank active + above; the first stays whatever its rank.
        while active > 1 and active + above > state.caps[query]:
            active -= 1
            above -= state.better[first + active + query]
        state.above[query] = above
        if active < state.active[query]:
            state.active[query] = active
            level.lowest[query] = level.floor[first + active - 1]
    return waiting


@numba.njit
def _flag(scores: np.ndarray, limit: float, flags: np.ndarray) -> None:
    for j in range(len(scores)):
        flags[j] = scores[j] >= limit


@numba.njit
def _flag_either(scores: np.ndarray, limit: float, limits: np.ndarray, flags: np.ndarray) -> None:
    for j in range(len(scores)):
        flags[j] = (scores[j] >= limit) | (scores[j] >= limits[j])


@_compiled()
def count_tile(
    scores: np.ndarray,
    resume: int,
    row: int,
    column: int,
    skip: int,
    level: Level,
    state: State,
    opened: np.ndarray,
    waiting: int,
    flags: np.ndarray,
) -> tuple[int, int]:
    """Count a (b, t) tile for the queries of its rows and, from column `skip` on, of its columns.

    Args:
        scores: The tile, ordered like the thresholds.
        resume: Row to begin with.
        row: Number of the query of the first row.
        column: Number of the item of the first column.
        skip: t where columns are no queries.
        level: Thresholds; `lowest` is changed.
        state: Counts; changed.
        opened: (M, 4) int32, filled with query, item, first and last place of each open pair.
        waiting: How many it holds.
        flags: Working memory, uint8, at least t and a multiple of 8.

    Returns:
        The first row that did not fit in `opened` any more (b when all did), and the new `waiting`.
    """
    height, width = scores.shape
    words = flags.view(np.uint64)
    for i in range(resume, height):
        if waiting + 2 * width > opened.shape[0]:
            return i, waiting
        query = row + i
        # Slices, so that the loops over them begin at zero and become vector instructions.
        _flag(scores[i, :skip], level.lowest[query], flags[:skip])
        limits = level.lowest[column + skip : column + width]
        _flag_either(scores[i, skip:], level.lowest[query], limits, flags[skip:])
        for w in range((width + FLAGS - 1) // FLAGS):
            if words[w] == 0:
                continue
            for j in range(w * FLAGS, min(w * FLAGS + FLAGS, width)):
                if flags[j] == 0 or state.codes[query] == state.item_codes[column + j]:
                    continue
                score = scores[i, j]
                # A flag may be out of date: what was counted since may have lifted the threshold.
                if score >= level.lowest[query]:
                    waiting = _count(query, column + j, score, level, state, opened, waiting)
                if j >= skip and score >= level.lowest[column + j]:
                    waiting = _count(column + j, query, score, level, state, opened, waiting)
    return height, waiting


@_compiled(fastmath={"reassoc", "contract", "nsz"})
def pair_dots(queries: np.ndarray, gallery: np.ndarray, query: np.ndarray, item: np.ndarray, out: np.ndarray) -> None:
    """Write the float64 dots of rows `query` and `item` of two matrices into `out`; the order of the sum is free."""
    for p in range(len(query)):
        left, right = query[p], item[p]
        total = 0.0
        for k in range(queries.shape[1]):
            total += np.float64(queries[left, k]) * np.float64(gallery[right, k])
        out[p] = total
