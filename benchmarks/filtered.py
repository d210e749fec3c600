"""Filtered searches beside unfiltered ones, for every kind of index: what each finds of its own ranking, and its cost.

    OMP_NUM_THREADS=1 python benchmarks/filtered.py [--rows 100000] [--kinds Flat HNSW32 ...]

Seeded float32 rows around centres, 500 queries, k = 10, cosine, one thread, CPU-ms a query (in a batch / alone).
The judge of a kind is its own ranking: all allowed vectors, as the index keeps them, scored one by one. agreement@10 is
the share of those ten that are found. Filters are random masks, and ("labels") all rows of a share of the centres,
which lie together. A search that finds less than the unfiltered one by more than 0.005 is marked with "!".
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
import torch

from metrixkit._faiss import load_faiss
from metrixkit.retrieval import RetrievalIndex
from metrixkit.retrieval.index import filtered, scan

KINDS = (
    "Flat", "SQ8", "SQfp16", "PQ16", "PQ32x4fs", "SQ8,RFlat", "PQ32x4fs,RFlat", "OPQ16,PQ16", "HNSW32", "HNSW32,SQ8",
    "IVF512,Flat", "IVF512,SQ8", "IVF512,SQfp16", "IVF512,PQ16", "IVF512,PQ32x4fs", "IVF512,PQ32x4fs,RFlat",
    "OPQ16,IVF512,PQ16", "OPQ32,IVF512,PQ32x4fs,RFlat",
)  # fmt: skip
FRACTIONS = (1.0, 0.99, 0.9, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.001)
K, DIM, CENTRES, SINGLE = 10, 64, 2000, 40


def clustered(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (count, 64) float32 rows and the centres they lie around."""
    centres = np.random.default_rng(0).standard_normal((CENTRES, DIM), dtype=np.float32)
    draw = np.random.default_rng(seed)
    own = draw.integers(CENTRES, size=count)
    return centres[own] + 0.8 * draw.standard_normal((count, DIM), dtype=np.float32), own


def found_by(index: RetrievalIndex, queries: np.ndarray, mask: np.ndarray | None) -> tuple[float, float, float]:
    """Return agreement@10 with the index's own ranking, and the milliseconds of a query in a batch and alone."""
    engine = index._engine
    chosen = np.arange(len(index)) if mask is None else np.flatnonzero(mask)
    _, wanted = scan.nearest(engine, queries, K, chosen)
    start = time.process_time()
    _, found = filtered.search(engine, queries, K, mask)
    batch = (time.process_time() - start) / len(queries)
    start = time.process_time()
    for query in queries[:SINGLE]:
        filtered.search(engine, query[None], K, mask)
    alone = (time.process_time() - start) / SINGLE
    hits = [len(set(a) & set(b) - {-1}) for a, b in zip(found.tolist(), wanted.tolist(), strict=True)]
    return sum(hits) / (wanted >= 0).sum(), 1e3 * batch, 1e3 * alone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    load_faiss().omp_set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)
    (rows, centre), (queries, _) = clustered(options.rows, 1), clustered(500, 2)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    draw = np.random.default_rng(3)
    order, centre_order = draw.permutation(len(rows)), draw.permutation(CENTRES)
    print("| kind | unfiltered | ms | " + " | ".join(f"{f:g}" for f in FRACTIONS) + " |", flush=True)
    print("|---|" + "---:|" * (2 + len(FRACTIONS)), flush=True)
    for kind in options.kinds:
        index = RetrievalIndex.build(rows, np.arange(len(rows)), kind)
        found_by(index, queries, None)
        whole, batch, alone = found_by(index, queries, None)
        for name in ("random", "labels"):
            cells = []
            for fraction in FRACTIONS:
                mask = np.zeros(len(rows), dtype=bool)
                mask[order[: int(fraction * len(rows))]] = True
                if name == "labels":
                    mask = np.isin(centre, centre_order[: max(1, int(fraction * CENTRES))])
                share, in_batch, single = found_by(index, queries, mask)
                low = "!" if share < whole - 0.005 else ""
                cells.append(f"{share:.4f}{low} {in_batch:.2f} / {single:.2f}")
            print(
                f"| {kind}, {name} | {whole:.4f} | {batch:.2f} / {alone:.2f} | " + " | ".join(cells) + " |", flush=True
            )


if __name__ == "__main__":
    main()
