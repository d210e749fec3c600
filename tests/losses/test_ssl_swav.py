"""SwAV: Sinkhorn by plain division, several crops and queues by loops, two processes, extremes, bad input."""

import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.functional import normalize

from metrixkit.errors import InputError
from metrixkit.losses import sinkhorn, swav_loss


def rows(count=4, seed=0, dim=5):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(x):
    return normalize(x, dim=-1)


def divided(scores, epsilon, iterations):
    """The published order: all to 1, prototypes to 1/P, images to 1/N; at the end each image to 1."""
    table = [[math.exp(s / epsilon) for s in row] for row in scores.tolist()]
    n, p = len(table), len(table[0])
    total = sum(map(sum, table))
    table = [[x / total for x in row] for row in table]
    for _ in range(iterations):
        sums = [sum(row[j] for row in table) for j in range(p)]
        table = [[x / sums[j] / p for j, x in enumerate(row)] for row in table]
        table = [[x / sum(row) / n for x in row] for row in table]
    return [[x * n for x in row] for row in table]


@pytest.mark.parametrize("iterations", [1, 3, 20])
def test_sinkhorn_by_division(iterations):
    scores = unit(rows(7)) @ unit(rows(3, 1)).T
    codes = sinkhorn(scores, 0.05, iterations)
    assert torch.allclose(codes, torch.tensor(divided(scores, 0.05, iterations), dtype=torch.float64), rtol=1e-10)
    assert torch.allclose(codes.sum(1), torch.ones(7, dtype=torch.float64))


def test_many_iterations_use_prototypes_evenly():
    codes = sinkhorn(unit(rows(60)) @ unit(rows(4, 1)).T, 0.2, 200)
    assert torch.allclose(codes.sum(0), torch.full((4,), 15.0, dtype=torch.float64), rtol=1e-6)


@pytest.mark.parametrize("epsilon", [1e-3, 0.05, 10.0])
def test_extremes(epsilon):
    scores = torch.tensor([[1.0, -1.0, -1.0], [1.0, -1.0, -1.0], [-1.0, 1.0, -1.0]], requires_grad=True)
    codes = sinkhorn(scores.half(), epsilon)
    assert torch.isfinite(codes).all()
    assert codes.dtype == torch.float32
    assert not codes.requires_grad
    assert torch.allclose(codes.sum(1), torch.ones(3))
    z = torch.eye(5)[:4].requires_grad_()
    loss = swav_loss(z, -z.detach(), torch.eye(5), epsilon, 0.01)
    assert torch.isfinite(loss)
    assert torch.isfinite(torch.autograd.grad(loss, z)[0]).all()


def test_crops_and_queues_by_loops():
    z1, z2, small, centres = rows(), rows(4, 1), [rows(4, 2), rows(4, 3)], rows(3, 4)
    queues = rows(6, 5), rows(8, 6)
    scores = [unit(z) @ unit(centres).T for z in (z1, z2, *small)]
    total, terms = 0.0, 0
    for given in range(2):
        past = unit(queues[given]) @ unit(centres).T
        codes = divided(torch.cat([scores[given], past]), 0.05, 3)[:4]
        for other in range(4):
            if other == given:
                continue
            logits = (scores[other] / 0.1).tolist()
            for code, row in zip(codes, logits, strict=True):
                log_total = math.log(sum(math.exp(x) for x in row))
                total += sum(c * (log_total - x) for c, x in zip(code, row, strict=True)) / 4
            terms += 1
    loss = swav_loss(z1, z2, centres, small=small, queues=queues)
    assert loss.item() == pytest.approx(total / terms, rel=1e-10)


def test_gradients():
    # Codes are constants, so that differences cannot see the gradient by z1: it is compared with the code held still.
    z1, z2, centres = rows().requires_grad_(), rows(4, 1).requires_grad_(), rows(3, 2).requires_grad_()
    loss = swav_loss(z1, z2, centres, 0.05, 0.1)
    s1, s2 = (unit(z) @ unit(centres).T for z in (z1, z2))
    q1, q2 = (sinkhorn(s.detach(), 0.05) for s in (s1, s2))
    expected = -((q1 * (s2 / 0.1).log_softmax(1)).sum(1).mean() + (q2 * (s1 / 0.1).log_softmax(1)).sum(1).mean()) / 2
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    for a, b in zip(
        torch.autograd.grad(loss, [z1, z2, centres]), torch.autograd.grad(expected, [z1, z2, centres]), strict=True
    ):
        assert torch.allclose(a, b, atol=1e-12)
    halves = [x.detach().bfloat16() for x in (z1, z2, centres)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = swav_loss(*halves)
    assert torch.allclose(value, swav_loss(*(x.float() for x in halves)), rtol=1e-6)


SCORES = unit(rows(7)) @ unit(rows(3, 1)).T


def one_rank(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(sinkhorn(SCORES[:3] if rank == 0 else SCORES[3:]), f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.ddp
@pytest.mark.slow
def test_two_processes_share_the_prototypes(tmp_path):
    mp.spawn(one_rank, args=(str(tmp_path),), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert torch.allclose(torch.cat(parts), sinkhorn(SCORES), rtol=1e-12)
    assert not torch.allclose(parts[0], sinkhorn(SCORES[:3]), rtol=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sinkhorn(rows(0)), "scores"),
        (lambda: sinkhorn(rows()[0]), "scores"),
        (lambda: sinkhorn(rows(), 0.0), "epsilon is 0.0"),
        (lambda: sinkhorn(rows(), 0.05, 0), "iterations is 0"),
        (lambda: swav_loss(rows(), rows(3), rows(3)), "row i of one"),
        (lambda: swav_loss(rows(), rows(), rows(3, 0, 4)), "prototypes has 4 dimensions"),
        (lambda: swav_loss(rows(), rows(), rows(3), temperature=-1), "temperature is -1"),
        (lambda: swav_loss(rows(), rows(), rows(3), small=[rows(3)]), "a small view"),
        (lambda: swav_loss(rows(), rows(), rows(3), queues=(rows(3, 0, 4), rows())), "a queue"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()
