"""Embeddings of a folder, of files or of a data set, written beside the table that names their rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from metrixkit import source as sources
from metrixkit.data.loader import default_workers
from metrixkit.embedding.images import load_image_model
from metrixkit.errors import InputError
from metrixkit.files import check_folder, refuse_overwriting, replacing, write_json, write_text
from metrixkit.inference import default_device, embed_items

GROUP = 16_384  # rows of a parquet row group: what a reader holds at a time


def embed_to_folder(
    model: str,
    source: Sequence[str],
    out: str | Path,
    batch_size: int = 128,
    parquet: bool = False,
    splits: str | None = None,
) -> tuple[int, int, tuple[str, ...]]:
    """Embed images and write ``embeddings.npy``, ``table.csv`` and ``embeddings.json`` (which model made them).

    Args:
        model: A run folder, a model folder, or a hub name.
        source: Folders, tables and image files, ``data=NAME`` and further ``data.key=value``, or nothing for the
            run's own data; see :func:`metrixkit.source.read`.
        out: Folder to write into.
        batch_size: Images a forward call.
        parquet: Also write ``embeddings.parquet``, see :func:`write_parquet`.
        splits: Which of them, as there.

    Returns:
        The number of embeddings, their dimension, and lines on what was read.

    Raises:
        InputError: No model, no images, a broken image, a folder that cannot be written, or parquet without pyarrow.
    """
    if parquet:
        _pyarrow()  # before the work, not after it
    target = check_folder(out, "--out")
    refuse_overwriting([("--out", target / "table.csv")], source)
    found = sources.read(source, model, splits)
    items = found.items
    embedder = load_image_model(model, default_device())
    vectors = embed_items(
        embedder.encoder,
        items,
        embedder.transform,
        batch_size=batch_size,
        workers=min(default_workers(), len(items) // 256),
        decode=found.decode(embedder.encoder.image_size),
    ).numpy()
    with replacing(target / "embeddings.npy") as file:
        np.save(file, vectors)
    write_text(target / "table.csv", items.to_csv(index=False))
    if parquet:
        write_parquet(target / "embeddings.parquet", items, vectors)
    write_json(
        target / "embeddings.json",
        {"model": str(model), "fingerprint": embedder.fingerprint, "shape": list(vectors.shape)},
    )
    return len(vectors), int(vectors.shape[1]), found.said


def write_parquet(path: str | Path, items: pd.DataFrame, vectors: np.ndarray) -> None:
    """Write embeddings as vector databases read them: columns id, label, path, split (text), vector (list of float32).

    Rows go out in groups of :data:`GROUP`, so that `vectors` may be a memory map larger than memory.

    Args:
        path: A ``.parquet``; replaced as a whole.
        items: N rows; of the columns id, label, path and split those that are there are written.
        vectors: (N, d) numbers.

    Raises:
        InputError: pyarrow is not installed, or the lengths differ.
    """
    arrow, parquet = _pyarrow()
    if len(items) != len(vectors):
        raise InputError(f"{len(items)} rows of a table and {len(vectors)} embeddings; row i must tell of row i.")
    columns = [name for name in ("id", "label", "path", "split") if name in items.columns]
    dim = vectors.shape[1]
    fields = [(name, arrow.string()) for name in columns]
    schema = arrow.schema([*fields, ("vector", arrow.list_(arrow.float32()))])
    with replacing(path) as file, parquet.ParquetWriter(file, schema) as writer:
        for start in range(0, len(items), GROUP):
            rows = np.ascontiguousarray(vectors[start : start + GROUP], dtype=np.float32)
            texts = [arrow.array(items[name].iloc[start : start + GROUP].astype(str).tolist()) for name in columns]
            starts = arrow.array(np.arange(0, rows.size + 1, dim, dtype=np.int32))
            lists = arrow.ListArray.from_arrays(starts, arrow.array(rows.ravel()))
            writer.write_table(arrow.table([*texts, lists], schema=schema))


def _pyarrow() -> tuple:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(
            "parquet needs pyarrow: pip install pyarrow. Without it embeddings.npy and table.csv hold the same."
        ) from error
    return pyarrow, pyarrow.parquet


def read_source(source: Sequence[str]) -> pd.DataFrame:
    """Return the rows (id, path, label, split) of the images that :func:`metrixkit.source.read` finds."""
    return sources.read(source).items
