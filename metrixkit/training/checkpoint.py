"""Checkpoints: everything a killed run needs to go on as if nothing had happened, written atomically."""

from __future__ import annotations

import zipfile
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from metrixkit.errors import InputError
from metrixkit.files import replacing

_KEYS = {"method", "optimizer", "progress", "rng", "cuda_rng"}
_ANEW = "Put back a copy, or delete the run folder to start anew."


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        epoch: The epoch under way, from 0.
        position: Batches of it already consumed.
        step: Batches consumed since the start.
        loss_sum: Sum of the losses of the epoch under way.
        best: Best validation score so far, or None.
        best_epoch: Epochs finished when it was reached.
        before: Metrics before the first step.
        history: Metrics after each evaluated epoch, with ``"epoch"``.
        seconds: Time spent training, over all continuations.
        log_size: Bytes of ``metrics.jsonl`` that belong to this state; what was written later is cut on resume.
    """

    epoch: int = 0
    position: int = 0
    step: int = 0
    loss_sum: float = 0.0
    best: float | None = None
    best_epoch: int = 0
    before: dict[str, Any] | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    log_size: int = 0


def save(path: Path, method: nn.Module, optimizer: Optimizer, progress: Progress) -> None:
    """Write the resume state to `path`, the old file staying whole until the new one is complete.

    Raises:
        InputError: A weight is not finite; such a state is never saved over a good one.
    """
    for name, tensor in method.state_dict().items():
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(
                f"{name} is not finite after step {progress.step}; the last good checkpoint is kept at {path}. Lower "
                "optimizer.lr."
            )
    write(
        path,
        {
            "method": method.state_dict(),
            "optimizer": optimizer.state_dict(),
            "progress": asdict(progress),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        },
    )


def write(path: Path, content: Any) -> None:
    """Write `content` with torch.save, whole or not at all."""
    with replacing(path) as file:
        torch.save(content, file)


def load(path: Path, method: nn.Module, optimizer: Optimizer, device: torch.device) -> Progress:
    """Restore method, optimiser and generators from `path`; return the progress.

    Raises:
        InputError: The file is broken, of another shape, or of another model.
    """
    state = read(path)
    if not isinstance(state, dict) or not state.keys() >= _KEYS:
        raise InputError(f"checkpoint {path} is no state of a run: expected {', '.join(sorted(_KEYS))}. {_ANEW}")
    progress = _progress(path, state["progress"])
    try:
        method.load_state_dict(state["method"])
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(f"checkpoint {path} is of another model: {str(error)[:500]}") from error
    try:
        torch.set_rng_state(state["rng"])
        if device.type == "cuda" and state["cuda_rng"]:
            torch.cuda.set_rng_state_all(state["cuda_rng"])
    except (RuntimeError, TypeError, AttributeError, IndexError) as error:
        raise InputError(f"checkpoint {path} holds no states of random generators ({error}). {_ANEW}") from error
    return progress


def load_weights(path: Path, method: nn.Module) -> None:
    """Restore the weights that :func:`write` wrote, ``best.pt``.

    Raises:
        InputError: The file is missing, broken, or of another model.
    """
    weights = read(path)
    try:
        method.load_state_dict(weights)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"checkpoint {path} is of another model: {str(error)[:500]}") from error


def read(path: Path) -> Any:
    """Return what :func:`write` wrote, on the processor, its checksums compared.

    torch reads a checkpoint without looking at the checksums (CRC-32) that stand in it.

    Raises:
        InputError: The file is missing, cut off, altered, or no checkpoint.
    """
    if not path.is_file():
        raise InputError(f"checkpoint {path} is missing. {_ANEW}")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                altered = archive.testzip()
            if altered is not None:
                raise InputError(f"checkpoint {path} is altered: the checksum of {altered} differs. {_ANEW}")
        return torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # whatever a broken file makes of two readers
        told = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"checkpoint {path} is not readable ({told[:300]}). {_ANEW}") from error


def _progress(path: Path, told: Any) -> Progress:
    """Return the progress a checkpoint tells of; fields that came with a later version stand at their defaults."""
    known = {field.name for field in fields(Progress)}
    if not isinstance(told, dict) or not told.keys() <= known:
        unknown = sorted(map(str, told.keys() - known)) if isinstance(told, dict) else [type(told).__name__]
        raise InputError(
            f"checkpoint {path}: its progress is not as this version writes it ({', '.join(unknown)}): a newer "
            f"metrixkit wrote it, or it is damaged. {_ANEW}"
        )
    progress = Progress(**told)
    whole = (progress.epoch, progress.position, progress.step, progress.best_epoch, progress.log_size)
    fine = (
        all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in whole)
        and all(isinstance(x, int | float) for x in (progress.loss_sum, progress.seconds))
        and (progress.best is None or isinstance(progress.best, int | float))
        and (progress.before is None or isinstance(progress.before, dict))
        and isinstance(progress.history, list)
        and all(isinstance(entry, dict) for entry in progress.history)
    )
    if not fine:
        raise InputError(f"checkpoint {path}: its progress holds what is no count or no number. {_ANEW}")
    return progress
