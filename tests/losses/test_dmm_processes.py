"""Dynamic mixed margin in two processes: the gradient is that of one process, inputs being mixed within each."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from metrixkit.losses import DynamicMixedMargin, Triplet
from metrixkit.methods import MetricLearning
from metrixkit.mixing import mix_inputs
from metrixkit.models import ImageEncoder
from metrixkit.seam import Batch

LABELS = torch.arange(20) % 5
IMAGES = torch.randint(0, 256, (20, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
PARTS = (slice(0, 10), slice(10, 20))


def made(level):
    torch.manual_seed(0)
    model = ImageEncoder("small", image_size=32, dim=16, freeze_batch_norm=True)
    return MetricLearning(model, DynamicMixedMargin(Triplet(0.5), level=level, ramp=None, seed=3)).double()


def one_rank(rank, folder, level):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    method = made(level)
    wrapped = DistributedDataParallel(method, broadcast_buffers=False)
    part = PARTS[rank]
    wrapped(Batch([str(i) for i in range(20)][part], LABELS[part], [IMAGES[part]])).losses["total"].backward()
    if rank == 0:
        torch.save({name: p.grad for name, p in method.named_parameters()}, f"{folder}/two.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize("level", ["embed", "input"])
def test_two_processes_have_the_gradient_of_one(tmp_path, level):
    mp.spawn(one_rank, args=(str(tmp_path), level), nprocs=2)
    grads = torch.load(tmp_path / "two.pt", weights_only=True)
    method = made(level)
    rows = method.model(IMAGES)
    if level == "embed":
        total = method.loss(rows, LABELS)
    else:
        lam, _ = DynamicMixedMargin(Triplet(0.5), seed=3).draw(10)
        total = Triplet(0.5)(rows, LABELS)
        for part in PARTS:
            mixed = method.model(mix_inputs(IMAGES[part], lam))
            apart = DynamicMixedMargin(Triplet(0.5)).mixed_loss(rows[part], LABELS[part], lam=lam, mixed_a=mixed)
            total = total + apart / 2
    total.backward()
    for name, parameter in method.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(grads[name], parameter.grad, rtol=1e-7, atol=1e-10), name
