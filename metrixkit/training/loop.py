"""The training loop. It knows a recipe only by the seam and an evaluation only as a callable."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from metrixkit.errors import InputError
from metrixkit.seam import Batch, Method
from metrixkit.training import checkpoint
from metrixkit.training.checkpoint import Progress
from metrixkit.training.divergence import Step, Watch, gradient_norm
from metrixkit.training.log import RunLog
from metrixkit.training.optim import Rates
from metrixkit.training.running_statistics import average_running_statistics
from metrixkit.training.settings import TrainingSettings
from metrixkit.training.signals import Stopped, StopSignal

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Sampler(Protocol):
    """What the loop asks of a sampler; it yields this process's part of each batch."""

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        ...

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on at ``{"epoch": e, "position": k}``: the next batch is the k-th of epoch e."""
        ...

    def set_partners(self, pools: Tensor | None) -> None:
        """Draw each item's partner from its row of (items, p); None for no partners."""
        ...


@dataclass
class Trainer:
    """One training run, from the progress it was left at to its last epoch.

    Attributes:
        method: The recipe, unwrapped: its state is what checkpoints hold.
        wrapped: The same recipe as Fabric set it up; called once a step.
        optimizer: As Fabric set it up.
        rates: Sets the learning rates from the progress.
        loader: Yields this process's batches in the sampler's order.
        sampler: Shared with the loader.
        fabric: Devices, precision and processes.
        settings: Of the loop.
        checkpoints: Folder of ``last.pt`` and ``best.pt``.
        log: Where numbers go.
        evaluate: Called with the number of finished epochs after each that is evaluated; returns metrics, the same on
            every process.
        select_by: Name of the metric (higher is better) that selects ``best.pt``, or None to keep the last.
        evaluate_every: Epochs between evaluations.
        embed: Training embeddings for :meth:`Method.before_epoch`.
    """

    method: Method
    wrapped: nn.Module
    optimizer: Optimizer
    rates: Rates
    loader: Iterable[Batch]
    sampler: Sampler
    fabric: Fabric
    settings: TrainingSettings
    checkpoints: Path
    log: RunLog
    evaluate: Callable[[int], dict[str, float]]
    select_by: str | None
    evaluate_every: int
    embed: Callable[[], Tensor]
    watch: Watch = field(init=False)

    def __post_init__(self) -> None:
        """Watch from the first step on."""
        self.watch = Watch(self.checkpoints / "last.pt")

    def run(self, progress: Progress) -> Progress:
        """Train to the last epoch.

        Raises:
            Diverged: The loss or the gradient became NaN or infinite.
            Stopped: SIGTERM arrived; the state is saved.
        """
        if self.settings.accumulate > 1 and self.method.needs().batch_coupled and not self.settings.accumulate_coupled:
            raise InputError(
                f"training.accumulate={self.settings.accumulate}: this loss couples the rows of a batch, so gradients "
                "summed over small batches "
                "are another loss than one large batch. Set training.accumulate_coupled=true if that is what you want."
            )
        with StopSignal() as stop:
            if progress.step == 0:
                self.save(progress)
            while progress.epoch < self.settings.epochs:
                self.epoch(progress, stop)
        return progress

    def epoch(self, progress: Progress, stop: StopSignal) -> None:
        """Train one epoch from its position on, then evaluate and save."""
        module = self.raw
        epoch, steps = progress.epoch, len(self.sampler)
        if progress.position == 0:
            plan = self.method.before_epoch(epoch, self.embed)
            if plan.logs:
                self.log.numbers(progress.step, epoch, plan.logs)
        if self.method.needs().partners:
            pools: Tensor = self.method.partners  # type: ignore[attr-defined]
            self.sampler.set_partners(pools.cpu() if bool((pools >= 0).any()) else None)
        self.sampler.load_state_dict({"epoch": epoch, "position": progress.position})
        module.train()
        started = time.perf_counter()
        every, accumulate, wanted = self.settings.checkpoint_every, self.settings.accumulate, False
        with self.log.progress(steps, progress.position, f"epoch {epoch + 1}/{self.settings.epochs}") as bar:
            for batch in self.loader:
                value = self.step(batch, progress, steps)
                bar.update()
                bar.set_postfix(loss=f"{value:.4g}")
                wanted = wanted or (every is not None and progress.step % every == 0)
                if progress.position % accumulate and progress.position < steps:
                    continue  # gradients are held that no checkpoint keeps
                stopping = stop.agreed(self.fabric.device)
                if stopping or wanted:
                    wanted = False
                    now = time.perf_counter()
                    progress.seconds, started = progress.seconds + now - started, now
                    self.watch.settle()
                    average_running_statistics(module)
                    self.save(progress)
                if stopping:
                    self.log.say(f"stopped by SIGTERM after step {progress.step}; continue with --resume")
                    raise Stopped(143)
        self.watch.settle()
        average_running_statistics(module)
        progress.seconds += time.perf_counter() - started
        mean = progress.loss_sum / max(steps, 1)
        progress.epoch, progress.position, progress.loss_sum = epoch + 1, 0, 0.0
        last = progress.epoch == self.settings.epochs
        metrics = self.evaluate(progress.epoch) if last or progress.epoch % self.evaluate_every == 0 else {}
        self.finish_epoch(progress, mean, metrics)

    def step(self, batch: Batch, progress: Progress, steps: int) -> float:
        """Do one forward and backward pass, and an update where accumulation is complete; return the loss."""
        rates = self.rates.set(progress.epoch + progress.position / steps)
        accumulate = self.settings.accumulate
        update = (progress.position + 1) % accumulate == 0 or progress.position + 1 == steps
        with self.fabric.no_backward_sync(self.wrapped, enabled=not update):  # type: ignore[arg-type]
            output = self.wrapped(batch.to(self.fabric.device))
            losses = {name: part.detach() for name, part in output.losses.items()}
            this = Step(progress.step, progress.epoch, batch.ids, losses, rates)
            value = self.watch.read(this)
            self.fabric.backward(output.losses["total"] / accumulate)
        logged = (progress.step + 1) % self.settings.log_every == 0 or progress.step == 0
        own = output.logs() if logged and self.log.active else {}
        if update:
            this.norm = self.clip()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.method.after_step(progress.step)
        progress.step += 1
        progress.position += 1
        progress.loss_sum += value
        if logged:
            values = {f"loss/{name}": float(part) for name, part in losses.items()}
            values |= {f"lr/{name}": rate for name, rate in rates.items()} | own
            if this.norm is not None:
                values["gradient_norm"] = float(this.norm)
            self.log.numbers(progress.step, progress.epoch + progress.position / steps, values)
        return value

    def clip(self) -> Tensor | None:
        """Limit the gradient as the settings say; return its norm before, a scalar on the device.

        None where the strategy clips without telling it.
        """
        norm: Tensor | None
        if self.settings.clip_norm is None:
            norm = gradient_norm(self.optimizer)
        else:
            norm = self.fabric.clip_gradients(
                self.wrapped,  # type: ignore[arg-type]
                self.optimizer,
                max_norm=self.settings.clip_norm,
                error_if_nonfinite=False,  # the watch says more, and waits for nothing
            )
        if self.settings.clip_value is not None:
            self.fabric.clip_gradients(self.wrapped, self.optimizer, clip_val=self.settings.clip_value)  # type: ignore[arg-type]
        return norm

    def finish_epoch(self, progress: Progress, loss: float, metrics: dict[str, float]) -> None:
        """Log an epoch, keep the best weights, save."""
        words = [f"epoch {progress.epoch}/{self.settings.epochs}", f"loss {loss:.4f}"]
        if metrics:
            progress.history.append({"epoch": progress.epoch, **metrics})
            self.log.numbers(progress.step, progress.epoch, metrics)
            words += [
                f"{name} {100 * value:.1f}"
                for name, value in metrics.items()
                if name == self.select_by or name.endswith(("/recall@1", "/map@r", "/top1"))
            ]
            if self.select_by is not None:
                score = metrics[self.select_by]
                if progress.best is None or score > progress.best:
                    progress.best, progress.best_epoch = score, progress.epoch
                    if self.fabric.is_global_zero:
                        checkpoint.write(self.checkpoints / "best.pt", self.raw.state_dict())
                    words.append("(best)")
        self.log.say("  ".join(words))
        self.save(progress)

    def save(self, progress: Progress) -> None:
        """Write ``last.pt`` on the first process."""
        progress.log_size = self.log.size()
        if self.fabric.is_global_zero:
            checkpoint.save(self.checkpoints / "last.pt", self.raw, self.optimizer, progress)

    @property
    def raw(self) -> nn.Module:
        """The method as the module it is."""
        return self.method  # type: ignore[return-value]


