"""How long, how precise, on what: the settings of the loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from metrixkit.errors import InputError


@dataclass
class TrainingSettings:
    """Settings of the training loop.

    Attributes:
        epochs: Passes over the training split.
        warmup_epochs: First epochs in which only the head and the proxies move (the others at rate zero).
        clip_value: Limit on each gradient entry, or null.
        clip_norm: Limit on the norm of the whole gradient, or null.
        precision: ``32`` or ``bf16`` (autocast). Losses, distances and ranks stay in float32 or more. The run's own
            evaluations embed in this precision, ``python -m metrixkit.evaluate`` in float32: the last digits differ.
        devices: Number of processes on this machine, or ``auto`` for all accelerators (one on a processor). Under
            torchrun its environment decides.
        oversubscribe: Allow more processes than there are processors (each then waits for the others most of the time).
        accelerator: ``auto``, ``cpu`` or ``cuda``.
        accumulate: Steps whose gradients are summed before an update.
        accumulate_coupled: Allow that for a loss that couples the rows of a batch, where it is another loss than one
            large batch.
        checkpoint_every: Steps between checkpoints; null for one an epoch.
        sync_batch_norm: Batch statistics over all processes (accelerators only; of one process they are its own).
        compile: Compile the image encoder with torch.compile.
        tensorboard: Write TensorBoard event files beside ``metrics.jsonl``.
        log_every: Steps between lines of the step log.
    """

    epochs: int = 10
    warmup_epochs: int = 0
    clip_value: float | None = None
    clip_norm: float | None = None
    precision: Literal["32", "bf16"] = "32"
    devices: int | str = "auto"
    oversubscribe: bool = False
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    accumulate: int = 1
    accumulate_coupled: bool = False
    checkpoint_every: int | None = None
    sync_batch_norm: bool = False
    compile: bool = False
    tensorboard: bool = True
    log_every: int = 10

    def __post_init__(self) -> None:
        """Refuse what no loop can do.

        Raises:
            InputError: A number out of range.
        """
        least = {"epochs": 0, "warmup_epochs": 0, "accumulate": 1, "checkpoint_every": 1, "log_every": 1}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise InputError(f"training.{name}={value}: expected a whole number of at least {bound}.")
        for name in ("clip_value", "clip_norm"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"training.{name}={value}: expected a number above 0, or null for no limit.")
        if self.devices != "auto" and not (str(self.devices).isdecimal() and int(self.devices) > 0):
            raise InputError(f"training.devices={self.devices}: expected a number of processes, or auto.")
