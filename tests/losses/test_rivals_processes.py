"""i-Mix and MoCHi in two processes: the gradient is that of one process with all rows, i-Mix' images mixed apart."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from metrixkit.losses import Contrastive, IMix, MoCHi
from metrixkit.methods import MetricLearning
from metrixkit.mixing import draw_ratio
from metrixkit.models import ImageEncoder
from metrixkit.seam import Batch

LABELS = torch.arange(20) % 5
IMAGES = torch.randint(0, 256, (20, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
PARTS = (slice(0, 10), slice(10, 20))


def made(rival):
    torch.manual_seed(0)
    model = ImageEncoder("small", image_size=32, dim=16, freeze_batch_norm=True)
    loss = IMix(Contrastive(), seed=3) if rival == "imix" else MoCHi(Contrastive(), seed=3)
    return MetricLearning(model, loss).double()


def one_rank(rank, folder, rival):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    method = made(rival)
    wrapped = DistributedDataParallel(method, broadcast_buffers=False)
    part = PARTS[rank]
    wrapped(Batch([str(i) for i in range(20)][part], LABELS[part], [IMAGES[part]])).losses["total"].backward()
    if rank == 0:
        torch.save({name: p.grad for name, p in method.named_parameters()}, f"{folder}/two.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize("rival", ["imix", "mochi"])
def test_two_processes_have_the_gradient_of_one(tmp_path, rival):
    mp.spawn(one_rank, args=(str(tmp_path), rival), nprocs=2)
    grads = torch.load(tmp_path / "two.pt", weights_only=True)
    method = made(rival)
    rows = method.model(IMAGES)
    if rival == "mochi":
        total = method.loss(rows, LABELS)
    else:
        # Written out: one permutation and one lambda for each image of a process, the same draw in both.
        loss = method.loss.loss
        total = loss(rows, LABELS)
        generator = torch.Generator().manual_seed(3)
        partner = torch.randperm(10, generator=generator)
        lam = draw_ratio(1.0, generator, (10,))
        lam = torch.maximum(lam, 1 - lam)[:, None]
        for part in PARTS:
            images, labels = IMAGES[part].double() / 255, LABELS[part]
            share = lam[:, :, None, None]
            mixed = method.model(share * images + (1 - share) * images[partner])
            unit = torch.nn.functional.normalize
            s = unit(mixed, dim=1) @ unit(rows[part], dim=1).T
            positive = (labels[:, None] == labels).double()
            weight = lam * positive + (1 - lam) * positive[partner]
            total = total + 0.4 * (-s * weight + (s - 0.5).clamp(min=0) * (1 - weight)).sum(1).mean() / 2
    total.backward()
    for name, p in method.named_parameters():
        if p.requires_grad:
            assert (grads[name] - p.grad).abs().max() < 1e-7 * max(1.0, float(p.grad.abs().max())), name
