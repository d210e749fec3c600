"""What a training run needs of its kind: built once from a config, asked by :mod:`metrixkit.experiment`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from torch import nn

from metrixkit.errors import InputError
from metrixkit.gain import PerQuery
from metrixkit.retrieval import Evaluation
from metrixkit.tasks import file_under
from metrixkit.training.run import RunFolder

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass
class Judged:
    """What the weights of the moment are worth on the test split.

    Attributes:
        metrics: By name, as fractions; none where the data have no test split, so that nothing is judged.
        counts: What they rest on.
        definitions: What they mean.
        intervals: Bootstrap intervals of some, as an evaluation's ``intervals()``.
        found: What :meth:`Job.keep` needs to write predictions and pictures of the same weights.
        per_query: The headline query by query, where it is a mean over queries.
    """

    metrics: dict[str, float]
    counts: dict[str, Any]
    definitions: dict[str, str]
    intervals: dict[str, Any] = field(default_factory=dict)
    found: Any = None
    per_query: PerQuery | None = None


def per_query_of(headline: str, found: Evaluation) -> PerQuery | None:
    """Return a metric of an evaluation query by query; None where it is no mean over queries, or not there."""
    try:
        kept = found.values_of(headline)
    except InputError:
        return None
    if kept.summary != "mean":
        return None
    return PerQuery(headline, kept.ids.astype(str), np.asarray(kept.classes).astype(str), kept.values)


class Job(Protocol):
    """A training run of some kind: images, pairs of modalities, ratings.

    Attributes:
        config: The resolved config.
        fabric: Devices, precision and processes.
        method: The recipe.
        trainer_parts: What :class:`~metrixkit.training.loop.Trainer` is made of, less fabric and log.
    """

    config: Mapping[str, Any]
    fabric: Fabric
    method: nn.Module
    trainer_parts: dict[str, Any]

    @property
    def data(self) -> str:
        """Name of the data set, for the result file."""
        ...

    @property
    def split(self) -> str:
        """Name of its split."""
        ...

    @property
    def protocol(self) -> str:
        """How the best epoch is chosen."""
        ...

    @property
    def selects(self) -> str | None:
        """Name, among the watched metrics, that selects the best epoch; None keeps the last."""
        ...

    @property
    def validation(self) -> dict[str, Any]:
        """What selects, for the result file: held_out ("classes", "images", "items", or "" where the data set came with
        a validation split), items, classes; {} where nothing does.
        """
        ...

    @property
    def headline(self) -> str:
        """The metric that training is said to have gained or lost."""
        ...

    def filed(self, history: Sequence[Mapping[str, float]], last: Mapping[str, float]) -> dict[str, float]:
        """Return what is told beside the selected epoch's metrics, of those watched and of the last epoch's."""
        ...

    def introduction(self) -> list[str]:
        """Return lines that say what is about to be trained on what."""
        ...

    def watch(self, epoch: int) -> dict[str, float]:
        """Return the watched metrics after `epoch` epochs, 0 being before training."""
        ...

    def judge(self) -> Judged:
        """Evaluate the weights of the moment on the test split."""
        ...

    def keep(self, folder: RunFolder, judged: Judged) -> None:
        """Write the model, predictions and pictures; called on the first process, with the selected weights."""
        ...


class FromTask:
    """What a task says of its run: the part of :class:`Job` that is alike for all.

    Attributes:
        task: Has ``settings`` with protocol and select_by, ``selects``, and, where there is one, the ``manifest``.
    """

    task: Any

    @property
    def data(self) -> str:
        """Name of the data set."""
        return str(self.task.manifest.name)

    @property
    def split(self) -> str:
        """Name of its split."""
        return str(self.task.manifest.split_name)

    @property
    def protocol(self) -> str:
        """How the best epoch is chosen."""
        return str(self.task.settings.protocol)

    @property
    def selects(self) -> str | None:
        """The watched metric that selects the best epoch; None keeps the last."""
        found: str | None = self.task.selects
        return found

    @property
    def validation(self) -> dict[str, Any]:
        """What selects."""
        manifest = self.task.manifest
        if "validation" not in manifest.splits:
            return {}
        part = manifest.part("validation")
        told = {"held_out": manifest.held_out, "items": len(part)}
        return {**told, "classes": int(part.items["label"].nunique())} if "label" in part.items else told

    @property
    def headline(self) -> str:
        """The metric that training is judged by."""
        return str(getattr(self.task, "headline", self.task.settings.select_by))

    def filed(self, history: Sequence[Mapping[str, float]], last: Mapping[str, float]) -> dict[str, float]:
        """Return what the task files beside the metrics: by default what ``protocol=paper`` adds."""
        own = getattr(self.task, "filed", None)
        return file_under(self.protocol, history, self.headline) if own is None else own(history, last)


NOTHING_JUDGED = "there is no test split, so nothing will be judged: no number of this run says how good its model is"


def selection_line(validation: Mapping[str, Any], protocol: str, asked: float, judges: bool) -> str:
    """Return the line about what selects the epoch that is kept.

    Args:
        validation: As :attr:`Job.validation`.
        protocol: Of the evaluation.
        asked: Share to hold out, as set.
        judges: Whether there is a test split.
    """
    if protocol == "paper":
        how = "the test split is looked at after each epoch" if judges else "nothing is looked at"
        return f"validation: none (protocol=paper, {how}); the last epoch is kept"
    if not validation:
        why = "evaluation.validation=0" if not asked else "too few classes or items to hold any out"
        return f"validation: none ({why}); nothing selects, the last epoch is kept"
    held, size = validation["held_out"], f"{validation['items']:,}"
    classes = f" of {validation['classes']:,} classes" if "classes" in validation else ""
    how = {
        "classes": "held out of training with their classes",
        "images": "held out of training, whose classes they share",
        "items": "held out of training",
    }.get(held, "given by the data set")
    return f"validation: {size} items{classes}, {how}"


def parameters_line(method: nn.Module, name: str, fabric: Fabric) -> str:
    """Return the line about a model's size that every job's introduction has."""
    size = sum(p.numel() for p in method.parameters())
    moving = sum(p.numel() for p in method.parameters() if p.requires_grad)
    return f"model: {name}, {moving:,} of {size:,} parameters train, on {fabric.device} x {fabric.world_size}"
