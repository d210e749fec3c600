"""Retrieval: which evaluation a run on images is judged by, on which split, under which protocol."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from metrixkit.data.decode import decode as decode_file
from metrixkit.data.manifest import Manifest
from metrixkit.errors import InputError, did_you_mean
from metrixkit.inference import embed_items
from metrixkit.retrieval import Evaluation, Predictions, alignment, evaluate, predictions, uniformity, utilization
from metrixkit.retrieval.measures import LOWER_IS_BETTER
from metrixkit.tasks.one_class import refuse_one_class


@dataclass
class EvaluationSettings:
    """How a run is judged.

    Attributes:
        protocol: ``validation`` holds out training classes and selects on them. ``paper`` trains on all training
            classes and, as published tables do, looks at the test split after each epoch; the best such epoch is filed
            as ``oracle/...``, the median of the last ten as ``median10/...``, and neither as ``recall@1``.
        validation: Share of the training classes held out under ``validation``; 0 holds out none and keeps the last
            epoch.
        recall_at: The k of recall@k.
        metrics: Further metrics: map@r, r_precision, mrr, mean_rank, median_rank, map@k, precision@k, ndcg@k (k a
            number, "ndcg@10"), nmi, ami.
        distance: Similarity of embeddings.
        select_by: The metric that selects the best epoch, higher being better.
        every: Epochs between evaluations.
        batch_size: Images a forward call.
        utilization: Also report utilization of the training set, alignment and uniformity at the end.
        geometry_every: Log the same three for the watched split (``validation/utilization``, ...) before training and
            after every such number of epochs, as far as these are evaluated (`every`); null for never. Utilization
            costs an embedding of the training split each time.
        neighbours: Neighbours kept for each query in ``predictions.npz``.
    """

    protocol: Literal["validation", "paper"] = "validation"
    validation: float = 0.2
    recall_at: list[int] = field(default_factory=lambda: [1, 2, 4, 8])
    metrics: list[str] = field(default_factory=lambda: ["map@r", "r_precision"])
    distance: Literal["cosine", "euclidean", "dot"] = "cosine"
    select_by: str = "recall@1"
    every: int = 1
    batch_size: int = 128
    utilization: bool = True
    geometry_every: int | None = None
    neighbours: int = 10


def retrieval_part(settings: Any) -> EvaluationSettings:
    """Return the settings of the retrieval that a task of another kind tells beside its own metrics.

    Args:
        settings: Of that task; has protocol, recall_at, metrics, distance, batch_size and neighbours.
    """
    ranked = [*(f"recall@{k}" for k in settings.recall_at), *settings.metrics]
    return EvaluationSettings(
        protocol=settings.protocol,
        recall_at=settings.recall_at,
        metrics=settings.metrics,
        distance=settings.distance,
        select_by=ranked[0] if ranked else "recall@1",
        batch_size=settings.batch_size,
        utilization=False,
        neighbours=settings.neighbours,
    )


@dataclass(frozen=True)
class Embedded:
    """Items beside their embeddings, row by row."""

    items: pd.DataFrame
    vectors: Tensor | np.ndarray

    @property
    def ids(self) -> list[str]:
        """The items' ids."""
        return list(self.items["id"])

    @property
    def labels(self) -> list[str]:
        """The items' labels."""
        return list(self.items["label"])


