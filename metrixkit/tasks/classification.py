"""Classification: a supervised encoder with its classifier, judged by the classes that it names."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor, nn

from metrixkit.data.decode import decode as decode_file
from metrixkit.data.manifest import Manifest
from metrixkit.errors import InputError
from metrixkit.models.classifier import Classifier
from metrixkit.probing import UNLABELLED, labelled
from metrixkit.probing.labels import tops
from metrixkit.retrieval import Evaluation, Predictions
from metrixkit.tasks.classified import class_definitions, class_intervals, class_metrics, class_ranks
from metrixkit.tasks.one_class import refuse_one_class
from metrixkit.tasks.retrieval import Embedded, EvaluationSettings, Retrieval, file_under, retrieval_part

LAST = 10  # epochs of which the median is told


@dataclass
class ClassificationSettings:
    """How a classifier is judged.

    Attributes:
        protocol: ``validation`` holds out a share of each class's training images and selects on them. ``paper`` trains
            on all of them and, as published tables do, looks at the test split after each epoch; the best such epoch is
            filed as ``oracle/top1``, the median of the last ten as ``median10/top1``; the headline is the last one's.
        validation: That share; 0 holds out none and keeps the last epoch.
        select_by: ``top1`` on the held-out images, or ``last``: the last epoch, held-out images being watched only.
        recall_at: The k of recall@k of the embeddings on the test split, whose classes were trained on.
        metrics: Further retrieval metrics there, as for task=retrieval.
        every: Epochs between evaluations.
        batch_size: Images a forward call.
        neighbours: Neighbours kept for each query in ``predictions.npz``.
        distance: Of the retrieval metrics.
    """

    protocol: Literal["validation", "paper"] = "validation"
    validation: float = 0.1
    select_by: Literal["top1", "last"] = "top1"
    recall_at: list[int] = field(default_factory=lambda: [1])
    metrics: list[str] = field(default_factory=lambda: ["map@r"])
    every: int = 1
    batch_size: int = 128
    neighbours: int = 10
    distance: Literal["cosine"] = "cosine"

    def ranking(self) -> EvaluationSettings:
        """Return the settings of the retrieval part."""
        return retrieval_part(self)


@dataclass
class Classification:
    """Evaluation of an encoder with its classifier: top-1 and top-5, likelihood, calibration; and retrieval.

    Used where :class:`~metrixkit.tasks.Retrieval` is, but what it judges is the method's ``classifier``: see `tower`.

    Attributes:
        manifest: All splits, see :func:`~metrixkit.tasks.self_supervised.hold_out`. Every training item has a label.
        transform: Evaluation transform.
        settings: Protocol and metrics.
        workers: Processes that decode.
        decode: How images are read.
        autocast: Context of the forward calls.

    Raises:
        InputError: Training items without a label, or of one class only.
    """

    settings_type: ClassVar[type] = ClassificationSettings
    tower: ClassVar[str] = "classifier"
    headline: ClassVar[str] = "top1"

    manifest: Manifest
    transform: Callable[[Tensor], Tensor]
    settings: ClassificationSettings
    workers: int = 0
    decode: Callable[[Any], Tensor] = decode_file
    autocast: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext

    def __post_init__(self) -> None:
        self._ranking = Retrieval(
            self.manifest, self.transform, self.settings.ranking(), self.workers, self.decode, self.autocast
        )
        for split in [name for name in ("train", self.test_split) if name in self.manifest.splits]:
            items = self.manifest.part(split).items
            without = len(items) - len(labelled(items))
            if without:
                raise InputError(
                    f"{without} of {len(items)} items of split {split!r} of {self.manifest.name!r} are {UNLABELLED}: a "
                    "classifier learns from labels and is judged by them. Leave these items out (data.unlabeled=false)."
                )
        if "train" in self.manifest.splits:
            refuse_one_class(self.classes, "training items")

    @property
    def test_split(self) -> str:
        """``test``, or ``query`` where the data set has queries and a gallery."""
        return self._ranking.test_split

    @property
    def watched_split(self) -> str | None:
        """The split that is evaluated after each epoch, or None."""
        return self._ranking.watched_split

    @property
    def selects(self) -> str | None:
        """Name, among those of :meth:`watch`, that selects the best epoch; None where the last one is kept."""
        chooses = self.watched_split == "validation" and self.settings.select_by == "top1"
        return "validation/top1" if chooses else None

    @property
    def classes(self) -> list[str]:
        """What can be answered, in the order of the classifier's outputs."""
        return self.manifest.part("train").classes()

    @property
    def notes(self) -> list[str]:
        """What somebody who starts a run should know, sentence by sentence."""
        count = len(self.classes)
        return [] if len(tops(count)) > 1 else [f"top5 of {count} classes would say nothing and is left out"]

    def embed(self, encoder: nn.Module, split: str) -> Embedded:
        """Embed the items of a split, by an encoder."""
        return self._ranking.embed(encoder, split)

    def watch(self, classifier: Classifier, epoch: int) -> dict[str, float]:
        """Return top1, top5, nll and ece of the watched split; names carry the split."""
        split = self.watched_split
        if split is None:
            return {}
        prefix = "validation" if split == "validation" else "test"
        items = self.embed(classifier.encoder, split)
        refuse_one_class(items.labels, f"items of split {split!r}")
        found = self._answers(classifier, items)
        return {f"{prefix}/{name}": value for name, value in found.items()}

    def evaluate(self, classifier: Classifier, split: str) -> tuple[Evaluation, Embedded, Embedded | None]:
        """Return retrieval of a split by the embeddings, these, and those of the gallery; as of task=retrieval."""
        return self._ranking.evaluate(classifier.encoder, split)

    def describe(
        self, classifier: Classifier, evaluation: Evaluation, queries: Embedded, gallery: Embedded | None
    ) -> tuple[dict[str, float], Evaluation, Predictions]:
        """Return all that is told of the test split.

        Args:
            classifier: Answers from the embeddings.
            evaluation: What :meth:`evaluate` answered for the test split, like the next two.
            queries: Its embeddings.
            gallery: Those of the gallery, or None.

        Returns:
            top1, top5, nll, ece, then retrieval; the evaluation with their definitions; each query's neighbours, and
            the place of its own class.
        """
        metrics = self._answers(classifier, queries)
        ranked, evaluation, found = self._ranking.describe(classifier.encoder, evaluation, queries, gallery)
        words = {**class_definitions(len(self.classes)), **evaluation.definitions}
        places = class_ranks(classifier.scores(_tensor(queries)), queries.labels, self.classes)
        found = replace(found, class_ranks={"top": places.numpy()})
        return {**metrics, **ranked}, replace(evaluation, definitions=words), found

    def test(self, classifier: Classifier) -> tuple[dict[str, float], Evaluation, Predictions]:
        """Return :meth:`describe` of the test split."""
        return self.describe(classifier, *self.evaluate(classifier, self.test_split))

    def intervals(self, classifier: Classifier, queries: Embedded) -> dict[str, dict[str, Any]]:
        """Return the interval of top1 on items whose embeddings are at hand."""
        return class_intervals(classifier.scores(_tensor(queries)), queries.labels, self.classes)

    def filed(self, history: Sequence[Mapping[str, float]], last: Mapping[str, float]) -> dict[str, float]:
        """Return what is told beside the selected epoch's metrics.

        Args:
            history: Metrics after each evaluated epoch, named ``validation/...`` or ``test/...``.
            last: The last epoch's metrics on the test split.

        Returns:
            ``last/top1``; under ``protocol=paper`` ``oracle/top1`` and ``median10/top1`` of the test split, else
            ``median10/validation/top1`` of the held-out images: of the last ten evaluated epochs.
        """
        found = {"last/top1": last["top1"]} if last else {}
        found |= file_under(self.settings.protocol, history, "top1")
        watched = [epoch["validation/top1"] for epoch in history if "validation/top1" in epoch]
        if watched:
            found["median10/validation/top1"] = float(np.median(watched[-LAST:]))
        return found

    def _answers(self, classifier: Classifier, items: Embedded) -> dict[str, float]:
        return class_metrics(classifier.scores(_tensor(items)), items.labels, self.classes)


def _tensor(items: Embedded) -> Tensor:
    return items.vectors if isinstance(items.vectors, Tensor) else Tensor(items.vectors)
