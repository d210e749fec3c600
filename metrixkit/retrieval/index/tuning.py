"""How much of the exact answer an index finds, how fast, and in how much memory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from metrixkit.errors import InputError
from metrixkit.retrieval.index.retrieval_index import RetrievalIndex


def sweep(
    source: RetrievalIndex | Any,
    queries: Any,
    exact_ids: Any,
    settings: Sequence[str] | Mapping[str, Sequence[str]],
    *,
    ids: Any = None,
    metric: str = "cosine",
    repeats: int = 3,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure settings of an index, or several kinds of index, against the exact answer.

    Args:
        source: An index, whose parameters are put back afterwards; or (N, d) embeddings.
        queries: (Q, d).
        exact_ids: (Q, k) ids of the exact k nearest of each query (``neighbours``, or a Flat index); "" where fewer
            exist.
        settings: For an index, parameters such as ["nprobe=1", "nprobe=16"]; for embeddings, those lists by factory,
            such as {"Flat": [""], "IVF256,Flat": ["nprobe=4"]}. "" leaves parameters as they are.
        ids: (N,) ids of embeddings.
        metric: Of embeddings: "cosine", "dot" or "euclidean".
        repeats: Passes over the queries; the quickest counts.
        seed: Of the training.

    Returns:
        One row for each setting, in the order given: factory, parameters, ``agreement@k`` (mean share of the exact k
        nearest that are found; what the index literature calls recall, which here means something else),
        queries_per_second and milliseconds a query by wall time, cpu_ms (processor milliseconds a query, all threads),
        bytes_per_vector, build_seconds (wall; NaN for a ready index).

    Raises:
        InputError: Shapes that do not fit, no settings, or a setting that the index does not have.
    """
    wanted = np.asarray(exact_ids).astype(str)
    if wanted.ndim != 2 or len(wanted) != len(queries) or not wanted.size:
        raise InputError(f"exact_ids: expected ({len(queries)}, k) ids, one row a query, found shape {wanted.shape}.")
    if repeats < 1 or not settings:
        raise InputError(f"sweep: expected settings and repeats of at least 1, found {settings!r} and {repeats}.")
    rows = []
    for index, texts, seconds in _indexes(source, settings, ids, metric, seed):
        before = index.parameters
        try:
            for text in texts:
                index.set_parameters(text)
                rows.append({**_measure(index, queries, wanted, repeats), "build_seconds": seconds})
        finally:
            index.set_parameters(**before)
    return pd.DataFrame(rows)


def _indexes(
    source: Any, settings: Sequence[str] | Mapping[str, Sequence[str]], ids: Any, metric: str, seed: int
) -> Iterator[tuple[RetrievalIndex, Sequence[str], float]]:
    if isinstance(source, RetrievalIndex):
        if isinstance(settings, Mapping | str):
            raise InputError("sweep: an index takes a list of parameters, such as ['nprobe=1', 'nprobe=16'].")
        yield source, settings, float("nan")
        return
    if not isinstance(settings, Mapping) or ids is None:
        raise InputError("sweep: embeddings take ids= and settings by factory, such as {'Flat': [''], ...}.")
    for factory, texts in settings.items():
        start = time.perf_counter()
        index = RetrievalIndex.build(source, ids, factory, metric, seed=seed)
        yield index, texts, time.perf_counter() - start


def _measure(index: RetrievalIndex, queries: Any, wanted: np.ndarray, repeats: int) -> dict[str, Any]:
    k = wanted.shape[1]
    walls, processor = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        _, found = index.search(queries, k)
        walls.append(time.perf_counter() - wall)
        processor.append(time.process_time() - cpu)
    hits = [len(set(a) & set(b) - {""}) for a, b in zip(found.tolist(), wanted.tolist(), strict=True)]
    exist = (wanted != "").sum()
    info = index.info()
    return {
        "factory": info["factory"],
        "parameters": ",".join(f"{name}={value}" for name, value in info["parameters"].items()),
        f"agreement@{k}": sum(hits) / max(1, int(exist)),
        "queries_per_second": len(wanted) / min(walls),
        "milliseconds": 1000 * min(walls) / len(wanted),
        "cpu_ms": 1000 * min(processor) / len(wanted),
        "bytes_per_vector": info["bytes_per_vector"],
    }