def judge(
    settings: EvaluationSettings,
    queries: Embedded,
    gallery: Embedded | None = None,
    metrics: list[str] | None = None,
    group_by: str | None = None,
) -> Evaluation:
    """Evaluate embeddings at hand.

    Args:
        settings: What to compute.
        queries: Search `gallery`, or each other.
        gallery: None where the queries search each other.
        metrics: Instead of the settings' own.
        group_by: Column of the items whose groups are ranked instead of the items.

    Raises:
        InputError: As :func:`~metrixkit.retrieval.evaluate`; all queries that have anything to find are of one class.
    """
    searched = queries if gallery is None else gallery
    refuse_one_class(searched.labels, f"{len(searched.ids)} items that are searched")
    found = evaluate(
        queries.vectors,
        queries.labels,
        gallery=None if gallery is None else gallery.vectors,
        gallery_labels=None if gallery is None else gallery.labels,
        query_ids=queries.ids,
        gallery_ids=None if gallery is None else gallery.ids,
        recall_at=tuple(settings.recall_at),
        metrics=tuple(settings.metrics if metrics is None else metrics),
        distance=settings.distance,
        gallery_groups=None if group_by is None else list(searched.items[group_by]),
    )
    asked = found.per_query["label"][found.per_query["relevant"] > 0]
    refuse_one_class(asked, f"{len(asked)} queries that have anything to find")
    return found


