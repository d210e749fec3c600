"""Two gloo processes train as one with the whole batch, to 1e-6, where batch norm is frozen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SETTINGS = [
    "data.train_classes=40", "data.test_classes=20", "sampler.batch_size=40", "sampler.m=4", "model.dim=32", "model.freeze_batch_norm=true",
    "training.epochs=2", "training.accelerator=cpu", "training.tensorboard=false", "loader.workers=0", "optimizer=sgd", "optimizer.lr=0.01",
]  # fmt: skip


def train(repository: Path, start: list[str], *settings: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *start, "-m", "metrixkit.train", "configs/glyphs_metrix.yaml", *SETTINGS, *settings]
    done = subprocess.run(
        command, cwd=repository, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize("loss", ["metrix", "proxy_anchor"])
def test_two_processes_equal_one(repository: Path, tmp_path: Path, loss: str) -> None:
    extra = [] if loss == "metrix" else ["loss=proxy_anchor", "method.proxy_lr=10"]
    train(repository, [], *extra, "--run", str(tmp_path / "one"))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    train(repository, torchrun, *extra, "--run", str(tmp_path / "torchrun"))
    train(repository, [], *extra, "training.devices=2", "--run", str(tmp_path / "devices"))
    one = load_file(tmp_path / "one/model/model.safetensors")
    for name in ("torchrun", "devices"):
        two = load_file(tmp_path / name / "model/model.safetensors")
        worst = max(float((one[k] - two[k]).abs().max()) for k in one if one[k].is_floating_point())
        assert worst < 1e-6, worst
        moved = torch.load(tmp_path / "one/checkpoints/last.pt", weights_only=True)["progress"]["step"]
        assert moved == torch.load(tmp_path / name / "checkpoints/last.pt", weights_only=True)["progress"]["step"]