def make_fabric(settings: TrainingSettings) -> Fabric:
    """Return Fabric for the settings; under torchrun its environment says how many processes there are.

    Raises:
        InputError: The accelerator is not there.
    """
    from lightning_fabric import Fabric  # seconds to import
    from lightning_fabric.strategies import DDPStrategy

    accelerator = settings.accelerator
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise InputError("training.accelerator=cuda, but torch sees no CUDA device. Use training.accelerator=auto.")
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    devices: Any = settings.devices
    nodes = 1
    if "LOCAL_WORLD_SIZE" in os.environ:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ.get("GROUP_WORLD_SIZE", "1"))
    elif devices == "auto":
        devices = max(torch.cuda.device_count(), 1) if accelerator == "cuda" else 1
    _refuse_more_than_there_are(int(devices), accelerator, settings.oversubscribe)
    many = int(devices) * nodes > 1
    if settings.sync_batch_norm and accelerator == "cpu":
        raise InputError(
            "training.sync_batch_norm needs accelerators; on processors use model.freeze_batch_norm=true or one "
            "process."
        )
    precision: Any = "bf16-mixed" if settings.precision == "bf16" else "32-true"
    # Buffers stay each process's own: broadcasting them would overwrite queues and moving averages mid-step.
    strategy: Any = DDPStrategy(broadcast_buffers=False) if many else "auto"
    return Fabric(
        accelerator=accelerator, devices=int(devices), num_nodes=nodes, strategy=strategy, precision=precision
    )


def _refuse_more_than_there_are(processes: int, accelerator: str, oversubscribe: bool) -> None:
    """Refuse more processes on this machine than it has accelerators or processors for."""
    if accelerator == "cuda" and processes > torch.cuda.device_count():
        raise InputError(
            f"training.devices={processes}, but torch sees {torch.cuda.device_count()} CUDA devices. Lower it, or use "
            "training.devices=auto for all."
        )
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if accelerator == "cpu" and processes > processors and not oversubscribe:
        raise InputError(
            f"training.devices={processes}, but this process may use {processors} processors: the processes would wait "
            "for one another. Lower it, or set training.oversubscribe=true."
        )
