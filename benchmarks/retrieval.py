"""Exact retrieval evaluation beside pytorch-metric-learning, open-metric-learning, naive torch and the GEMM limit.

    OMP_NUM_THREADS=1 python benchmarks/retrieval.py --size cub
    OMP_NUM_THREADS=1 python benchmarks/retrieval.py --size all --oml PYTHON_WITH_OPEN_METRIC_LEARNING
    OMP_NUM_THREADS=1 python benchmarks/retrieval.py --embeddings E.npy --table T.csv      # real ones; column "label"

recall@1, 10, 100, 1000, map@r and r_precision of unit rows with d = 512. Synthetic rows: classes lie around 200
centres, items around their class with a spread of their own each, and the spectrum falls, so that about three of four
queries find their class first. Each measurement is a process of its own that loads the rows, warms up on a few of them
(imports, compiled code), and then measures CPU-seconds and how much its peak memory grows. The methods take turns,
`--repeats` times (the longest once, see `--once`); the table shows medians. All values must agree to 1e-4 (two float32
scores of a peer may tie or swap), those of our own paths to the last digit. The GEMM limit is what the scores alone
take on one thread, at the best rate seen in the same rounds, and for self-retrieval half the scores, which are
symmetric.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

RECALL = (1, 10, 100, 1000)
OURS = ["numba", "torch", "numba float32", "torch float32"]
SIZES = {  # classes, items, of which queries (0: each item among all the others), spread
    "cub": (100, 5_924, 0, 1.9),
    "inshop": (3_985, 26_830, 14_218, 0.9),
    "sop": (11_316, 60_502, 0, 0.95),
}


def synthetic(size: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return (N, 512) float32 unit rows and their class, shuffled, queries first."""
    classes, count, queries, spread = SIZES[size]
    rng = np.random.default_rng(seed)
    # Each class twice, and where there is a split once on either side: every query has a relevant item.
    sides = [(1, queries), (1, count - queries)] if queries else [(2, count)]
    drawn = [np.r_[np.tile(np.arange(classes), n), rng.integers(0, classes, size - n * classes)] for n, size in sides]
    labels = np.concatenate([rng.permutation(side) for side in drawn])
    coarse = rng.standard_normal((200, 512), dtype=np.float32)
    centres = coarse[rng.integers(0, 200, classes)] + 0.8 * rng.standard_normal((classes, 512), dtype=np.float32)
    rows = centres[labels]
    spreads = spread * rng.uniform(0.6, 1.8, (count, 1)).astype(np.float32)
    rows += spreads * rng.standard_normal((count, 512), np.float32)
    rows *= np.arange(1, 513, dtype=np.float32) ** -0.5
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), labels


def measure(method: str, folder: Path) -> dict:
    """Run one method on the rows of a folder and return CPU-seconds, added memory in MB and values."""
    rows, labels = np.load(folder / "rows.npy"), np.load(folder / "labels.npy")
    queries = int((folder / "queries").read_text())
    if method == "gemm":
        return {"rates": gemm()}
    peers = {"PML": pml, "PML, least k": least_k, "OML": oml, "naive torch": naive}
    run = peers.get(method, lambda *a: ours(method, *a))
    few = min(len(rows), 1500) if not queries else 0
    if few:
        run(rows[:few], labels[:few], 0, 1000)
    else:
        some = np.r_[:500, queries : queries + 1500]
        run(rows[some], labels[some], 500, 1000)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    values = run(rows, labels, queries, 1000)
    seconds = time.process_time() - start
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"seconds": seconds, "added": added, "values": values}


def ours(method: str, rows: np.ndarray, labels: np.ndarray, queries: int, _: int) -> dict[str, float]:
    import warnings

    import torch

    from metrixkit.retrieval import evaluate
    from metrixkit.retrieval.exact import ranks

    torch.set_num_threads(1)
    kernels, precision = (*method.split(), "auto")[:2]
    ranks.COMPILING_PAYS = 0 if kernels == "numba" else 2**62
    warnings.simplefilter("ignore")  # k beyond the few rows of the warm-up
    gallery = (rows[queries:], labels[queries:]) if queries else (None, None)
    rows, labels = (rows[:queries], labels[:queries]) if queries else (rows, labels)
    found = evaluate(rows, labels, *gallery, recall_at=RECALL, precision=precision)
    return dict(found)


