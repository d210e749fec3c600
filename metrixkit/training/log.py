"""What a run writes while it goes: ``metrics.jsonl`` always, TensorBoard beside it, lines and a bar for people."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from tqdm import tqdm

from metrixkit._streams import flush_or_let_go
from metrixkit.errors import InputError
from metrixkit.files import cannot_write
from metrixkit.visible import visible

log = logging.getLogger(__name__)


class RunLog:
    """Writes a run's numbers; on every process but the first it does nothing.

    Args:
        folder: The run folder.
        active: Whether this process writes.
        tensorboard: Also write event files.
        keep: Bytes of an earlier ``metrics.jsonl`` to keep; the rest belongs to steps that are done again.
        step: The step a continued run starts from.
    """

    def __init__(self, folder: Path, active: bool, tensorboard: bool, keep: int = 0, step: int = 0) -> None:
        self.active, self.folder = active, folder
        self.metrics: TextIO | None = None
        self.text: TextIO | None = None
        self.board: Any = None
        self.bar: tqdm | None = None
        if not active:
            return
        path = folder / "metrics.jsonl"
        text = folder / "log.txt"
        try:
            path.touch()
            size = path.stat().st_size
            with path.open("r+b") as file:
                file.truncate(min(keep, size))
            self.metrics = path.open("a", encoding="utf-8")
            self.text = text.open("a", encoding="utf-8")
        except OSError as error:
            self.close()
            raise cannot_write(error.filename or folder, error) from error
        if size < keep:
            log.warning("%s is shorter than it was at the checkpoint: numbers of earlier steps are lost", path)
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step or None)

    def __enter__(self) -> Self:
        """Return the log."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files; an error that is under way is not hidden by another."""
        with contextlib.suppress(*([OSError, InputError] if error is not None else [])):
            self.close()

    def close(self) -> None:
        """Close the files; nothing may be written afterwards."""
        refused = None
        for sink in (self.metrics, self.text, self.board):
            if sink is not None:
                try:
                    sink.close()
                except OSError as error:
                    refused = error
        if refused is not None:
            raise cannot_write(self.folder, refused) from refused

    def numbers(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Write one line of numbers at a step."""
        if self.metrics is None:
            return
        _write(self.metrics, json.dumps({"step": step, "epoch": round(epoch, 6), **values}))
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)

    def say(self, text: str) -> None:
        """Write a line for people: the terminal and ``log.txt``."""
        if self.text is None:
            return
        _write(self.text, text)
        # A terminal that closed, or a `| head`, stops no training: all of it stands in log.txt.
        with contextlib.suppress(OSError, ValueError):
            tqdm.write(visible(text), file=sys.stdout)
        flush_or_let_go(sys.stdout)

    def size(self) -> int:
        """Return the bytes of ``metrics.jsonl`` written so far."""
        return self.metrics.tell() if self.metrics is not None else 0

    def progress(self, total: int, initial: int, title: str) -> tqdm:
        """Return a bar over an epoch's steps, silent on other processes and where standard error is no terminal."""
        quiet = not (self.active and sys.stderr.isatty())
        return tqdm(total=total, initial=initial, desc=title, disable=quiet, leave=False, dynamic_ncols=True)


def _write(file: TextIO, line: str) -> None:
    try:
        file.write(line + "\n")
        file.flush()
    except OSError as error:
        raise cannot_write(file.name, error) from error
