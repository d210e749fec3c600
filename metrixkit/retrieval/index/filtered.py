"""Searches that may find some vectors only, as good as those that may find all.

A kind that looks at a part of the vectors (lists, a graph) must look at a larger part when fewer are allowed, or a filter
would cost neighbours in silence. The measure: as many *allowed* vectors are weighed as a search without a filter weighs
vectors. Where scoring all allowed ones costs no more than that, they are scored one by one.
"""

from __future__ import annotations

import numpy as np

from metrixkit.retrieval.index import scan
from metrixkit.retrieval.index.engine import Engine
from metrixkit.retrieval.index.selection import allowed_only, lists_to_probe

FEW = 1000  # allowed vectors that are always scored one by one
BATCH = 20  # queries from which a matrix product beats faiss passing over vectors one by one
QUERIES = 1024  # whose lists are put in order at a time


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
    if engine.factory.graph:
        scores, found, enough = _graph(engine, queries, k, allowed, len(chosen))
    elif engine.factory.lists:
        scores, found, enough = _lists(engine, queries, k, allowed)
    elif engine.factory.filters:
        scores, found, enough = _all(*engine.search(queries, k, allowed))
    else:
        # Every vector is looked at, but the others cannot be passed over: fetch more, and leave them out.
        wide = min(k + int(np.ceil(1.5 * k * engine.count / len(chosen))), engine.count)
        scores, found, enough = _all(*allowed_only(*engine.search(queries, wide), allowed, k))
    rest = np.flatnonzero(~enough | (found < 0).any(axis=1))
    if len(rest):
        scores[rest], found[rest] = scan.nearest(engine, queries[rest], k, chosen)
    return scores, found


def _scanned(engine: Engine, queries: int, k: int, chosen: int) -> int:
    """Return up to how many allowed vectors are scored one by one: where that costs no more than the kind's own way."""
    kind, count, few = engine.factory, engine.count, max(FEW, 4 * k)
    if kind.lists:
        return max(few, count * engine.get_parameters()["nprobe"] // kind.lists)
    if kind.graph:
        # A graph visits about efSearch / share nodes and looks at the links of each.
        return max(few, int((kind.graph * engine.get_parameters()["efSearch"] * count) ** 0.5))
    if queries >= BATCH:
        return chosen
    return max(few, count // 1000 if kind.filters else count // 20)


def _all(scores: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return scores, found, np.ones(len(found), dtype=bool)


def _graph(
    engine: Engine, queries: np.ndarray, k: int, allowed: np.ndarray, chosen: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Search a graph with as many candidates as leave efSearch allowed ones; tell which queries had them."""
    candidates = max(engine.get_parameters()["efSearch"], k)
    share = chosen / engine.count
    wide = int(np.ceil(candidates * (2 - share) / share))
    scores, found = engine.search(queries, candidates, allowed, candidates=wide)
    # Where all that is allowed lies elsewhere, the graph has seen few of it, and they need not be the nearest.
    enough = (found >= 0).sum(axis=1) >= 3 * candidates // 4
    return scores[:, :k].copy(), found[:, :k].copy(), enough


def _lists(
    engine: Engine, queries: np.ndarray, k: int, allowed: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Search, list by list, until as many allowed vectors were seen as the first nprobe lists hold vectors."""
    sizes, usable = engine.list_sizes(allowed)
    scores = np.empty((len(queries), k), dtype=np.float32)
    found = np.empty((len(queries), k), dtype=np.int64)
    probes = engine.get_parameters()["nprobe"]
    for start in range(0, len(queries), QUERIES):
        some = slice(start, start + QUERIES)
        wide = min(len(sizes), int(np.ceil(2 * probes * sizes.sum() / usable.sum())) + 8)
        order, costs = engine.nearest_lists(queries[some], wide)
        probed = lists_to_probe(order, sizes, usable, probes)
        if probed is None:  # the allowed ones lie in lists further off
            order, costs = engine.nearest_lists(queries[some], len(sizes))
            probed = lists_to_probe(order, sizes, usable, probes, all_lists=True)
        width = probed.shape[1]
        scores[some], found[some] = engine.search_lists(queries[some], k, probed, costs[:, :width], allowed)
    return _all(scores, found)
