"""Cross-entropy of mixed images, against torch's on dense soft labels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from metrixkit.errors import InputError
from metrixkit.losses import eta_loss, mixed_cross_entropy

N, C = 7, 5


def drawn() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(N, C, generator=draw, dtype=torch.float64)
    a, b = (torch.randint(C, (N,), generator=draw) for _ in range(2))
    b[0] = a[0]
    lam = torch.rand(N, generator=draw, dtype=torch.float64)
    lam[1], lam[2] = 0, 1
    return logits, a, b, lam


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_dense_labels_give_the_same(smoothing: float) -> None:
    logits, a, b, lam = drawn()
    target = lam[:, None] * F.one_hot(a, C) + (1 - lam[:, None]) * F.one_hot(b, C)
    expected = F.cross_entropy(logits, target, label_smoothing=smoothing)
    torch.testing.assert_close(mixed_cross_entropy(logits, a, b, lam, smoothing), expected, rtol=1e-12, atol=0)
    clean = F.cross_entropy(logits, a, label_smoothing=smoothing)
    for second, share in ((b, 1.0), (a, 0.3)):
        torch.testing.assert_close(mixed_cross_entropy(logits, a, second, share, smoothing), clean)
    asked = logits.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: mixed_cross_entropy(z, a, b, lam, smoothing), asked)


def test_it_is_the_eta_loss_at_one() -> None:
    logits, a, b, lam = drawn()
    torch.testing.assert_close(mixed_cross_entropy(logits, a, b, lam), eta_loss(logits, a, b, lam, eta=1.0))


def test_low_precision_is_summed_in_float32() -> None:
    logits, a, b, lam = drawn()
    found = mixed_cross_entropy(logits.bfloat16(), a, b, lam, 0.1)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, mixed_cross_entropy(logits.bfloat16().float(), a, b, lam, 0.1))


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
def test_smoothing_out_of_range(smoothing: float) -> None:
    logits, a, b, lam = drawn()
    with pytest.raises(InputError, match="label smoothing"):
        mixed_cross_entropy(logits, a, b, lam, smoothing)
