"""From a resolved config to its objects, and the job of a training run from the first file to the last picture."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
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
from metrixkit.models import ImageEncoder, save_model
from metrixkit.report import format_table, retrieval_panel, training_curves, write_report
from metrixkit.retrieval import save_predictions
from metrixkit.schema import build_node
from metrixkit.tasks import TASKS, Retrieval, file_under
from metrixkit.training import checkpoint
from metrixkit.training.checkpoint import Progress
from metrixkit.training.log import RunLog
from metrixkit.training.loop import Trainer, make_fabric
from metrixkit.training.optim import Rates, parameter_dicts
from metrixkit.training.run import RunFolder, environment, versions, write_json

log = logging.getLogger(__name__)


def build(config: Mapping[str, Any], key: str, **provided: Any) -> Any:
    """Construct the family node `key` of a resolved config; `provided` holds what the programme passes."""
    return build_node(config[key], configs.FAMILIES, key, key, provided)


def read_data(config: Mapping[str, Any]) -> Manifest:
    """Read the data set and hold out validation classes where the protocol asks for them."""
    manifest: Manifest = build(config, "data").read()
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
class Job:
    """A training run's objects, built once from its config."""

    config: Mapping[str, Any]
    fabric: Fabric
    manifest: Manifest
    model: ImageEncoder
    method: nn.Module
    task: Retrieval
    transform: dict[str, Any]
    trainer_parts: dict[str, Any]


