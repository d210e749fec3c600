"""InfoNCE, NT-Xent, symmetric cross-entropy and m2-Mix alone: loops as oracles, extremes, gradients, bad input."""

import io
import math

import pytest
import torch

from metrixkit.errors import InputError
from metrixkit.losses import (
    InfoNCE,
    M2Mix,
    NTXent,
    SymmetricCrossEntropy,
    info_nce,
    l_mix,
    m2_mix,
    nt_xent,
    symmetric_cross_entropy,
    v_mix,
    vl_mix,
)
from metrixkit.mixing import slerp


def rows(count=5, dim=4, seed=0):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(x):
    return torch.nn.functional.normalize(x, dim=-1)


def cross_entropy(positive, others):
    return math.log(math.exp(positive) + sum(math.exp(x) for x in others)) - positive


def test_info_nce_by_loops():
    q, k, queue, t = rows(), rows(seed=1), rows(7, seed=2), 0.3
    s, n = (unit(q) @ unit(k).T / t).tolist(), (unit(q) @ unit(queue).T / t).tolist()
    batch = [cross_entropy(s[i][i], [s[i][j] for j in range(5) if j != i]) for i in range(5)]
    assert info_nce(q, k, t).item() == pytest.approx(sum(batch) / 5, rel=1e-12)
    assert InfoNCE(t)(q, k).item() == pytest.approx(sum(batch) / 5, rel=1e-12)
    queued = [cross_entropy(s[i][i], n[i]) for i in range(5)]
    assert info_nce(q, k, t, negatives=queue).item() == pytest.approx(sum(queued) / 5, rel=1e-12)
    both = (info_nce(q, k, t) + info_nce(k, q, t)) / 2
    assert InfoNCE(t, symmetric=True)(q, k).item() == pytest.approx(both.item(), rel=1e-12)


def test_nt_xent_by_loops():
    a, b, t = rows(), rows(seed=1), 0.4
    z = unit(torch.cat([a, b]))
    s = (z @ z.T / t).tolist()
    each = [
        cross_entropy(s[i][(i + 5) % 10], [s[i][j] for j in range(10) if j not in (i, (i + 5) % 10)]) for i in range(10)
    ]
    assert nt_xent(a, b, t).item() == pytest.approx(sum(each) / 10, rel=1e-12)
    assert NTXent(t)(b, a).item() == pytest.approx(sum(each) / 10, rel=1e-12)


def test_agrees_with_pytorch_metric_learning():
    from pytorch_metric_learning.losses import NTXentLoss

    a, b = rows(), rows(seed=1)
    theirs = NTXentLoss(0.4)(torch.cat([a, b]), torch.arange(5).repeat(2))
    assert nt_xent(a, b, 0.4).item() == pytest.approx(theirs.item(), rel=1e-9)


@pytest.mark.parametrize("temperature", [0.001, 0.01])
def test_extremes_stay_finite(temperature):
    a = torch.nn.functional.one_hot(torch.arange(4)).float().requires_grad_()
    for b in (a.detach(), -a.detach(), a.detach().flip(0)):
        for loss in (
            info_nce(a, b, temperature),
            info_nce(a, b, temperature, negatives=-b),
            nt_xent(a, b, temperature),
            symmetric_cross_entropy(a, b, 1 / temperature),
            m2_mix(a, b, 0.5, temperature),
            v_mix(a, b, 0.5, temperature),
        ):
            assert torch.isfinite(loss)
            (grad,) = torch.autograd.grad(loss, a)
            assert torch.isfinite(grad).all()
    assert info_nce(a, a.detach(), 0.01).item() == pytest.approx(0, abs=1e-12)


def test_the_learned_scale():
    loss, a, b = SymmetricCrossEntropy(0.07), rows().float(), rows(seed=1).float()
    assert loss.scale.item() == pytest.approx(1 / 0.07, rel=1e-6)
    loss(a, b).backward()
    assert loss.log_scale.grad.abs() > 0
    assert torch.allclose(loss(a, b, logit_scale=3.0), symmetric_cross_entropy(a, b, 3.0))
    with torch.no_grad():
        loss.log_scale.fill_(10.0)
    assert loss.scale.item() == pytest.approx(100)
    loss.log_scale.grad = None
    loss(a, b).backward()
    assert loss.log_scale.grad.abs() > 0  # a scale beyond the bound can come back
    assert not list(p for p in SymmetricCrossEntropy(0.07, learn=False).parameters() if p.requires_grad)
    scale = torch.tensor(5.0, requires_grad=True)
    symmetric_cross_entropy(a, b, scale).backward()
    assert scale.grad is not None


