"""The ring of past keys, beside a plain list from which the oldest fall out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from metrixkit.errors import InputError
from metrixkit.models import Queue

FIXTURE = json.loads((Path(__file__).parent.parent / "fixtures" / "ssl_mixers.json").read_text())["moco_queue_ring"]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def test_ring_is_the_fixture() -> None:
    given, expected = FIXTURE["inputs"], FIXTURE["expected"]
    queue = Queue(given["K"], 1).double()
    queue.rows.copy_(torch.tensor(given["init"]).unsqueeze(1))
    for keys, after, pointer in zip(given["batches"], expected["after"], expected["ptr"], strict=True):
        queue.push(torch.tensor(keys, dtype=torch.float64).unsqueeze(1))
        assert queue.negatives().squeeze(1).tolist() == after
        assert int(queue.pointer) == pointer


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [1, 5, 7, 12])
def test_any_batch_up_to_the_queue_wraps_exactly(size: int, device: str) -> None:
    queue = Queue(size, 2, seed=3).to(device)
    ring, place = queue.rows.tolist(), 0
    generator = torch.Generator().manual_seed(size)
    for _ in range(12):
        keys = torch.randn(int(torch.randint(1, size + 1, (), generator=generator)), 2, generator=generator)
        queue.push(keys.to(device))
        for key in keys.tolist():
            ring[place] = key
            place = (place + 1) % size
        assert queue.rows.tolist() == ring
        assert int(queue.pointer) == place


def test_starts_with_unit_rows_of_the_seed() -> None:
    queue, moved = Queue(50, 16, seed=1), torch.random.get_rng_state()
    torch.testing.assert_close(queue.rows.double().norm(dim=1), torch.ones(50, dtype=torch.float64), rtol=0, atol=1e-6)
    assert torch.equal(queue.rows, Queue(50, 16, seed=1).rows)
    assert not torch.equal(queue.rows, Queue(50, 16, seed=2).rows)
    assert torch.equal(torch.random.get_rng_state(), moved)
    assert (queue.rows @ queue.rows.T).fill_diagonal_(0).abs().max() < 0.95  # 16 dimensions, not a few directions


def test_backward_after_the_push_sees_what_the_queue_held() -> None:
    queue = Queue(6, 4, seed=0)
    old = queue.rows.clone()
    query = torch.randn(3, 4, requires_grad=True)
    keys = torch.randn(3, 4, requires_grad=True)
    scores = query @ queue.negatives().T
    queue.push(keys)
    scores.sum().backward()
    torch.testing.assert_close(query.grad, old.sum(0).expand(3, 4))
    assert keys.grad is None
    assert not queue.negatives().requires_grad


def test_state_survives_a_kill() -> None:
    queue = Queue(7, 3, seed=0)
    queue.push(torch.randn(5, 3))
    again = Queue(7, 3, seed=9)
    again.load_state_dict(queue.state_dict())
    keys = torch.randn(4, 3)
    for each in (queue, again):
        each.push(keys)
    assert torch.equal(queue.rows, again.rows)
    assert torch.equal(queue.pointer, again.pointer)
    assert set(queue.state_dict()) == {"rows", "pointer"}


def test_precision_of_keys_does_not_change_the_queue() -> None:
    assert Queue(4, 2).double().rows.dtype == torch.float64
    assert Queue(4, 2).double().pointer.dtype == torch.int64
    queue = Queue(4, 2)
    queue.push(torch.ones(2, 2, dtype=torch.bfloat16))
    assert queue.rows.dtype == torch.float32
    assert queue.rows[:2].tolist() == [[1.0, 1.0]] * 2


def test_more_keys_than_places_are_refused_and_change_nothing() -> None:
    queue = Queue(4, 2)
    before = queue.rows.clone()
    with pytest.raises(InputError, match=r"5 keys \(sampler.batch_size.*method.queue_size=4"):
        queue.push(torch.randn(5, 2))
    with pytest.raises(InputError, match=r"keys of shape \(2, 3\): expected \(B, 2\)"):
        queue.push(torch.randn(2, 3))
    assert torch.equal(queue.rows, before)
    assert int(queue.pointer) == 0
    with pytest.raises(InputError, match="queue_size=0"):
        Queue(0, 2)
