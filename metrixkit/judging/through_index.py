"""Recall through faiss beside the exact value, and how long one query takes: what a shop's customers will see."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metrixkit.embedding.images import EmbeddingModel
from metrixkit.errors import InputError
from metrixkit.retrieval.index import RetrievalIndex
from metrixkit.tasks import Embedded

TIMED = 200  # queries asked one by one for the latency, spread over all
ENCODED = 50  # of these encoded one by one as well
Encode = Callable[[str], np.ndarray]  # path of an image to its (d,) embedding


@dataclass(frozen=True)
class Through:
    """What an index answers.

    Attributes:
        metrics: faiss/recall@k for each k.
        definitions: Of those.
        part: JSON values for a result file: the index, and its latencies in milliseconds.
        lines: For people.
    """

    metrics: dict[str, float]
    definitions: dict[str, str]
    part: dict[str, Any]
    lines: list[str]


def through_index(
    queries: Embedded,
    gallery: Embedded | None,
    recall_at: Sequence[int],
    distance: str,
    exact: Mapping[str, float],
    folder: str | None = None,
    factory: str | None = None,
    encode: Encode | None = None,
    fingerprint: str | None = None,
) -> Through:
    """Ask an index what the exact evaluation was asked.

    A query leaves by its id: one result more is fetched, and it is struck out wherever it stands. Equal scores come in
    the order of the index, so where ties matter the value may lie above the exact, pessimistic one.

    Args:
        queries: Search `gallery`, or each other.
        gallery: None where the queries search each other.
        recall_at: The k of recall@k.
        distance: "cosine", "dot" or "euclidean".
        exact: Exact values by name, for the lines.
        folder: A saved index that holds the gallery, or
        factory: the kind of index to build of it.
        encode: Embeds one image; None leaves the latency with encoder out.
        fingerprint: Of the model that made the embeddings, or None.

    Raises:
        InputError: Both or neither of folder and factory; an index that lacks items of the gallery or is of another
            distance or model; no query with a relevant item.
    """
    if (folder is None) == (factory is None):
        raise InputError("give either --index DIR or --factory KIND.")
    searched = queries if gallery is None else gallery
    index, mask, said = _index(searched, distance, folder, factory, fingerprint)
    wide = max(recall_at) + 1
    _, found = index.search(queries.vectors, wide, filter=mask)
    recalls, counted = _recalls(found, queries, searched, recall_at)
    metrics = {f"faiss/recall@{k}": value for k, value in recalls.items()}
    known = index.info()
    part: dict[str, Any] = {
        name: known[name] for name in ("factory", "parameters", "count", "bytes_per_vector", "folder", "version")
    }
    told = ",".join(f"{name}={value}" for name, value in known["parameters"].items())
    lines = [f"through faiss: {known['factory']} {told}".rstrip() + f", {counted} queries{said}"]
    for k, value in recalls.items():
        exactly = exact.get(f"recall@{k}")
        beside = "" if exactly is None else f"   exact {100 * exactly:.1f} %, difference {100 * (value - exactly):+.2f}"
        lines.append(f"  recall@{k:<5} {100 * value:5.1f} %{beside}")
    part["latency"] = latency = _latency(index, queries, wide - 1, encode)
    for name, spent in latency.items():
        lines.append(
            f"  one query, {name}: p50 {spent['p50_ms']:.2f} ms, p95 {spent['p95_ms']:.2f} ms "
            f"({spent['queries']} asked)"
        )
    definition = (
        "share of queries with a relevant item among the first {} that the index answers, itself left out by id"
    )
    return Through(metrics, {f"faiss/recall@{k}": definition.format(k) for k in recalls}, part, lines)


def one_by_one(embedder: EmbeddingModel, decode: Callable[[str], Tensor]) -> Encode:
    """Return what embeds one image from its path to its vector, as a service would."""

    @torch.inference_mode()
    def encode(path: str) -> np.ndarray:
        image = embedder.transform(decode(path))
        vector: np.ndarray = embedder.encoder(image[None].to(embedder.device)).float().cpu().numpy()[0]
        return vector

    return encode


def _index(
    searched: Embedded, distance: str, folder: str | None, factory: str | None, fingerprint: str | None
) -> tuple[RetrievalIndex, np.ndarray | None, str]:
    """Return the index, which of its items are of the gallery (None: all), and what there is to say."""
    if factory is not None:
        return RetrievalIndex.build(searched.vectors, searched.ids, factory, distance), None, ""
    index = RetrievalIndex.load(str(folder), expect_fingerprint=fingerprint)
    if index.metric != distance:
        raise InputError(
            f"{folder} is an index by {index.metric}, and the evaluation is by {distance}; set "
            f"evaluation.distance={index.metric}, or build an index by {distance}."
        )
    if index.dim != searched.vectors.shape[1]:
        raise InputError(
            f"{folder} holds vectors of {index.dim} dimensions, the model makes {searched.vectors.shape[1]}; it is the "
            "index of another model."
        )
    wanted = set(searched.ids)
    mask = np.fromiter((name in wanted for name in index.ids.tolist()), dtype=bool, count=len(index))
    missing = len(wanted) - int(mask.sum())
    if missing:
        raise InputError(
            f"{folder} lacks {missing} of the {len(wanted)} items of the gallery, so its recall would not compare. "
            "Build it of the same data, or take --factory."
        )
    others = len(index) - len(wanted)
    return index, mask if others else None, f"; {others} further items of the index are passed over" if others else ""


def _recalls(
    found: np.ndarray, queries: Embedded, searched: Embedded, recall_at: Sequence[int]
) -> tuple[dict[int, float], int]:
    names = np.array(queries.ids)
    label_of = dict(zip(searched.ids, searched.labels, strict=True))
    sizes: dict[str, int] = {}
    for label in searched.labels:
        sizes[label] = sizes.get(label, 0) + 1
    # Its own row is no relevant item.
    counted = np.array(
        [sizes.get(label, 0) > (name in label_of) for name, label in zip(queries.ids, queries.labels, strict=True)]
    )
    if not counted.any():
        raise InputError("no query has a relevant item; there is nothing to measure.")
    own = found == names[:, None]
    # What is left after the own row keeps its order and moves up.
    order = np.argsort(own, axis=1, kind="stable")
    ranked = np.take_along_axis(found, order, axis=1)[:, : max(recall_at)]
    labels = np.array(queries.labels)
    known = np.array([[label_of.get(name) for name in row] for row in ranked.tolist()], dtype=object)
    hits = (known == labels[:, None].astype(object)) & (ranked != names[:, None])
    return {k: float(hits[counted][:, :k].any(axis=1).mean()) for k in recall_at}, int(counted.sum())


def _latency(index: RetrievalIndex, queries: Embedded, k: int, encode: Encode | None) -> dict[str, dict[str, float]]:
    """Return p50 and p95 of one query asked alone, without and with the encoder (wall time)."""
    rows = np.unique(np.linspace(0, len(queries.ids) - 1, TIMED).astype(int))
    latency = {"index alone": _spent(lambda row: queries.vectors[row], rows, index, k)}
    if encode is not None:
        paths = queries.items["path"].tolist()
        rows = np.unique(np.linspace(0, len(paths) - 1, ENCODED).astype(int))
        latency["with the encoder"] = _spent(lambda row: encode(paths[row]), rows, index, k)
    return latency


def _spent(query: Callable[[int], Any], rows: np.ndarray, index: RetrievalIndex, k: int) -> dict[str, float]:
    index.search(query(int(rows[0])), k)  # the first call pays for what is set up once
    times = []
    for row in rows.tolist():
        start = time.perf_counter()
        index.search(query(row), k)
        times.append(1000 * (time.perf_counter() - start))
    p50, p95 = np.percentile(times, [50, 95])
    return {"p50_ms": float(p50), "p95_ms": float(p95), "queries": len(times)}
