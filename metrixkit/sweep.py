"""Many runs from one command: the product of some settings' values, each run in its own folder and process."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import yaml

from metrixkit import config as configs
from metrixkit.errors import InputError
from metrixkit.families import allow_code, names_in
from metrixkit.foreign import read_yaml
from metrixkit.train import run_name
from metrixkit.training.lock import is_taken
from metrixkit.training.run import RunFolder, differences

NEW, UNFINISHED, FINISHED, OTHER = "new", "unfinished", "finished", "other settings"


@dataclass(frozen=True)
class Planned:
    """One run of a sweep.

    Attributes:
        source: The config file.
        overrides: Every ``key=value``, those of the sweep last.
        config: What they resolve to.
        folder: The run folder; a run by hand with the same overrides has the same name.
    """

    source: Path
    overrides: tuple[str, ...]
    config: Mapping[str, Any]
    folder: Path

    def state(self) -> tuple[str, str]:
        """Return ``new``, ``unfinished``, ``finished`` or ``other settings``, and what differs in the last case."""
        run = RunFolder(self.folder)
        if not run.results.exists() and not (run.checkpoints / "last.pt").exists():
            return NEW, ""
        changed = self._changed(self.folder / "config.yaml")
        if changed:
            return OTHER, changed
        return (FINISHED if run.finished else UNFINISHED), ""

    def _changed(self, saved: Path) -> str:
        if not saved.exists():
            return ""
        try:
            raw = read_yaml(saved)
            # A setting that came with a later version stands at its default, which is how the run was made.
            with allow_code(names_in(self.config)):
                return differences(configs.resolve(raw), self.config)
        except InputError as error:
            return f"{saved} is not readable as a config: {error}"

    def command(self, resume: bool) -> list[str]:
        """Return the command that does this run alone."""
        words = [sys.executable, "-m", "metrixkit.train", str(self.source), *self.overrides, "--run", str(self.folder)]
        return [*words, "--resume"] if resume else words


def read_values(swept: str) -> tuple[str, list[str]]:
    """Return the key of ``key=v1,v2,...`` and the text of each value.

    Commas inside brackets, braces or quotes do not separate: ``loss.pairs=[a,b],[c]`` holds two lists.

    Raises:
        InputError: No key, no value, or values that are not readable as YAML.
    """
    key, _, text = swept.partition("=")
    if not key.strip() or not text.strip():
        raise InputError(f"--sweep {swept!r}: expected key=v1,v2,..., such as seed=0,1,2; the config stands before it.")
    inside = f"[{text}]"
    try:
        node: Any = yaml.compose(inside)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or error
        raise InputError(
            f"--sweep {swept!r}: the values are not readable as YAML ({problem}). A value that holds a comma is quoted "
            "or bracketed."
        ) from error
    # The text as it was typed, not the value: the folder is named as that of a run by hand.
    return key.strip(), [inside[v.start_mark.index : v.end_mark.index] for v in node.value]


def plan(
    source: str | Path, overrides: Sequence[str], swept: Sequence[str], root: str | Path = "runs"
) -> list[Planned]:
    """Return the runs of a sweep, all resolved, the last key changing fastest.

    Args:
        source: The config file.
        overrides: ``key=value`` for every run.
        swept: ``key=v1,v2,...``; applied after `overrides`, in their order.
        root: Folder that the run folders stand in.

    Raises:
        InputError: A setting is wrong in any run, one setting would silently undo another, or two runs would be the
            same or share a folder.
    """
    axes = [read_values(text) for text in swept]
    _check_order([override.partition("=")[0].strip() for override in overrides], [key for key, _ in axes])
    runs: list[Planned] = []
    for values in itertools.product(*(values for _, values in axes)):
        changes = [f"{key}={value}" for (key, _), value in zip(axes, values, strict=True)]
        words = [*overrides, *changes]
        try:
            config = configs.load(source, words)
        except InputError as error:
            raise InputError(f"--sweep, at {' '.join(changes)}: {error}") from error
        runs.append(Planned(Path(source), tuple(words), config, Path(root) / run_name(source, words)))
    _check_distinct(runs)
    return runs


def _check_order(fixed: Sequence[str], swept: Sequence[str]) -> None:
    keys = [*fixed, *swept]
    for place, later in enumerate(keys):
        if place < len(fixed):
            continue
        for earlier in keys[:place]:
            if earlier == later:
                raise InputError(f"{later} is set twice, the second time by --sweep. Give it once.")
            if earlier.startswith(later + "."):
                raise InputError(
                    f"--sweep {later}=... replaces the whole of {later} and would undo {earlier}. Put {earlier}=... "
                    f"into the sweep, behind {later}=...; one value is enough."
                )


def _check_distinct(runs: Sequence[Planned]) -> None:
    for one, two in itertools.combinations(runs, 2):
        words = f"{' '.join(one.overrides)} and {' '.join(two.overrides)}"
        if one.config == two.config:
            raise InputError(f"--sweep: {words} are the same run.")
        if one.folder == two.folder:
            raise InputError(
                f"--sweep: {words} would share the folder {one.folder}; data.root and loader.* are no part of a run's "
                "name. Sweep them with one command each and --run FOLDER."
            )


def choose(runs: Sequence[Planned], task: int | None) -> list[tuple[int, Planned]]:
    """Return the numbered runs to do: all, or the one of a job array.

    Raises:
        InputError: No run has that number.
    """
    if task is not None and not 0 <= task < len(runs):
        raise InputError(f"--task {task}: the sweep has {len(runs)} runs, numbered 0 to {len(runs) - 1}.")
    return [(number, run) for number, run in enumerate(runs) if task is None or number == task]


_STOPPING = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]


class Stop:
    """Passes a wish to stop (SIGTERM, Ctrl-C, a closed terminal) on to the run under way as SIGTERM, after which that
    run saves itself.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.child: subprocess.Popen[bytes] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Start listening (in the main thread only; elsewhere signals cannot be caught)."""
        for number in _STOPPING:
            if number != signal.SIGTERM and signal.getsignal(number) is signal.SIG_IGN:
                continue  # nohup, or a background job: a closed terminal or its Ctrl-C is not meant for us
            try:
                self._before[number] = signal.signal(number, self._ask)
            except ValueError:
                break
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the earlier handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        if self.child is not None:
            self.child.terminate()

    def run(self, command: Sequence[str]) -> int:
        """Run a command to its end; return its status (negative: the signal that killed it)."""
        # In a session of its own, for the terminal's Ctrl-C would end it on the spot: it is to be asked, and to save.
        self.child = subprocess.Popen(command, start_new_session=True)
        if self.number is not None:  # asked between the last look and the start
            self.child.terminate()
        status = self.child.wait()
        self.child = None
        return status


def execute(
    chosen: Sequence[tuple[int, Planned]],
    total: int,
    say: Callable[[str], None],
    command: Callable[[Planned, bool], Sequence[str]] = Planned.command,
) -> int:
    """Do the runs one after the other, each in a process of its own; a failing one does not stop the others.

    Args:
        chosen: Numbered runs, from :func:`choose`.
        total: Runs in the whole sweep.
        say: Takes lines for people.
        command: The command of a run, given whether it continues.

    Returns:
        0 where all are finished or under way in another process, 1 where some failed, 128 + the signal's number where
        the sweep was stopped.

    Raises:
        InputError: Started by torchrun, or a folder holds a run with other settings (before anything starts).
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("--sweep starts its own processes: leave torchrun out and set training.devices=N.")
    for _, run in chosen:
        word, why = run.state()
        if word == OTHER:
            raise InputError(
                f"{run.folder} holds a run with other settings ({why}). Give the old ones, delete that folder, or put "
                "the sweep elsewhere with --run FOLDER."
            )
    failed: list[str] = []
    skipped = elsewhere = 0
    with Stop() as stop:
        for number, run in chosen:
            if stop.number is not None:
                break
            word, _ = run.state()  # looked up again: another job may have done it meanwhile
            if word == FINISHED:
                skipped += 1
                say(f"[{number}] finished already: {run.folder}")
                continue
            say(f"[{number}] {'continuing' if word == UNFINISHED else 'starting'} ({total} in all): {run.folder}")
            status = stop.run(command(run, word == UNFINISHED))
            if status and stop.number is None and is_taken(run.folder):
                elsewhere += 1
                say(f"[{number}] left to the other training that is writing there: {run.folder}")
            elif status and stop.number is None:
                failed.append(f"[{number}] {_reason(status)}: {run.folder}")
    if stop.number is not None:
        say(f"sweep stopped by {signal.Signals(stop.number).name}; the same command continues it")
        return 128 + stop.number
    done = len(chosen) - skipped - elsewhere - len(failed)
    others = f", {elsewhere} left to other processes" if elsewhere else ""
    say(f"sweep: {done} done, {skipped} finished before, {len(failed)} failed{others}")
    for line in failed:
        say(f"  {line}")
    return 1 if failed else 0


def _reason(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"failed with status {status}"


def listing(chosen: Sequence[tuple[int, Planned]]) -> str:
    """Return one line a run: its number, state and folder, and what differs where the folder holds another run."""
    lines = []
    for number, run in chosen:
        word, why = run.state()
        lines.append(f"{number:4}  {word:14}  {run.folder}" + (f"  ({why})" if why else ""))
    return "\n".join(lines)