@dataclass
class Retrieval:
    """Image retrieval: each item queries the others of its split, or queries search a gallery.

    Attributes:
        manifest: All splits.
        transform: Evaluation transform.
        settings: Protocol and metrics.
        workers: Processes that decode.
        decode: How images are read.
        autocast: Context of the forward calls.
        selecting: Whether an epoch will be selected by these settings, so that ``select_by`` must be among them.
    """

    settings_type: ClassVar[type] = EvaluationSettings

    manifest: Manifest
    transform: Callable[[Tensor], Tensor]
    settings: EvaluationSettings
    workers: int = 0
    decode: Callable[[Any], Tensor] = decode_file
    autocast: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext
    selecting: bool = True

    def __post_init__(self) -> None:
        offered = [f"recall@{k}" for k in self.settings.recall_at] + self.settings.metrics
        if self.selecting and self.settings.select_by not in offered:
            raise InputError(
                f"evaluation.select_by={self.settings.select_by!r} is not "
                f"computed.{did_you_mean(self.settings.select_by, offered)} "
                "Add it to evaluation.recall_at or evaluation.metrics."
            )
        if self.selecting and self.settings.select_by in LOWER_IS_BETTER:
            raise InputError(
                f"evaluation.select_by={self.settings.select_by!r} is better when lower, and the highest is kept: "
                "select by mrr instead."
            )
        every = self.settings.geometry_every
        if every is not None and every < 1:
            raise InputError(f"evaluation.geometry_every={every}: expected a number of epochs, or null for never.")

    @property
    def test_split(self) -> str:
        """``test``, or ``query`` where the data set has queries and a gallery."""
        return "query" if "query" in self.manifest.splits else "test"

    @property
    def watched_split(self) -> str | None:
        """The split that is evaluated after each epoch, or None."""
        if self.settings.protocol == "paper":
            return self.test_split if self.test_split in self.manifest.splits else None
        return "validation" if "validation" in self.manifest.splits else None

    def embed(self, encoder: nn.Module, split: str) -> Embedded:
        """Embed the items of a split."""
        items = self.manifest.part(split).items
        vectors = embed_items(
            encoder,
            items,
            self.transform,
            batch_size=self.settings.batch_size,
            workers=self.workers,
            decode=self.decode,
            autocast=self.autocast,
            title=f"embedding {split}",
        )
        return Embedded(items, vectors)

    def gallery(self, encoder: nn.Module, split: str) -> Embedded | None:
        """Embed what a split searches: ``gallery`` for ``query``, training items for new photos of known classes; None
        for a split that searches itself.
        """
        searched = self.manifest.galleries(split)
        if not searched:
            return None
        parts = [self.embed(encoder, name) for name in searched]
        if len(parts) == 1:
            return parts[0]
        vectors = torch.cat([torch.as_tensor(part.vectors) for part in parts])
        return Embedded(pd.concat([part.items for part in parts], ignore_index=True), vectors)

    def evaluate(
        self, encoder: nn.Module, split: str, recall_only: bool = False
    ) -> tuple[Evaluation, Embedded, Embedded | None]:
        """Evaluate a split; it searches what :meth:`gallery` answers.

        Args:
            encoder: Any tower.
            split: A split of the manifest.
            recall_only: Leave out the metrics that need clustering.

        Returns:
            The evaluation, the queries, and the gallery (None for a split that searches itself).
        """
        queries = self.embed(encoder, split)
        gallery = self.gallery(encoder, split)
        metrics = [m for m in self.settings.metrics if not (recall_only and m in ("nmi", "ami"))]
        return judge(self.settings, queries, gallery, metrics), queries, gallery

    def watch(self, encoder: nn.Module, epoch: int) -> dict[str, float]:
        """Evaluate the watched split after `epoch` epochs, 0 being before training; names carry the split."""
        if self.watched_split is None:
            return {}
        evaluation, queries, _ = self.evaluate(encoder, self.watched_split, recall_only=True)
        metrics = dict(evaluation)
        every = self.settings.geometry_every
        if every is not None and epoch % every == 0:
            metrics |= self.geometry(encoder, queries)
        prefix = "validation" if self.watched_split == "validation" else "test"
        return {f"{prefix}/{name}": value for name, value in metrics.items()}

    def geometry(self, encoder: nn.Module, queries: Embedded) -> dict[str, float]:
        """Return how `queries` lie: utilization of the training split, and :func:`spread`."""
        train = self.embed(encoder, "train")
        return {"utilization": utilization(queries.vectors, train.vectors), **spread(queries)}

    @property
    def selects(self) -> str | None:
        """Name, among those of :meth:`watch`, that selects the best epoch; None where the last one is kept."""
        return f"validation/{self.settings.select_by}" if self.watched_split == "validation" else None

    def test(self, encoder: nn.Module) -> tuple[dict[str, float], Evaluation, Predictions]:
        """Evaluate the test split in full, with the geometry of the embedding and the neighbours of each query.

        Returns:
            All metrics, the evaluation they come from, and the predictions.
        """
        return self.describe(encoder, *self.evaluate(encoder, self.test_split))

    def describe(
        self, encoder: nn.Module, evaluation: Evaluation, queries: Embedded, gallery: Embedded | None
    ) -> tuple[dict[str, float], Evaluation, Predictions]:
        """Return :meth:`test` of what :meth:`evaluate` answered for the test split; its embeddings stay at hand."""
        metrics = dict(evaluation)
        if self.settings.utilization and "train" in self.manifest.splits:
            metrics |= self.geometry(encoder, queries)
        found = predictions(
            queries.vectors,
            queries.labels,
            gallery=None if gallery is None else gallery.vectors,
            gallery_labels=None if gallery is None else gallery.labels,
            query_ids=queries.ids,
            gallery_ids=None if gallery is None else gallery.ids,
            k=self.settings.neighbours,
            distance=self.settings.distance,
            evaluation=evaluation,
        )
        return metrics, evaluation, found


def spread(items: Embedded) -> dict[str, float]:
    """Return alignment and uniformity of items.

    Alignment is left out where no class has two of them (a query for each class, against a gallery), uniformity where
    there is a single one: neither says anything there.
    """
    found = {}
    if len(set(items.labels)) < len(items.labels):
        found["alignment"] = alignment(items.vectors, items.labels)
    if len(items.labels) > 1:
        found["uniformity"] = uniformity(items.vectors)
    return found


def file_under(protocol: str, history: Sequence[Mapping[str, float]], select_by: str) -> dict[str, float]:
    """Return what ``protocol=paper`` adds to the last epoch's metrics.

    Args:
        protocol: ``paper`` or ``validation``.
        history: Metrics after each epoch, named ``test/...``.
        select_by: The metric filed.

    Returns:
        ``oracle/M`` (best test epoch) and ``median10/M`` (median of the last ten); empty for other protocols.
    """
    values = [epoch[f"test/{select_by}"] for epoch in history if f"test/{select_by}" in epoch]
    if protocol != "paper" or not values:
        return {}
    return {f"oracle/{select_by}": max(values), f"median10/{select_by}": float(np.median(values[-10:]))}
