"""Training on images, judged by retrieval, by classes, or by what frozen features are worth."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from metrixkit import config as configs
from metrixkit.data.image_files import told
from metrixkit.data.loader import default_workers, train_loader
from metrixkit.data.manifest import Manifest
from metrixkit.data.transforms import eval_transform, eval_transform_config
from metrixkit.data.views import TrainViews
from metrixkit.errors import InputError
from metrixkit.families import lookup
from metrixkit.gain import PerQuery
from metrixkit.jobs.job import (
    NOTHING_JUDGED,
    FromTask,
    Judged,
    parameters_line,
    per_query_of,
    selection_line,
)
from metrixkit.jobs.parts import loop_parts
from metrixkit.jobs.pictures import draw_mixtures, draw_pictures
from metrixkit.kinds import TASK
from metrixkit.mixing.mixer import save_mixer
from metrixkit.models import Classifier, ImageEncoder, export_backbone, save_classifier, save_model
from metrixkit.retrieval import Evaluation, Predictions, save_predictions
from metrixkit.source import make_decode, read_data
from metrixkit.tasks import (
    TASKS,
    Classification,
    Retrieval,
    SelfSupervised,
)
from metrixkit.training.run import RunFolder

if TYPE_CHECKING:
    from lightning_fabric import Fabric

log = logging.getLogger(__name__)

LIBRARIES = ("torchvision/", "timm/")  # whose layout a backbone can be exported in


def make_task(
    config: Mapping[str, Any], manifest: Manifest, model: ImageEncoder, fabric: Fabric | None = None
) -> Retrieval | Classification | SelfSupervised:
    """Return the task of a config for a model."""
    transform = configs.settings(config, "transform")
    size = model.image_size
    loader = configs.settings(config, "loader")
    options: dict[str, Any] = {} if fabric is None else {"autocast": fabric.autocast}
    task = lookup(config["task"], TASKS, TASK)
    return task(  # type: ignore[no-any-return]
        manifest,
        eval_transform(transform, size),
        configs.settings(config, "evaluation"),
        workers=default_workers(1 if fabric is None else fabric.world_size)
        if loader.workers is None
        else loader.workers,
        decode=make_decode(config, size),
        **options,
    )


@dataclass
class ImageJob(FromTask):
    """See :class:`~metrixkit.jobs.job.Job`."""

    config: Mapping[str, Any]
    fabric: Fabric
    manifest: Manifest
    model: ImageEncoder
    method: nn.Module
    judged: nn.Module
    task: Retrieval | Classification | SelfSupervised
    transform: dict[str, Any]
    trainer_parts: dict[str, Any]

    @property
    def judges(self) -> bool:
        """Whether there is a test split."""
        return self.task.test_split in self.manifest.splits

    def introduction(self) -> list[str]:
        """Say what is trained on what."""
        counts = ", ".join(f"{split} {n}" for split, n in self.manifest.counts().items())
        return [
            f"data: {self.data}, split {self.split} ({counts} images)"
            + (f"; {self.manifest.dropped} listed images dropped" if self.manifest.dropped else ""),
            *filter(None, [told(self.manifest.passed_over)]),
            parameters_line(
                self.method, self.config["model"].get("backbone", self.config["model"]["name"]), self.fabric
            ),
            selection_line(self.validation, self.protocol, self.task.settings.validation, self.judges),
            *([] if self.judges else [f"note: {NOTHING_JUDGED}"]),
            *(f"note: {note}" for part in (self.model, self.task) for note in getattr(part, "notes", [])),
        ]

    def watch(self, epoch: int) -> dict[str, float]:
        """Evaluate the watched split."""
        return self.task.watch(self.judged, epoch)  # type: ignore[arg-type]

    def judge(self) -> Judged:
        """Evaluate the test split, where there is one."""
        if not self.judges:
            return Judged({}, {**self.manifest.counts(), "dropped": self.manifest.dropped}, {})
        tested = self.task.evaluate(self.judged, self.task.test_split)  # type: ignore[arg-type]
        metrics, evaluation, found = self.task.describe(self.judged, *tested)  # type: ignore[arg-type]
        seen = set(self.manifest.part(self.task.test_split).labels) & set(self.manifest.part("train").labels)
        counts = {
            **self.manifest.counts(),
            "dropped": self.manifest.dropped,
            **evaluation.counts,
            "classes_seen_in_training": len(seen),
        }
        intervals = evaluation.intervals()
        if isinstance(self.judged, Classifier) and isinstance(self.task, Classification):
            intervals = {**self.task.intervals(self.judged, tested[1]), **intervals}
        kept = self._per_query(evaluation, found)
        return Judged(metrics, counts, evaluation.definitions, intervals, (found, *tested[1:]), kept)

    def _per_query(self, evaluation: Evaluation, found: Predictions) -> PerQuery | None:
        """Return the headline query by query: of a class that is answered, or of what is found."""
        for name, ranks in found.class_ranks.items():
            k = self.headline.removeprefix(name)
            if k.isdigit():
                right = (ranks <= int(k)).astype(np.float64)
                return PerQuery(self.headline, found.query_ids, found.query_labels, right)
        return per_query_of(self.headline, evaluation)

    def keep(self, folder: RunFolder, judged: Judged) -> None:
        """Write the model, the predictions and the pictures."""
        encoders = self.method.encoders()  # type: ignore[operator]
        save_model(encoders["image"], folder.path / "model", self.transform, {"data": self.data, "split": self.split})
        masks = getattr(self.method, "learned_masks", None)
        # A frozen Mixer reads the maps of another network than the one that is kept here; it lies where it came from.
        if masks is not None and not masks.frozen:
            save_mixer(masks.mixer, folder.path / "model", masks.stage, {"ratio_per": masks.ratio_per})
        classifier = encoders.get("classifier")
        if classifier is not None:
            save_classifier(classifier, self.manifest.part("train").classes(), folder.path / "model")
        if not self.method.needs().labels and str(self.config["model"].get("backbone")).startswith(LIBRARIES):  # type: ignore[operator]
            # What was learned without labels is mostly a start for something else: detectors, other programmes.
            export_backbone(self.model, folder.path / "backbone.safetensors")
        pictures = folder.path / "pictures"
        if judged.found is not None:
            found, queries, gallery = judged.found
            save_predictions(folder.path / "predictions.npz", found)
            draw_pictures(pictures, self.manifest, self.task, found, queries, gallery)
        criterion, stage = getattr(self.method, "loss", None), getattr(self.method, "stage", None)
        draw_mixtures(pictures / "mixed.png", criterion, self.model, stage, self.task, self.config["seed"])


def assemble(config: Mapping[str, Any], fabric: Fabric, folder: RunFolder) -> ImageJob:
    """Build everything a run on images needs.

    Raises:
        InputError: Any part refuses its settings or its data.
    """
    manifest = read_data(config)
    if "train" not in manifest.splits:
        raise InputError(f"data set {manifest.name!r} has no training split; it has {', '.join(manifest.splits)}.")
    train_part = manifest.part("train")
    classes = train_part.classes()
    torch.manual_seed(config["seed"])
    model = configs.build(config, "model")
    for note in getattr(model, "notes", []):
        log.info(note)
    if configs.settings(config, "training").compile:
        model.compile()
    loss = (
        configs.build(config, "loss", num_classes=len(classes), dim=model.embedding_dim, seed=config["seed"])
        if "loss" in config
        else None
    )
    task = make_task(config, manifest, model, fabric)
    codes = {name: i for i, name in enumerate(classes)}
    sampler = configs.build(
        config,
        "sampler",
        labels=[codes[name] for name in train_part.labels],
        seed=config["seed"],
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    mixers = {key: configs.build(config, key) for key in ("mixer", "image_mixer") if key in config}
    parts_of_method = {"loss": loss, **mixers}
    method = configs.build(
        config,
        "method",
        model=model,
        **{name: part for name, part in parts_of_method.items() if part is not None},
        count=len(train_part),
        num_classes=len(classes),
        steps=len(sampler) * configs.settings(config, "training").epochs,
        seed=config["seed"],
    )
    transform, size, needs = configs.settings(config, "transform"), model.image_size, method.needs()
    loader = train_loader(
        train_part.items,
        TrainViews(transform, size, needs.views, needs.resolutions, needs.small_views, needs.small_size),
        sampler,
        workers=task.workers,
        pin_memory=fabric.device.type == "cuda",
        decode=task.decode,
    )
    encoders = method.encoders()
    encoder = encoders["image"]
    judged = _judged_tower(task, encoders, config["method"]["name"])
    parts = loop_parts(
        config,
        fabric,
        folder,
        method,
        loader,
        sampler,
        watch=lambda epoch: task.watch(judged, epoch),  # type: ignore[arg-type]
        selects=task.selects,
        # A recipe may settle its epochs by another tower than the one that is judged.
        embed=lambda: torch.as_tensor(task.embed(encoders.get("selection", encoder), "train").vectors),
    )
    return ImageJob(
        config, fabric, manifest, model, method, judged, task, eval_transform_config(transform, size), parts
    )


def _judged_tower(task: Any, encoders: Mapping[str, nn.Module], method: str) -> nn.Module:
    """Return which of a method's towers a task judges: the one it names, else the image encoder."""
    wanted = getattr(task, "tower", "image")
    if wanted not in encoders:
        raise InputError(
            f"task=classification judges a classifier, and method {method!r} trains none. Set method=classification "
            "or method=samix, or another task: retrieval, self-supervised."
        )
    return encoders[wanted]
