"""The job of a training run, from the first file to the last picture, whatever is trained."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metrixkit import config as configs
from metrixkit.errors import InputError
from metrixkit.families import ANY, allow_code
from metrixkit.files import write_json
from metrixkit.foreign import read_json
from metrixkit.gain import BEFORE, run_gain, save_per_query
from metrixkit.jobs import JOBS, images
from metrixkit.jobs.job import Job
from metrixkit.report import format_table, write_report
from metrixkit.report.sentence import how_sure, nothing_judged
from metrixkit.report.text import format_change, format_value, is_share
from metrixkit.training import checkpoint
from metrixkit.training.checkpoint import Progress
from metrixkit.training.log import RunLog
from metrixkit.training.loop import Trainer, make_fabric
from metrixkit.training.run import RunFolder, environment, versions

if TYPE_CHECKING:
    from lightning_fabric import Fabric

OUTCOMES = (
    ("results", "results.json"),
    ("report", "report.html"),
    ("panel", "pictures/retrieval.png"),
    ("curves", "pictures/curves.png"),
    ("model", "model"),
)


@allow_code(ANY)  # a person named the config; folders that are read meanwhile are data all the same
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
    refused = None
    if fabric.is_global_zero:
        try:
            folder.open(config, resume, configs.resolve)
        except InputError as error:
            refused = error
    try:
        # The others must hear of it, or they would wait for the first one until they die with words of their own.
        if fabric.broadcast(refused is not None):
            raise refused or SystemExit(2)
        if fabric.broadcast(resume and folder.judged):
            return _write_page(folder, fabric)
        return _train(config, fabric, folder, resume, started)
    finally:
        folder.close()


def _write_page(folder: RunFolder, fabric: Fabric) -> dict[str, Any]:
    """Finish a run that was killed when only its page was missing."""
    try:
        results = read_json(folder.results)
    except InputError as error:
        raise InputError(f"{error} Delete that file, and --resume evaluates the trained model again.") from error
    if fabric.is_global_zero:
        print(f"{folder.path} is trained and evaluated; its page was missing: {write_report(folder.path)}")
    return results


def _train(
    config: Mapping[str, Any], fabric: Fabric, folder: RunFolder, resume: bool, started: float
) -> dict[str, Any]:
    """Do what is left of a run in a folder that is open to this process alone."""
    job = JOBS.get(config["task"], images.assemble)(config, fabric, folder)
    if fabric.is_global_zero:
        configs.save(config, folder.path / "config.yaml")
        write_json(folder.path / "environment.json", environment(fabric.device, fabric.world_size))
    last = folder.checkpoints / "last.pt"
    progress = Progress()
    training = configs.settings(config, "training")
    if resume and last.exists():
        progress = checkpoint.load(last, job.method, job.trainer_parts["optimizer"], fabric.device)
        if progress.best is not None and not progress.epoch == progress.best_epoch == training.epochs:
            checkpoint.read(folder.checkpoints / "best.pt")  # what is wrong with it is told now, not after training
    with RunLog(folder.path, fabric.is_global_zero, training.tensorboard, progress.log_size, progress.step) as run_log:
        for line in job.introduction():
            run_log.say(line)
        if progress.step:
            run_log.say(f"continuing after step {progress.step} (epoch {progress.epoch + 1})")
        if progress.before is None:
            judged = job.judge()
            progress.before = judged.metrics
            if judged.per_query is not None and fabric.is_global_zero:
                save_per_query(folder.path / BEFORE, judged.per_query)
            if judged.metrics:
                run_log.say("before training, on the test split:\n" + format_table(progress.before))
            run_log.numbers(0, 0, job.watch(0))
        progress = Trainer(fabric=fabric, log=run_log, **job.trainer_parts).run(progress)
        results = finish(job, folder, progress, run_log, time.perf_counter() - started)
    fabric.barrier()
    return results


def finish(job: Job, folder: RunFolder, progress: Progress, run_log: RunLog, seconds: float) -> dict[str, Any]:
    """Evaluate the last and the selected weights on the test split; write results, model, predictions and pictures."""
    judged = job.judge()
    last, kind = judged.metrics, "last"
    if job.selects is not None and progress.best is not None:
        kind = "best"
        if progress.best_epoch != progress.epoch:
            checkpoint.load_weights(folder.checkpoints / "best.pt", job.method)
            judged = job.judge()
    results = {
        "metrics": {**judged.metrics, **job.filed(progress.history, last)},
        "selected": kind,
        "selected_epoch": progress.best_epoch if kind == "best" else progress.epoch,
        "before": progress.before,
        "last": last,
        "gain": run_gain(folder.path, judged.per_query) if judged.metrics else None,
        "task": job.config["task"],
        "headline": job.headline,
        "data": job.data,
        "protocol": job.protocol,
        "split": job.split,
        "judged": bool(judged.metrics),
        "validation": {**job.validation, "metric": job.selects, "best": progress.best} if job.selects else None,
        "counts": judged.counts,
        "definitions": judged.definitions,
        "intervals": judged.intervals,
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
        job.keep(folder, judged)
        # After all that it tells of, and before the page, which is made of it.
        write_json(folder.results, results)
        write_report(folder.path)
        conclude(results, job.headline, run_log)
        run_log.say(
            "\n".join(
                ["", *(f"{title}: {folder.path / name}" for title, name in OUTCOMES if (folder.path / name).exists())]
            )
        )
    return results


def conclude(results: Mapping[str, Any], select_by: str, run_log: RunLog) -> None:
    """Print the selected metrics and say plainly whether training helped, or that nothing was judged."""
    epoch = f"{results['selected']} epoch ({results['selected_epoch']})"
    if not results["judged"]:
        run_log.say(f"\n{epoch}: {nothing_judged(results)}")
        return
    after, before = results["metrics"][select_by], results["before"][select_by]
    run_log.say(f"\ntest split, {epoch}:\n" + format_table(results["metrics"]))
    said = f"{select_by}: {format_value(select_by, before)} before training, {format_value(select_by, after)} after"
    if after == before:
        run_log.say(f"{said}: training gained nothing{how_sure(results)}")
        return
    units = " points" if is_share(select_by) else ""
    verdict = f"training {'gained' if after > before else 'LOST'} {format_change(select_by, after - before)}{units}"
    run_log.say(f"{said}: {verdict}{how_sure(results)}")
