"""Partners: drawn evenly from their pools, by seed, epoch and place alone, and loaded with a seed of their own."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch

from metrixkit.data.dataset import ImageItems, collate
from metrixkit.data.loader import eval_loader, train_loader
from metrixkit.data.m_per_class import MPerClass
from metrixkit.data.samplers import Draw, Shuffle
from metrixkit.data.transforms import Transform, eval_transform, train_transform
from metrixkit.data.views import TrainViews
from metrixkit.errors import InputError

COUNT = 24
SETTINGS = Transform(scale=[0.3, 1.0], jitter=[0.4, 0.4, 0.4, 0.1], grayscale=0.2, blur=0.5)
VIEWS = TrainViews(SETTINGS, 20, views=2, resolutions=(20, 16), small_views=1, small_size=8)


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    """24 noisy pictures of four classes, rows of one array."""
    path = tmp_path_factory.mktemp("pictures") / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (COUNT, 26, 24, 3), dtype=np.uint8))
    rows = [(f"i{i}", f"{path}#{i}", f"class{i % 4}", "train") for i in range(COUNT)]
    return pd.DataFrame(rows, columns=["id", "path", "label", "split"], dtype=str)


def pools():
    """Row i: one to four partners, padded; every sixth row has none."""
    rows = [[(i * 7 + k) % COUNT for k in range(1 + i % 4)] if i % 6 else [] for i in range(COUNT)]
    return torch.tensor([row + [-1] * (4 - len(row)) for row in rows])


def sampler(kind=Shuffle, **options):
    labels = torch.arange(COUNT) % 4
    return kind(labels, seed=3, batch_size=8, **options, **({"m": 2} if kind is MPerClass else {}))


def paired(kind=Shuffle, **options):
    made = sampler(kind, **options)
    made.set_partners(pools())
    return made


def loader(items, workers=0, order=None, views=VIEWS):
    return train_loader(items, views, order or paired(), workers=workers)


def same(a, b):
    tensors = ("labels", "index", "partner")
    lists = ("views", "partner_views")
    return (
        a.ids == b.ids
        and all(torch.equal(getattr(a, name), getattr(b, name)) for name in tensors)
        and all(all(map(torch.equal, getattr(a, name), getattr(b, name))) for name in lists)
    )


@pytest.mark.parametrize("kind", [Shuffle, MPerClass])
def test_partners_change_nothing_else(kind):
    plain = [[tuple(draw[:2]) for draw in batch] for batch in sampler(kind)]
    assert [[tuple(draw[:2]) for draw in batch] for batch in paired(kind)] == plain
    assert all(draw.partner == -1 for batch in sampler(kind) for draw in batch)
    assert all(isinstance(draw, Draw) and pickle.loads(pickle.dumps(draw)) == draw for draw in next(iter(paired(kind))))


def test_partners_come_from_the_pool_evenly():
    made, table = paired(), pools()
    seen = {row: Counter() for row in range(COUNT)}
    for epoch in range(600):
        made.set_epoch(epoch)
        for draw in (draw for batch in made for draw in batch):
            seen[draw.index][draw.partner] += 1
    for row, counts in seen.items():
        pool = [partner for partner in table[row].tolist() if partner >= 0] or [row]
        assert set(counts) == set(pool)
        for count in counts.values():
            expected = 600 / len(pool)
            assert abs(count - expected) <= 4.5 * (expected * (1 - 1 / len(pool))) ** 0.5 + 1e-9


def test_one_pool_entry_twice_is_twice_as_likely():
    made = sampler()
    made.set_partners(torch.tensor([[1, 1, 2]]).expand(COUNT, 3))
    counts = Counter(draw.partner for e in range(100) for batch in _epoch(made, e) for draw in batch)
    assert set(counts) == {1, 2}
    assert 1.8 < counts[1] / counts[2] < 2.2


def _epoch(made, epoch):
    made.set_epoch(epoch)
    return list(made)


def test_two_processes_draw_what_one_does():
    whole = list(paired())
    parts = [list(paired(rank=rank, world_size=2)) for rank in range(2)]
    assert [a + b for a, b in zip(*parts, strict=True)] == whole


def test_resumed_in_the_middle():
    made = paired()
    made.load_state_dict({"epoch": 1, "position": 2})
    assert list(made) == _epoch(paired(), 1)[2:]


def test_pools_set_while_an_epoch_goes_on_belong_to_the_next():
    made = paired()
    expected = list(paired())
    running = iter(made)
    first = next(running)
    made.set_partners(None)
    assert [first, *running] == expected
    assert all(draw.partner == -1 for batch in made for draw in batch)


def test_the_sampler_keeps_its_own_copy():
    made, table = sampler(), pools()
    made.set_partners(table)
    table.fill_(0)
    assert list(made) == list(paired())


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (torch.zeros(COUNT, 0, dtype=torch.int64), r"shape \(24, 1 or more\).*shape \(24, 0\)"),
        (torch.zeros(COUNT - 1, 2, dtype=torch.int64), r"shape \(23, 2\)"),
        (torch.zeros(COUNT, dtype=torch.int64), r"shape \(24,\)"),
        (torch.zeros(COUNT, 2), "float32"),
        (torch.full((COUNT, 2), COUNT), "row 0 holds 24, which is no row of the 24"),
        (torch.full((COUNT, 2), -2), "row 0 holds -2"),
        (torch.tensor([[-1, 0]]).expand(COUNT, 2), "row 0 has a partner behind a -1"),
    ],
)
def test_pools_of_another_kind(table, message):
    with pytest.raises(InputError, match=message):
        sampler().set_partners(table)


def test_a_batch_holds_rows_and_partners_views(items):
    dataset, found = ImageItems(items, VIEWS), list(loader(items))
    assert len(found) == 3
    for batch, draws in zip(found, paired(), strict=True):
        assert batch.index.dtype == batch.partner.dtype == torch.int64
        assert batch.index.tolist() == [draw.index for draw in draws]
        assert batch.ids == [f"i{row}" for row in batch.index.tolist()]
        assert batch.partner.tolist() == [draw.partner for draw in draws]
        assert [v.shape[-1] for v in batch.views] == [20, 16, 20, 16, 8]
        assert [v.shape[-1] for v in batch.partner_views] == [20, 16, 20, 16]
        assert batch.partner_views[0].dtype == torch.uint8
        unpaired = collate([dataset[Draw(draw.index, draw.seed)] for draw in draws])
        assert all(map(torch.equal, unpaired.views, batch.views))
        assert unpaired.partner is None
        assert unpaired.partner_views == []


def test_a_partner_is_that_image_augmented_by_a_seed_of_its_own(items):
    flat = items.copy()
    path = flat["path"][0].rpartition("#")[0].replace("images.npy", "flat.npy")
    np.save(path, np.arange(COUNT, dtype=np.uint8)[:, None, None, None].repeat(9, 1).repeat(9, 2).repeat(3, 3))
    flat["path"] = [f"{path}#{row}" for row in range(COUNT)]
    plain = TrainViews(Transform(), 8)
    for batch in loader(flat, views=plain):
        assert torch.equal(batch.partner_views[0][:, 0, 0, 0].long(), batch.partner)
        assert torch.equal(batch.views[0][:, 0, 0, 0].long(), batch.index)
    own = sampler()
    own.set_partners(torch.full((COUNT, 1), -1))
    for batch in loader(items, order=own):
        assert torch.equal(batch.partner, batch.index)  # stands in for itself, in other views
        assert not torch.equal(batch.views[0], batch.partner_views[0])


@pytest.mark.parametrize("workers", [1, 2])
def test_partners_do_not_depend_on_workers(items, workers):
    here, there = loader(items), loader(items, workers)
    for epoch in (0, 1):  # the second epoch goes through workers that stayed, with other pools
        for each in (here, there):
            each.batch_sampler.set_epoch(epoch)
        assert all(same(a, b) for a, b in zip(list(here), list(there), strict=True))
        for each in (here, there):
            each.batch_sampler.set_partners(pools().roll(1, 0))


def test_partners_after_resuming_with_workers(items):
    whole = list(loader(items))
    resumed = loader(items, 2)
    resumed.batch_sampler.load_state_dict({"epoch": 0, "position": 1})
    assert all(same(a, b) for a, b in zip(list(resumed), whole[1:], strict=True))


def test_repeated_transform_gives_partners_as_many_views(items):
    found = next(iter(train_loader(items, train_transform(Transform(), 16), paired(), workers=0, views=3)))
    assert len(found.views) == len(found.partner_views) == 3


def test_evaluation_has_rows_and_no_partners(items):
    batches = list(eval_loader(items, eval_transform(Transform(), 16), 10, workers=0))
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(COUNT))
    assert all(batch.partner is None and batch.partner_views == [] for batch in batches)


def test_views_are_given_once(items):
    with pytest.raises(InputError, match="views: 2 of a transform that makes 2 itself"):
        ImageItems(items, VIEWS, views=2)


def test_a_broken_partner_is_named(items):
    broken = items.copy()
    broken.loc[5, "path"] = "nowhere.png"
    with pytest.raises(InputError, match=r"item 'i5': nowhere.png: no such file"):
        ImageItems(broken, VIEWS)[Draw(0, 1, 5)]
