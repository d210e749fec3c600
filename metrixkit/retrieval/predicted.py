"""What a model answers, query by query, and the file that keeps it (``predictions.npz``)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from metrixkit.errors import InputError
from metrixkit.files import replacing
from metrixkit.retrieval.evaluation import Evaluation, evaluate
from metrixkit.retrieval.exact.nearest import nearest_of
from metrixkit.retrieval.exact.rows import Distance
from metrixkit.retrieval.exact.setting import label_up, pair_up


@dataclass(frozen=True)
class Predictions:
    """The nearest gallery items of each query. The constructor checks that the arrays fit together.

    Attributes:
        query_ids: (Q,) unicode.
        query_labels: (Q,) unicode.
        neighbour_ids: (Q, k) unicode, nearest first; "" where a query found fewer.
        neighbour_labels: (Q, k) unicode.
        neighbour_scores: (Q, k) float32, higher is nearer; -inf where a query found fewer.
        rank_of_first: (Q,) int64, pessimistic rank of the first relevant item, 0 where there is none.
        class_ranks: Where classes are answered too: by the metric they make ("top" of top1, "linear@" of linear@1),
            the (Q,) int64 place of each query's own class among the answers, from 1. Arrays ``class_rank:NAME`` of the
            file.
    """

    query_ids: np.ndarray
    query_labels: np.ndarray
    neighbour_ids: np.ndarray
    neighbour_labels: np.ndarray
    neighbour_scores: np.ndarray
    rank_of_first: np.ndarray
    class_ranks: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise InputError where shapes or types do not fit."""
        count = len(self.query_ids)
        for name, kind, wide in _LAYOUT:
            array = getattr(self, name)
            fits = array.ndim == 1 + wide and len(array) == count and array.dtype.kind == kind
            if not fits or (wide and array.shape != self.neighbour_ids.shape):
                raise InputError(
                    f"predictions: {name} has shape {array.shape} and type {array.dtype}; expected {count} rows"
                    f"{' of ' + str(self.neighbour_ids.shape[-1]) if wide else ''} and a type of kind {kind!r}."
                )
        for name, ranks in self.class_ranks.items():
            if ranks.shape != (count,) or ranks.dtype.kind != "i" or (ranks < 1).any():
                raise InputError(
                    f"predictions: class ranks {name!r} have shape {ranks.shape} and type {ranks.dtype}; expected "
                    f"{count} integers from 1."
                )

    def __len__(self) -> int:
        """Return the number of queries."""
        return len(self.query_ids)


_LAYOUT = (
    ("query_ids", "U", 0),
    ("query_labels", "U", 0),
    ("neighbour_ids", "U", 1),
    ("neighbour_labels", "U", 1),
    ("neighbour_scores", "f", 1),
    ("rank_of_first", "i", 0),
)
_ARRAYS = tuple(name for name, _, _ in _LAYOUT)
CLASS_RANK = "class_rank:"


def predictions(
    queries: Any,
    query_labels: Any,
    gallery: Any = None,
    gallery_labels: Any = None,
    query_ids: Any = None,
    gallery_ids: Any = None,
    k: int = 10,
    distance: Distance = "cosine",
    evaluation: Evaluation | None = None,
) -> Predictions:
    """Return the k nearest gallery items of each query with their labels.

    Args:
        queries: As all up to `distance` in :func:`~metrixkit.retrieval.evaluate`.
        query_labels: (Q,).
        gallery: (N, d) or None.
        gallery_labels: (N,) or None.
        query_ids: (Q,) or None.
        gallery_ids: (N,) or None.
        k: Neighbours of each query.
        distance: "cosine", "dot" or "euclidean".
        evaluation: The evaluation of the same arguments, if at hand; saves computing the ranks again.

    Raises:
        InputError: As :func:`~metrixkit.retrieval.evaluate`; an evaluation of other queries.
    """
    pair = pair_up(queries, gallery, query_ids, gallery_ids, distance)
    labels = label_up(pair, query_labels, gallery_labels)
    if evaluation is None:
        evaluation = evaluate(
            queries, query_labels, gallery, gallery_labels, query_ids, gallery_ids, (1,), (), distance=distance
        )
    table = evaluation.per_query
    if len(table) != pair.queries.count or (table["id"].to_numpy().astype(str) != pair.query_ids).any():
        raise InputError("predictions: the evaluation is of other queries; give that of the same queries and ids.")
    scores, index = nearest_of(pair, k)
    there = index >= 0
    return Predictions(
        query_ids=pair.query_ids,
        query_labels=labels.queries.astype(str),
        neighbour_ids=np.where(there, pair.gallery_ids[index], ""),
        neighbour_labels=np.where(there, labels.gallery.astype(str)[index], ""),
        neighbour_scores=scores.astype(np.float32),
        rank_of_first=table["rank"].to_numpy(dtype=np.int64, na_value=0),
    )


def save_predictions(path: str | os.PathLike[str], predicted: Predictions) -> Path:
    """Write ``predictions.npz``, whole or not at all, readable without pickle; return its path."""
    path = Path(path)
    with replacing(path) as file:
        arrays: dict[str, Any] = {name: getattr(predicted, name) for name in _ARRAYS}
        arrays |= {CLASS_RANK + name: ranks for name, ranks in predicted.class_ranks.items()}
        np.savez_compressed(file, **arrays)
    return path


def load_predictions(path: str | os.PathLike[str]) -> Predictions:
    """Read what :func:`save_predictions` wrote.

    Raises:
        InputError: The file is absent, is no such file, or lacks an array.
    """
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            ranks = {name.removeprefix(CLASS_RANK): file[name] for name in file.files if name.startswith(CLASS_RANK)}
            return Predictions(**{name: file[name] for name in _ARRAYS}, class_ranks=ranks)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path}: cannot be read as predictions ({error}). It is written by training and evaluation."
        ) from error
