"""Training on labelled images, judged by retrieval."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from metrixkit import config as configs
from metrixkit.data.cache import CachedDecode, default_short_side
from metrixkit.data.decode import decode as plain_decode
from metrixkit.data.loader import default_workers, train_loader
from metrixkit.data.manifest import Manifest, with_validation
from metrixkit.data.transforms import eval_transform, eval_transform_config, train_transform
from metrixkit.errors import InputError
from metrixkit.families import lookup
from metrixkit.jobs.job import FromTask, Judged, parameters_line
from metrixkit.jobs.parts import loop_parts
from metrixkit.jobs.pictures import draw_mixtures, draw_pictures
from metrixkit.models import ImageEncoder, save_model
from metrixkit.retrieval import save_predictions
from metrixkit.tasks import TASKS, Retrieval
from metrixkit.training.run import RunFolder

log = logging.getLogger(__name__)


def read_data(config: Mapping[str, Any]) -> Manifest:
    """Read the data set and hold out validation classes where the protocol asks for them."""
    manifest = configs.build(config, "data").read()
    if not isinstance(manifest, Manifest):
        raise InputError(
            f"data={config['data']['name']} holds no labelled images, and task=retrieval needs them. Pairs of captions "
            "and videos are for task=crossmodal, ratings for task=recommendation."
        )
    evaluation = configs.settings(config, "evaluation")
    if evaluation.protocol == "validation" and evaluation.validation > 0 and "train" in manifest.splits:
        manifest = with_validation(manifest, evaluation.validation, config["seed"])
    return manifest


def make_decode(config: Mapping[str, Any], image_size: int) -> Callable[[Any], Tensor]:
    """Return how images are read: from their files, or through the cache of resized ones."""
    loader = configs.settings(config, "loader")
    if loader.cache is None:
        return plain_decode
    return CachedDecode(loader.cache, loader.cache_short_side or default_short_side(image_size))


def make_task(
    config: Mapping[str, Any], manifest: Manifest, model: ImageEncoder, fabric: Fabric | None = None
) -> Retrieval:
    """Return the task of a config for a model."""
    transform = configs.settings(config, "transform")
    size = model.image_size
    loader = configs.settings(config, "loader")
    options: dict[str, Any] = {} if fabric is None else {"autocast": fabric.autocast}
    task = lookup(config["task"], TASKS, "task")
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
    task: Retrieval
    transform: dict[str, Any]
    trainer_parts: dict[str, Any]

    def introduction(self) -> list[str]:
        """Say what is trained on what."""
        counts = ", ".join(f"{split} {n}" for split, n in self.manifest.counts().items())
        return [
            f"data: {self.data}, split {self.split} ({counts} images)"
            + (f"; {self.manifest.dropped} listed images dropped" if self.manifest.dropped else ""),
            parameters_line(
                self.method, self.config["model"].get("backbone", self.config["model"]["name"]), self.fabric
            ),
            *(f"note: {note}" for note in getattr(self.model, "notes", [])),
        ]

    def watch(self, epoch: int) -> dict[str, float]:
        """Evaluate the watched split."""
        return self.task.watch(self.model, epoch)

    def judge(self) -> Judged:
        """Evaluate the test split."""
        tested = self.task.evaluate(self.model, self.task.test_split)
        metrics, evaluation, found = self.task.describe(self.model, *tested)
        seen = set(self.manifest.part(self.task.test_split).labels) & set(self.manifest.part("train").labels)
        counts = {
            **self.manifest.counts(),
            "dropped": self.manifest.dropped,
            **evaluation.counts,
            "classes_seen_in_training": len(seen),
        }
        return Judged(metrics, counts, evaluation.definitions, evaluation.intervals(), (found, *tested[1:]))

    def keep(self, folder: RunFolder, judged: Judged) -> None:
        """Write the model, the predictions and the pictures."""
        found, queries, gallery = judged.found
        save_model(self.model, folder.path / "model", self.transform, {"data": self.data, "split": self.split})
        save_predictions(folder.path / "predictions.npz", found)
        pictures = folder.path / "pictures"
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
    method = configs.build(config, "method", model=model, **({} if loss is None else {"loss": loss}))
    task = make_task(config, manifest, model, fabric)

    transform = configs.settings(config, "transform")
    size = model.image_size
    codes = {name: i for i, name in enumerate(classes)}
    sampler = configs.build(
        config,
        "sampler",
        labels=[codes[name] for name in train_part.labels],
        seed=config["seed"],
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    loader = train_loader(
        train_part.items,
        train_transform(transform, size),
        sampler,
        workers=task.workers,
        views=method.needs().views,
        pin_memory=fabric.device.type == "cuda",
        decode=task.decode,
    )
    encoder = method.encoders()["image"]
    parts = loop_parts(
        config,
        fabric,
        folder,
        method,
        loader,
        sampler,
        watch=lambda epoch: task.watch(encoder, epoch),
        selects=task.selects,
        embed=lambda: torch.as_tensor(task.embed(encoder, "train").vectors),
    )
    return ImageJob(config, fabric, manifest, model, method, task, eval_transform_config(transform, size), parts)
