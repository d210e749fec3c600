"""Training on items of several modalities, judged with all of them and with every subset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from metrixkit import config as configs
from metrixkit.data.loader import default_workers
from metrixkit.data.pair_manifest import PairManifest
from metrixkit.data.pairs import PairItems, pair_loader
from metrixkit.errors import InputError
from metrixkit.families import lookup
from metrixkit.files import write_text
from metrixkit.jobs.job import NOTHING_JUDGED, FromTask, Judged, parameters_line, selection_line
from metrixkit.jobs.parts import loop_parts
from metrixkit.kinds import MODEL
from metrixkit.models import MODELS
from metrixkit.models.modality_trunks import ModalityInput
from metrixkit.models.multimodal import Multimodal, MultimodalInputs
from metrixkit.report.robustness_plot import robustness_plot
from metrixkit.retrieval import Robustness
from metrixkit.seam import Batch
from metrixkit.tasks.missing_modalities import MissingModalities
from metrixkit.tasks.modality_data import describe, pair_items, targets_of, use
from metrixkit.training.run import RunFolder

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass
class ModalityJob(FromTask):
    """See :class:`~metrixkit.jobs.job.Job`."""

    config: Mapping[str, Any]
    fabric: Fabric
    model: Multimodal
    method: nn.Module
    task: MissingModalities
    trainer_parts: dict[str, Any]

    def introduction(self) -> list[str]:
        """Say what is trained on what, and what is missing by nature."""
        manifest = self.task.manifest
        judges = self.task.test_split in manifest.splits
        there = ", ".join(f"{name} {n:,}" for name, n in describe(manifest).items())
        return [
            f"data: {self.data}, split {self.split} {manifest.counts()}; of {len(manifest):,} items there are {there}",
            parameters_line(self.method, self.config["model"]["name"], self.fabric),
            selection_line(self.validation, self.protocol, self.task.settings.validation, judges),
            *([] if judges else [f"note: {NOTHING_JUDGED}"]),
        ]

    def watch(self, epoch: int) -> dict[str, float]:
        """Evaluate every subset of the watched split."""
        return self.task.watch(self.model)

    def judge(self) -> Judged:
        """Evaluate every subset of the test split, where there is one."""
        if self.task.test_split not in self.task.manifest.splits:
            return Judged({}, {f"{split}_items": n for split, n in self.task.manifest.counts().items()}, {})
        found = self.task.evaluate(self.model, self.task.test_split)
        counts = {**{f"{split}_items": n for split, n in self.task.manifest.counts().items()}, **found.counts}
        return Judged(self.task.told(found), counts, definitions_of(found), found=found)

    def keep(self, folder: RunFolder, judged: Judged) -> None:
        """Write the model, the table of subsets and its picture."""
        self.model.save(folder.path / "model")
        if judged.found is None:
            return
        found: Robustness = judged.found
        found.to_csv(folder.path / "subsets.csv")
        write_text(folder.path / "subsets.md", found.to_markdown())
        robustness_plot(folder.path / "pictures" / "subsets.png", {self.config["method"]["name"]: found})


@dataclass
class _Labelled:
    """Batches whose ``labels``, rows of the manifest as they come, become the items' targets."""

    loader: Any
    targets: Tensor

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.loader:
            batch.labels = self.targets[batch.labels]
            yield batch


def definitions_of(found: Robustness) -> dict[str, str]:
    """Return what the names of :func:`~metrixkit.tasks.missing_modalities.flat` mean."""
    told = dict(found.definitions)
    for name in found.metrics:
        told[f"subsets/{name}"] = f"Mean of {name} over every subset of {', '.join(found.modalities)}."
    return told


def look_at(examples: PairItems, part: PairManifest) -> dict[str, ModalityInput]:
    """Return what each modality looks like, by the first item that has it.

    Raises:
        InputError: No training item has a modality.
    """
    found = {}
    for column, (name, kind) in enumerate(part.modalities.items()):
        rows = np.flatnonzero(part.present[:, column])
        if not len(rows):
            raise InputError(f"data set {part.name!r}: no training item has the modality {name!r}.")
        if kind == "text":
            found[name] = ModalityInput(kind, 0)
            continue
        shape = examples[int(rows[0])].modalities[name].shape  # type: ignore[union-attr]
        found[name] = ModalityInput(kind, int(shape[{"image": 0, "video": 1, "features": 1}[kind]]))
    return found


def read_modalities(config: Mapping[str, Any]) -> PairManifest:
    """Read the data set of a config with the modalities in use, and validation items where the protocol wants them.

    Raises:
        InputError: It holds no items of several modalities.
    """
    manifest = configs.build(config, "data").read()
    if not isinstance(manifest, PairManifest):
        raise InputError(
            f"task=missing-modality needs items of several modalities; data={config['data']['name']} holds something "
            "else. Such data sets: omniglot_strokes, mosei, glyphs_video_text, and captions with "
            "data.columns.caption=null for a table of your own."
        )
    return use(manifest, configs.settings(config, "evaluation"), config["seed"])


def assemble(config: Mapping[str, Any], fabric: Fabric, folder: RunFolder) -> ModalityJob:
    """Build everything a training run on several modalities needs.

    Raises:
        InputError: Any part refuses its settings or its data; parts that do not belong together; more than one process.
    """
    if fabric.world_size > 1:
        raise InputError(
            "task=missing-modality trains in one process: its contrast is over the batch of one. Leave "
            "training.devices at 1 and torchrun out."
        )
    manifest = read_modalities(config)
    if "train" not in manifest.splits:
        raise InputError(f"data set {manifest.name!r} has no training split; it has {', '.join(manifest.splits)}.")
    task = MissingModalities(manifest, configs.settings(config, "evaluation"))
    part = manifest.part("train")
    targets, regression = targets_of(part, task.settings), task.settings.kind == "regression"
    classes, codes = np.unique(targets, return_inverse=True)
    if lookup(config["model"]["name"], MODELS, MODEL) is not Multimodal:
        raise InputError(f"task=missing-modality needs model=multimodal, not {config['model']['name']}.")
    examples = pair_items(part)
    torch.manual_seed(config["seed"])
    inputs = MultimodalInputs(look_at(examples, part), 1 if regression else 0)
    model = configs.build(config, "model", inputs=inputs)
    seeds = {"num_classes": len(classes), "dim": model.embedding_dim, "seed": config["seed"]}
    loss = configs.build(config, "loss", **seeds)
    if (getattr(loss, "takes", "labels") == "values") != regression:
        raise InputError(
            f"loss={config['loss']['name']} under evaluation.kind={task.settings.kind}: regression takes "
            "loss=absolute_error, everything else a loss on labels."
        )
    method = configs.build(config, "method", model=model, loss=loss, seed=config["seed"])
    sampler = configs.build(
        config,
        "sampler",
        labels=torch.arange(len(part)) if regression else codes.tolist(),
        seed=config["seed"],
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    workers = configs.settings(config, "loader").workers
    loader = pair_loader(
        examples,
        sampler,
        default_workers(fabric.world_size) if workers is None else workers,
        pin_memory=fabric.device.type == "cuda",
    )
    known = torch.from_numpy(targets).float() if regression else torch.from_numpy(codes.reshape(-1))
    parts = loop_parts(
        config, fabric, folder, method, _Labelled(loader, known), sampler, lambda epoch: task.watch(model), task.selects
    )
    return ModalityJob(config, fabric, model, method, task, parts)
