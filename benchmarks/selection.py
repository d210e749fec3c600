"""CLIM's selection of positives at 131,072 x 128: k-means, cells, all pairs, beside faiss.

    OMP_NUM_THREADS=1 python benchmarks/selection.py [--rows 131072] [--only clustered]

Two sets of unit rows, seeded: "clustered" has 400 families of 1 to 8 kinds each and noise around each kind;
"unstructured" is a 16-dimensional normal cloud turned into 128 dimensions. 128 rows a cluster, k = 40, n_pos = 10, one
thread, CPU-seconds, one run each. "all pairs" is the search of `select_positives(exact=True)`, "cells" that of
`exact=False`; "faiss IVF" is IndexIVFFlat over the same centres, "faiss Flat" IndexFlatL2, both asked for 41 rows and
taken as they answer.

recall is |found & true| / |true| over all items for S = Omega_1 & Omega_2 (same cluster and among the 40 nearest) and
for P = Omega_p; precision is |found & true| / |found| for P. The truth is the search over all pairs. Added memory is
the peak of a process of its own beyond what it held before the call.
"""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metrixkit._faiss import load_faiss
from metrixkit.mixing import select_positives
from metrixkit.mixing.clusters import Clusters, assign, fit_clusters
from metrixkit.mixing.nearest import Points
from metrixkit.mixing.neighbours import all_neighbours, cell_neighbours
from metrixkit.mixing.pools import centre_wise

DIM, K, PER_CLUSTER = 128, 40, 128
PROBES = (1, 4, 16, 64)


def rows_of(kind: str, count: int) -> Tensor:
    draw = np.random.default_rng(0)
    if kind == "unstructured":
        turn = draw.standard_normal((16, DIM), dtype=np.float32)
        rows = draw.standard_normal((count, 16), dtype=np.float32) @ turn
    else:
        families = draw.standard_normal((400, DIM), dtype=np.float32)
        parents = np.repeat(np.arange(400), draw.integers(1, 9, 400))
        kinds = families[parents] + 0.6 * draw.standard_normal((len(parents), DIM), dtype=np.float32)
        rows = kinds[draw.integers(len(kinds), size=count)]
        rows += 0.5 * draw.standard_normal(rows.shape, dtype=np.float32)
    return torch.nn.functional.normalize(torch.from_numpy(rows), dim=1)