def assemble(config: Mapping[str, Any], fabric: Fabric, folder: RunFolder) -> Job:
    """Build everything a run needs.

    Raises:
        InputError: Any part refuses its settings or its data.
    """
    settings, evaluation = configs.settings(config, "training"), configs.settings(config, "evaluation")
    manifest = read_data(config)
    if "train" not in manifest.splits:
        raise InputError(f"data set {manifest.name!r} has no training split; it has {', '.join(manifest.splits)}.")
    train_part = manifest.part("train")
    classes = train_part.classes()
    torch.manual_seed(config["seed"])
    model = build(config, "model")
    for note in getattr(model, "notes", []):
        log.info(note)
    if settings.compile:
        model.compile()
    loss = (
        build(config, "loss", num_classes=len(classes), dim=model.embedding_dim, seed=config["seed"])
        if "loss" in config
        else None
    )
    method = build(config, "method", model=model, **({} if loss is None else {"loss": loss}))
    task = make_task(config, manifest, model, fabric)

    transform = configs.settings(config, "transform")
    size = model.image_size
    codes = {name: i for i, name in enumerate(classes)}
    sampler = build(
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
    groups = method.parameter_groups()
    params = parameter_dicts(groups, [p for p in method.parameters() if p.requires_grad])
    optimizer = build(config, "optimizer", params=params)
    rates = Rates(optimizer, groups, build(config, "schedule"), settings.epochs, settings.warmup_epochs)
    wrapped, optimizer = fabric.setup(method, optimizer)
    parts = {
        "method": method,
        "wrapped": wrapped,
        "optimizer": optimizer,
        "rates": rates,
        "loader": loader,
        "sampler": sampler,
        "settings": settings,
        "checkpoints": folder.checkpoints,
        "evaluate": lambda epoch: task.watch(method.encoders()["image"], epoch),
        "select_by": task.selects,
        "evaluate_every": evaluation.every,
        "embed": lambda: task.embed(method.encoders()["image"], "train").vectors,
    }
    return Job(config, fabric, manifest, model, method, task, eval_transform_config(transform, size), parts)


def train(config: Mapping[str, Any], path: str | Path, resume: bool = False) -> dict[str, Any]:
    """Run an experiment: evaluate, train, evaluate, export, draw.

    Args:
        config: A resolved config.
        path: The run folder.
        resume: Continue what is there.

    Returns:
        What ``results.json`` holds.

    Raises:
        InputError: Bad settings, bad data, or a run folder that must not be written.
    """
    started = time.perf_counter()
    folder = RunFolder(path)
    fabric = make_fabric(configs.settings(config, "training"))
    fabric.launch()
    if fabric.is_global_zero:
        folder.open(config, resume)
    fabric.barrier()
    job = assemble(config, fabric, folder)
    if fabric.is_global_zero:
        configs.save(config, folder.path / "config.yaml")
        write_json(folder.path / "environment.json", environment(fabric.device, fabric.world_size))
    last = folder.checkpoints / "last.pt"
    progress = Progress()
    if resume and last.exists():
        progress = checkpoint.load(last, job.method, job.trainer_parts["optimizer"], fabric.device)
    training = configs.settings(config, "training")
    with RunLog(folder.path, fabric.is_global_zero, training.tensorboard, progress.log_size, progress.step) as run_log:
        introduce(job, run_log, progress)
        if progress.before is None:
            metrics, _, _ = job.task.test(job.model)
            progress.before = metrics
            run_log.say("before training, on the test split:\n" + format_table(metrics))
            run_log.numbers(0, 0, job.task.watch(job.model, 0))
        progress = Trainer(fabric=fabric, log=run_log, **job.trainer_parts).run(progress)
        results = finish(job, folder, progress, run_log, time.perf_counter() - started)
    fabric.barrier()
    return results


def introduce(job: Job, run_log: RunLog, progress: Progress) -> None:
    """Say what is about to be trained on what."""
    counts = ", ".join(f"{split} {n}" for split, n in job.manifest.counts().items())
    run_log.say(
        f"data: {job.manifest.name}, split {job.manifest.split_name} ({counts} images)"
        + (f"; {job.manifest.dropped} listed images dropped" if job.manifest.dropped else "")
    )
    size = sum(p.numel() for p in job.method.parameters())
    moving = sum(p.numel() for p in job.method.parameters() if p.requires_grad)
    run_log.say(
        f"model: {job.config['model'].get('backbone', job.config['model']['name'])}, {moving:,} of {size:,} "
        f"parameters train, on {job.fabric.device} x {job.fabric.world_size}"
    )
    for note in getattr(job.model, "notes", []):
        run_log.say(f"note: {note}")
    if progress.step:
        run_log.say(f"continuing after step {progress.step} (epoch {progress.epoch + 1})")


def finish(job: Job, folder: RunFolder, progress: Progress, run_log: RunLog, seconds: float) -> dict[str, Any]:
    """Evaluate the last and the selected weights on the test split; write results, model, predictions and pictures."""
    settings = configs.settings(job.config, "evaluation")
    last, evaluation, found = job.task.test(job.model)
    selected, kind = last, "last"
    best = folder.checkpoints / "best.pt"
    if job.task.selects is not None and progress.best is not None:
        kind = "best"
        if progress.best_epoch != progress.epoch:
            job.method.load_state_dict(torch.load(best, map_location="cpu", weights_only=True))
            selected, evaluation, found = job.task.test(job.model)
    selected = {**selected, **file_under(settings.protocol, progress.history, settings.select_by)}
    results = {
        "metrics": selected,
        "selected": kind,
        "selected_epoch": progress.best_epoch if kind == "best" else progress.epoch,
        "before": progress.before,
        "last": last,
        "data": job.manifest.name,
        "protocol": settings.protocol,
        "split": job.manifest.split_name,
        "counts": {**job.manifest.counts(), "dropped": job.manifest.dropped, **evaluation.counts},
        "definitions": evaluation.definitions,
        "seconds": {
            "training": round(progress.seconds, 2),
            "this_process": round(seconds, 2),
            "this_process_cpu": round(time.process_time(), 2),
        },
        "seed": job.config["seed"],
        "versions": versions(),
        "command": environment(job.fabric.device, job.fabric.world_size)["command"],
    }
    if job.fabric.is_global_zero:
        save_model(
            job.model,
            folder.path / "model",
            job.transform,
            {"data": job.manifest.name, "split": job.manifest.split_name},
        )
        save_predictions(folder.path / "predictions.npz", found)
        draw(job, folder, found)
        # Last of all: a run is finished when this file stands.
        write_json(folder.results, results)
        write_report(folder.path)
        conclude(results, settings.select_by, run_log)
        run_log.say(
            "\n".join(
                ["", *(f"{title}: {folder.path / name}" for title, name in OUTCOMES if (folder.path / name).exists())]
            )
        )
    return results


OUTCOMES = (
    ("results", "results.json"),
    ("report", "report.html"),
    ("panel", "pictures/retrieval.png"),
    ("curves", "pictures/curves.png"),
    ("model", "model"),
)


def draw(job: Job, folder: RunFolder, found: Any) -> None:
    """Draw the retrieval panel and the training curves."""
    pictures = folder.path / "pictures"
    pictures.mkdir(exist_ok=True)
    paths = dict(zip(job.manifest.ids, job.manifest.paths, strict=True))

    def load(item: str) -> Any:
        image: Tensor = plain_decode(paths[item])
        return image.permute(1, 2, 0).numpy()

    retrieval_panel(pictures / "retrieval.png", found, load)
    training_curves(folder.path / "metrics.jsonl", pictures / "curves.png")


def conclude(results: Mapping[str, Any], select_by: str, run_log: RunLog) -> None:
    """Print the selected metrics and say plainly whether training helped."""
    after, before = results["metrics"][select_by], results["before"][select_by]
    run_log.say(
        f"\ntest split, {results['selected']} epoch ({results['selected_epoch']}):\n" + format_table(results["metrics"])
    )
    verdict = "gained" if after > before else "LOST" if after < before else "changed nothing"
    run_log.say(
        f"{select_by}: {100 * before:.1f} before training, {100 * after:.1f} after: training {verdict}"
        + (f" {100 * abs(after - before):.1f} points" if after != before else "")
    )
