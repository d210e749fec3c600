"""RetrievalIndex over five kinds of index, beside plain faiss calls: build, save, load mapped, search.

    OMP_NUM_THREADS=1 python benchmarks/index.py --out FOLDER

1,000,000 x 128 float32 rows around 20,000 centres (seeded), 1,000 queries around the same centres, cosine, k = 10, one
thread, CPU-seconds. "plain" is what a user of faiss writes: normalize_L2 on a copy, index_factory, train on the same
sample with the same seed, add; and for searching normalize_L2, the search call of the very same faiss index, and
nothing else. Both take turns; ratios are of medians. "own" is what our build spends outside faiss's train and add,
which the noise of the machine does not touch. HNSW is built over the first 200,000 rows only: a graph of a million
would take most of an hour. Files go below FOLDER and are removed.
"""

from __future__ import annotations

import argparse
import ctypes
import shutil
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metrixkit._faiss import load_faiss
from metrixkit.retrieval import RetrievalIndex, neighbours
from metrixkit.retrieval.index.engine import Engine

KINDS = {  # factory: (rows, share of them, build repeats, search parameters)
    "Flat": (1.0, 3, ""),
    "SQ8": (1.0, 3, ""),
    "IVF4096,Flat": (1.0, 1, "nprobe=64"),
    "IVF4096,PQ64x4fs,RFlat": (1.0, 1, "nprobe=64,k_factor=8"),
    "HNSW32": (0.2, 1, "efSearch=64"),
}
K = 10


def clustered(count: int, dim: int, seed: int) -> np.ndarray:
    """Return rows near one of 20,000 common centres, of uneven length."""
    centres = np.random.default_rng(0).standard_normal((20_000, dim), dtype=np.float32)
    generator = np.random.default_rng(seed)
    rows = np.empty((count, dim), dtype=np.float32)
    for start in range(0, count, 2**16):
        part = rows[start : start + 2**16]
        part[:] = centres[generator.integers(len(centres), size=len(part))]
        part += 0.7 * generator.standard_normal(part.shape, dtype=np.float32)
        part *= generator.uniform(0.5, 2, (len(part), 1)).astype(np.float32)
    return rows


def cpu(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def anonymous() -> float:
    """Return megabytes of memory of this process that no file backs, after handing back what is free."""
    ctypes.CDLL(None).malloc_trim(0)
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssAnon"))
    return int(line.split()[1]) / 1e3


def plain_build(rows: np.ndarray, factory: str, sample: np.ndarray) -> Any:
    faiss = load_faiss()
    unit = rows.copy()
    faiss.normalize_L2(unit)
    index = faiss.index_factory(rows.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    lists = faiss.try_extract_index_ivf(index)
    if lists is not None:
        lists.cp.seed, lists.cp.max_points_per_centroid = 0, 2**30
    index.train(unit[sample])
    index.add(unit)
    return index


class Inside:
    """Counts the CPU-seconds our build spends within faiss's train and add."""

    def __enter__(self) -> Inside:
        self.seconds, self._train, self._add = 0.0, Engine.train, Engine.add

        def counted(work: Callable[..., None]) -> Callable[..., None]:
            def call(*values: Any) -> None:
                self.seconds += cpu(lambda: work(*values))[0]

            return call

        Engine.train, Engine.add = counted(self._train), counted(self._add)  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        Engine.train, Engine.add = self._train, self._add  # type: ignore[method-assign]


def measure(factory: str, rows: np.ndarray, queries: np.ndarray, repeats: int, parameters: str, out: Path) -> list[str]:
    ids = np.array([f"item{i:07d}" for i in range(len(rows))])
    ours, plain, own = [], [], []
    index = None
    for _ in range(repeats):
        index = None  # one at a time
        with Inside() as inside:
            seconds, index = cpu(lambda: RetrievalIndex.build(rows, ids, factory))
        ours.append(seconds)
        own.append(seconds - inside.seconds)
        sample = np.sort(np.random.default_rng(0).permutation(len(rows))[: index.info()["train_size"] or len(rows)])
        plain.append(cpu(lambda sample=sample: plain_build(rows, factory, sample))[0])
    assert index is not None
    index.set_parameters(parameters)
    exact = np.char.add("item", np.char.zfill(neighbours(queries, rows, K)[1].astype(str), 7))

    folder = out / "index"
    save, _ = cpu(lambda: index.save(folder))
    file = (folder / "v0001" / "index.faiss").stat().st_size
    del index
    before = anonymous()
    verified, index = cpu(lambda: RetrievalIndex.load(folder))
    del index
    quick, index = cpu(lambda: RetrievalIndex.load(folder, verify=False))
    faiss, inner = load_faiss(), index._engine.index

    def plain_search() -> Any:
        unit = queries.copy()
        faiss.normalize_L2(unit)
        return inner.search(unit, K)

    _, found = index.search(queries, K)
    times: list[tuple[float, float]] = []
    for _ in range(5):
        mine = cpu(lambda: index.search(queries, K))[0]
        times.append((mine, cpu(plain_search)[0]))
    added = anonymous() - before
    single, single_plain = [], []
    for number, query in enumerate(queries[:200]):
        sides = [
            (single, lambda query=query: index.search(query, K)),
            (single_plain, lambda query=query: inner.search(query[None], K)),
        ]
        # Whoever comes second finds the vectors in the cache.
        for seconds, work in sides if number % 2 else sides[::-1]:
            seconds.append(cpu(work)[0])
    agreement = np.mean([len(set(a) & set(b)) / K for a, b in zip(found.tolist(), exact.tolist(), strict=True)])
    shutil.rmtree(folder)
    a, b = statistics.median(ours), statistics.median(plain)
    c, d = (statistics.median(side) for side in zip(*times, strict=True))
    return [
        factory + (f" ({len(rows):,})" if len(rows) < 1_000_000 else ""),
        parameters.replace(",", ", ") or "-",
        f"{agreement:.4f}",
        f"{len(queries) / c:,.0f}",
        f"{1e3 * statistics.median(single):.2f} / {1e3 * statistics.median(single_plain):.2f}",
        f"{c / d:.3f}",
        f"{a:.2f} / {b:.2f}",
        f"{a / b:.3f}",
        f"{statistics.median(own):.2f}",
        f"{file / len(rows):.0f}",
        f"{save:.2f}",
        f"{verified:.2f} / {quick:.3f}",
        f"{added:.0f}",
    ]


HEADER = [
    "kind", "parameters", "found@10", "queries/s", "one query ms, ours / plain", "search ratio",
    "build s, ours / plain", "build ratio", "own s", "bytes a vector", "save s",
    "load s, verified / not", "MB after searching",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    load_faiss().omp_set_num_threads(1)
    rows, queries = clustered(options.rows, 128, 1), clustered(options.queries, 128, 2)
    print("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER), flush=True)
    for factory in options.kinds:
        share, repeats, parameters = KINDS[factory]
        warnings.simplefilter("ignore", UserWarning)
        part = rows[: int(share * len(rows))]
        print("| " + " | ".join(measure(factory, part, queries, repeats, parameters, options.out)) + " |", flush=True)


if __name__ == "__main__":
    main()
