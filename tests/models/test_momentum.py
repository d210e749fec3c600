"""The copy that follows a network: its numbers, and that nothing but the average touches it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from metrixkit.errors import InputError
from metrixkit.models import ImageEncoder, Projector
from metrixkit.models.momentum import momentum_at, momentum_copy, update

FIXTURE = json.loads((Path(__file__).parent.parent / "fixtures" / "ssl_mixers.json").read_text())


class Row(nn.Module):
    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.row = nn.Parameter(torch.tensor(values, dtype=torch.float64))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(ImageEncoder("small", dim=None, normalize=False), Projector(160, 8, 4, batch_norm=True))


def test_three_updates_are_the_fixture() -> None:
    given = FIXTURE["ema_update"]
    target, online = Row(given["inputs"]["key"]), Row(given["inputs"]["online"])
    for expected in given["expected"]["after"]:
        update(target, online, given["inputs"]["m"])
        assert target.row.tolist() == pytest.approx(expected, rel=given["tol"], abs=given["tol"])


def test_byol_schedule_is_the_fixture() -> None:
    given, steps = FIXTURE["schedules"], FIXTURE["schedules"]["inputs"]["S"]
    found = [momentum_at(step, steps, given["inputs"]["m0"]) for step in (0, 5, 10)]
    assert found == pytest.approx(given["expected"]["byol_m_steps_0_5_10"], rel=given["tol"])
    assert momentum_at(11, 10, 0.9) == 1.0
    assert momentum_at(3, 10, 0.9, end=0.99) == pytest.approx(0.99 - 0.09 * (math.cos(0.3 * math.pi) + 1) / 2)


def test_copy_is_equal_and_apart() -> None:
    online = network()
    target = momentum_copy(online)
    for (name, own), (_, other) in zip(target.state_dict().items(), online.state_dict().items(), strict=True):
        assert torch.equal(own, other), name
        assert own.data_ptr() != other.data_ptr(), name
    assert not any(p.requires_grad for p in target.parameters())
    assert all(p.requires_grad for p in online.parameters())
    assert target[0].parameter_groups() == []


def test_update_is_the_average_of_parameters_and_of_nothing_else() -> None:
    online = network()
    target = momentum_copy(online)
    start = {name: p.detach().clone() for name, p in target.named_parameters()}
    images = torch.rand(8, 3, 32, 32)
    online(images).square().mean().backward()
    with torch.no_grad():
        for parameter in online.parameters():
            parameter.add_(parameter.grad)
    before = {name: b.clone() for name, b in target.named_buffers()}
    update(target, online, 0.75)
    for (name, own), other in zip(target.named_parameters(), online.parameters(), strict=True):
        expected = 0.75 * start[name].double() + 0.25 * other.detach().double()
        torch.testing.assert_close(own.double(), expected, rtol=0, atol=1e-6)
        assert own.grad is None
        assert own.grad_fn is None
        assert other.grad is not None
    # Statistics of its batch norms come from its own passes, and from nowhere else.
    assert all(torch.equal(b, before[name]) for name, b in target.named_buffers())
    target(images)
    assert int(target[0].trunk.model.stem[1].num_batches_tracked) == 1
    online(images)  # so that counters differ too
    update(target, online, 0.25, buffers=True)
    update(target, online, 0.0, buffers=True)
    for (name, own), (_, other) in zip(target.state_dict().items(), online.state_dict().items(), strict=True):
        assert torch.equal(own, other), name


def test_ends_of_the_range_are_exact() -> None:
    target, online = Row([0.1, 1e30]), Row([0.3, -7.0])
    update(target, online, 1.0)
    assert target.row.tolist() == [0.1, 1e30]
    update(target, online, 0.0)
    assert target.row.tolist() == [0.3, -7.0]


def test_resumed_copy_goes_on_to_the_last_bit() -> None:
    online = network()
    target = momentum_copy(online)
    with torch.no_grad():
        for parameter in online.parameters():
            parameter.mul_(1.1)
    update(target, online, 0.99)
    again = momentum_copy(network())
    again.load_state_dict(target.state_dict())
    for copy in (target, again):
        update(copy, online, 0.99)
    assert all(torch.equal(a, b) for a, b in zip(target.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("momentum", [-0.1, 1.1, math.nan])
def test_momentum_outside_its_range_is_refused(momentum: float) -> None:
    with pytest.raises(InputError, match="share that an update keeps"):
        update(Row([1.0]), Row([1.0]), momentum)


def test_networks_that_differ_are_refused() -> None:
    with pytest.raises(InputError, match=r"row is \(1,\) and \(2,\)"):
        update(Row([1.0]), Row([1.0, 2.0]), 0.9)
    with pytest.raises(InputError, match="only one of them has bias"):
        update(nn.Linear(2, 2), nn.Linear(2, 2, bias=False), 0.9)


@pytest.mark.parametrize("numbers", [(0, 0, 0.9, 1.0), (-1, 5, 0.9, 1.0), (0, 5, 1.5, 1.0), (0, 5, 0.9, -1.0)])
def test_schedule_out_of_range_is_refused(numbers: tuple[int, int, float, float]) -> None:
    with pytest.raises(InputError, match="expected"):
        momentum_at(*numbers)


@pytest.mark.gpu
def test_update_on_the_device() -> None:
    online = network().cuda()
    target = momentum_copy(online)
    with torch.no_grad():
        online[1].layers[0].weight.zero_()
    kept = target[1].layers[0].weight.clone()
    update(target, online, 0.5)
    torch.testing.assert_close(target[1].layers[0].weight, 0.5 * kept)
