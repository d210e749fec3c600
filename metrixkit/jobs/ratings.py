"""Training a recommender on ratings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from metrixkit import config as configs
from metrixkit.data.sets.ratings import RatingSplit
from metrixkit.errors import InputError
from metrixkit.files import write_bytes, write_text
from metrixkit.gain import PerQuery
from metrixkit.jobs.job import NOTHING_JUDGED, FromTask, Judged, parameters_line, selection_line
from metrixkit.jobs.parts import loop_parts
from metrixkit.models.factors import Factors
from metrixkit.spreadsheet import csv_text
from metrixkit.tasks.recommendation import Recommendation, hold_out
from metrixkit.training.run import RunFolder

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass
class RatingJob(FromTask):
    """See :class:`~metrixkit.jobs.job.Job`."""

    config: Mapping[str, Any]
    fabric: Fabric
    model: Factors
    method: nn.Module
    task: Recommendation
    trainer_parts: dict[str, Any]

    @property
    def data(self) -> str:
        """Name of the data set."""
        return "ratings"

    @property
    def split(self) -> str:
        """How the rows were divided."""
        settings = self.config["data"]
        return f"rows-{1 - settings['test']:g}-{settings['test']:g}-seed{settings['split_seed']}"

    @property
    def validation(self) -> dict[str, Any]:
        """What selects: liked pairs."""
        pairs = len(self.task.validation)
        return {"held_out": "items", "items": pairs} if pairs else {}

    def introduction(self) -> list[str]:
        """Say what is trained on what, and what the most popular items reach."""
        counts, name = self.task.split.counts(), self.headline
        judges = len(self.task.split.held_out) > 0
        return [
            f"data: {self.config['data']['path']}: {counts['ratings']:,} ratings of {counts['items']:,} items by "
            f"{counts['users']:,} users; {len(self.task.train):,} liked pairs to train on, {counts['test_liked']:,} to "
            "find",
            parameters_line(self.method, "factors", self.fabric),
            f"popularity, without any training: {name} {100 * self.task.popularity()[name]:.2f} %"
            if judges
            else f"note: {NOTHING_JUDGED}",
            selection_line(self.validation, self.protocol, self.task.settings.validation, judges),
        ]

    def watch(self, epoch: int) -> dict[str, float]:
        """Evaluate on the validation pairs, or on the test pairs where the protocol is the paper's."""
        return self.task.watch(self.model)

    def judge(self) -> Judged:
        """Evaluate on the test pairs, where there are any; popularity stands beside."""
        if not len(self.task.split.held_out):
            return Judged({}, {**self.task.split.counts(), "validation_liked": len(self.task.validation)}, {})
        found, popular = self.task.test(self.model), self.task.popularity()
        longest = f"@{max(self.task.settings.at)}"
        metrics = {**found, **{f"popularity/{name}": v for name, v in popular.items() if name.endswith(longest)}}
        counts = {**self.task.split.counts(), **found.counts, "validation_liked": len(self.task.validation)}
        users = found.per_query["id"].to_numpy().astype(str)
        kept = PerQuery(self.headline, users, users, found.per_query[self.headline].to_numpy(dtype=np.float64))
        return Judged(metrics, counts, found.definitions, found=found, per_query=kept)

    def keep(self, folder: RunFolder, judged: Judged) -> None:
        """Write the vectors with their names, and the metrics of every user."""
        out = folder.path / "model"
        out.mkdir(exist_ok=True)
        users, items = self.model.vectors()
        write_bytes(
            out / "model.safetensors", save({"users": users.cpu().contiguous(), "items": items.cpu().contiguous()})
        )
        for name, ids in (("users", self.task.split.ratings.user_ids), ("items", self.task.split.ratings.item_ids)):
            write_text(out / f"{name}.txt", "\n".join(ids.tolist()) + "\n")
        if judged.found is not None:
            write_text(folder.path / "users.csv", csv_text(judged.found.per_query))


def assemble(config: Mapping[str, Any], fabric: Fabric, folder: RunFolder) -> RatingJob:
    """Build everything a recommender's run needs.

    Raises:
        InputError: Any part refuses its settings or its data; more than one process.
    """
    if fabric.world_size > 1:
        raise InputError("a recommender trains in one process: leave training.devices at 1 and torchrun out.")
    split = configs.build(config, "data").read()
    if not isinstance(split, RatingSplit):
        raise InputError(f"task=recommendation needs data=ratings; data={config['data']['name']} holds something else.")
    evaluation = configs.settings(config, "evaluation")
    share = evaluation.validation if evaluation.protocol == "validation" else 0.0
    train, validation = hold_out(split, share, config["seed"])
    torch.manual_seed(config["seed"])
    users, items = len(split.ratings.user_ids), len(split.ratings.item_ids)
    model = configs.build(config, "model", users=users, items=items)
    if not isinstance(model, Factors):
        raise InputError(f"task=recommendation needs model=factors, not {config['model']['name']}.")
    loss = configs.build(config, "loss", num_classes=items, dim=model.embedding_dim, seed=config["seed"])
    method = configs.build(config, "method", model=model, loss=loss)
    host = getattr(loss, "loss", loss)
    score = evaluation.score
    if score == "auto":
        score = "euclidean" if hasattr(host, "margin") else "dot"
    task = Recommendation(split, evaluation, score, train, validation)
    sampler = configs.build(config, "sampler", split=replace(split, liked=train), seed=config["seed"])
    parts = loop_parts(
        config,
        fabric,
        folder,
        method,
        loader=sampler,
        sampler=sampler,
        watch=lambda epoch: task.watch(model),
        selects=task.selects,
        embed=lambda: torch.from_numpy(np.concatenate([v.cpu().numpy() for v in model.vectors()])),
    )
    return RatingJob(config, fabric, model, method, task, parts)
