"""An index built by several processes: the first trains, all put their shards into lists, the first merges the lists.

For kinds with inverted lists (without RFlat) each process finds the lists of its own vectors, which is nearly all the
work, and faiss merges the parts (``IndexIVF.merge_from``). Vectors of other kinds are added by the first process, shard
after shard.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from metrixkit._faiss import load_faiss
from metrixkit.distributed import rank, world_size
from metrixkit.errors import InputError
from metrixkit.indexing.kind import Kind
from metrixkit.indexing.shards import joined, my_shards, wait_for_all
from metrixkit.retrieval.index import RetrievalIndex, choose_factory
from metrixkit.retrieval.index.engine import Engine
from metrixkit.retrieval.index.factory import Factory, parse_factory
from metrixkit.retrieval.index.files import Record, now, training_size
from metrixkit.retrieval.index.table import Table, read_new_ids, read_new_labels
from metrixkit.retrieval.index.vectors import blocks, read_rows, take


def build_from_shards(
    items: pd.DataFrame, work: Path, dim: int, kind: Kind, fingerprint: str, model: str | None
) -> RetrievalIndex | None:
    """Build an index of what :func:`~metrixkit.indexing.shards.embed_shards` left.

    Args:
        items: N rows with id and label, the same in all processes.
        work: The folder of the shards, seen by all processes.
        dim: Dimension of the embeddings.
        kind: What to build.
        fingerprint: Of the model.
        model: Where the model lies; kept in the notes.

    Returns:
        The index, not yet saved; None in every process but the first.

    Raises:
        InputError: As :meth:`RetrievalIndex.build`.
    """
    factory, count = kind.factory, len(items)
    if factory == "auto":
        factory = choose_factory(count, dim, kind.memory_budget, kind.latency_budget_ms).factory
    elif kind.memory_budget is not None or kind.latency_budget_ms is not None:
        raise InputError(f"budgets choose a factory, and --factory {factory} is chosen already; take auto.")
    parsed = parse_factory(factory, dim, count)
    vectors = joined(work, count) if rank() == 0 else None
    wait_for_all()
    if world_size() == 1 or not parsed.lists or parsed.refine:
        if vectors is None:
            return None
        return RetrievalIndex.build(
            vectors,
            items["id"].tolist(),
            str(parsed),
            kind.metric,
            labels=items["label"].tolist(),
            model_fingerprint=fingerprint,
            notes={"model": model},
            seed=kind.seed,
        )
    return _merged(joined(work, count), items, work, parsed, kind, fingerprint, model)


def _merged(
    vectors: np.ndarray,
    items: pd.DataFrame,
    work: Path,
    factory: Factory,
    kind: Kind,
    fingerprint: str,
    model: str | None,
) -> RetrievalIndex | None:
    trained, size = work / "trained.faiss", training_size(None, factory, len(items))
    if rank() == 0:
        rows = read_rows(vectors, "embeddings", kind.metric, items["id"].to_numpy().astype(str))
        engine = Engine.create(factory, rows.dim, kind.metric)
        engine.train(take(rows, np.sort(np.random.default_rng(kind.seed).permutation(len(items))[:size])), kind.seed)
        engine.write(trained)
    wait_for_all()
    part = Engine.read(trained, factory, kind.metric, mmap=False)
    for start, stop in my_shards(len(items)):
        at = start
        for block in blocks(read_rows(vectors[start:stop], "embeddings", kind.metric)):
            part.index.add_with_ids(block, np.arange(at, at + len(block)))
            at += len(block)
    part.write(_part(work, rank()))
    wait_for_all()
    if rank() != 0:
        return None
    engine = Engine.read(trained, factory, kind.metric, mmap=False)
    for number in range(world_size()):
        # Held by name: what _lists returns lives in it.
        part = Engine.read(_part(work, number), factory, kind.metric, mmap=False)
        _lists(engine.index).merge_from(_lists(part.index), 0)
    engine.index.ntotal = _lists(engine.index).ntotal  # of what stands before the lists (OPQ)
    engine.set_parameters(factory.defaults())
    ids = read_new_ids(items["id"].tolist(), "ids", len(items))
    labels = read_new_labels(items["label"].tolist(), "labels", len(items))
    record = Record(kind.metric, fingerprint, {"model": model}, kind.seed, size, now())
    return RetrievalIndex(engine, Table(ids, labels), record)


def _part(work: Path, number: int) -> Path:
    return work / f"part-{number:05d}.faiss"


def _lists(index: Any) -> Any:
    return load_faiss().try_extract_index_ivf(index)
