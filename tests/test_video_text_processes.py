"""Texts and videos in two processes: the gradient is that of one, clips being mixed within each."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from metrixkit.losses import DynamicMixedMargin, SymmetricCrossEntropy
from metrixkit.methods import VideoTextRetrieval
from metrixkit.mixing import mix_inputs
from metrixkit.models import VideoText
from metrixkit.models.text import TextSettings
from metrixkit.models.video import VideoSettings
from metrixkit.models.video_text import PairInputs
from metrixkit.seam import Batch

TEXTS = [f"{word} thing" for word in ("red", "blue", "old", "new", "big", "tiny")]
X = torch.randn(6, 3, 5, generator=torch.Generator().manual_seed(1)).double()
MASK = torch.ones(6, 3, dtype=torch.bool)
PARTS = (slice(0, 3), slice(3, 6))


def made(per):
    torch.manual_seed(0)
    model = VideoText(
        PairInputs(video_dim=5, captions=TEXTS),
        dim=8,
        text=TextSettings(width=16, layers=1, heads=2, dropout=0.0),
        video=VideoSettings(hidden=8, temporal="mean", dropout=0.0),
    )
    loss = DynamicMixedMargin(SymmetricCrossEntropy(0.1), ratio_per=per, ramp=None, seed=3)
    return VideoTextRetrieval(model, loss).double()


def one_rank(rank, folder, per):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    method, part = made(per), PARTS[rank]
    batch = Batch(
        [str(i) for i in range(3)], modalities={"video": X[part], "video_mask": MASK[part]}, texts=TEXTS[part]
    )
    wrapped = DistributedDataParallel(method, broadcast_buffers=False)
    wrapped(batch).losses["total"].backward()
    if rank == 0:
        torch.save({name: p.grad for name, p in method.named_parameters()}, f"{folder}/two.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize("per", ["step", "row"])
def test_two_processes_have_the_gradient_of_one(tmp_path, per):
    mp.spawn(one_rank, args=(str(tmp_path), per), nprocs=2)
    grads = torch.load(tmp_path / "two.pt", weights_only=True)
    method = made(per)
    lam, partner = method.loss.draw(3)
    mixtures = [method.model.embed_video(mix_inputs(X[part], lam, partner), MASK[part]) for part in PARTS]
    a, b = method.model.embed_video(X, MASK), method.model.embed_text(TEXTS)
    lam = lam.repeat(2) if isinstance(lam, torch.Tensor) else lam
    method.loss(a, b, mixed_a=torch.cat(mixtures), lam=lam).backward()
    for name, parameter in method.named_parameters():
        assert torch.allclose(grads[name], parameter.grad, rtol=1e-7, atol=1e-10), name