@pytest.mark.parametrize("loss", [
    lambda a, b: info_nce(a, b, 0.3),
    lambda a, b: info_nce(a, b, 0.3, negatives=rows(3, seed=4)),
    lambda a, b: nt_xent(a, b, 0.3),
    lambda a, b: symmetric_cross_entropy(a, b, 4.0),
    lambda a, b: m2_mix(a, b, 0.3, 0.2),
    lambda a, b: v_mix(a, b, 0.3, 0.2),
    lambda a, b: l_mix(a, b, torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64), 0.2),
    lambda a, b: vl_mix(a, b, 0.3, 0.2),
])  # fmt: skip
def test_gradients(loss):
    sides = rows(3).requires_grad_(), rows(3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(loss, sides)
    halves = [side.detach().bfloat16() for side in sides]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(*halves)
    assert value.dtype in (torch.float32, torch.float64)
    assert torch.allclose(value.double(), loss(*(half.float() for half in halves)).double(), rtol=1e-6)


def test_m2_mix_by_loops():
    a, b, lam, t = rows(4), rows(4, seed=1), 0.3, 0.2
    x, y, v = unit(a), unit(b), slerp(a, b, lam)
    total = 0.0
    for side in (x, y):
        for i in range(4):
            others = [float(side[i] @ v[j]) / t for j in range(4) if j != i]
            total += cross_entropy(float(x[i] @ y[i]) / t, others) / 4
    assert m2_mix(a, b, lam, t).item() == pytest.approx(total, rel=1e-12)


def test_within_one_side_at_lambda_one_is_the_clean_loss():
    a, b = rows(), rows(seed=1)
    clean = symmetric_cross_entropy(a, b, 5.0)
    assert torch.allclose(v_mix(a, b, 1.0, 0.2), clean)
    assert torch.allclose(l_mix(a, b, 1.0, 0.2), clean)
    assert torch.allclose(v_mix(a, b, 0.3, 0.2), l_mix(b, a, 0.3, 0.2))
    assert torch.allclose(v_mix(a, b, 0.0, 0.2), clean)  # mixtures are the partners, and so are the targets


def test_m3_mix_adds_up_and_goes_on_after_a_kill():
    a, b = rows(), rows(seed=1)
    loss = M2Mix(0.05, mixed_temperature=0.07, m2=0.3, uni=0.2, both=0.1, beta=0.2, fade=True, seed=3)
    loss.set_epoch(1)
    file = io.BytesIO()
    torch.save(loss.state_dict(), file)
    file.seek(0)
    total = loss(a, b)
    logs = loss.logs()
    clean = symmetric_cross_entropy(a, b, 20.0)
    assert logs["clean"] == pytest.approx(clean.item())
    assert total.item() == pytest.approx(clean.item() + logs["mixed"])
    only = M2Mix(0.05, mixed_temperature=0.07, m2=0.3, beta=0.2, seed=3)
    assert (only(a, b) - clean).item() == pytest.approx((0.3 * m2_mix(a, b, logs["lambda"], 0.07)).item())
    again = M2Mix(0.05, mixed_temperature=0.07, m2=0.3, uni=0.2, both=0.1, beta=0.2, fade=True, seed=8)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert again(a, b).item() == total.item()
    again.fade = loss.fade = False
    assert (again(a, b) - clean).item() == pytest.approx((loss(a, b) - clean).item())


@pytest.mark.parametrize(("epoch", "divisor"), [(0, 1), (1, 2), (4, 5)])
def test_fading_mixed_losses_are_divided_by_the_number_of_the_epoch(epoch, divisor):
    mixed = []
    for fade in (False, True):
        loss = M2Mix(0.05, m2=0.3, uni=0.2, fade=fade, seed=3)
        loss.set_epoch(epoch)
        loss(rows(), rows(seed=1))
        mixed.append(loss.logs()["mixed"])
    assert mixed[0] / mixed[1] == pytest.approx(divisor)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: info_nce(rows(3), rows(4)), r"query|shape \(3, 4\)"),
        (lambda: info_nce(rows(3), rows(3), 0.0), "temperature is 0.0"),
        (lambda: info_nce(rows(3), rows(3), negatives=rows(3, 5)), r"\(negatives, 4\)"),
        (lambda: info_nce(rows(3), rows(2), negatives=rows(3)), "expected the same"),
        (lambda: nt_xent(rows(3), rows(4)), "row i of one belongs to row i of the other"),
        (lambda: nt_xent(rows(3), rows(3), -1), "temperature is -1"),
        (lambda: symmetric_cross_entropy(rows(3), rows(3, 5), 1.0), "expected the same"),
        (lambda: symmetric_cross_entropy(rows(0), rows(0), 1.0), "at least one pair"),
        (lambda: SymmetricCrossEntropy(0.001), "above most=100"),
        (lambda: m2_mix(rows(3), rows(3), 1.5), "lam is 1.5"),
        (lambda: v_mix(rows(3), rows(4), 0.5), "expected the same"),
        (lambda: M2Mix(uni=-1), "uni is -1"),
        (lambda: M2Mix(beta=0.0), "beta is 0.0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()
