"""Batch norm over groups: beside loops, as plain batch norm in evaluation, and that it hides what it must."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from metrixkit.errors import InputError
from metrixkit.models import ImageEncoder, load_encoder, momentum_copy, save_model
from metrixkit.models.split_batch_norm import (
    SplitBatchNorm1d,
    SplitBatchNorm2d,
    shuffle_over_processes,
    shuffled,
    split_batch_norms,
)

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def filled(norm: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            if tensor is not None:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return norm


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("momentum", [0.1, None])
def test_groups_are_separate_batch_norms(momentum: float | None, device: str) -> None:
    norm = filled(SplitBatchNorm2d(3, 4, momentum=momentum)).double().to(device)
    x = torch.randn(8, 3, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(device)
    x = (x * torch.arange(1, 9, device=device).view(8, 1, 1, 1)).requires_grad_()
    weights = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(device)
    start_mean, start_var = norm.running_mean.clone(), norm.running_var.clone()
    found = norm(x)
    found.mul(weights).sum().backward()

    again = x.detach().clone().requires_grad_()
    scale, shift = (p.detach().clone().requires_grad_() for p in (norm.weight, norm.bias))
    rows, means, variances = [], [], []
    for group in range(4):
        part = again[2 * group : 2 * group + 2]
        columns = part.transpose(0, 1).reshape(3, -1)
        mean, variance = columns.mean(1), columns.var(1, correction=0)
        rows.append((part - mean.view(3, 1, 1)) / (variance.view(3, 1, 1) + norm.eps).sqrt())
        means.append(mean.detach())
        variances.append(columns.detach().var(1))
    expected = torch.cat(rows) * scale.view(3, 1, 1) + shift.view(3, 1, 1)
    expected.mul(weights).sum().backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(x.grad, again.grad)
    torch.testing.assert_close(norm.weight.grad, scale.grad)
    torch.testing.assert_close(norm.bias.grad, shift.grad)
    share = 1.0 if momentum is None else momentum  # the first batch of a cumulative average
    torch.testing.assert_close(norm.running_mean, (1 - share) * start_mean + share * torch.stack(means).mean(0))
    torch.testing.assert_close(norm.running_var, (1 - share) * start_var + share * torch.stack(variances).mean(0))
    assert int(norm.num_batches_tracked) == 1


@pytest.mark.parametrize("settings", [{}, {"affine": False}, {"track_running_stats": False}, {"momentum": None}])
def test_one_group_and_evaluation_are_plain(settings: dict[str, object]) -> None:
    x = torch.randn(6, 3)
    plain = nn.BatchNorm1d(3, **settings)
    one, three = SplitBatchNorm1d(3, 1, **settings), SplitBatchNorm1d(3, 3, **settings)
    assert three.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(one(x), plain(x))
    assert not torch.allclose(three(x), plain(x))
    three.load_state_dict(plain.state_dict())
    assert torch.equal(three.eval()(x), plain.eval()(x))


def test_conversion_is_in_place_and_keeps_every_tensor() -> None:
    torch.manual_seed(0)
    encoder = ImageEncoder("small", dim=None, normalize=False)
    before = {name: tensor.data_ptr() for name, tensor in encoder.state_dict(keep_vars=True).items()}
    same = split_batch_norms(encoder, 4)
    assert same is encoder
    assert {name: t.data_ptr() for name, t in encoder.state_dict(keep_vars=True).items()} == before
    kinds = {type(m) for m in encoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    assert kinds == {SplitBatchNorm2d}
    # The split follows into copies, and back out again.
    key = momentum_copy(encoder)
    assert key.trunk.model.stem[1].splits == 4
    with pytest.raises(InputError, match="a batch of 6 images"):
        key(torch.rand(6, 3, 32, 32))
    images = torch.rand(8, 3, 32, 32)
    plain = ImageEncoder("small", dim=None, normalize=False)
    plain.load_state_dict(encoder.state_dict())
    assert not torch.allclose(copy.deepcopy(encoder)(images), copy.deepcopy(plain)(images), atol=1e-4)
    assert torch.equal(copy.deepcopy(split_batch_norms(encoder, 1))(images), plain(images))


def test_a_split_encoder_is_saved_as_a_plain_one(tmp_path) -> None:
    encoder = split_batch_norms(ImageEncoder("small", dim=None, normalize=False), 2)
    encoder(torch.rand(4, 3, 32, 32))
    save_model(encoder, tmp_path, {"version": 1, "resize": 32})
    again, _ = load_encoder(tmp_path)
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(again(images), encoder.eval()(images))


def test_frozen_batch_norms_stay_frozen() -> None:
    encoder = split_batch_norms(ImageEncoder("small", dim=None, freeze_batch_norm=True), 4)
    buffers = {name: b.clone() for name, b in encoder.named_buffers()}
    encoder(torch.rand(3, 3, 32, 32))  # no multiple of the groups, and none is needed
    assert all(torch.equal(b, buffers[name]) for name, b in encoder.named_buffers())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_memory_layout_stays(layout: torch.memory_format) -> None:
    x = torch.randn(4, 3, 5, 5).to(memory_format=layout)
    assert SplitBatchNorm2d(3, 2)(x).is_contiguous(memory_format=layout)


def test_batches_that_cannot_be_cut_are_refused() -> None:
    norm = SplitBatchNorm2d(3, 4)
    with pytest.raises(InputError, match=r"a batch of 6 images .*splits=4.*sampler.batch_size.*MixCo"):
        norm(torch.randn(6, 3, 2, 2))
    with pytest.raises(InputError, match="one value a channel"):
        norm(torch.randn(4, 3, 1, 1))
    with pytest.raises(InputError, match="one value a channel"):
        SplitBatchNorm1d(3, 4)(torch.randn(4, 3))
    with pytest.raises(InputError, match="one value a channel"):
        norm(torch.randn(0, 3, 2, 2))
    assert int(norm.num_batches_tracked) == 0
    for make in (lambda: SplitBatchNorm1d(3, 0), lambda: split_batch_norms(nn.Linear(2, 2), 0)):
        with pytest.raises(InputError, match="splits=0"):
            make()


def test_batch_norms_of_another_kind_are_refused_before_anything_changes() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.SyncBatchNorm(3))
    with pytest.raises(InputError, match="1 is a SyncBatchNorm"):
        split_batch_norms(network, 2)
    assert type(network[0]) is nn.BatchNorm2d
    assert isinstance(split_batch_norms(nn.LayerNorm(3), 2), nn.LayerNorm)


def test_shuffle_on_one_process_goes_out_and_back() -> None:
    rows = torch.arange(10).float().requires_grad_()
    mixed, back = shuffle_over_processes(rows, torch.Generator().manual_seed(0))
    assert sorted(mixed.tolist()) == rows.tolist()
    assert mixed.tolist() != rows.tolist()
    home = back(mixed * 2)
    assert home.tolist() == (rows * 2).tolist()
    (home * torch.arange(10)).sum().backward()
    assert rows.grad.tolist() == (2 * torch.arange(10.0)).tolist()


def test_a_shuffle_takes_one_number_whatever_the_size() -> None:
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    assert sorted(shuffled(5, generators[0]).tolist()) == list(range(5))
    shuffled(500, generators[1])
    assert torch.equal(shuffled(50, generators[0]), shuffled(50, generators[1]))


class Statistics(nn.Module):
    """A network that can only cheat: a row's content cancels, the mean of those it was normalised with remains."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(dim, affine=False, eps=1e8)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows - self.norm(rows) * self.norm.eps**0.5


