"""The great circle: its definition, its ends, finite values and gradients where the angle is lost."""

import math

import pytest
import torch

from metrixkit.errors import InputError
from metrixkit.mixing import slerp


def rows(seed, dtype=torch.float64):
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def unit(x):
    return torch.nn.functional.normalize(x, dim=1)


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.5, 1.0])
def test_definition(lam):
    a, b = rows(0), rows(1)
    mixed = slerp(a, b, lam)
    for x, y, v in zip(unit(a), unit(b), mixed, strict=True):
        t = math.acos(float(x @ y))
        expected = (math.sin(lam * t) * x + math.sin((1 - lam) * t) * y) / math.sin(t)
        assert torch.allclose(v, expected, atol=1e-14)
        assert math.acos(min(1.0, float(v @ y))) == pytest.approx(lam * t, abs=1e-7)
    assert torch.allclose(slerp(b, a, 1 - lam), mixed, atol=1e-14)


def test_a_share_for_each_row():
    a, b, lam = rows(0), rows(1), torch.linspace(0, 1, 6, dtype=torch.float64)
    each = torch.cat([slerp(a[i : i + 1], b[i : i + 1], float(lam[i])) for i in range(6)])
    assert torch.allclose(slerp(a, b, lam), each)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lam", [0.0, 0.2, 0.5, 0.500001, 1.0])
@pytest.mark.parametrize("apart", [0.0, 1e-9, 1e-5, 1e-3])
@pytest.mark.parametrize("sign", [1, -1])
def test_parallel_and_opposite_rows(sign, apart, lam, dtype):
    a = rows(0, dtype).requires_grad_()
    b = (sign * a.detach() + apart * rows(1, dtype)).requires_grad_()
    mixed = slerp(a, b, lam)
    assert mixed.dtype == torch.promote_types(dtype, torch.float32)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    if dtype != torch.bfloat16:
        assert torch.allclose(mixed.norm(dim=1), torch.ones(6, dtype=mixed.dtype), atol=tolerance)
    mixed.square().sum(1).mul(torch.arange(6)).sum().backward()
    for grad in (a.grad, b.grad):
        assert torch.isfinite(grad).all()
        assert grad.abs().max() < 1e6
    if lam in (0.0, 1.0) and dtype == torch.float64:
        assert torch.allclose(mixed, unit(a if lam == 1 else b), atol=1e-9)


def test_exactly_opposite_rows_give_the_greater_share():
    a = unit(rows(0))
    assert torch.allclose(slerp(a, -a, 0.5), a)
    assert torch.allclose(slerp(a, -a, 0.2), -a)


def test_gradients():
    lam = torch.tensor([0.1, 0.5, 0.8, 0.0, 1.0, 0.4], dtype=torch.float64)
    inputs = rows(0).requires_grad_(), rows(1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: slerp(a, b, lam), inputs)
    # Where the straight mixture stands in for the arc, it is its limit.
    near = (rows(0), (rows(0) * (1 + 1e-10)).requires_grad_())
    assert torch.autograd.gradcheck(lambda b: slerp(near[0], b, 0.3), near[1], eps=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    ("a", "b", "lam", "message"),
    [
        (torch.ones(2, 3), torch.ones(3, 3), 0.5, "expected two floating"),
        (torch.ones(2, 3, dtype=torch.long), torch.ones(2, 3), 0.5, "expected two floating"),
        (torch.ones(2, 3), torch.ones(2, 3), -0.5, "lam is -0.5"),
    ],
)
def test_bad_input(a, b, lam, message):
    with pytest.raises(InputError, match=message):
        slerp(a, b, lam)
