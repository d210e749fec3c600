"""What stands on an encoder: layers in order, and prototypes of length 1."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import BatchNorm1d, Linear, ReLU

from metrixkit.errors import InputError
from metrixkit.models import Projector, Prototypes

LAYOUTS = [
    ({}, [Linear, ReLU, Linear]),  # MoCo v2
    ({"batch_norm": True}, [Linear, BatchNorm1d, ReLU, Linear]),  # SimCLR, BYOL, SwAV, i-Mix
    ({"last_batch_norm": True}, [Linear, ReLU, Linear, BatchNorm1d]),
    (
        {"layers": 3, "batch_norm": True, "last_batch_norm": True, "bias": False},
        [Linear, BatchNorm1d, ReLU, Linear, BatchNorm1d, ReLU, Linear, BatchNorm1d],
    ),
    ({"layers": 1, "batch_norm": True}, [Linear]),
]


@pytest.mark.parametrize(("settings", "kinds"), LAYOUTS)
def test_layers_are_those_of_the_papers(settings: dict[str, object], kinds: list[type[nn.Module]]) -> None:
    projector = Projector(6, 10, 4, **settings)
    assert [type(layer) for layer in projector.layers] == kinds
    linears = [layer for layer in projector.layers if isinstance(layer, Linear)]
    widths = [6, *[10] * (len(linears) - 1), 4]
    assert [(n.in_features, n.out_features) for n in linears] == list(pairwise(widths))
    assert all((n.bias is not None) == settings.get("bias", True) for n in linears)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_result_is_the_formula_and_raw(device: str) -> None:
    torch.manual_seed(0)
    projector = Projector(6, 10, 4, batch_norm=True).double().to(device)
    x = torch.randn(5, 6, dtype=torch.float64, device=device)
    first, norm, _, last = projector.layers
    inner = x @ first.weight.T + first.bias
    inner = (inner - inner.mean(0)) / (inner.var(0, correction=0) + norm.eps).sqrt()
    expected = inner.clamp(min=0) @ last.weight.T + last.bias
    found = projector(x)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found.norm(dim=1), torch.ones_like(found[:, 0]))


def test_features_are_left_as_they_are() -> None:
    features = torch.randn(3, 6)
    kept = features.clone()
    Projector(6, 10, 4)(features)
    assert torch.equal(features, kept)


@pytest.mark.parametrize("name", ["inputs", "hidden", "dim", "layers"])
def test_sizes_below_one_are_refused(name: str) -> None:
    sizes = {"inputs": 2, "hidden": 2, "dim": 2, "layers": 2, name: 0}
    with pytest.raises(InputError, match=f"{name}=0"):
        Projector(**sizes)


def test_prototypes_are_unit_and_stay_so_when_asked() -> None:
    torch.manual_seed(0)
    prototypes = Prototypes(4, 7)
    torch.testing.assert_close(prototypes.weight.norm(dim=1), torch.ones(7))
    assert [name for name, _ in prototypes.named_parameters()] == ["weight"]
    with torch.no_grad():
        prototypes.weight.mul_(3)
    before = prototypes.weight
    directions = before.detach() / before.detach().norm(dim=1, keepdim=True)
    prototypes.normalize_()
    assert prototypes.weight is before  # the optimiser's
    torch.testing.assert_close(prototypes.weight.detach(), directions)
    rows = torch.randn(5, 4, requires_grad=True)
    scores = prototypes(rows)
    torch.testing.assert_close(scores, rows @ directions.T)
    scores.sum().backward()
    assert prototypes.weight.grad is not None
    assert rows.grad is not None


def test_prototypes_score_in_full_precision_under_autocast() -> None:
    prototypes, rows = Prototypes(64, 5), torch.randn(3, 64)
    expected = prototypes(rows)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(prototypes(rows), expected)
        assert prototypes(rows.bfloat16()).dtype == torch.float32
    assert prototypes.double()(rows.double()).dtype == torch.float64
    with pytest.raises(InputError, match="0 prototypes"):
        Prototypes(4, 0)
