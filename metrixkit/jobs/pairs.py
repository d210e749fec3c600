"""Training on texts and videos, judged by retrieval in both directions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from metrixkit import config as configs
from metrixkit.data.features import read_features
from metrixkit.data.frame_reader import FrameReader
from metrixkit.data.loader import default_workers
from metrixkit.data.pair_manifest import PairManifest, pairs_with_validation
from metrixkit.data.pairs import PairItems, pair_loader
from metrixkit.errors import InputError
from metrixkit.files import write_text
from metrixkit.jobs.clip_pictures import draw_clips
from metrixkit.jobs.job import (
    NOTHING_JUDGED,
    FromTask,
    Judged,
    parameters_line,
    per_query_of,
    selection_line,
)
from metrixkit.jobs.parts import loop_parts
from metrixkit.models.pair_export import save_pair_model
from metrixkit.models.video_text import PairInputs
from metrixkit.seam import Batch
from metrixkit.spreadsheet import csv_text
from metrixkit.tasks.crossmodal import (
    CrossModalTask,
    counts_of,
    recall_intervals,
    takes_text_features,
    text_features,
)
from metrixkit.training.run import RunFolder

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass
class PairJob(FromTask):
    """See :class:`~metrixkit.jobs.job.Job`."""

    config: Mapping[str, Any]
    fabric: Fabric
    manifest: PairManifest
    model: Any
    method: nn.Module
    task: CrossModalTask
    frames: dict[str, Any]
    trainer_parts: dict[str, Any]

    def introduction(self) -> list[str]:
        """Say what is trained on what."""
        manifest, texts, settings = self.manifest, self.manifest.text_counts(), self.config["model"]
        counts = ", ".join(f"{split} {n:,} with {texts[split]:,} captions" for split, n in manifest.counts().items())
        return [
            f"data: {self.data}, split {self.split} (items: {counts})"
            + (f"; {manifest.dropped} listed items dropped" if manifest.dropped else ""),
            parameters_line(self.method, settings.get("backbone", settings["name"]), self.fabric),
            selection_line(self.validation, self.protocol, self.task.settings.validation, "test" in manifest.splits),
            *([] if "test" in manifest.splits else [f"note: {NOTHING_JUDGED}"]),
        ]

    def watch(self, epoch: int) -> dict[str, float]:
        """Evaluate the watched split."""
        return self.task.watch(self.model)

    def judge(self) -> Judged:
        """Evaluate the test split, where there is one."""
        if "test" not in self.manifest.splits:
            return Judged({}, {**counts_of(self.manifest), "dropped": self.manifest.dropped}, {})
        metrics, found, embedded = self.task.evaluate(self.model, "test")
        counts = {**counts_of(self.manifest), "dropped": self.manifest.dropped, **found.counts}
        return Judged(
            metrics,
            counts,
            found.definitions,
            recall_intervals(found),
            (found, embedded),
            per_query_of(self.headline, found),
        )

    def keep(self, folder: RunFolder, judged: Judged) -> None:
        """Write the model, the ranks of every query and a picture of what texts find."""
        save_pair_model(self.model, folder.path / "model", self.frames, {"data": self.data, "split": self.split})
        if judged.found is None:
            return
        found, embedded = judged.found
        write_text(folder.path / "ranks.csv", csv_text(found.per_query))
        if self.task.read is not None:
            draw_clips(folder.path / "pictures" / "retrieval.png", embedded, found, self.task, self.config["seed"])


@dataclass
class _WithTextFeatures:
    """Batches with the features of their captions.

    Attributes:
        loader: The batches; their ids are those of captions.
        references: Caption id to where its features lie.
    """

    loader: Any
    references: Mapping[str, str]

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.loader:
            batch.modalities["text"], batch.modalities["text_mask"] = text_features(
                [self.references[key] for key in batch.ids]
            )
            yield batch


def read_pairs(config: Mapping[str, Any]) -> PairManifest:
    """Read the data set of a config, with validation pairs held out where its protocol asks for them.

    Raises:
        InputError: It holds no pairs of texts and items.
    """
    manifest = configs.build(config, "data").read()
    if not isinstance(manifest, PairManifest):
        raise InputError(
            f"task=crossmodal needs texts with videos; data={config['data']['name']} holds something else. Such data "
            "sets: captions (a table of your own), msrvtt, msvd, activitynet, youcook2, glyphs_video_text."
        )
    evaluation = configs.settings(config, "evaluation")
    if evaluation.protocol == "validation" and "train" in manifest.splits:
        manifest = pairs_with_validation(manifest, evaluation.validation, config["seed"])
    return manifest


def make_pair_task(
    config: Mapping[str, Any], manifest: PairManifest, model: Any, fabric: Fabric | None = None
) -> CrossModalTask:
    """Return the task of a config for a model.

    Raises:
        InputError: The model's modality is not there, blank somewhere, or of a kind that it does not take.
    """
    kind = check_modality(manifest, model.modality)
    wanted = "video" if model.inputs.video_dim is None else "features"
    if kind != wanted:
        raise InputError(f"modality {model.modality!r} is of kind {kind!r}; this model takes {wanted!r}.")
    loader = configs.settings(config, "loader")
    workers = default_workers(1 if fabric is None else fabric.world_size) if loader.workers is None else loader.workers
    frames = frame_settings(config, model)
    return CrossModalTask(
        manifest,
        model.modality,
        configs.settings(config, "evaluation"),
        FrameReader(**frames, cache=config["frames"]["cache"]) if kind == "video" else None,
        frames["max_frames"],
        workers,
        **({} if fabric is None else {"autocast": fabric.autocast}),  # type: ignore[arg-type]
    )


def check_modality(manifest: PairManifest, name: str) -> str:
    """Return the kind of a modality that every item has.

    Raises:
        InputError: It is not there, blank for some item, or neither video nor features.
    """
    if name not in manifest.modalities:
        raise InputError(
            f"model.modality={name!r}: data set {manifest.name!r} has {', '.join(manifest.modalities) or 'none'}."
        )
    kind = manifest.modalities[name]
    if kind not in ("video", "features"):
        raise InputError(f"model.modality={name!r} is of kind {kind!r}; matched with texts are video and features.")
    blank = manifest.items["id"][manifest.items[name] == ""].tolist()
    if blank:
        raise InputError(
            f"{len(blank):,} items of {manifest.name!r} have no {name!r} (the first: {blank[0]!r}); leave them out "
            "with data.on_missing=drop."
        )
    return kind


def frame_settings(config: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """Return how a run reads clips: fps, max_frames, sampling, and size, which is the model's unless set."""
    kept = {name: config["frames"][name] for name in ("fps", "max_frames", "sampling", "size")}
    return kept | {"size": kept["size"] or model.image_size}


