"""An index on disk: what its manifest says, and how its parts come back."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from metrixkit.errors import InputError
from metrixkit.retrieval.exact.rows import check_distance
from metrixkit.retrieval.index import store
from metrixkit.retrieval.index.engine import Engine
from metrixkit.retrieval.index.factory import Factory, parse_factory
from metrixkit.retrieval.index.library import faiss_library
from metrixkit.retrieval.index.table import Table
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


def save(folder: Path, engine: Engine, table: Table, record: Record) -> str:
    """Write a version, remember it in `record` and return its name; see ``RetrievalIndex.save``."""
    if engine.count != len(table.all_ids):
        raise RuntimeError(
            f"{engine.count} vectors and {len(table.all_ids)} ids: a change before was cut off; not saved."
        )

    def write_files(place: Path) -> None:
        engine.write(place / INDEX)
        np.save(place / IDS, table.all_ids, allow_pickle=False)
        if table.all_labels is not None:
            np.save(place / LABELS, table.all_labels, allow_pickle=False)
        if table.dead_count:
            np.save(place / TOMBSTONES, np.flatnonzero(table.dead), allow_pickle=False)

    manifest = {
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
    expected = record.version if record.folder == folder.resolve() else None
    record.version = store.write_version(folder, write_files, manifest, expected)
    record.folder = folder.resolve()
    return record.version


def load(folder: Path, mmap: bool, verify: bool, which: str | None) -> tuple[Engine, Table, Record]:
    """Read a version; see ``RetrievalIndex.load``."""
    place, manifest = store.read_manifest(folder, which, verify)
    try:
        metric, dim, count = str(manifest["metric"]), int(manifest["dim"]), int(manifest["vectors"])
        factory = parse_factory(manifest["factory"], dim, None)
        threshold = None if manifest["threshold"] is None else Threshold(**manifest["threshold"])
        record = Record(
            metric,
            manifest["model_fingerprint"],
            dict(manifest["notes"]),
            int(manifest["seed"]),
            int(manifest["train_size"]),
            str(manifest["created"]),
            threshold,
            folder.resolve(),
            place.name,
        )
        parameters = {str(name): int(value) for name, value in manifest["parameters"].items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{place / store.MANIFEST}: {error!r} is missing or not as metrixkit writes it.") from error
    check_distance(metric)
    engine = Engine.read(place / INDEX, factory, metric, mmap)
    ids = _array(place / IDS, mmap)
    labels = _array(place / LABELS, mmap) if LABELS in manifest["files"] else None
    if (engine.dim, engine.count, len(ids)) != (dim, count, count):
        raise InputError(
            f"{place}: the manifest tells of {count} vectors of {dim} dimensions, {INDEX} holds {engine.count} of "
            f"{engine.dim}, {IDS} {len(ids)}. Files of different indexes were mixed; build it again."
        )
    dead = np.zeros(count, dtype=bool)
    if TOMBSTONES in manifest["files"]:
        dead[_array(place / TOMBSTONES, False)] = True
    engine.set_parameters(parameters)
    return engine, Table(ids, labels, dead), record


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


def _array(path: Path, mmap: bool) -> np.ndarray:
    try:
        return np.asarray(np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); the file is damaged.") from error


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
