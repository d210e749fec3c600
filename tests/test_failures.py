"""What goes wrong outside the package: one line, a fitting status, no traceback."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from metrixkit import _streams
from metrixkit._doors import guarded
from metrixkit.errors import InputError
from metrixkit.training.log import RunLog


def raising(error: BaseException) -> Callable[[], int]:
    def work() -> int:
        raise error

    return work


def wrapped_import() -> int:
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt as error:
        raise ImportError("initialization failed") from error


def test_a_warning_is_a_note_for_people() -> None:
    shown: list[str] = []

    def work() -> int:  # pytest keeps warnings from the terminal, so their words are asked for
        shown.append(warnings.formatwarning("recall@8 looks beyond the gallery\x1b[1m", UserWarning, "file.py", 7))
        return 0

    before = warnings.formatwarning
    assert guarded("verb", work) == 0
    assert shown == ["note: recall@8 looks beyond the gallery\\x1b[1m\n"]
    assert warnings.formatwarning is before


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (InputError("E.npy has no rows."), 2, "metrixkit verb: E.npy has no rows.\n"),
        (OSError(errno.ENOSPC, "No space left on device", "a.csv"), 2, "a.csv: No space left on device; make room"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "a.csv"), 2, "Disk quota exceeded; make room within the quota"),
        (OSError(errno.EROFS, "Read-only file system", "a.csv"), 2, "a.csv: Read-only file system; choose a place"),
        (PermissionError(errno.EACCES, "Permission denied", "a.csv"), 2, "a.csv: Permission denied; choose a place"),
        (OSError(errno.EMFILE, "Too many open files", "a.png"), 2, r"raise the limit on open files"),
        (OSError("the hub cannot be reached"), 2, "metrixkit verb: the hub cannot be reached\n"),
        (MemoryError(), 2, "out of memory"),
        (np._core._exceptions._ArrayMemoryError((2**40,), np.dtype("f8")), 2, "Unable to allocate 8.00 TiB"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore"),
            2,
            "Tried to allocate 2 GiB. --",
        ),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 2, "lower sampler.batch_size"),
        (RuntimeError("unable to write to file </torch_1>: shared memory"), 2, "lower loader.workers"),
        (
            OSError(
                "Caught OSError in DataLoader worker process 0.\nOriginal Traceback (most\n  x\nOSError: torn photo"
            ),
            2,
            "metrixkit verb: torn photo\n",
        ),
        (KeyboardInterrupt(), 130, "\nmetrixkit verb: interrupted\n"),
    ],
)
def test_every_failure_is_one_line(
    error: BaseException, status: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert guarded("verb", raising(error)) == status
    said = capsys.readouterr().err
    assert words in said
    assert len(said.strip().splitlines()) == 1


def test_an_interrupt_inside_an_import_is_an_interrupt(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded("verb", wrapped_import) == 130
    assert "interrupted" in capsys.readouterr().err


def test_an_interrupt_that_a_module_turned_into_something_else(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> int:
        with contextlib.suppress(BaseException):
            signal.raise_signal(signal.SIGINT)
        raise ValueError("too many values to unpack")

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert guarded("verb", work) == 130
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with pytest.raises(ValueError, match="too many"):
            guarded("verb", work)  # what the shell ignores stays ignored
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("x"), KeyError("x")])
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        guarded("verb", raising(error))


def test_a_reader_that_left_ends_a_door_quietly() -> None:
    """`metrixkit --help | true`: the shell's status of SIGPIPE, and not a word."""
    code = (
        "import sys, time; from metrixkit._doors import guarded\n"
        "def work():\n    time.sleep(0.2); print('x' * 100); return 0\n"
        "sys.exit(guarded('verb', work))"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    with child.stderr as stderr:
        said = stderr.read()
    assert (child.wait(60), said) == (141, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_standard_output_on_a_full_disk_is_told() -> None:
    code = "import sys; from metrixkit._doors import guarded; sys.exit(guarded('verb', lambda: print('x') or 0))"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert done.returncode == 2
    assert done.stderr.strip() == "metrixkit verb: No space left on device; make room, or choose another place."


def test_closed_streams_and_letters_beyond_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(shown, encoding="ascii"))
    assert guarded("verb", lambda: print("x") or 0) == 0
    guarded("verb", raising(InputError("caf\u00e9: no such file")))
    sys.stdout.close()
    assert shown.getvalue() == b"metrixkit verb: caf\\xe9: no such file\n"


def test_training_goes_on_when_the_terminal_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(sys, "stdout", Gone())
    with RunLog(tmp_path, active=True, tensorboard=False) as log:
        log.say("epoch 1")
        log.say("epoch 2")
    assert (tmp_path / "log.txt").read_text() == "epoch 1\nepoch 2\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_numbers_on_a_full_disk_are_told(tmp_path: Path) -> None:
    log = RunLog(tmp_path, active=True, tensorboard=False)
    assert log.metrics is not None
    log.metrics.close()
    log.metrics = open("/dev/full", "w")  # noqa: SIM115
    with pytest.raises(InputError, match="cannot write /dev/full: No space left"), log:
        log.numbers(1, 0, {"loss": 1.0})


def test_numbers_that_are_gone_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with RunLog(tmp_path, active=True, tensorboard=False) as log:
        log.numbers(1, 0, {"loss": 1.0})
        size = log.size()
    with RunLog(tmp_path, active=True, tensorboard=False, keep=size, step=1):
        assert not caplog.records
    (tmp_path / "metrics.jsonl").unlink()
    with RunLog(tmp_path, active=True, tensorboard=False, keep=size, step=1):
        assert "metrics.jsonl is shorter than it was at the checkpoint" in caplog.text
    (tmp_path / "log.txt").unlink()
    (tmp_path / "log.txt").mkdir()
    with pytest.raises(InputError, match="cannot write .*log.txt: Is a directory"):
        RunLog(tmp_path, active=True, tensorboard=False)


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.15, 0.4, 0.8, 1.5, 2.5])
@pytest.mark.parametrize("door", ["train", "data", "index"])
def test_ctrl_c_during_imports(door: str, delay: float, repository: Path) -> None:
    """Whatever is being imported, Ctrl-C is answered in one line."""
    more = {
        "train": ["configs/glyphs_metrix.yaml", "training.epochs=0"],
        "data": ["list"],
        "index": ["build", "x", "y", "--out", "z"],
    }[door]
    child = subprocess.Popen(
        [sys.executable, "-m", f"metrixkit.{door}", *more],
        cwd=repository,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job ignores the signal, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    time.sleep(delay)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=120)
    assert "Traceback" not in said
    assert child.returncode in (130, 0, 2, -signal.SIGINT), said


def test_flushing_a_stream_that_is_closed(tmp_path: Path) -> None:
    stream = open(tmp_path / "x", "w")  # noqa: SIM115
    stream.close()
    _streams.flush_or_let_go(stream)
