"""SIGKILL at random steps, ten times: the weights of the continued run are those of the uninterrupted one, bit by bit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

SETTINGS = [
    "data.train_classes=60", "data.test_classes=20", "sampler.batch_size=40", "sampler.m=4", "model.dim=32", "training.epochs=12",
    "training.checkpoint_every=3", "training.accelerator=cpu", "training.tensorboard=false", "training.log_every=1",
    "evaluation.every=4",
]  # fmt: skip


def start(repository: Path, run: Path, workers: int, *extra: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "metrixkit.train",
        "configs/glyphs_metrix.yaml",
        *SETTINGS,
        f"loader.workers={workers}",
        "--run",
        str(run),
        *extra,
    ]
    with Path(f"{run}.log").open("ab") as said:
        return subprocess.Popen(command, cwd=repository, env=environment, stdout=said, stderr=said)


def lines(run: Path) -> int:
    log = run / "metrics.jsonl"
    return len(log.read_bytes().splitlines()) if log.exists() else 0


@pytest.mark.slow
def test_ten_kills_change_nothing(repository: Path, tmp_path: Path) -> None:
    whole = start(repository, tmp_path / "whole", 0)
    assert whole.wait() == 0, (tmp_path / "whole.log").read_text()
    draw = random.Random(0)
    kills = 0
    run = tmp_path / "cut"
    while kills < 10:
        process = start(repository, run, kills % 2, "--resume")
        # Further on each time, so that the run gets somewhere: a few logged steps after it has begun to write.
        begun, wanted = lines(run), draw.randint(1, 12)
        grown = False
        while process.poll() is None:
            now = lines(run)
            grown = grown or now > begun
            begun = min(begun, now)
            if now - begun >= wanted:
                break
            time.sleep(0.005)
        if process.poll() is not None:
            assert process.returncode == 0, (tmp_path / "cut.log").read_text()
            break
        time.sleep(draw.random() * 0.05)
        process.kill()
        process.wait()
        kills += 1
    assert kills == 10, f"the run ended after {kills} kills: lengthen it"
    last = start(repository, run, 0, "--resume")
    assert last.wait() == 0, (tmp_path / "cut.log").read_text()
    states = [torch.load(tmp_path / name / "checkpoints/last.pt", weights_only=True) for name in ("whole", "cut")]
    assert states[0]["progress"]["step"] == states[1]["progress"]["step"]
    for name, tensor in states[0]["method"].items():
        same = torch.equal(tensor, states[1]["method"][name]) if isinstance(tensor, torch.Tensor) else True
        assert same, name
    assert (tmp_path / "whole/model/model.safetensors").read_bytes() == (run / "model/model.safetensors").read_bytes()
    assert (tmp_path / "whole/metrics.jsonl").read_text() == (run / "metrics.jsonl").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("usual_signals")
@pytest.mark.parametrize("ignored", [[], [signal.SIGINT, signal.SIGHUP]], ids=["usual", "under nohup"])
def test_sigterm_saves_exits_and_resumes(repository: Path, tmp_path: Path, ignored: list[signal.Signals]) -> None:
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    process = start(repository, tmp_path / "run", 0)
    while lines(tmp_path / "run") < 8 and process.poll() is None:
        time.sleep(0.01)
    process.terminate()
    assert process.wait() == 143, (tmp_path / "run.log").read_text()
    step = torch.load(tmp_path / "run/checkpoints/last.pt", weights_only=True)["progress"]["step"]
    assert step >= 1
    assert start(repository, tmp_path / "run", 0, "--resume").wait() == 0
