"""A progress bar for work that turns out to be long, and for nobody else."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

PATIENCE = 10.0  # seconds; shorter work shows nothing
FIRST_LOOK = 1.0  # seconds after which the rest is estimated


class Progress:
    """Shows a bar on stderr once the work is seen to take long.

    Args:
        total: Amount of work, in any unit.
        what: What the bar says before itself.
        shown: True shows it at once, False never; None only for work of more than :data:`PATIENCE` seconds, and only
            where stderr is a terminal.
    """

    def __init__(self, total: float, what: str, shown: bool | None = None) -> None:
        self._total, self._what, self._done = total, what, 0.0
        self._wanted = sys.stderr.isatty() if shown is None else shown
        self._patience = 0.0 if shown else PATIENCE
        self._start = time.monotonic()
        self._bar: tqdm | None = None

    def add(self, amount: float) -> None:
        """Tell that `amount` more is done."""
        amount = min(amount, self._total - self._done)
        self._done += amount
        if self._bar is not None:
            self._bar.update(amount)
        elif self._wanted:
            elapsed = time.monotonic() - self._start
            long = elapsed > FIRST_LOOK and elapsed * self._total > self._patience * self._done
            if long or self._patience == 0:
                self._bar = tqdm(
                    total=self._total,
                    initial=self._done,
                    desc=self._what,
                    leave=False,
                    file=sys.stderr,
                    bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed}<{remaining}",
                )

    def __enter__(self) -> Progress:
        """Start."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away, also when the work failed."""
        if self._bar is not None:
            self._bar.close()
