"""A filter costs no neighbours: what a filtered search finds of the index's own ranking, at every share of allowed items."""

from __future__ import annotations

import numpy as np
import pytest

from metrixkit.retrieval import RetrievalIndex
from metrixkit.retrieval.index import filtered, scan
from metrixkit.retrieval.index.selection import lists_to_probe

pytestmark = pytest.mark.filterwarnings("ignore:.*is trained on:UserWarning")

COUNT, DIM, CENTRES, K = 6000, 16, 300, 10
QUICK = ("Flat", "SQ8", "PQ8x4fs,RFlat", "HNSW16", "IVF64,Flat", "IVF64,PQ8x4fs", "IVF64,PQ8x4fs,RFlat")
LONG = ("PQ4", "IVF64,SQ8", "HNSW16,SQ8", "OPQ4,IVF64,PQ4", "OPQ8,IVF64,PQ8x4fs,RFlat")
KINDS = [*QUICK, *(pytest.param(kind, marks=pytest.mark.slow) for kind in LONG)]
SHARES = (0.99, 0.7, 0.3, 0.05, 0.002)


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    centres = np.random.default_rng(0).standard_normal((CENTRES, DIM))
    draw = np.random.default_rng(seed)
    own = draw.integers(CENTRES, size=count)
    rows = centres[own] + 0.7 * draw.standard_normal((count, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), own


ROWS, CENTRE = drawn(COUNT, 1)
QUERIES = drawn(150, 2)[0]


def masks(share: float) -> dict[str, np.ndarray]:
    """At random, and whole clusters, which takes from a query all that lies around it."""
    draw = np.random.default_rng(3)
    random = np.zeros(COUNT, dtype=bool)
    random[draw.permutation(COUNT)[: int(share * COUNT)]] = True
    return {"random": random, "clusters": np.isin(CENTRE, draw.permutation(CENTRES)[: max(1, int(share * CENTRES))])}


def share_found(index: RetrievalIndex, mask: np.ndarray | None, alone: bool = False) -> float:
    """Of the index's own ranking: its vectors, as it keeps them, scored one by one."""
    engine = index._engine
    chosen = np.arange(COUNT) if mask is None else np.flatnonzero(mask)
    _, wanted = scan.nearest(engine, QUERIES, K, chosen)
    batches = [QUERIES[i : i + 1] for i in range(len(QUERIES))] if alone else [QUERIES]
    found = np.concatenate([filtered.search(engine, batch, K, mask)[1] for batch in batches])
    assert mask is None or mask[found[found >= 0]].all()
    hits = [len(set(a) & set(b) - {-1}) for a, b in zip(found.tolist(), wanted.tolist(), strict=True)]
    return sum(hits) / int((wanted >= 0).sum())


@pytest.mark.parametrize("kind", KINDS)
def test_a_filtered_search_finds_as_much_as_an_unfiltered_one(kind: str) -> None:
    index = RetrievalIndex.build(ROWS, np.arange(COUNT), kind)
    index.set_parameters(**{name: {"nprobe": 6, "efSearch": 16, "k_factor": 4}[name] for name in index.parameters})
    whole = share_found(index, None)
    for share in SHARES:
        for name, mask in masks(share).items():
            for alone in (False, True) if share in (0.7, 0.05) else (False,):
                # 150 queries tell a share to about 0.01; benchmarks/filtered.py has the figures.
                assert share_found(index, mask, alone) > whole - 0.012, (name, share, alone)


def test_lists_are_taken_until_enough_allowed_vectors_were_seen() -> None:
    sizes, usable = np.array([10, 10, 10, 10]), np.array([1, 0, 9, 10])
    order = np.array([[0, 1, 2, 3], [3, 2, 1, 0]])
    # One list of 10 is what the unfiltered search sees; list 1 holds nothing that is allowed.
    for some, probes, more, wanted, enough in (
        (order, 1, 1.0, [[0, -1, 2], [3, -1, -1]], True),
        (order, 1, 1.5, [[0, -1, 2, 3], [3, 2, -1, -1]], True),
        (order[:, :2], 1, 1.0, [[0], [3]], False),
        (order, 4, 1.0, [[0, -1, 2, 3], [3, 2, -1, 0]], False),
    ):
        probed, had = lists_to_probe(some, sizes, usable, probes, more)
        assert (probed.tolist(), had) == (wanted, enough)
