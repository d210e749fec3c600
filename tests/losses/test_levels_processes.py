"""Mixing features and inputs in several processes: pairs within each, and the mean over them is what is minimised."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from metrixkit.losses import Metrix, MultiSimilarity, ProxyAnchor
from metrixkit.methods import MetricLearning
from metrixkit.models import ImageEncoder
from metrixkit.seam import Batch

LABELS = torch.arange(20) % 5


def batch(part):
    images = torch.randint(0, 256, (20, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return Batch([str(i) for i in range(20)][part], LABELS[part], [images[part]])


def made(level, proxies, stage):
    torch.manual_seed(0)
    model = ImageEncoder("small", image_size=32, dim=16, freeze_batch_norm=True)
    loss = ProxyAnchor(num_classes=5, dim=16) if proxies else MultiSimilarity()
    return MetricLearning(model, Metrix(loss, level=level, seed=3), stage=stage).double()


def one_rank(rank, folder, level, proxies, stage):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    method = made(level, proxies, stage)
    wrapped = DistributedDataParallel(method, broadcast_buffers=False)
    output = wrapped(batch(slice(rank * 10, (rank + 1) * 10)))
    output.losses["total"].backward()
    if rank == 0:
        logs = output.logs()  # only one process writes: it must not wait for another
        grads = {name: p.grad for name, p in method.named_parameters()}
        torch.save((grads, logs, method.loss.last.ratio), f"{folder}/two.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize(
    ("level", "proxies", "stage"),
    [("feature", False, None), ("feature", True, None), ("feature", False, 2), ("input", False, None)],
)
def test_gradients_are_those_of_the_clean_batch_and_the_mean_of_both_parts(tmp_path, level, proxies, stage):
    mp.spawn(one_rank, args=(str(tmp_path), level, proxies, stage), nprocs=2)
    grads, logs, ratio = torch.load(tmp_path / "two.pt", weights_only=True)
    method = made(level, proxies, stage)
    whole = batch(slice(0, 20))
    rows = method.model(whole.views[0])
    total = method.loss.loss(rows, LABELS)
    for part in (slice(0, 10), slice(10, 20)):
        images = whole.views[0][part]
        if level == "feature":
            features = method.model.features(images, stage)
            head = method.model.head_from(stage)
        else:
            features, head = images.double() / 255, method.model
        mixed = method.loss.mixed_loss(head(features), LABELS[part], lam=ratio, features=features, head=head)
        total = total + 0.4 * mixed / 2
    total.backward()
    for name, p in method.named_parameters():
        if not p.requires_grad:
            continue
        assert (grads[name] - p.grad).abs().max() < 1e-7 * max(1.0, float(p.grad.abs().max())), name
    assert logs["gradient_ratio/mixed_to_clean"] > 0
