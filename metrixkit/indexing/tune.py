"""Which kind of index, and which search parameters: measured on one's own vectors."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from metrixkit.errors import InputError
from metrixkit.files import write_text
from metrixkit.indexing.inputs import Given
from metrixkit.indexing.whole import write_whole
from metrixkit.report.tuning_plot import tuning_plot
from metrixkit.retrieval import neighbours
from metrixkit.retrieval.index import RetrievalIndex, sweep
from metrixkit.retrieval.index.factory import Factory, lists_for, parse_factory
from metrixkit.spreadsheet import csv_text

TABLE, PLOT = "tuning.csv", "tuning.png"
QUERIES, SINGLE = 1000, 200  # sampled where none are given; of these timed one by one
WANTED = 0.95  # share of the exact neighbours found, for the recommendation


def gallery_of(folder: str | Path) -> tuple[Given, str, str]:
    """Return an index's vectors with their ids, its metric and its factory.

    Raises:
        InputError: No index, or one that keeps codes only.
    """
    index = RetrievalIndex.load(folder)
    if not parse_factory(index.factory, index.dim, None).exact_vectors:
        raise InputError(
            f"{folder} ({index.factory}) keeps codes, not vectors, so the exact answer is not known. Give the "
            "--embeddings it was built from."
        )
    ids = index.ids.tolist()
    items = pd.DataFrame({"id": ids, "label": "", "path": "", "split": ""})
    return Given(items, index.reconstruct(ids), index.model_fingerprint), index.metric, index.factory


def held_out(given: Given, count: int, seed: int) -> tuple[Given, np.ndarray]:
    """Take a random sample of items out as queries, at most a tenth; return the rest and the sample (n, d)."""
    total = len(given.items)
    drawn = np.random.default_rng(seed).permutation(total)[: min(count, total // 10)]
    if not len(drawn):
        raise InputError(f"{total} items are too few to hold queries out of them; give --queries Q.npy.")
    rest = np.ones(total, dtype=bool)
    rest[drawn] = False
    left = Given(given.items[rest].reset_index(drop=True), given.vectors[rest], given.fingerprint)
    return left, np.asarray(given.vectors[np.sort(drawn)])


def settings_for(factories: Iterable[str], count: int, dim: int) -> dict[str, list[str]]:
    """Return the parameters to try for each kind: nprobe and efSearch in powers, up to a quarter of the lists."""
    wanted: dict[str, list[str]] = {}
    for text in factories:
        factory = parse_factory(text, dim, count)
        if factory.lists:
            probes = [4**i for i in range(6) if 4**i <= max(4, factory.lists // 4)]
            wanted[str(factory)] = [f"nprobe={min(n, factory.lists)}" for n in probes]
        elif factory.graph:
            wanted[str(factory)] = [f"efSearch={n}" for n in (16, 32, 64, 128, 256)]
        elif factory.refine:
            wanted[str(factory)] = [f"k_factor={n}" for n in (1, 4, 10, 40)]
        else:
            wanted[str(factory)] = [""]
    return wanted


def usual_factories(count: int, dim: int) -> list[str]:
    """Return kinds worth trying for so many vectors: exact first, then by how coarsely they keep them."""
    found = [Factory("Flat"), Factory("SQ8"), Factory("Flat", graph=32)]
    lists = lists_for(count)
    if lists > 1:
        parts = next(m for m in range(max(1, dim // 2), 0, -1) if dim % m == 0)
        found += [
            Factory("Flat", lists=lists),
            Factory("SQ8", lists=lists),
            Factory("PQ", lists=lists, parts=parts, fast=True, refine=True),
        ]
    return [str(factory) for factory in found]


def tune(
    given: Given,
    queries: np.ndarray,
    k: int,
    settings: Mapping[str, Sequence[str]],
    metric: str = "cosine",
    seed: int = 0,
) -> pd.DataFrame:
    """Measure kinds and parameters.

    Args:
        given: What is searched.
        queries: (Q, d), none of them in `given`.
        k: Neighbours asked for.
        settings: Parameters to try for each factory, see :func:`settings_for`.
        metric: "cosine", "dot" or "euclidean".
        seed: Of the training.

    Returns:
        The rows of :func:`metrixkit.retrieval.index.sweep` with p50_ms and p95_ms of one query alone (wall time).

    Raises:
        InputError: Rows, k or settings that do not fit.
    """
    _, near = neighbours(queries, given.vectors, k, distance=metric)  # type: ignore[arg-type]
    exact = np.where(near >= 0, np.array(given.ids)[near], "")
    frames = []
    for factory, texts in settings.items():
        start = time.perf_counter()
        index = RetrievalIndex.build(given.vectors, given.ids, factory, metric, seed=seed)
        seconds = time.perf_counter() - start
        for text in texts:
            frame = sweep(index, queries, exact, [text])
            index.set_parameters(text)
            p50, p95 = np.percentile(latencies(index, queries[:SINGLE], k), [50, 95])
            frames.append(frame.assign(build_seconds=seconds, p50_ms=p50, p95_ms=p95))
    return pd.concat(frames, ignore_index=True)


def latencies(index: RetrievalIndex, queries: Any, k: int) -> np.ndarray:
    """Return (Q,) wall milliseconds of each query asked alone, after one that warms up."""
    index.search(queries[0], k)
    spent = np.empty(len(queries))
    for i in range(len(queries)):
        start = time.perf_counter()
        index.search(queries[i], k)
        spent[i] = 1000 * (time.perf_counter() - start)
    return spent


def as_text(found: pd.DataFrame) -> str:
    """Return the table for the screen, and the fastest setting that finds 95 % of the exact neighbours."""
    agreement = _agreement(found)
    shown = pd.DataFrame(
        {
            "factory": found["factory"],
            "parameters": found["parameters"],
            agreement: (100 * found[agreement]).map("{:.1f} %".format),
            "queries/s": found["queries_per_second"].map("{:,.0f}".format),
            "p50 ms": found["p50_ms"].map("{:.3f}".format),
            "p95 ms": found["p95_ms"].map("{:.3f}".format),
            "bytes/vector": found["bytes_per_vector"].map("{:.0f}".format),
            "build s": found["build_seconds"].map("{:.2f}".format),
        }
    )
    enough = found[found[agreement] >= WANTED].sort_values("queries_per_second")
    goal = f"{100 * WANTED:.0f} % of the exact neighbours"
    if enough.empty:
        return f"{shown.to_string(index=False)}\nnone finds {goal}"
    best = enough.iloc[-1]
    return f"{shown.to_string(index=False)}\nfastest with {goal}: {best['factory']} {best['parameters']}".rstrip()


def write_tuning(found: pd.DataFrame, out: str | Path, title: str) -> tuple[Path, Path]:
    """Write ``tuning.csv`` and ``tuning.png`` into a folder and return both paths.

    Raises:
        InputError: The folder cannot be written.
    """
    folder = Path(out)
    table = write_text(folder / TABLE, csv_text(found))
    plot = write_whole(folder / PLOT, lambda path: tuning_plot(path, found, _agreement(found), title))
    return table, plot


def _agreement(found: pd.DataFrame) -> str:
    return next(str(name) for name in found.columns if str(name).startswith("agreement@"))
