"""Stopping in good order."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Self

import torch
import torch.distributed as dist

from metrixkit.distributed import world_size


class Stopped(SystemExit):
    """The run was asked to stop and has saved itself; the exit status is 128 + the signal's number."""


class StopSignal:
    """Turns SIGTERM into a wish the loop asks for after each step; the earlier handler returns on exit."""

    def __init__(self) -> None:
        self.requested = False
        self._before: signal.Handlers | None = None

    def __enter__(self) -> Self:
        """Start listening (in the main thread only; elsewhere signals cannot be caught)."""
        try:
            self._before = signal.signal(signal.SIGTERM, self._ask)  # type: ignore[assignment]
        except ValueError:
            self._before = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the earlier handler."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.requested = True

    def agreed(self, device: torch.device) -> bool:
        """Return whether any process was asked; all get the same answer, so that none waits in a collective alone."""
        if world_size() == 1:
            return self.requested
        flag = torch.tensor(float(self.requested), device=device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag.item())