def cpu(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


class Truth:
    """Sets over all pairs, and how a search compares with them."""

    def __init__(self, points: Points, clusters: Clusters, near: Tensor) -> None:
        self.points, self.clusters, self.items = points, clusters, torch.arange(len(near))
        same, local = self.sets(near)
        self.same, self.local = self._codes(near, same), self._codes(near, local)
        self.sizes = (len(self.same) / len(near), len(self.local) / len(near))

    def sets(self, near: Tensor) -> tuple[Tensor, Tensor]:
        same = self.clusters.assignment[near] == self.clusters.assignment[self.items][:, None]
        return same, centre_wise(near, self.items, self.clusters, self.points.tie)

    def _codes(self, near: Tensor, keep: Tensor) -> np.ndarray:
        return (self.items[:, None] * len(near) + near)[keep].sort().values.numpy()

    def line(self, name: str, seconds: float, near: Tensor) -> str:
        same, local = self.sets(near)
        found_same, found_local = self._codes(near, same), self._codes(near, local)
        hit_same = np.isin(found_same, self.same, assume_unique=True).sum()
        hit = np.isin(found_local, self.local, assume_unique=True).sum()
        return (
            f"  {name:<22}{seconds:9.1f}{hit_same / len(self.same):12.6f}{hit / len(self.local):12.6f}"
            f"{hit / max(1, len(found_local)):14.4f}"
        )


def without_self(index: np.ndarray) -> Tensor:
    found = torch.from_numpy(index)
    other = found != torch.arange(len(found))[:, None]
    other[:, -1] &= ~other[:, :-1].all(1)  # a row that did not find itself loses its last
    return found[other].view(len(found), K)


def measure(kind: str, count: int) -> None:
    faiss = load_faiss()
    faiss.omp_set_num_threads(1)
    rows = rows_of(kind, count)
    points = Points(rows)
    print(f"{kind}: {count} x {DIM}, {count // PER_CLUSTER} clusters, k={K}", flush=True)
    seconds, clusters = cpu(lambda: fit_clusters(points, count // PER_CLUSTER, seed=0))
    assigning = cpu(lambda: assign(points, clusters.centres))[0]
    sizes = clusters.sizes
    print(f"  k-means, 25 iterations {seconds:8.1f} s (of which the exact assignment at the end {assigning:.1f})")
    print(f"  cluster sizes {int(sizes.min())} - {int(sizes.max())}, refilled {clusters.reseeded}", flush=True)

    items = torch.arange(count)
    seconds, near = cpu(lambda: all_neighbours(points, items, K))
    truth = Truth(points, clusters, near)
    share = float((truth.sets(near)[1].sum(1) <= 10).double().mean())
    print(f"  a mean item: |S| {truth.sizes[0]:.1f}, |P| {truth.sizes[1]:.1f}; at most 10 in P: {100 * share:.1f} %")
    print(f"  {'search':<22}{'CPU s':>9}{'recall S':>12}{'recall P':>12}{'precision P':>14}")
    print(truth.line("all pairs", seconds, near), flush=True)
    order = clusters.assignment.argsort(stable=True)
    for nprobe in PROBES:
        seconds, near = cpu(partial(cell_neighbours, points, order, K, clusters, nprobe))
        near = near[order.argsort()]
        print(truth.line(f"cells, nprobe {nprobe}", seconds, near), flush=True)

    array = rows.numpy()
    quantiser = faiss.IndexFlatL2(DIM)
    quantiser.add(clusters.centres.numpy())
    index = faiss.IndexIVFFlat(quantiser, DIM, len(sizes), faiss.METRIC_L2)
    index.is_trained = True
    index.add(array)
    for nprobe in PROBES:
        index.nprobe = nprobe
        seconds, found = cpu(lambda: index.search(array, K + 1)[1])
        if (found < 0).any():
            short = int((found < 0).any(1).sum())
            print(f"  faiss IVF, nprobe {nprobe}: {short} items find fewer than {K} others; left out of the comparison")
            continue
        print(truth.line(f"faiss IVF, nprobe {nprobe}", seconds, without_self(found)), flush=True)
    flat = faiss.IndexFlatL2(DIM)
    flat.add(array)
    seconds, found = cpu(lambda: flat.search(array, K + 1)[1])
    print(truth.line("faiss Flat, all pairs", seconds, without_self(found)), flush=True)


def one_selection(kind: str, count: int, exact: bool, answer: Any) -> None:
    load_faiss()
    rows = rows_of(kind, count)
    select_positives(rows[:2048], 40, 16, 10, torch.Generator().manual_seed(0))  # libraries allocate on first use
    ctypes.CDLL(None).malloc_trim(0)
    status = Path("/proc/self/status")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = int(next(x for x in status.read_text().splitlines() if x.startswith("VmRSS")).split()[1])
    clusters = count // PER_CLUSTER
    seconds, _ = cpu(lambda: select_positives(rows, K, clusters, 10, torch.Generator().manual_seed(0), exact=exact))
    peak = int(next(x for x in status.read_text().splitlines() if x.startswith("VmHWM")).split()[1])
    answer.put((seconds, (peak - before) / 1e3))


def memory(kind: str, count: int, exact: bool) -> tuple[float, float]:
    """Return CPU-seconds and added MB of a whole selection in a fresh process."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=one_selection, args=(kind, count, exact, answer))
    process.start()
    result: tuple[float, float] = answer.get()
    process.join()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=131_072)
    parser.add_argument("--only", choices=("clustered", "unstructured"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for kind in ("clustered", "unstructured"):
        if options.only in (None, kind):
            measure(kind, options.rows)
    print("select_positives as a whole (cells, nprobe 16), clustered:")
    for part in (4, 2, 1):
        seconds, added = memory("clustered", options.rows // part, exact=False)
        print(f"  {options.rows // part:>8} rows {seconds:8.1f} CPU s {added:8.0f} MB added", flush=True)


if __name__ == "__main__":
    main()
