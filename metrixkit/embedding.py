"""Embeddings of a folder, of files or of a data set, written beside the table that names their rows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from metrixkit import config as configs
from metrixkit.data.loader import default_workers
from metrixkit.embedder import load_model
from metrixkit.errors import InputError
from metrixkit.experiment import build
from metrixkit.inference import default_device, embed_items
from metrixkit.training.run import write_json

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif"}


def embed_to_folder(model: str, source: Sequence[str], out: str | Path, batch_size: int = 128) -> tuple[int, int]:
    """Embed images and write ``embeddings.npy``, ``table.csv`` and ``embeddings.json`` (which model made them).

    Args:
        model: A run folder, a model folder, or a hub name.
        source: Folders and image files, or ``data=NAME`` and further ``data.key=value``.
        out: Folder to write into.
        batch_size: Images a forward call.

    Returns:
        The number of embeddings and their dimension.

    Raises:
        InputError: No model, no images, a broken image, or a folder that cannot be written.
    """
    settings = [text for text in source if text.startswith(("data=", "data."))]
    if settings and len(settings) < len(source):
        raise InputError("give either folders and files or data=NAME with its settings, not both.")
    items = _of_data(settings) if settings else list_images(source)
    embedder = load_model(model, default_device())
    target = Path(out)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror}.") from error
    vectors = embed_items(
        embedder.encoder,
        items,
        embedder.transform,
        batch_size=batch_size,
        workers=min(default_workers(), len(items) // 256),
    ).numpy()
    for name, write in (
        ("embeddings.npy", lambda path: np.save(path, vectors)),
        ("table.csv", lambda path: items.to_csv(path, index=False)),
    ):
        # np.save appends its suffix, so the temporary name keeps it.
        temporary = target / f".part-{name}"
        write(temporary)
        os.replace(temporary, target / name)
    write_json(
        target / "embeddings.json",
        {"model": str(model), "fingerprint": embedder.fingerprint, "shape": list(vectors.shape)},
    )
    return len(vectors), int(vectors.shape[1])


def _of_data(settings: Sequence[str]) -> pd.DataFrame:
    raw: dict = {}
    for setting in settings:
        configs.apply_override(raw, setting)
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
            found = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
            rows += [(path.relative_to(root).as_posix(), str(path), path.parent.name, "test") for path in found]
        elif root.is_file():
            rows.append((root.name, str(root), root.parent.name, "test"))
        else:
            raise InputError(f"no file or folder at {text}.")
    if not rows:
        raise InputError(f"no images in {', '.join(source)}: looked for {', '.join(sorted(SUFFIXES))}.")
    items = pd.DataFrame(rows, columns=["id", "path", "label", "split"])
    twice = items["id"].duplicated(keep=False)
    items.loc[twice, "id"] = items.loc[twice, "path"]
    return items
