"""Two gloo processes train as one with the whole batch, in float64, where no batch norm and no local pairing is in the way.

MixCo, i-Mix, Un-Mix and instance mixup pair within a process, so that their mixtures are others on two; their pages say so.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from toy_tower import batch, toy

from metrixkit.methods import BYOL, CLIM, MoCo, SimCLR, SwAV
from metrixkit.seam import Batch

STEPS, COUNT = 6, 8
MAKE: dict[str, Any] = {
    "moco": lambda: MoCo(toy(), dim=4, queue_size=24, momentum=0.9, groups=1),
    "simclr": lambda: SimCLR(toy(), dim=4, batch_norm=False),
    "clim": lambda: CLIM(toy(), clusters=2, dim=4, queue_size=24, momentum=0.9, groups=1, count=20),
}


def part(data: Batch, rank: int, world: int) -> Batch:
    share = COUNT // world
    own = slice(rank * share, (rank + 1) * share)
    return Batch(
        ids=data.ids[own], views=[v[own] for v in data.views], partner_views=[v[own] for v in data.partner_views]
    )


def run_steps(rank: int, world: int, folder: str, name: str) -> None:
    torch.set_num_threads(1)
    if world > 1:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=Path(folder, "port").read_text())
        dist.init_process_group("gloo", rank=rank, world_size=world)
    method = MAKE[name]().double()
    wrapped: nn.Module = DistributedDataParallel(method, broadcast_buffers=False) if world > 1 else method
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.5)
    for number in range(STEPS):
        data = batch(COUNT, seed=number, partners=name == "clim" and number > 1)
        wrapped(part(data, rank, world)).losses["total"].backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(number)
    torch.save(
        {k: v for k, v in method.state_dict().items() if isinstance(v, torch.Tensor)}, f"{folder}/{world}-{rank}.pt"
    )
    if world > 1:
        dist.destroy_process_group()


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize("name", MAKE)
def test_two_processes_equal_one(tmp_path: Path, name: str) -> None:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        (tmp_path / "port").write_text(str(free.getsockname()[1]))
    run_steps(0, 1, str(tmp_path), name)
    mp.spawn(run_steps, (2, str(tmp_path), name), nprocs=2)
    one = torch.load(tmp_path / "1-0.pt")
    for rank in range(2):
        two = torch.load(tmp_path / f"2-{rank}.pt")
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, rtol=1e-9, atol=1e-9, msg=lambda m, key=key: f"{key}: {m}")


def test_byol_and_swav_have_batch_norm() -> None:
    """They are no part of this page: their projectors normalise over each process's own rows."""
    for method in (BYOL(toy(), dim=4, hidden=8), SwAV(toy(), dim=4, hidden=8, prototypes=3)):
        assert any(isinstance(m, nn.BatchNorm1d) for m in method.modules())
