"""The run folder: who may write into it, and what identifies a run."""

from __future__ import annotations

import contextlib
import platform
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from metrixkit.errors import InputError
from metrixkit.families import allow_code, names_in
from metrixkit.files import cannot_write, check_folder, refuse_leading_out, remove_unfinished
from metrixkit.foreign import read_yaml
from metrixkit.training.lock import FolderLock

# May differ between a run and its continuation: they change neither the numbers nor their order.
FREE_ON_RESUME = (
    "loader.workers",
    "frames.cache",
    "training.tensorboard",
    "training.log_every",
    "training.checkpoint_every",
    "training.oversubscribe",
)
PACKAGES = (
    "metrixkit",
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "numpy",
    "scikit-learn",
    "pytorch-metric-learning",
    "faiss-cpu",
)


class RunFolder:
    """A run's files: config, checkpoints, model, numbers, results, pictures, log."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock: FolderLock | None = None

    @property
    def checkpoints(self) -> Path:
        """Folder of ``last.pt`` and ``best.pt``."""
        return self.path / "checkpoints"

    @property
    def results(self) -> Path:
        """The result file; numbers, model, predictions and pictures stand when it exists."""
        return self.path / "results.json"

    @property
    def report(self) -> Path:
        """The page, which is written last."""
        return self.path / "report.html"

    @property
    def judged(self) -> bool:
        """Whether the results stand, and the model, or no checkpoint from which it could be written again."""
        again = (self.checkpoints / "last.pt").exists()
        return self.results.exists() and ((self.path / "model").is_dir() or not again)

    @property
    def finished(self) -> bool:
        """Whether all of a run stands."""
        return self.judged and self.report.exists()

    def open(
        self,
        config: Mapping[str, Any],
        resume: bool,
        complete: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    ) -> None:
        """Make the folder, or accept the one that a killed run left, and keep other trainings out of it.

        Args:
            config: Resolved settings of the run.
            resume: Whether to continue what is there.
            complete: Resolves the settings of the run that is continued: those that came with a later version of the
                package stand at their defaults. What it refuses is compared as it was saved.

        Raises:
            InputError: A finished run, an unfinished one without `resume`, another config, another training under way
                in it, a file in it that is a link to another place, or no right to write.
        """
        self._refuse(config, resume, complete)
        check_folder(self.path, "--run")
        for place in self._places():
            if place.is_dir():
                refuse_leading_out(self.path, (entry for entry in place.iterdir() if not entry.is_dir()))
        self._lock = FolderLock(self.path)
        # Once more: another training may have ended between the look and the lock.
        self._refuse(config, resume, complete)
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(self.checkpoints, error, "--run") from error
        for place in self._places():
            remove_unfinished(place)

    def _places(self) -> tuple[Path, ...]:
        """Return the folders that files are written to."""
        return self.path, self.checkpoints, self.path / "model", self.path / "pictures"

    def close(self) -> None:
        """Let other trainings into the folder."""
        if self._lock is not None:
            self._lock.release()

    def _refuse(
        self, config: Mapping[str, Any], resume: bool, complete: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    ) -> None:
        there = (self.checkpoints / "last.pt").exists()
        if self.finished or (self.results.exists() and not resume):
            raise InputError(
                f"{self.path} holds a finished run. Two ways on: --run OTHER_FOLDER for a new one, or delete that "
                "folder to run it again."
            )
        if there and not resume:
            raise InputError(
                f"{self.path} holds an unfinished run. Two ways on: --resume to continue it, or --run OTHER_FOLDER "
                "for a new one."
            )
        if resume and (there or self.results.exists()):
            self._same(config, complete)

    def _same(self, config: Mapping[str, Any], complete: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
        saved = self.path / "config.yaml"
        if not saved.exists():
            return
        before: Mapping[str, Any] = read_yaml(saved)
        # The saved file names no code that the config at hand does not name as well.
        with contextlib.suppress(InputError), allow_code(names_in(config)):
            before = complete(before)
        changed = differences(before, config)
        if changed:
            raise InputError(
                f"--resume: the settings differ from those of {self.path}: {changed}. Give the old ones, "
                "or start anew with --run OTHER_FOLDER."
            )


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return what two resolved configs say differently, ``key: old -> new``; what may differ on resume is left out."""
    old, new = flatten(loaded_alike(before)), flatten(loaded_alike(now))
    return "; ".join(
        f"{key}: {old.get(key)!r} -> {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not key.startswith(FREE_ON_RESUME)
    )


def loaded_alike(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config in which the image cache is a fact and no place: copies in it have other pixels than the files,
    wherever it lies.
    """
    loader = config.get("loader")
    if not isinstance(loader, Mapping):
        return dict(config)
    cached = loader.get("cache") is not None
    short = loader.get("cache_short_side") if cached else None
    return {**config, "loader": {**loader, "cache": cached, "cache_short_side": short}}


def flatten(config: Any, path: str = "") -> dict[str, Any]:
    """Return a nested mapping as dotted path to value."""
    if not isinstance(config, Mapping) or not config:
        return {path: config}
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat.update(flatten(value, f"{path}.{key}" if path else str(key)))
    return flat


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages a number can depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def environment(device: torch.device, world_size: int) -> dict[str, Any]:
    """Return what a reader needs to repeat a run: versions, machine, devices and the command."""
    return {
        "versions": versions(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{platform.processor() or platform.machine()}",
        "processes": world_size,
        "threads": torch.get_num_threads(),
        "command": command(),
    }


def command() -> str:
    """Return the command line of this process as a user would type it."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    start = f"python -m {spec.name.removesuffix('.__main__')}" if spec else " ".join(["python", sys.argv[0]])
    return " ".join([start, *sys.argv[1:]])
