"""Schedules against their closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from metrixkit.errors import InputError
from metrixkit.training.schedule import Constant, Cosine, Step


def test_step_equals_torch() -> None:
    schedule = Step(every=3, gamma=0.5)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    peer = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
    for epoch in range(10):
        assert schedule(epoch + 0.5, 10) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        peer.step()


def test_cosine_ends_at_its_minimum_and_rises_first() -> None:
    schedule = Cosine(minimum=0.1, warmup_epochs=2)
    assert schedule(0, 10) == 0
    assert schedule(1, 10) == pytest.approx(0.5)
    assert schedule(2, 10) == pytest.approx(1)
    assert schedule(6, 10) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2)))
    assert schedule(10, 10) == pytest.approx(0.1)
    assert Constant()(3, 10) == 1


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InputError, match=r"schedule.every"):
        Step(every=0)
    with pytest.raises(InputError, match=r"schedule.minimum"):
        Cosine(minimum=2)