def pair_inputs(manifest: PairManifest, modality: str) -> PairInputs:
    """Return what the training split says about a model: dimensions of features, and captions for a vocabulary."""
    part = manifest.part("train")
    if not len(part.texts):
        raise InputError(f"the training split of {manifest.name!r} has no captions.")
    video = text = None
    if check_modality(part, modality) == "features":
        video = int(read_features(part.items[modality].iloc[0]).shape[1])
    if "features" in part.texts.columns:
        text = int(read_features(part.texts["features"].iloc[0]).shape[1])
    return PairInputs(video, text, part.captions)


def assemble(config: Mapping[str, Any], fabric: Fabric, folder: RunFolder) -> PairJob:
    """Build everything a run on texts and videos needs.

    Raises:
        InputError: Any part refuses its settings or its data.
    """
    manifest = read_pairs(config)
    if "train" not in manifest.splits:
        raise InputError(f"data set {manifest.name!r} has no training split; it has {', '.join(manifest.splits)}.")
    modality = config["model"].get("modality")
    if modality is None:
        raise InputError(
            f"task=crossmodal needs model=video_text or model=clip_video_text, not {config['model']['name']}."
        )
    torch.manual_seed(config["seed"])
    model = configs.build(config, "model", inputs=pair_inputs(manifest, modality))
    loss = configs.build(
        config, "loss", num_classes=len(manifest.part("train")), dim=model.embedding_dim, seed=config["seed"]
    )
    method = configs.build(config, "method", model=model, loss=loss)
    task = make_pair_task(config, manifest, model, fabric)
    part = manifest.part("train")
    items = PairItems(part, "texts", None if task.read is None else {modality: task.read}, [modality])
    sampler = configs.build(
        config,
        "sampler",
        labels=items.item_of_example,
        seed=config["seed"],
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    loader: Any = pair_loader(items, sampler, task.workers, task.max_length, fabric.device.type == "cuda")
    if takes_text_features(model):
        loader = _WithTextFeatures(loader, dict(zip(part.texts["id"], part.texts["features"], strict=True)))
    parts = loop_parts(
        config,
        fabric,
        folder,
        method,
        loader,
        sampler,
        watch=lambda epoch: task.watch(model),
        selects=task.selects,
        embed=lambda: task.embed(model, "train").video,
    )
    return PairJob(config, fabric, manifest, model, method, task, frame_settings(config, model), parts)
