"""Embeddings of items of several modalities, of whatever is there of each, and what that was."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from metrixkit.data.listed_paths import locate_listed
from metrixkit.data.pair_manifest import PairManifest
from metrixkit.data.tables import column, expand, read_table
from metrixkit.errors import InputError
from metrixkit.files import check_folder, refuse_overwriting, replacing, write_json, write_text
from metrixkit.inference import default_device
from metrixkit.models.multimodal import SETTINGS, Multimodal, load_multimodal
from metrixkit.retrieval.missing.patterns import Embeddings
from metrixkit.tasks.modality_data import modality_items
from metrixkit.tasks.modality_encoding import encoder_of


def is_multimodal(model: str | Path) -> bool:
    """Return whether a run folder, or a model's folder, holds a model of several modalities."""
    return any((Path(model) / below / SETTINGS).is_file() for below in ("model", "."))


def embed_parts(model: Multimodal, items: PairManifest, batch_size: int = 128) -> tuple[np.ndarray, list[str]]:
    """Return (N, d) float32 embeddings and for each item the modalities that were used, joined by "+".

    With all of them there the joint branch answers; otherwise the average of those that are there, each taken alone (of
    a model without such branches: the joint branch with zeros).

    Args:
        model: Trained.
        items: Their modalities are the model's, in its order; a blank cell is a missing one.
        batch_size: Items a forward call.

    Raises:
        InputError: An item of which nothing is there, or a file that cannot be read.
    """
    whole = modality_items(items, np.array([""] * len(items)), in_memory=False)
    encode = encoder_of(model.eval(), "mean" if model.branches else "zeros")
    with torch.no_grad():
        vectors = Embeddings(encode, whole, batch_size=batch_size).under(whole.present).numpy()
    return vectors, ["+".join(np.array(model.names)[row]) for row in whole.present]


def embed_table(
    model: str | Path, table: str | Path, out: str | Path, batch_size: int = 128, separator: str | None = None
) -> tuple[int, int]:
    """Embed the items of a table; write ``embeddings.npy`` and ``table.csv`` with a column ``used``.

    Args:
        model: A finished run of task=missing-modality, or its model's folder.
        table: A column ``id`` and one for each modality: paths, relative to the table, of pictures, videos or features,
            or the text itself. A blank cell, or no such column, is a missing modality. Other columns are kept.
        out: Folder to write into.
        batch_size: Items a forward call.
        separator: Between the cells of a text table; None is found out.

    Returns:
        The number of embeddings and their dimension.

    Raises:
        InputError: No model, no table, ids given twice, nothing observed of an item, a file that cannot be read.
    """
    target = check_folder(out, "--out")
    refuse_overwriting([("--out", target / "table.csv")], [table])
    network = load_multimodal(model).to(default_device())
    path = expand(table)
    rows = read_table(path, separator, "--separator")
    ids = column(rows, "id", path, "names of the items", named_by=False)
    if not any(name in rows.columns for name in network.names):
        raise InputError(f"{path} has none of the columns {', '.join(network.names)}: nothing could be embedded.")
    cells = pd.DataFrame({"id": ids, "split": "test"}, dtype="str")
    for name, form in network.inputs.items():
        told = [""] * len(rows)
        if name in rows.columns:
            told = column(rows, name, path, "a modality of the model", blank=True, named_by=False)
        cells[name] = pd.Series(told if form.kind == "text" else locate_listed(path.parent, told), dtype="str")
    texts = pd.DataFrame({name: pd.Series(dtype="str") for name in ("id", "caption", "item", "split")})
    kinds = {name: form.kind for name, form in network.inputs.items()}
    items = PairManifest("table", "given", cells, texts, kinds, path.parent)
    empty = np.flatnonzero(~items.present.any(axis=1))
    if len(empty):
        raise InputError(
            f"{path}: item {items.ids[empty[0]]!r} has none of {', '.join(network.names)} ({len(empty):,})."
        )
    vectors, used = embed_parts(network, items, batch_size)
    with replacing(target / "embeddings.npy") as file:
        np.save(file, vectors)
    # A list or a mapping in a column that is only kept goes out as JSON.
    kept = rows.map(lambda cell: cell if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False))
    write_text(target / "table.csv", kept.assign(used=used).to_csv(index=False))
    write_json(target / "embeddings.json", {"model": str(model), "shape": list(vectors.shape)})
    return len(vectors), int(vectors.shape[1])