def gemm() -> dict[str, float]:
    """Return multiply-adds a second of one thread, bfloat16 and float32, at the best of some tile shapes."""
    import torch

    torch.set_num_threads(1)
    rates = {}
    for dtype in (torch.bfloat16, torch.float32):
        best = 0.0
        for b, t in ((1024, 2048), (1024, 4096), (2048, 4096)):
            left, right = torch.randn(b, 512).to(dtype), torch.randn(t, 512).to(dtype)
            out = torch.empty(b, t, dtype=dtype)
            products = [lambda x=left, y=right, o=out: torch.mm(x, y.T, out=o)]
            if dtype == torch.float32:
                products.append(lambda x=left, y=right, o=out: np.matmul(x.numpy(), y.numpy().T, out=o.numpy()))
            for product in products:
                for _ in range(8):
                    start = time.process_time()
                    product()
                    best = max(best, b * t * 512 / (time.process_time() - start))
        rates[str(dtype).removeprefix("torch.")] = best
    return rates


def least_k(rows: np.ndarray, labels: np.ndarray, queries: int, _: int) -> dict[str, float]:
    """PML without the recalls beyond 1: it then searches no more neighbours than the largest class has items."""
    return pml(rows, labels, queries, "max_bin_count")


def pml(rows: np.ndarray, labels: np.ndarray, queries: int, k: int | str) -> dict[str, float]:
    import faiss
    import torch
    from pytorch_metric_learning.utils import accuracy_calculator

    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)

    class Calculator(accuracy_calculator.AccuracyCalculator):
        def calculate_recalls(self, knn_labels, query_labels, not_lone_query_mask, label_comparison_fn, **_):
            hits = label_comparison_fn(query_labels[:, None], knn_labels) & not_lone_query_mask[:, None]
            return [float(hits[:, :n].any(1).sum() / not_lone_query_mask.sum()) for n in RECALL]

        def requires_knn(self):
            return [*super().requires_knn(), "recalls"]

    names = ["precision_at_1", "mean_average_precision_at_r", "r_precision", *(["recalls"] if k == 1000 else [])]
    data = torch.from_numpy(rows), torch.from_numpy(labels)
    arguments = [x[:queries] for x in data] + [x[queries:] for x in data] if queries else data
    found = Calculator(include=names, k=k).get_accuracy(*arguments)
    values = {f"recall@{n}": value for n, value in zip(RECALL, found.get("recalls", ()), strict=False)}
    values["recall@1"] = found["precision_at_1"]
    return values | {"map@r": found["mean_average_precision_at_r"], "r_precision": found["r_precision"]}


def naive(rows: np.ndarray, labels: np.ndarray, queries: int, k: int) -> dict[str, float]:
    """Blocks of queries, torch.topk, and the metrics from the labels of what it found."""
    import torch

    torch.set_num_threads(1)
    x, y = torch.from_numpy(rows), torch.from_numpy(labels)
    gallery, names = (x[queries:], y[queries:]) if queries else (x, y)
    x, y = (x[:queries], y[:queries]) if queries else (x, y)
    sizes = torch.bincount(names, minlength=int(y.max()) + 1)
    totals, count = torch.zeros(len(RECALL) + 2, dtype=torch.float64), 0
    for start in range(0, len(x), 1024):
        scores = x[start : start + 1024] @ gallery.T
        if not queries:
            scores[torch.arange(len(scores)), torch.arange(start, start + len(scores))] = -2
        own = y[start : start + 1024]
        hit = names[scores.topk(k, dim=1).indices] == own[:, None]
        relevant = sizes[own] - (0 if queries else 1)
        hit, relevant = hit[relevant > 0], relevant[relevant > 0]
        count += len(hit)
        place = torch.arange(1, k + 1)
        inside = hit & (place <= relevant[:, None])
        precision = hit.cumsum(1) / place
        totals += torch.stack(
            [hit[:, :n].any(1).double().sum() for n in RECALL]
            + [((inside * precision).sum(1).double() / relevant).sum(), (inside.sum(1) / relevant).double().sum()]
        )
    return dict(zip([f"recall@{n}" for n in RECALL] + ["map@r", "r_precision"], (totals / count).tolist(), strict=True))


def oml(rows: np.ndarray, labels: np.ndarray, queries: int, k: int) -> dict[str, float]:
    """recall@k, there called cmc, from its RetrievalResults; it has no map@r, so map@5 stands in for that work."""
    import torch
    from oml.interfaces.datasets import IQueryGalleryLabeledDataset
    from oml.metrics import calc_retrieval_metrics_rr
    from oml.retrieval import RetrievalResults

    torch.set_num_threads(1)
    names = torch.from_numpy(labels)
    everything = torch.arange(len(rows))

    class Split(IQueryGalleryLabeledDataset):
        extra_data: dict = {}  # noqa: RUF012

        def get_query_ids(self):
            return everything[:queries] if queries else everything

        def get_gallery_ids(self):
            return everything[queries:]

        def get_labels(self):
            return names

        def __len__(self):
            return len(rows)

    results = RetrievalResults.from_embeddings(torch.from_numpy(rows), Split(), n_items=k)
    # Queries without a relevant item do not occur in the synthetic rows.
    found = calc_retrieval_metrics_rr(results, cmc_top_k=RECALL, precision_top_k=(), map_top_k=(5,), verbose=False)
    return {f"recall@{n}": float(value) for n, value in found["cmc"].items()}


