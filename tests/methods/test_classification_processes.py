"""Two gloo processes train a clean classifier as one with the whole batch, and lambda is one in both.

Mixtures are of a process's own rows, so that they are others on two; their pages say so.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from toy_tower import toy, views

from metrixkit.methods import Classification
from metrixkit.methods.image_mixers import MixUp
from metrixkit.seam import Batch

STEPS, COUNT = 4, 8


def run_steps(rank: int, world: int, folder: str, mixed: bool) -> None:
    torch.set_num_threads(1)
    if world > 1:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=Path(folder, "port").read_text())
        dist.init_process_group("gloo", rank=rank, world_size=world)
    torch.manual_seed(0)
    method = Classification(toy(), 3, MixUp() if mixed else None, label_smoothing=0.1).double()
    wrapped: nn.Module = DistributedDataParallel(method, broadcast_buffers=False) if world > 1 else method
    optimizer = torch.optim.SGD(method.parameters(), lr=0.5)
    lambdas = []
    share = COUNT // world
    own = slice(rank * share, (rank + 1) * share)
    for number in range(STEPS):
        labels = (torch.arange(COUNT) + number) % 3
        images = views(COUNT, 1, seed=number)[0].double() / 255
        output = wrapped(Batch(ids=[], labels=labels[own], views=[images[own]]))
        output.losses["total"].backward()
        lambdas.append(output.logs()["lambda"])
        optimizer.step()
        optimizer.zero_grad()
    state = {k: v for k, v in method.state_dict().items() if isinstance(v, torch.Tensor)}
    torch.save({"state": state, "lambdas": lambdas}, f"{folder}/{world}-{rank}.pt")
    if world > 1:
        dist.destroy_process_group()


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize("mixed", [False, True])
def test_two_processes(tmp_path: Path, mixed: bool) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        (tmp_path / "port").write_text(str(free.getsockname()[1]))
    run_steps(0, 1, str(tmp_path), mixed)
    mp.spawn(run_steps, (2, str(tmp_path), mixed), nprocs=2)
    one, *two = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    for found in two:
        assert found["lambdas"] == pytest.approx(one["lambdas"])
        for name, value in found["state"].items():
            torch.testing.assert_close(value, two[0]["state"][name], rtol=0, atol=0)
            if not mixed:
                torch.testing.assert_close(value, one["state"][name], rtol=1e-10, atol=1e-12)
