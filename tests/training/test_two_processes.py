"""Two gloo processes train as one with the whole batch, to 1e-6, where batch norm is frozen.

Through the doors over the few steps in which float32 rounding stays below that; in float64 over twenty.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file
from torch.nn.parallel import DistributedDataParallel

from metrixkit.losses import Metrix, MultiSimilarity, ProxyAnchor
from metrixkit.methods import MetricLearning
from metrixkit.models import ImageEncoder
from metrixkit.seam import Batch

SETTINGS = [
    "data.train_classes=12", "data.test_classes=8", "sampler.batch_size=40", "sampler.m=4", "model.dim=32", "model.freeze_batch_norm=true",
    "training.epochs=1", "training.accelerator=cpu", "training.tensorboard=false", "loader.workers=0", "optimizer=sgd", "optimizer.lr=0.01",
]  # fmt: skip


def train(repository: Path, start: list[str], *settings: str, status: int = 0) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *start, "-m", "metrixkit.train", "configs/glyphs_metrix.yaml", *SETTINGS, *settings]
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stderr


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize("loss", ["metrix", "proxy_anchor"])
def test_two_processes_equal_one(repository: Path, tmp_path: Path, loss: str) -> None:
    extra = [] if loss == "metrix" else ["loss=proxy_anchor", "method.proxy_lr=10"]
    train(repository, [], *extra, "--run-dir", str(tmp_path / "one"))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    train(repository, torchrun, *extra, "--run-dir", str(tmp_path / "torchrun"))
    train(repository, [], *extra, "training.devices=2", "--run-dir", str(tmp_path / "devices"))
    # A finished folder is refused once, in a line, and no process is left waiting.
    said = train(repository, [], *extra, "training.devices=2", "--run-dir", str(tmp_path / "devices"), status=2)
    assert "Traceback" not in said
    one = load_file(tmp_path / "one/model/model.safetensors")
    for name in ("torchrun", "devices"):
        two = load_file(tmp_path / name / "model/model.safetensors")
        worst = max(float((one[k] - two[k]).abs().max()) for k in one if one[k].is_floating_point())
        assert worst < 1e-6, worst
        moved = torch.load(tmp_path / "one/checkpoints/last.pt", weights_only=True)["progress"]["step"]
        assert moved == torch.load(tmp_path / name / "checkpoints/last.pt", weights_only=True)["progress"]["step"]


def run_steps(rank: int, world: int, folder: str, proxies: bool, steps: int = 20) -> None:
    """Train `steps` steps on this process's part of fixed batches and save the weights of process 0."""
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet-{proxies}", rank=rank, world_size=world)
    torch.manual_seed(0)
    model = ImageEncoder("small", image_size=32, dim=16, freeze_batch_norm=True)
    loss = ProxyAnchor(num_classes=5, dim=16) if proxies else MultiSimilarity()
    method = MetricLearning(model, Metrix(loss, seed=3)).double()
    wrapped = DistributedDataParallel(method, broadcast_buffers=False) if world > 1 else method
    optimizer = torch.optim.SGD(method.parameters(), lr=0.01, momentum=0.9)
    draw = torch.Generator().manual_seed(1)
    for _ in range(steps):
        images = torch.randint(0, 256, (20, 3, 32, 32), generator=draw, dtype=torch.uint8)
        labels = torch.arange(20) % 5
        part = slice(rank * 20 // world, (rank + 1) * 20 // world)
        output = wrapped(Batch([str(i) for i in range(20)][part], labels[part], [images[part]]))
        optimizer.zero_grad()
        output.losses["total"].backward()
        optimizer.step()
    if rank == 0:
        torch.save(method.state_dict(), f"{folder}/{world}-{proxies}.pt")
    if world > 1:
        dist.destroy_process_group()


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize("proxies", [False, True])
def test_twenty_steps_in_float64(tmp_path: Path, proxies: bool) -> None:
    run_steps(0, 1, str(tmp_path), proxies)
    mp.spawn(run_steps, args=(2, str(tmp_path), proxies), nprocs=2)
    one, two = (torch.load(tmp_path / f"{world}-{proxies}.pt", weights_only=True) for world in (1, 2))
    worst = max(
        float((one[k] - two[k]).abs().max())
        for k in one
        if isinstance(one[k], torch.Tensor) and one[k].is_floating_point()
    )
    assert worst < 1e-9, worst
    torch.manual_seed(0)
    start = ImageEncoder("small", image_size=32, dim=16).double().state_dict()
    assert max(float((one[f"model.{k}"] - start[k]).abs().max()) for k in start if start[k].is_floating_point()) > 1e-3
