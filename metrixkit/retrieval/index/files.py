"""An index on disk: what its manifest says, and how its parts come back."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from metrixkit.errors import InputError
from metrixkit.retrieval.index import store
from metrixkit.retrieval.index.engine import Engine
from metrixkit.retrieval.index.factory import Factory
from metrixkit.retrieval.index.library import faiss_library
from metrixkit.retrieval.index.likeness import check_kind
from metrixkit.retrieval.index.manifest import Manifest, read_values
from metrixkit.retrieval.index.table import Table, refuse_repeated
from metrixkit.retrieval.index.threshold import Threshold

INDEX, IDS, LABELS, TOMBSTONES = "index.faiss", "ids.npy", "labels.npy", "tombstones.npy"


@dataclass
class Record:
    """What an index knows of itself beside vectors and ids.

    Attributes:
        metric: "cosine", "dot" or "euclidean".
        model_fingerprint: What tells the model, or None.
        notes: JSON values of the caller.
        seed: Of the training.
        train_size: Vectors it was trained on, 0 where nothing is learned.
        created: When it was built, ISO 8601 in UTC.
        threshold: For matching, or None.
        folder: Where it was saved or loaded last, or None.
        version: The version there.
    """

    metric: str
    model_fingerprint: str | None
    notes: dict[str, Any]
    seed: int
    train_size: int
    created: str
    threshold: Threshold | None = None
    folder: Path | None = field(default=None)
    version: str | None = None


def save(folder: Path, parts: Callable[[], AbstractContextManager[tuple[Engine, Table]]], record: Record) -> str:
    """Write a version, remember it in `record` and return its name; see ``RetrievalIndex.save``.

    Args:
        folder: Where to.
        parts: Gives vectors and ids, which do not change before the context is left.
        record: What else there is to write.
    """

    def write_files(place: Path) -> dict[str, Any]:
        with parts() as (engine, table):
            if engine.count != len(table.all_ids):
                raise RuntimeError(f"{engine.count} vectors and {len(table.all_ids)} ids do not belong together")
            engine.write(place / INDEX)
            np.save(place / IDS, table.all_ids, allow_pickle=False)
            if table.all_labels is not None:
                np.save(place / LABELS, table.all_labels, allow_pickle=False)
            if table.dead_count:
                np.save(place / TOMBSTONES, np.flatnonzero(table.dead), allow_pickle=False)
            return _manifest(engine, table, record)

    expected = record.version if record.folder == folder.resolve() else None
    record.version = store.write_version(folder, write_files, expected)
    record.folder = folder.resolve()
    return record.version


def _manifest(engine: Engine, table: Table, record: Record) -> dict[str, Any]:
    return {
        "metric": record.metric,
        "normalised": record.metric == "cosine",
        "factory": str(engine.factory),
        "parameters": engine.get_parameters(),
        "dim": engine.dim,
        "vectors": engine.count,
        "count": len(table),
        "tombstones": table.dead_count,
        "model_fingerprint": record.model_fingerprint,
        "threshold": None if record.threshold is None else asdict(record.threshold),
        "seed": record.seed,
        "train_size": record.train_size,
        "created": record.created,
        "saved": now(),
        "versions": _versions(),
        "notes": json_notes(record.notes),
    }


def load(folder: Path, mmap: bool, verify: bool, which: str | None) -> tuple[Engine, Table, Record]:
    """Read a version; see ``RetrievalIndex.load``."""
    return store.read_version(folder, which, verify, lambda place, told: _read(place, told, mmap, verify))


def _read(place: Path, manifest: dict[str, Any], mmap: bool, verify: bool) -> tuple[Engine, Table, Record]:
    others = store.others(place)
    told = read_values(manifest, str(place / store.MANIFEST), others)
    engine = Engine.read(place / INDEX, told.factory, told.metric, mmap)
    check_kind(engine.index, told.factory, told.dim, told.metric, str(place / INDEX))
    ids = _array(place / IDS, "U", mmap, others)
    labels = _array(place / LABELS, "U", mmap, others) if LABELS in manifest["files"] else None
    if not engine.count == len(ids) == told.vectors:
        raise InputError(
            f"{place}: the manifest tells of {told.vectors} vectors, {INDEX} holds {engine.count}, {IDS} {len(ids)}. "
            f"Files of different indexes were mixed.{others}"
        )
    # After the counts were compared: it takes memory for as many vectors as the manifest tells of.
    dead = _tombstones(place, told, TOMBSTONES in manifest["files"], others)
    if labels is not None and len(labels) != len(ids):
        raise InputError(f"{place / LABELS} holds {len(labels)} labels for {len(ids)} vectors.{others}")
    if verify:
        refuse_repeated(ids, dead, str(place / IDS), others)
    engine.set_parameters(told.parameters)
    record = Record(
        told.metric,
        told.model_fingerprint,
        told.notes,
        told.seed,
        told.train_size,
        told.created,
        told.threshold,
        place.parent.resolve(),
        place.name,
    )
    return engine, Table(ids, labels, dead), record


def _tombstones(place: Path, told: Manifest, there: bool, others: str) -> np.ndarray:
    """Return (vectors,) bool, True for tombstones; InputError where they are not as many positions as were told of."""
    dead = np.zeros(told.vectors, dtype=bool)
    positions = _array(place / TOMBSTONES, "iu", False, others) if there else np.empty(0, dtype=np.int64)
    if len(positions) and not 0 <= positions.min() <= positions.max() < told.vectors:
        raise InputError(f"{place / TOMBSTONES} names vectors that are not among the {told.vectors}.{others}")
    dead[positions] = True
    if not dead.sum() == len(positions) == told.tombstones:
        raise InputError(
            f"{place / TOMBSTONES} names {int(dead.sum())} vectors, the manifest tells of {told.tombstones}.{others}"
        )
    return dead


def describe(engine: Engine, table: Table, record: Record) -> dict[str, Any]:
    """Return what ``RetrievalIndex.info`` returns."""
    each = engine.factory.vector_bytes(engine.dim)
    return {
        "count": len(table),
        "dim": engine.dim,
        "metric": record.metric,
        "factory": str(engine.factory),
        "parameters": engine.get_parameters(),
        "tombstones": table.dead_count,
        "tombstone_share": table.dead_count / max(1, engine.count),
        "bytes_per_vector": each,
        "bytes": each * engine.count + engine.factory.fixed_bytes(engine.dim),
        "labelled": table.all_labels is not None,
        "mapped": engine.mapped is not None,
        "gpu": engine.gpu,
        "model_fingerprint": record.model_fingerprint,
        "threshold": None
        if record.threshold is None
        else {**asdict(record.threshold), "false_rejection_rate": record.threshold.false_rejection_rate},
        "seed": record.seed,
        "train_size": record.train_size,
        "created": record.created,
        "folder": None if record.folder is None else str(record.folder),
        "version": record.version,
        "notes": dict(record.notes),
    }


def training_size(asked: int | None, factory: Factory, count: int) -> int:
    """Return how many vectors to train on; InputError if fewer are asked for than there are centres."""
    least = factory.least_training()
    if asked is not None and asked < least:
        raise InputError(
            f"train_size={asked}: {factory} has {least} centres to find and needs at least as many vectors."
        )
    return min(count, factory.wanted_training() if asked is None else asked)


def json_notes(notes: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return notes as a plain dict; InputError if JSON cannot hold them."""
    try:
        return dict(json.loads(json.dumps(dict(notes or {}), allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise InputError(f"notes: JSON cannot hold them ({error}).") from error


def read_parameters(text: str) -> dict[str, int]:
    """Read "nprobe=16,k_factor=4"; InputError where a part is not NAME=WHOLE NUMBER."""
    values = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, value = part.partition("=")
        if not value.strip().isdigit():
            raise InputError(f"parameters {text!r}: {part!r} is not NAME=NUMBER, such as nprobe=16.")
        values[name.strip()] = int(value)
    return values


def now() -> str:
    """Return the time as ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _array(path: Path, kinds: str, mmap: bool, others: str) -> np.ndarray:
    """Return a (n,) array of one of numpy's `kinds` of values; InputError where the file holds something else."""
    try:
        found = np.asarray(np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False))
    except (OSError, ValueError, EOFError, SyntaxError, OverflowError, MemoryError) as error:
        raise InputError(f"{path}: cannot be read ({error}); the file is damaged.{others}") from error
    if found.ndim != 1 or found.dtype.kind not in kinds:
        raise InputError(f"{path} holds {found.dtype} of shape {found.shape}, not what an index keeps there.{others}")
    return found


def _versions() -> dict[str, str]:
    try:
        own = version("metrixkit")
    except PackageNotFoundError:
        own = "unknown"
    return {
        "metrixkit": own,
        "faiss": str(faiss_library().__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
