"""Freed memory stays with the process: counted in page faults, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from metrixkit import _doors

PROGRAM = """
import resource, sys
from metrixkit._memory import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else None
def step():
    maps = [b"x" * (40 * 2**20) for _ in range(4)]
for _ in range(20):  # until the heap has settled
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str, **environment: str) -> tuple[str, int]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_", "LD_PRELOAD"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True, env=clean | environment
    )
    kept, count = done.stdout.split()
    return kept, int(count)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc is of Linux")
def test_large_blocks_are_not_faulted_in_again() -> None:
    kept, few = faults("keep")
    if kept == "False":
        pytest.skip("not glibc")
    _, many = faults("leave")
    assert many > 20 * 10_000  # 20 blocks of 10,240 pages of 4 KB each
    assert few < many / 20


def test_who_chose_an_allocator_is_left_alone() -> None:
    assert faults("keep", MALLOC_TRIM_THRESHOLD_="131072")[0] == "False"


def test_every_door_keeps_it(monkeypatch) -> None:
    calls = []
    monkeypatch.setattr(_doors, "keep_freed_memory", lambda: calls.append("kept"))
    assert _doors.guarded("verb", lambda: len(calls)) == 1  # before the work begins
