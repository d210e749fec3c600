"""A new index of embeddings: what :meth:`RetrievalIndex.build` does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from metrixkit.errors import InputError
from metrixkit.retrieval.exact.rows import check_distance
from metrixkit.retrieval.index import files, vectors
from metrixkit.retrieval.index.choice import choose_factory
from metrixkit.retrieval.index.engine import Engine
from metrixkit.retrieval.index.factory import parse_factory
from metrixkit.retrieval.index.table import Table, check_count, read_new_ids, read_new_labels


def make(
    embeddings: Any,
    ids: Any,
    factory: str,
    metric: str,
    labels: Any,
    model_fingerprint: str | None,
    notes: Mapping[str, Any] | None,
    seed: int,
    train_size: int | None,
    memory_budget: int | str | None,
    latency_budget_ms: float | None,
) -> tuple[Engine, Table, files.Record]:
    """Build the parts of an index; arguments and errors as :meth:`RetrievalIndex.build`."""
    check_distance(metric)
    names = read_new_ids(ids, "ids")
    rows = vectors.read_rows(embeddings, "embeddings", metric, names)
    check_count(names, rows.count, "ids")
    kept_labels = read_new_labels(labels, "labels", rows.count)
    if factory == "auto":
        factory = choose_factory(rows.count, rows.dim, memory_budget, latency_budget_ms).factory
    elif memory_budget is not None or latency_budget_ms is not None:
        raise InputError(f"budgets choose a factory, and factory={factory!r} is chosen already; take 'auto'.")
    kind = parse_factory(factory, rows.dim, rows.count)
    engine = Engine.create(kind, rows.dim, metric)
    size = files.training_size(train_size, kind, rows.count)
    if kind.trains:
        chosen = np.sort(np.random.default_rng(seed).permutation(rows.count)[:size])
        engine.train(vectors.take(rows, chosen), seed)
    engine.reserve(rows.count)
    for block in vectors.blocks(rows):
        engine.add(block)
    engine.set_parameters(kind.defaults())
    record = files.Record(
        metric, model_fingerprint, files.json_notes(notes), seed, size if kind.trains else 0, files.now()
    )
    return engine, Table(names, kept_labels), record
