"""What finished runs are worth where modalities are missing: every subset, rates, or masks from a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metrixkit import config as configs
from metrixkit import saved_runs
from metrixkit.errors import InputError
from metrixkit.files import write_json, write_text
from metrixkit.jobs.modalities import read_modalities
from metrixkit.models.multimodal import Multimodal, load_multimodal
from metrixkit.report.robustness_plot import robustness_plot
from metrixkit.retrieval import Mask, Robustness, merge, rate_masks, read_masks, subset_masks, write_masks
from metrixkit.tasks.missing_modalities import MissingModalities
from metrixkit.tasks.modality_data import Fill


@dataclass(frozen=True)
class Trial:
    """What is asked of runs.

    Attributes:
        rates: Missing rates in [0, 1]; none asks for the subsets alone.
        seeds: Of the drawn masks.
        sides: Which sides lose modalities; only "both" where nothing is retrieved.
        masks: A file of masks instead of rates and subsets.
        fill: Instead of the run's own.
        split: Instead of the test split.
    """

    rates: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    seeds: tuple[int, ...] = (0, 1, 2)
    sides: tuple[str, ...] = ("query", "gallery", "both")
    masks: Path | None = None
    fill: Fill | None = None
    split: str | None = None


def try_runs(runs: Sequence[str | Path], trial: Trial) -> tuple[Robustness, list[Mask]]:
    """Evaluate finished runs; several become one result with deviations over them.

    Args:
        runs: Run folders of task=missing-modality. The same masks are asked of all.
        trial: What is asked.

    Returns:
        The result, and the masks of the first run.

    Raises:
        InputError: A folder that is no such run, given twice, or runs that do not belong together.
    """
    names = [str(Path(run)) for run in runs]
    if not names or len(set(names)) < len(names):
        raise InputError(f"name one or more run folders, each once; got {', '.join(names) or 'none'}.")
    found: dict[str, Robustness] = {}
    first: list[Mask] = []
    asked: tuple[str, str, str] | None = None
    for name in names:
        task, model = restore(name)
        told = (task.manifest.name, task.manifest.split_name, task.settings.kind)
        if asked is not None and told != asked:
            raise InputError(f"{name} is of {', '.join(told)}; the first run of {', '.join(asked)}. Ask them apart.")
        asked = told
        split = trial.split or task.test_split
        masks = masks_of(task, split, trial)
        first = first or masks
        found[name] = task.evaluate(model, split, masks, trial.fill)
    return (merge(found) if len(found) > 1 else found[names[0]]), first


def restore(run: str | Path) -> tuple[MissingModalities, Multimodal]:
    """Return task and selected model of a finished run.

    Raises:
        InputError: Not a finished run of this task.
    """
    saved = saved_runs.read(run)
    with saved.reading():
        config = configs.resolve(saved.settings)
        if config["task"] != "missing-modality":
            raise InputError(f"{run} is a run of task={config['task']}; robustness asks runs of task=missing-modality.")
        model = load_multimodal(run)
        return MissingModalities(read_modalities(config), configs.settings(config, "evaluation")), model


def masks_of(task: MissingModalities, split: str, trial: Trial) -> list[Mask]:
    """Return the masks that a trial asks for on a split, subsets first."""
    if trial.masks is not None:
        return read_masks(trial.masks)
    items = task.items(split)
    parts = [items, task.items("gallery")] if split == "query" else [items]
    ids = list(dict.fromkeys(key for part in parts for key in part.ids))
    at = {key: there for part in parts for key, there in zip(part.ids, part.present, strict=True)}
    available = np.stack([at[key] for key in ids])
    sides = trial.sides if task.settings.kind == "retrieval" else ("both",)
    return [
        *subset_masks(ids, items.modalities),
        *rate_masks(ids, items.modalities, trial.rates, trial.seeds, sides, available),  # type: ignore[arg-type]
    ]


def write_trial(out: Path, result: Robustness, masks: Sequence[Mask], name: str) -> dict[str, Path]:
    """Write a result in every form: JSON, rows, table, picture, and the drawn masks for others to use."""
    out.mkdir(parents=True, exist_ok=True)
    files = {
        "result": out / "robustness.json",
        "rows": result.to_csv(out / "rows.csv"),
        "table": write_text(out / "table.md", result.to_markdown()),
        "picture": robustness_plot(out / "robustness.png", {name: result}),
    }
    write_json(files["result"], result.to_dict())
    drawn = [mask for mask in masks if not mask.subset]
    if drawn:
        files["masks"] = write_masks(drawn, out / "masks.csv")
    return files
