"""Two gloo processes train SAMix as one does with the whole batch, in float64, without batch norm.

Partners are drawn within a process, so the one process is given the same partners. A lambda a sample and a mask loss a
sample add up over processes; the mean of a batch's masks, with one lambda, would be taken by each process for itself.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from metrixkit.methods import SAMix, SAMixC, SAMixI, samix, samix_core
from metrixkit.mixing import draw_partners
from metrixkit.seam import Batch, Group

STEPS, COUNT, ITEMS = 4, 8, 24
PLAIN = {"content_layers": "linear", "dropout": 0.0, "gamma": 1.0}


class Maps(nn.Module):
    """Two convolutions without batch norm, to be cut between them."""

    embedding_dim = 6
    image_size = 8

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 6, 3, padding=1)

    def features(self, images: Tensor, stage: int | None = None) -> Tensor:
        return torch.tanh(self.first(images.to(self.first.weight)))

    def head_from(self, stage: int | None = None) -> Any:
        return lambda maps: torch.tanh(self.second(maps)).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.head_from()(self.features(images))  # type: ignore[no-any-return]

    def parameter_groups(self) -> list[Group]:
        return [Group("backbone", list(self.parameters()))]


TOWER: dict[str, Any] = {"dim": 4, "queue_size": 24, "groups": 1, "momentum": 0.9}
MAKE: dict[str, Any] = {
    "samix": lambda: SAMix(Maps(), 3, mixer_options=PLAIN, momentum=0.9, steps=STEPS),
    "samix_i": lambda: SAMixI(Maps(), mixer_options=PLAIN, steps=STEPS, **TOWER),
    "samix_c": lambda: SAMixC(
        Maps(), ITEMS, mixer_options=PLAIN, clusters=3, least=2, refresh=2, filter_negatives=True, steps=STEPS, **TOWER
    ),
}


def part(number: int, rank: int, world: int) -> Batch:
    g = torch.Generator().manual_seed(number)
    views = [torch.randint(0, 256, (COUNT, 3, 8, 8), dtype=torch.uint8, generator=g) for _ in range(2)]
    labels, index = torch.randint(0, 3, (COUNT,), generator=g), torch.randperm(ITEMS, generator=g)[:COUNT]
    own = slice(rank * COUNT // world, (rank + 1) * COUNT // world)
    return Batch(ids=["x"] * COUNT, labels=labels[own], index=index[own], views=[view[own] for view in views])


def run_steps(rank: int, world: int, folder: str, name: str) -> None:
    torch.set_num_threads(1)
    if world > 1:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=Path(folder, "port").read_text())
        dist.init_process_group("gloo", rank=rank, world_size=world)
    else:

        def halves(count: int, how: str, generator: torch.Generator) -> Tensor:
            own = draw_partners(count // 2, how, generator)
            return torch.cat([own, own + count // 2])

        samix.draw_partners = samix_core.draw_partners = halves  # type: ignore[attr-defined]
    torch.manual_seed(0)
    method = MAKE[name]().double()
    with torch.no_grad():
        for p in method.learned_masks.mixer.parameters():
            p += 0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1), dtype=p.dtype)
    method.before_epoch(0, lambda: torch.randn(ITEMS, 4, generator=torch.Generator().manual_seed(2)))
    wrapped: nn.Module = DistributedDataParallel(method, broadcast_buffers=False) if world > 1 else method
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.5)
    for number in range(STEPS):
        wrapped(part(number, rank, world)).losses["total"].backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(number)
    tensors = {k: v for k, v in method.state_dict().items() if isinstance(v, Tensor)}
    torch.save(tensors, f"{folder}/{world}-{rank}.pt")
    if world > 1:
        dist.destroy_process_group()
    else:
        samix.draw_partners = samix_core.draw_partners = draw_partners  # type: ignore[attr-defined]


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