def compare(method: str, values: dict[str, float], expected: dict[str, float]) -> None:
    slack = 0.0 if method in OURS else 1e-4
    for name, value in values.items():
        assert abs(value - expected[name]) <= slack, (method, name, value, expected[name])


def table(size: str, folder: Path, repeats: int, oml_python: str | None, once: list[str]) -> None:
    """Measure all methods in turn and print their table."""
    methods = ["gemm", *OURS, "PML", "PML, least k", "naive torch", *(["OML"] if oml_python else [])]
    found: dict[str, list[dict]] = {method: [] for method in methods}
    for number in range(repeats):
        for method in methods:
            if number == 0 or method not in once:
                python = oml_python if method == "OML" and oml_python else sys.executable
                command = [python, __file__, "--measure", method, "--folder", str(folder)]
                shown = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                found[method].append(json.loads(shown.splitlines()[-1]))
                if method != "gemm":
                    compare(method, found[method][-1]["values"], found[OURS[0]][0]["values"])
    values = found[OURS[0]][0]["values"]
    rows, queries = np.load(folder / "rows.npy", mmap_mode="r"), int((folder / "queries").read_text())
    pairs = (queries * (len(rows) - queries) if queries else len(rows) ** 2 / 2) * rows.shape[1]
    print(f"\n{size}: " + (f"{queries} x {len(rows) - queries}" if queries else f"{len(rows)} among themselves"))
    print("  " + "  ".join(f"{name} {100 * value:.2f}" for name, value in values.items()))
    print(f"  {'':<22}{'CPU s':>8}{'(least - most)':>18}{'PML is':>9}{'added MB':>10}{'of PML':>8}")
    seconds = {m: statistics.median(r["seconds"] for r in found[m]) for m in methods[1:]}
    added = {m: max(r["added"] for r in found[m]) for m in methods[1:]}
    for method in methods[1:]:
        spread = [r["seconds"] for r in found[method]]
        print(
            f"  {method:<22}{seconds[method]:>8.2f}{f'({min(spread):.2f} - {max(spread):.2f})':>18}"
            f"{seconds['PML'] / seconds[method]:>8.2f}x{added[method]:>10.0f}{added[method] / added['PML']:>8.3f}"
        )
    for dtype in ("bfloat16", "float32"):
        rate = statistics.median(r["rates"][dtype] for r in found["gemm"])
        ours = seconds["numba" if dtype == "bfloat16" else "numba float32"]
        half = "half the " if not queries else ""
        print(
            f"  GEMM limit {dtype:<11}{pairs / rate:>8.2f}   {half}scores at {2e-9 * rate:.0f} GFLOP/s; "
            f"we are at {100 * pairs / rate / ours:.0f} % of it"
        )
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=[*SIZES, "all"], default="cub")
    parser.add_argument("--repeats", type=int, default=3)
    long = "PML, least k/naive torch/OML/numba float32/torch float32"
    parser.add_argument("--once", default=long, help="methods that run once at SOP size (default: %(default)s)")
    parser.add_argument("--oml", metavar="PYTHON", help="a Python that has open-metric-learning")
    parser.add_argument("--embeddings", metavar="E.npy", help="real rows, each searched among all the others")
    parser.add_argument("--table", metavar="T.csv", help="with a column label, one row an embedding")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.folder)))
        return
    if os.environ.get("OMP_NUM_THREADS") != "1":
        parser.error("start it with OMP_NUM_THREADS=1: one thread is what is measured")
    names = ["real"] if options.embeddings else list(SIZES) if options.size == "all" else [options.size]
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            if name == "real":
                import pandas as pd

                rows = np.load(options.embeddings).astype(np.float32)
                labels = np.unique(pd.read_csv(options.table)["label"].to_numpy(), return_inverse=True)[1]
                rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            else:
                rows, labels = synthetic(name)
            np.save(Path(folder) / "rows.npy", rows)
            np.save(Path(folder) / "labels.npy", labels.astype(np.int64))
            (Path(folder) / "queries").write_text(str(0 if name == "real" else SIZES[name][2]))
            once = options.once.split("/") if len(rows) > 40_000 else []
            table(name, Path(folder), options.repeats, options.oml, once)


if __name__ == "__main__":
    main()
