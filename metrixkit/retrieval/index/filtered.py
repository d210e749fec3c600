"""Searches that may find some vectors only, as good as those that may find all.

A kind that looks at a part of the vectors (lists, a graph) must look at a larger part when fewer are allowed, or a
filter would cost neighbours in silence. The measure: no fewer *allowed* vectors are weighed than a search without a
filter weighs vectors. Where scoring all allowed ones costs no more than that, they are scored one by one.
"""

from __future__ import annotations

import numpy as np

from metrixkit.retrieval.index import scan
from metrixkit.retrieval.index.engine import Engine
from metrixkit.retrieval.index.selection import allowed_only, lists_to_probe

FEW = 1000  # allowed vectors that are always scored one by one
BATCH = 20  # queries from which a matrix product beats faiss passing over vectors one by one
QUERIES = 1024  # whose lists are put in order at a time
MORE_LISTS, MORE_CANDIDATES = 3.0, 6.0  # see `_more`
FAST = 4  # times as many candidates of 4-bit codes as are asked for, scored again by their decoded codes


def search(
    engine: Engine, queries: np.ndarray, k: int, allowed: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest of each query among the allowed vectors.

    Args:
        engine: What is searched. With a filter it is searched on the processor, also where a GPU has a copy.
        queries: (Q, d) float32.
        k: How many.
        allowed: (count,) bool, vectors that may be found, or None for all.

    Returns:
        scores (Q, k) float32, higher is nearer, -inf where there is none; positions (Q, k) int64, -1 there. k come
        whenever k are allowed.
    """
    if allowed is None or allowed.all():
        return engine.search(queries, k)
    chosen = np.flatnonzero(allowed)
    if len(chosen) <= _scanned(engine, len(queries), k, len(chosen)):
        return scan.nearest(engine, queries, k, chosen)
    # Sums of 4-bit codes are rounded to 8 bits, where what is left by a filter, all far off, falls together.
    wide = min(FAST * k, len(chosen)) if engine.factory.fast else k
    if engine.factory.graph:
        scores, found, enough = _graph(engine, queries, k, allowed, len(chosen))
    elif engine.factory.lists:
        scores, found, enough = _lists(engine, queries, wide, allowed)
    elif engine.factory.filters:
        scores, found, enough = _all(*engine.search(queries, wide, allowed))
    else:
        scores, found, enough = _all(*_wide(engine, queries, wide, allowed, len(chosen)))
    if wide > k:
        scores, found = scan.scored_again(engine, queries, found, k)
    rest = np.flatnonzero(~enough | (found < 0).any(axis=1))
    if len(rest):
        scores[rest], found[rest] = scan.nearest(engine, queries[rest], k, chosen)
    return scores, found


def _scanned(engine: Engine, queries: int, k: int, chosen: int) -> int:
    """Return up to how many allowed vectors are scored one by one: where that costs no more than the kind's own way."""
    kind, count, few = engine.factory, engine.count, max(FEW, 4 * k)
    batch = queries >= BATCH  # vectors are then given back once for all queries
    slow = not (batch or kind.exact_vectors)  # codes take longer to decode one by one than to look up
    if kind.lists:
        weighed = int(MORE_LISTS * count * engine.get_parameters()["nprobe"] / kind.lists)
        return max(few // 10, k) if slow else max(few, int(1.5 * weighed) if batch else weighed)
    if kind.graph:
        # A graph visits efSearch x _more / share nodes and looks at the links of each, wherever they lie in memory.
        node = 37 if batch else 0.75 if slow else 11  # what one of these links costs, in vectors scored
        return max(few, int((node * kind.graph * engine.get_parameters()["efSearch"] * count) ** 0.5))
    if batch:
        return chosen if kind.filters else max(few, count // 10)
    return max(few, count // 1000 if kind.filters else count // 50)


def _more(share: float, most: float) -> float:
    """Return how many times as much to weigh as without a filter, 1 for few removed items to `most` from a tenth on.

    A filter takes from some queries all that lies around them, for example their own class. What is left is far off,
    all at about one distance, and lists and graphs lead to it less straight.
    """
    return 1 + (most - 1) * min(1.0, 10 * (1 - share))


def _all(scores: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return scores, found, np.ones(len(found), dtype=bool)


def _graph(
    engine: Engine, queries: np.ndarray, k: int, allowed: np.ndarray, chosen: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Search a graph with as many candidates as leave efSearch allowed ones; tell which queries had them."""
    candidates = max(engine.get_parameters()["efSearch"], k)
    share = chosen / engine.count
    wide = int(np.ceil(candidates * _more(share, MORE_CANDIDATES) / share))
    scores, found = engine.search(queries, candidates, allowed, candidates=wide)
    # Where all that is allowed lies elsewhere, the graph has seen few of it, and they need not be the nearest.
    enough = (found >= 0).sum(axis=1) >= 3 * candidates // 4
    return scores[:, :k].copy(), found[:, :k].copy(), enough


def _lists(
    engine: Engine, queries: np.ndarray, k: int, allowed: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Search, list by list, until enough allowed vectors were seen: as many as the first nprobe lists hold, or more."""
    sizes, usable = engine.list_sizes(allowed)
    share = float(usable.sum() / sizes.sum())
    more = _more(share, MORE_LISTS)
    scores = np.empty((len(queries), k), dtype=np.float32)
    found = np.empty((len(queries), k), dtype=np.int64)
    probes = engine.get_parameters()["nprobe"]
    for start in range(0, len(queries), QUERIES):
        some = slice(start, start + QUERIES)
        wide = min(len(sizes), int(np.ceil(1.5 * probes * more / share)) + 8)
        order, costs = engine.nearest_lists(queries[some], wide)
        probed, enough = lists_to_probe(order, sizes, usable, probes, more)
        if not enough and wide < len(sizes):  # the allowed ones lie in lists further off
            order, costs = engine.nearest_lists(queries[some], len(sizes))
            probed, _ = lists_to_probe(order, sizes, usable, probes, more)
        width = probed.shape[1]
        scores[some], found[some] = engine.search_lists(queries[some], k, probed, costs[:, :width], allowed)
    return _all(scores, found)


def _wide(
    engine: Engine, queries: np.ndarray, k: int, allowed: np.ndarray, chosen: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fetch more, and leave out what is not allowed, where faiss looks at every vector but cannot pass over any."""
    wide = k + int(np.ceil(1.5 * k * engine.count / chosen))
    scores, found = allowed_only(*engine.search(queries, min(wide, engine.count)), allowed, k)
    short = np.flatnonzero((found < 0).any(axis=1))
    while len(short) and (wide := 8 * wide) < engine.count // 4:
        scores[short], found[short] = allowed_only(*engine.search(queries[short], wide), allowed, k)
        short = short[(found[short] < 0).any(axis=1)]
    return scores, found
