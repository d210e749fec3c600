"""Pooling against its formulas."""

from __future__ import annotations

import pytest
import torch

from metrixkit.models.pooling import Pool


@pytest.fixture
def maps() -> torch.Tensor:
    return torch.randn(3, 5, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).abs()


def test_formulas_on_maps(maps: torch.Tensor) -> None:
    flat = maps.reshape(3, 5, 8)
    torch.testing.assert_close(Pool("avg")(maps), flat.sum(2) / 8)
    torch.testing.assert_close(Pool("max")(maps), flat.sort(2).values[..., -1])
    torch.testing.assert_close(Pool("avg+max")(maps), Pool("avg")(maps) + Pool("max")(maps))
    torch.testing.assert_close(Pool("gem").double()(maps), (flat**3).mean(2) ** (1 / 3))


def test_gem_lies_between_mean_and_maximum_and_learns(maps: torch.Tensor) -> None:
    gem = Pool("gem").double()
    assert gem.p is not None
    gem(maps).sum().backward()
    assert gem.p.grad is not None
    assert gem.p.grad > 0  # a larger power is nearer to the maximum
    with torch.no_grad():
        gem.p.fill_(1.0)
        torch.testing.assert_close(gem(maps), Pool("avg")(maps))
        gem.p.fill_(200.0)
        torch.testing.assert_close(gem(maps), Pool("max")(maps), rtol=0.02, atol=0)
        assert torch.isfinite(Pool("gem")(torch.zeros(1, 2, 3, 3))).all()


@pytest.mark.parametrize("name", ["avg", "max", "avg+max"])
def test_tokens_that_are_no_patches_are_left_out(name: str) -> None:
    tokens = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    tokens[:, :2] = 1e6
    expected = Pool(name)(tokens[:, 2:].mT.reshape(2, 3, 2, 2))
    torch.testing.assert_close(Pool(name, prefix_tokens=2)(tokens), expected)
    assert torch.equal(Pool("token", prefix_tokens=2)(tokens), tokens[:, 0])


def test_average_pooling_commutes_with_mixing_and_maximum_does_not(maps: torch.Tensor) -> None:
    mixed = 0.3 * maps[:1] + 0.7 * maps[1:2]
    avg, largest = Pool("avg"), Pool("max")
    torch.testing.assert_close(avg(mixed), 0.3 * avg(maps[:1]) + 0.7 * avg(maps[1:2]))
    assert not torch.allclose(largest(mixed), 0.3 * largest(maps[:1]) + 0.7 * largest(maps[1:2]))


@pytest.mark.parametrize("name", ["avg", "max", "avg+max", "gem"])
def test_low_precision_maps_pool_in_float32(name: str, maps: torch.Tensor) -> None:
    low = maps.bfloat16()
    pooled = Pool(name)(low)
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, Pool(name)(low.float()))
