"""Evaluation outside of training: a saved model on a data set, or embeddings made by anybody."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from metrixkit import config as configs
from metrixkit.data.loader import default_workers
from metrixkit.data.tables import column, read_table
from metrixkit.embedder import load_model
from metrixkit.errors import InputError
from metrixkit.experiment import make_decode, read_data
from metrixkit.inference import default_device
from metrixkit.retrieval import Evaluation
from metrixkit.tasks import Embedded, Retrieval, judge
from metrixkit.training.run import command, versions

SECTIONS = ("seed", "data", "loader", "evaluation")


def model(where: str | None, split: str | None, overrides: Sequence[str]) -> dict[str, Any]:
    """Evaluate a saved model.

    Args:
        where: A run folder, an exported model's folder, or a hub name.
        split: Split of the data set; None for the test split.
        overrides: ``key=value``; for a run they change its own settings, else they must name the data.

    Returns:
        As :func:`embeddings`.

    Raises:
        InputError: No model there, no data named, or no such split.
    """
    if where is None or "=" in where:
        raise InputError("which model? Give a run folder, a model folder or a hub name; or --embeddings and --table.")
    embedder = load_model(where, default_device())
    saved = Path(where) / "config.yaml"
    raw: dict[str, Any] = {}
    if saved.exists():
        whole = yaml.safe_load(saved.read_text(encoding="utf-8"))
        raw = {key: whole[key] for key in SECTIONS}
    for override in overrides:
        configs.apply_override(raw, override)
    if "data" not in raw:
        raise InputError(
            "on which data? Add data=NAME (or data.name=NAME data.root=FOLDER); `metrixkit data list` names them."
        )
    config = configs.resolve_sections(raw, SECTIONS)
    manifest = read_data(config)
    loader = configs.settings(config, "loader")
    task = Retrieval(
        manifest,
        embedder.transform,
        configs.settings(config, "evaluation"),
        workers=default_workers() if loader.workers is None else loader.workers,
        decode=make_decode(config, embedder.encoder.image_size),
    )
    dropped = f"; {manifest.dropped} listed images dropped" if manifest.dropped else ""
    said = [f"model: {where}", f"data: {manifest.name}, split {manifest.split_name}{dropped}"]
    if split is None or split == task.test_split:
        metrics, evaluation, _ = task.test(embedder.encoder)
    else:
        evaluation, _, _ = task.evaluate(embedder.encoder, split)
        metrics = dict(evaluation)
    source = {"model": str(where), "fingerprint": embedder.fingerprint}
    return _result(metrics, evaluation, manifest.split_name, said, source, manifest.dropped)


def embeddings(
    array: str | None, table: str | None, label: str, split: str | None, overrides: Sequence[str]
) -> dict[str, Any]:
    """Evaluate embeddings against the table that names their rows.

    Args:
        array: ``.npy`` file of (N, d) numbers, memory-mapped.
        table: CSV, TSV, parquet or JSON lines of N rows; everything in it is text.
        label: Its label column.
        split: Only rows of this split query; None evaluates ``query`` against ``gallery`` where both are there, else
            all rows among themselves.
        overrides: ``evaluation.key=value``.

    Returns:
        What a result file holds (metrics, counts, definitions, versions, command), and ``said``: lines for people.

    Raises:
        InputError: A file is absent or no such file, the lengths differ, or a column is missing.
    """
    if not array or not table:
        raise InputError(
            "--embeddings E.npy and --table T.csv go together: row i of the table tells of row i of the array."
        )
    raw: dict[str, Any] = {}
    for override in overrides:
        configs.apply_override(raw, override)
    settings = configs.settings(configs.resolve_sections(raw, ("evaluation",)), "evaluation")
    vectors = read_array(Path(array))
    items = read_rows(Path(table), label, len(vectors))
    queries, gallery, said = choose(items, vectors, split)
    evaluation = judge(settings, queries, gallery)
    return _result(dict(evaluation), evaluation, split or "table", said, {"embeddings": array, "table": table})


def read_array(path: Path) -> np.ndarray:
    """Return a ``.npy`` file of (N, d) numbers, memory-mapped.

    Raises:
        InputError: It is absent, no such file, or of another shape.
    """
    try:
        vectors: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"no embeddings at {path}.") from None
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{path} is not readable as a .npy array: {error}.") from error
    if getattr(vectors, "ndim", None) != 2 or vectors.dtype.kind not in "fiu":
        raise InputError(
            f"{path}: expected an array of N rows of d numbers, got shape {getattr(vectors, 'shape', '?')}."
        )
    return vectors


def read_rows(path: Path, label: str, count: int) -> pd.DataFrame:
    """Return what a table says of `count` rows, in columns id, label and split, all text.

    Args:
        path: CSV, TSV, parquet or JSON lines.
        label: The label column.
        count: Embeddings there are.

    Raises:
        InputError: It is absent, has another length, no such label column, or an empty label.
    """
    table = read_table(path)
    labels = column(table, label, path, "--label")
    if len(table) != count:
        raise InputError(f"{path} has {len(table)} rows, but there are {count} embeddings: row i must tell of row i.")
    ids = table["id"].tolist() if "id" in table else [str(i) for i in range(count)]
    splits = table["split"].tolist() if "split" in table else [""] * count
    return pd.DataFrame({"id": ids, "label": labels, "split": splits})


def choose(items: pd.DataFrame, vectors: np.ndarray, split: str | None) -> tuple[Embedded, Embedded | None, list[str]]:
    """Return queries, gallery (None where the queries search each other), and a line saying who searches whom.

    Raises:
        InputError: No row is of that split.
    """

    def of(name: str) -> Embedded:
        rows = np.flatnonzero((items["split"] == name).to_numpy())
        if not len(rows):
            known = ", ".join(sorted(set(items["split"]) - {""})) or "none"
            raise InputError(f"no row of the table is of split {name!r}; its splits: {known}.")
        return Embedded(items.iloc[rows].reset_index(drop=True), vectors[rows])

    if (split is None or split == "query") and {"query", "gallery"} <= set(items["split"]):
        queries, gallery = of("query"), of("gallery")
        return queries, gallery, [f"{len(queries.ids)} queries against a gallery of {len(gallery.ids)}"]
    if split is not None:
        queries = of(split)
        return queries, None, [f"{len(queries.ids)} rows of split {split!r}, each against the others"]
    return Embedded(items, vectors), None, [f"{len(items)} rows, each against the others"]


def _result(
    metrics: dict[str, float],
    evaluation: Evaluation,
    split: str,
    said: list[str],
    source: dict[str, str],
    dropped: int = 0,
) -> dict[str, Any]:
    counts = evaluation.counts
    if counts.get("without_relevant"):
        said.append(f"{counts['without_relevant']} queries have no relevant item and are left out")
    return {
        "metrics": metrics,
        "split": split,
        "counts": {**counts, "dropped": dropped},
        "definitions": evaluation.definitions,
        "versions": versions(),
        "command": command(),
        **source,
        "said": said,
    }
