"""Evaluation outside of training: a saved model on a data set, or embeddings made by anybody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from metrixkit import config as configs
from metrixkit import saved_runs
from metrixkit.data.arrays import read_matrix
from metrixkit.data.image_files import told
from metrixkit.data.loader import default_workers
from metrixkit.data.row_table import read_row_table
from metrixkit.data.tables import SPLIT_WORDS
from metrixkit.embedding.images import load_model
from metrixkit.embedding.pairs import PairEmbeddingModel
from metrixkit.errors import InputError
from metrixkit.inference import default_device
from metrixkit.jobs.images import make_decode, read_data
from metrixkit.judging import classes
from metrixkit.judging.extras import Added, Extras, added
from metrixkit.judging.pairs import pair_model
from metrixkit.judging.probes import Probes, plan, probed, settle
from metrixkit.judging.through_index import one_by_one
from metrixkit.retrieval import Evaluation
from metrixkit.source import ALL
from metrixkit.tasks import Embedded, Retrieval, judge
from metrixkit.tasks.self_supervised import hold_out
from metrixkit.training.run import command, versions

NOTHING_MORE, NO_PROBES = Extras(), Probes()
SECTIONS = ("seed", "data", "loader", "evaluation")


def model(
    where: str | None,
    split: str | None,
    overrides: Sequence[str],
    extras: Extras = NOTHING_MORE,
    compat: str | None = None,
    probes: Probes = NO_PROBES,
) -> dict[str, Any]:
    """Evaluate a saved model.

    Args:
        where: A run folder, an exported model's folder, or a hub name.
        split: Split of the data set, or "all" for all its items, each searched among the others; None for the test
            split.
        overrides: ``key=value``; for a run they change its own settings, else they must name the data.
        extras: What to add; of a model of texts and videos only `group_by`.
        compat: "clip4clip" for a model of texts and videos, or None.
        probes: What to tell of the frozen features; nothing tells of a self-supervised run what its task reports. A
            classification run also tells what its classifier says.

    Returns:
        As :func:`embeddings`.

    Raises:
        InputError: No model there, no data named, no such split, or extras or probes that cannot be.
    """
    if where is None or ("=" in where and not Path(where).exists()):
        raise InputError("which model? Give a run folder, a model folder or a hub name; or --embeddings and --table.")
    saved = saved_runs.read(where, needed=False)
    with saved.reading(overrides):
        return _model(where, saved, split, overrides, extras, compat, probes)


def _model(
    where: str,
    saved: saved_runs.Saved,
    split: str | None,
    overrides: Sequence[str],
    extras: Extras,
    compat: str | None,
    probes: Probes,
) -> dict[str, Any]:
    embedder = load_model(where, default_device())
    raw, run_task = saved.sections(SECTIONS), saved.settings.get("task")
    for override in overrides:
        configs.apply_override(raw, override)
    if "data" not in raw:
        raise InputError(
            "on which data? Add data=NAME (or data.name=NAME data.root=FOLDER); `metrixkit data list` names them."
        )
    if isinstance(embedder, PairEmbeddingModel):
        if replace(extras, group_by=None) != NOTHING_MORE:
            raise InputError("--verify, --rerank, --index and --factory belong to models of images.")
        if probes.asked:
            raise InputError("--linear, --knn, --semi, --tsne and --similarity-within belong to models of images.")
        return pair_model(embedder, where, raw, split, compat, extras.group_by)
    if compat is not None:
        raise InputError("--compat belongs to texts and videos; the model at hand is one of images.")
    probes, changes = settle(raw, run_task, probes)
    classified = classes.settle(raw, run_task)
    config = configs.resolve_sections(raw, SECTIONS)
    manifest = read_data(config)
    if classified is not None:
        manifest = hold_out(manifest, classified, config["seed"])
    if split is not None and split.strip().lower() == ALL:
        split = "test"
        items = manifest.items.assign(split=split)
        manifest = replace(
            manifest, items=items, split_name=f"{manifest.split_name}-all-items", expected={}, searches={}
        )
    extras.check_columns(manifest.items.columns)
    loader = configs.settings(config, "loader")
    task = Retrieval(
        manifest,
        embedder.transform,
        configs.settings(config, "evaluation"),
        workers=default_workers() if loader.workers is None else loader.workers,
        decode=make_decode(config, embedder.encoder.image_size),
        selecting=False,
    )
    dropped = f"; {manifest.dropped} listed images dropped" if manifest.dropped else ""
    said = [f"model: {where}", f"data: {manifest.name}, split {manifest.split_name}{dropped}"]
    said += filter(None, [told(manifest.passed_over)])
    settings = configs.settings(config, "evaluation")
    split = task.test_split if split is None else split
    if split not in manifest.splits:
        raise InputError(
            f"data set {manifest.name!r} has no split {split!r} to evaluate; it has {', '.join(manifest.splits)}. Name "
            "one of these by --split (--split all: all items that are there, each searched among the others), or other "
            "data by data.root=FOLDER."
        )
    asked = plan(probes, changes, task, split, config["seed"])
    queries = task.embed(embedder.encoder, split)
    gallery = task.gallery(embedder.encoder, split)
    evaluation = judge(settings, queries, gallery, group_by=extras.group_by)
    geometry = {}
    if split == task.test_split and settings.utilization and "train" in manifest.splits:
        geometry = task.geometry(embedder.encoder, queries)
    source = {"model": str(where), "fingerprint": embedder.fingerprint}
    encode = one_by_one(embedder, task.decode)
    more = added(settings, queries, gallery, extras, evaluation, encode, embedder.fingerprint)
    if asked.probes.asked:
        more = probed(asked, more, embedder.encoder, embedder.transform_config, queries, config["seed"])
    if classified is not None:
        more = classes.answered(more, where, embedder, queries)
    return _result(evaluation, more, manifest.split_name, said, source, extras.group_by, geometry, manifest.dropped)


def embeddings(
    array: str | None,
    table: str | None,
    label: str,
    split: str | None,
    overrides: Sequence[str],
    extras: Extras = NOTHING_MORE,
    separator: str | None = None,
) -> dict[str, Any]:
    """Evaluate embeddings against the table that names their rows.

    Args:
        array: File of (N, d) numbers, see :func:`~metrixkit.data.arrays.read_matrix`.
        table: CSV, TSV, parquet or JSON lines of N rows; everything in it is text.
        label: Its label column.
        split: Only rows of this split query; None evaluates ``query`` against ``gallery`` where both are there, else
            the rows of ``test`` where there are such, else all rows among themselves.
        overrides: ``evaluation.key=value``.
        extras: What to add.
        separator: Between the cells of a text table; None is found out.

    Returns:
        What a result file holds (metrics, counts, definitions, intervals, versions, command), and what it does not:
        ``said`` and ``tables``, lines for people before and after the metrics, and ``picture``, the verification whose
        ROC is to be drawn, or None.

    Raises:
        InputError: A file is absent or no such file, the lengths differ, a column is missing, or extras that cannot be.
    """
    if not array or not table:
        raise InputError(
            "--embeddings E.npy and --table T.csv go together: row i of the table tells of row i of the array."
        )
    raw: dict[str, Any] = {}
    for override in overrides:
        configs.apply_override(raw, override)
    settings = configs.settings(configs.resolve_sections(raw, ("evaluation",)), "evaluation")
    vectors = read_matrix(array, "--embeddings")
    grouped = [(extras.group_by, "--group-by")] if extras.group_by is not None else []
    items = read_row_table(table, len(vectors), label, separator, more=grouped)
    queries, gallery, said = choose(items, vectors, split)
    evaluation = judge(settings, queries, gallery, group_by=extras.group_by)
    more = added(settings, queries, gallery, extras, evaluation)
    source = {"embeddings": array, "table": table}
    return _result(evaluation, more, split or "table", said, source, extras.group_by)


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

    there = set(items["split"])
    if split is not None:
        split = SPLIT_WORDS.get(split.strip().lower(), split)
    if (split is None or split == "query") and {"query", "gallery"} <= there:
        queries, gallery = of("query"), of("gallery")
        return queries, gallery, [f"{len(queries.ids)} queries against a gallery of {len(gallery.ids)}"]
    if split is None and "test" in there and len(there) > 1:
        split = "test"  # training items beside them are no part of what is asked
    if split is not None:
        queries = of(split)
        return queries, None, [f"{len(queries.ids)} rows of split {split!r}, each against the others"]
    return Embedded(items, vectors), None, [f"{len(items)} rows, each against the others"]


def _result(
    evaluation: Evaluation,
    more: Added,
    split: str,
    said: list[str],
    source: dict[str, str],
    group_by: str | None = None,
    geometry: Mapping[str, float] | None = None,
    dropped: int = 0,
) -> dict[str, Any]:
    counts = evaluation.counts
    if group_by is not None:
        said.append(f"ranked are the {counts['gallery_groups']} groups of column {group_by!r}, each by its best item")
    if counts.get("without_relevant"):
        said.append(f"{counts['without_relevant']} queries have no relevant item and are left out")
    return {
        "metrics": {**evaluation, **(geometry or {}), **more.metrics},
        "split": split,
        "counts": {**counts, "dropped": dropped},
        "definitions": {**evaluation.definitions, **more.definitions},
        "intervals": evaluation.intervals(),
        "group_by": group_by,
        **more.parts,
        "versions": versions(),
        "command": command(),
        **source,
        "said": said,
        "tables": more.lines,
        "picture": more.verification,
    }
