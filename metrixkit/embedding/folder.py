"""Embeddings of a folder, of files or of a data set, written beside the table that names their rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from metrixkit import config as configs
from metrixkit.config import build
from metrixkit.data.loader import default_workers
from metrixkit.data.sets.images import SUFFIXES, image_files
from metrixkit.embedding.images import load_image_model
from metrixkit.errors import InputError
from metrixkit.families import allow_code
from metrixkit.files import check_folder, replacing, write_json, write_text
from metrixkit.inference import default_device, embed_items

COLUMNS = ("id", "path", "label", "split")
GROUP = 16_384  # rows of a parquet row group: what a reader holds at a time


def embed_to_folder(
    model: str, source: Sequence[str], out: str | Path, batch_size: int = 128, parquet: bool = False
) -> tuple[int, int]:
    """Embed images and write ``embeddings.npy``, ``table.csv`` and ``embeddings.json`` (which model made them).

    Args:
        model: A run folder, a model folder, or a hub name.
        source: Folders and image files, or ``data=NAME`` and further ``data.key=value``.
        out: Folder to write into.
        batch_size: Images a forward call.
        parquet: Also write ``embeddings.parquet``, see :func:`write_parquet`.

    Returns:
        The number of embeddings and their dimension.

    Raises:
        InputError: No model, no images, a broken image, a folder that cannot be written, or parquet without pyarrow.
    """
    if parquet:
        _pyarrow()  # before the work, not after it
    target = check_folder(out, "--out")
    items = read_source(source)
    embedder = load_image_model(model, default_device())
    vectors = embed_items(
        embedder.encoder,
        items,
        embedder.transform,
        batch_size=batch_size,
        workers=min(default_workers(), len(items) // 256),
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
    return len(vectors), int(vectors.shape[1])


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
    """Return the items a door was pointed to: rows with id, path, label and split.

    Args:
        source: Folders and image files, or ``data=NAME`` and further ``data.key=value``.

    Raises:
        InputError: Both kinds, nothing there, or settings that the data set refuses.
    """
    settings = [text for text in source if text.startswith(("data=", "data."))]
    if settings and len(settings) < len(source):
        raise InputError("give either folders and files or data=NAME with its settings, not both.")
    return _of_data(settings) if settings else list_images(source)


def _of_data(settings: Sequence[str]) -> pd.DataFrame:
    raw: dict = {}
    for setting in settings:
        configs.apply_override(raw, setting)
    with allow_code(configs.typed_names(settings)):
        return build(configs.resolve_sections(raw, ("data",)), "data").read().items  # type: ignore[no-any-return]


def list_images(source: Sequence[str]) -> pd.DataFrame:
    """Return id, path, label and split of image files and of all images below folders, in sorted order.

    The id is the path below the folder it was found in, the label the name of the folder the image lies in.

    Raises:
        InputError: Nothing goes by that name, or there is no image.
    """
    rows: list[tuple[str, str, str, str]] = []
    for text in source:
        root = Path(text)
        if root.is_dir():
            found = sorted(image_files(root))
            rows += [(path.relative_to(root).as_posix(), str(path), path.parent.name, "test") for path in found]
        elif root.is_file():
            rows.append((root.name, str(root), root.parent.name, "test"))
        else:
            raise InputError(f"no file or folder at {text}.")
    if not rows:
        raise InputError(f"no images in {', '.join(source)}: looked for {', '.join(sorted(SUFFIXES))}.")
    items = pd.DataFrame(rows, columns=list(COLUMNS))
    twice = items["id"].duplicated(keep=False)
    items.loc[twice, "id"] = items.loc[twice, "path"]
    return items
