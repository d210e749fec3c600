"""Checkpoints: everything a killed run needs to go on as if nothing had happened, written atomically."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from metrixkit.errors import InputError
from metrixkit.files import replacing


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
        InputError: The file is broken, or of another model.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"checkpoint {path} is not readable ({error}); delete it to start anew.") from error
    try:
        method.load_state_dict(state["method"])
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise InputError(f"checkpoint {path} is of another model: {error}") from error
    torch.set_rng_state(state["rng"])
    if device.type == "cuda" and state["cuda_rng"]:
        torch.cuda.set_rng_state_all(state["cuda_rng"])
    return Progress(**state["progress"])
