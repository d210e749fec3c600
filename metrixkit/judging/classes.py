"""What the classifier of a saved run says, beside the retrieval by its encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from metrixkit.embedding.images import EmbeddingModel
from metrixkit.judging.extras import Added
from metrixkit.models import load_classifier
from metrixkit.schema import check_value, instantiate
from metrixkit.tasks import ClassificationSettings, Embedded
from metrixkit.tasks.classified import class_definitions, class_metrics


def settle(raw: dict[str, Any], task: str | None) -> ClassificationSettings | None:
    """Return how a classification run is judged, and bring its settings to what the door evaluates by.

    Args:
        raw: The sections of a run, overrides applied; `evaluation` becomes that of retrieval, in place.
        task: The run's task; None is returned for any other.

    Raises:
        InputError: Bad settings.
    """
    if task != "classification":
        return None
    values: Mapping[str, Any] = check_value(raw.get("evaluation") or {}, ClassificationSettings, "evaluation")
    own: ClassificationSettings = instantiate(values, ClassificationSettings)
    # Retrieval would hold out whole classes.
    raw["evaluation"] = vars(replace(own, protocol="paper").ranking())
    return own


def answered(more: Added, run: str, model: EmbeddingModel, queries: Embedded) -> Added:
    """Return `more` with top1, top5, nll and ece of items whose embeddings are at hand.

    Args:
        more: What it is added to.
        run: A classification run's folder.
        model: Its encoder.
        queries: The judged items. Where the classifier knows none of their classes, only a line is added.

    Raises:
        InputError: The run has no classifier, or another encoder's.
    """
    classifier = load_classifier(Path(run) / "model", model.encoder)
    classes = classifier.classes
    if not set(queries.labels) & set(classes):
        line = f"the classifier knows none of these classes (it knows {len(classes)}, such as {classes[0]!r}): no top1"
        return replace(more, lines=[*more.lines, line])
    found = class_metrics(classifier.scores(torch.as_tensor(queries.vectors)), queries.labels, classes)
    return replace(
        more,
        metrics={**found, **more.metrics},
        definitions={**class_definitions(len(classes)), **more.definitions},
    )