def found_own_key(splits: int, permute: bool, batches: int = 150) -> tuple[float, float]:
    """Return how often a query's own key is nearer than every key of earlier batches, and the chance of that.

    512 rows a batch; a query and its key are two views of a row.
    """
    count, dim, held = 512, 4, 99
    network = split_batch_norms(Statistics(dim).double(), splits)
    generator = torch.Generator().manual_seed(splits)
    queue: list[torch.Tensor] = []
    hits, tries = 0, 0
    for _ in range(batches):
        content = torch.randn(count, dim, dtype=torch.float64, generator=generator)
        views = [content + 0.1 * torch.randn(content.shape, dtype=torch.float64, generator=generator) for _ in "qk"]
        query = network(views[0])
        mixed, back = shuffle_over_processes(views[1], generator) if permute else (views[1], lambda rows: rows)
        normalised = network(mixed)
        key = back(normalised)
        if len(queue) >= held:
            negatives = torch.stack(queue[-held:])
            own = (query - key).norm(dim=1)
            nearest = torch.cdist(query, negatives).amin(1)
            hits += int((own < nearest).sum())
            tries += count
        queue += list(normalised[:: count // splits])  # one key of each group: those of a group are equal here
    return hits / tries, 1 / (held + 1)


def test_statistics_betray_the_key_unless_rows_are_split_and_permuted() -> None:
    whole, chance = found_own_key(1, permute=False)
    assert whole > 0.8
    assert found_own_key(1, permute=True)[0] > 0.8  # one batch norm: the order of rows hides nothing
    assert found_own_key(16, permute=False)[0] > 0.8  # groups alone hide nothing either
    hidden, _ = found_own_key(16, permute=True)
    assert hidden < 2 * chance


def one_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    images = torch.arange(12, dtype=torch.uint8).view(12, 1)[rank * 6 : rank * 6 + 6]
    mixed, back = shuffle_over_processes(images, torch.Generator().manual_seed(3))
    home = back(mixed.float() + 100)
    weight = torch.ones(6, 1, requires_grad=True)
    there, again = shuffle_over_processes(weight * images, torch.Generator().manual_seed(4))
    (again(there) * images.float()).sum().backward()
    norm = nn.BatchNorm1d(2)
    rows = torch.randn(12, 2, generator=torch.Generator().manual_seed(5))
    part, unshuffle = shuffle_over_processes(rows[rank * 6 : rank * 6 + 6], torch.Generator().manual_seed(6))
    torch.save((mixed, home, weight.grad, unshuffle(norm(part)).detach()), f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.ddp
@pytest.mark.slow
def test_two_processes_exchange_rows_and_get_their_own_back(tmp_path) -> None:
    mp.spawn(one_rank, args=(str(tmp_path),), nprocs=2)
    (mixed_0, home_0, grad_0, keys_0), (mixed_1, home_1, grad_1, keys_1) = (
        torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)
    )
    assert sorted(torch.cat([mixed_0, mixed_1]).flatten().tolist()) == list(range(12))
    assert any(value >= 6 for value in mixed_0.flatten().tolist())  # rows did change process
    assert mixed_0.dtype == torch.uint8
    assert torch.cat([home_0, home_1]).flatten().tolist() == [100.0 + i for i in range(12)]
    assert torch.cat([grad_0, grad_1]).flatten().tolist() == [float(i * i) for i in range(12)]
    # Two processes with a batch norm each are one process with a batch norm in two groups.
    rows = torch.randn(12, 2, generator=torch.Generator().manual_seed(5))
    mixed, back = shuffle_over_processes(rows, torch.Generator().manual_seed(6))
    torch.testing.assert_close(torch.cat([keys_0, keys_1]), back(SplitBatchNorm1d(2, 2)(mixed)).detach())
