"""Properties of the samplers over random class sizes, and the settings they refuse."""

from __future__ import annotations

from collections import Counter, deque
from itertools import chain

import pytest
import torch

from metrixkit.data import SAMPLERS, m_per_class
from metrixkit.data.m_per_class import MPerClass
from metrixkit.data.samplers import Draw, EpochSampler, Shuffle, mix_seed
from metrixkit.errors import InputError


def labels_of(sizes):
    return [label for label, size in enumerate(sizes) for _ in range(size)]


def random_sizes(case):
    """Class sizes of many shapes: equal, unequal, singletons, one huge class, empty indices."""
    g = torch.Generator().manual_seed(case)

    def ints(low, high, n):
        return torch.randint(low, high, (n,), generator=g).tolist()

    return [
        ints(4, 60, 30),
        ints(1, 8, 150),
        ints(1, 4, 200),
        [500, *ints(1, 9, 40)],
        [1] * 60 + ints(2, 9, 30),
        [300, 1, 1, 1],
        [0, 40, 0, 37, 2, 1],
        [20] * 25,
    ][case % 8]


CASES = [(case, batch, m) for case in range(24) for batch, m in [(20, 5), (40, 4), (12, 2), (24, 12)]]


def indices(sampler):
    return [[draw.index for draw in batch] for batch in sampler]


@pytest.mark.sample(48)
@pytest.mark.parametrize(("case", "batch", "m"), CASES)
@pytest.mark.parametrize("repeat", [False, True])
def test_m_per_class_covers_all_in_full_batches(case, batch, m, repeat):
    sizes = random_sizes(case)
    labels = labels_of(sizes)
    sampler = MPerClass(labels, seed=case, batch_size=batch, m=m, repeat=repeat)
    for epoch in (0, 1, 7):
        sampler.set_epoch(epoch)
        batches = indices(sampler)
        assert len(batches) == len(sampler)
        assert {len(b) for b in batches} == {batch}
        assert {i for b in batches for i in b} == set(range(len(labels)))
        if not repeat:
            assert all(len(set(b)) == batch for b in batches)


@pytest.mark.parametrize("case", range(20))
def test_few_classes_in_hardly_more_than_one_batch(case):
    """A class comes several times in a batch, and a group that was filled up may meet the images it borrowed."""
    a, b = torch.randint(6, 12, (2,), generator=torch.Generator().manual_seed(case)).tolist()
    sizes = [a, b, case % 4 + 3]
    sampler = MPerClass(labels_of(sizes), seed=case, batch_size=15, m=5)
    for epoch in range(10):
        batches = sampler.plan(epoch)
        assert len(batches) == len(sampler)
        assert all(len(b) == len(set(b)) == 15 for b in batches)
        assert set(chain(*batches)) == set(range(sum(sizes)))


@pytest.mark.parametrize("sizes", [[58] * 40, [5, 6, 9, 41, 60, 17] * 5, [20] * 8])
def test_where_classes_are_large_enough_each_comes_once_with_m(sizes):
    sampler = MPerClass(labels_of(sizes), seed=1, batch_size=20, m=5)
    labels = labels_of(sizes)
    for batch in indices(sampler):
        assert sorted(Counter(labels[i] for i in batch).values()) == [5] * 4


def test_repeat_makes_every_class_m():
    labels = labels_of([1, 2, 3, 7, 20, 1, 4, 4, 9])
    for batch in indices(MPerClass(labels, seed=1, batch_size=20, m=5, repeat=True)):
        assert sorted(Counter(labels[i] for i in batch).values()) == [5] * 4


def test_small_classes_stay_together_and_singles_occur():
    sizes = [1] * 40 + [3] * 100
    labels = labels_of(sizes)
    batches = indices(MPerClass(labels, seed=0, batch_size=20, m=5))
    alone = sum(count == 1 for b in batches for label, count in Counter(labels[i] for i in b).items() if label >= 40)
    # Only a batch's edge can part a class, and singles fill most gaps.
    assert alone <= len(batches) // 4


@pytest.mark.parametrize("rest", [[7] * 200, [1] * 300 + [3] * 50])
def test_a_huge_class_is_spread_over_the_epoch(rest):
    labels = labels_of([5000, *rest])
    shares = [sum(labels[i] == 0 for i in b) for b in indices(MPerClass(labels, seed=0, batch_size=100, m=5))]
    mean = sum(shares) / len(shares)
    # The last batch is completed with whatever class it does not hold.
    assert all(0.8 * mean <= share <= 1.1 * mean for share in shares[:-1])
    quarter = len(shares) // 4
    assert max(sum(shares[:quarter]), sum(shares[-quarter:])) <= 1.1 * mean * quarter


def test_order_differs_between_epochs_and_seeds():
    labels = labels_of([20] * 20)
    plans = [MPerClass(labels, seed=s, batch_size=20, m=5).plan(e) for s in (0, 1) for e in (0, 1)]
    assert all(plans[i] != plans[j] for i in range(4) for j in range(i))
    # Another company each time, not the same groups in another order.
    groups = [{frozenset(b[i : i + 5]) for b in plan for i in range(0, 20, 5)} for plan in plans[:2]]
    assert len(groups[0] & groups[1]) < 5


# Others draw their batches without a list of items.
OVER_ITEMS = [name for name, sampler in SAMPLERS.items() if issubclass(sampler, EpochSampler)]


def make(name, seed=3, rank=0, world_size=1):
    labels = torch.tensor(labels_of([9, 5, 1, 30, 12, 2, 2, 17, 4, 3, 2, 5, 8]))
    options = {"batch_size": 12, "m": 3} if name == "m-per-class" else {"batch_size": 12}
    return SAMPLERS[name](labels, seed=seed, rank=rank, world_size=world_size, **options)


@pytest.mark.parametrize("name", OVER_ITEMS)
def test_an_epoch_is_a_function_of_seed_and_epoch(name):
    a, b = make(name), make(name)
    for epoch in (0, 1, 2):
        a.set_epoch(epoch)
        list(a)
    torch.manual_seed(99)
    b.set_epoch(2)
    assert list(a) == list(b)
    assert list(make(name, seed=4)) != list(make(name))


@pytest.mark.parametrize("name", OVER_ITEMS)
def test_does_not_touch_the_global_generator(name):
    before = torch.get_rng_state()
    list(make(name))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", OVER_ITEMS)
def test_resume_at_any_position(name):
    whole = make(name)
    whole.set_epoch(4)
    batches = list(whole)
    for position in range(len(whole) + 1):
        resumed = make(name)
        resumed.load_state_dict(whole.state_dict(position))
        resumed.set_epoch(4)  # loops say so again after a resume; the position stays
        assert list(resumed) == batches[position:]
        assert list(resumed) == batches  # once only
        resumed.load_state_dict(whole.state_dict(position))
        resumed.set_epoch(5)
        assert len(list(resumed)) == len(resumed)


@pytest.mark.parametrize("name", OVER_ITEMS)
@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_cut_the_global_batch(name, world):
    parts = [list(make(name, rank=rank, world_size=world)) for rank in range(world)]
    assert [list(chain(*batches)) for batches in zip(*parts, strict=True)] == list(make(name))


@pytest.mark.parametrize("name", OVER_ITEMS)
def test_augmentation_seeds_are_all_different(name):
    sampler = make(name)
    seeds = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        seeds += [draw.seed for batch in sampler for draw in batch]
    assert len(set(seeds)) == len(seeds)
    # torch's generator takes the low 32 bits: they must differ too.
    assert len({seed & 0xFFFFFFFF for seed in seeds}) == len(seeds)


def test_mix_seed_is_fixed_and_in_range():
    """A resumed run of a later version must draw as before."""
    assert mix_seed(1, 2, 3) == 3851293329796251419
    assert mix_seed(0, 0, 0) != mix_seed(0, 0, 1)
    assert mix_seed(1, 0) != mix_seed(0, 1)
    assert all(0 <= mix_seed(-5, i) < 2**63 for i in range(100))
    bits = torch.tensor([[mix_seed(0, i) >> b & 1 for b in range(63)] for i in range(4000)], dtype=torch.float64)
    assert (bits.mean(0) - 0.5).abs().max() < 0.04


def test_shuffle_shows_each_image_once():
    sampler = Shuffle([0] * 103, seed=0, batch_size=10)
    flat = list(chain(*indices(sampler)))
    assert len(sampler) == 10
    assert len(flat) == len(set(flat)) == 100
    kept = Shuffle([0] * 103, seed=0, batch_size=10, drop_last=False)
    assert len(kept) == len(list(kept)) == 11
    assert sorted(chain(*indices(kept))) == list(range(103))


def test_position_outside_the_epoch_is_refused():
    sampler = Shuffle([0] * 50, seed=0, batch_size=10)
    with pytest.raises(InputError, match="position 6 of an epoch with 5 batches"):
        sampler.load_state_dict({"epoch": 0, "position": 6})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 51}, "holds 50 images, not one full batch"),
        ({"batch_size": 10, "world_size": 3}, "choose a multiple of 3"),
        ({"batch_size": 20, "drop_last": False, "world_size": 4}, "last batch of 10 images"),
        ({"batch_size": 10, "rank": 2, "world_size": 2}, "rank 2"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_shuffle_refuses(options, message):
    with pytest.raises(InputError, match=message):
        Shuffle([0] * 50, seed=0, **options)


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ([9] * 9, {"batch_size": 5, "m": 5}, "fewer than two classes.*set sampler.batch_size to 10"),
        ([9] * 9, {"batch_size": 22, "m": 5}, "not a multiple of sampler.m=5; choose 20 or 25"),
        ([9] * 9, {"batch_size": 20, "m": 1}, "no positives"),
        ([9], {"batch_size": 4, "m": 2}, "two classes or more"),
        ([9, 9], {"batch_size": 20, "m": 5}, "holds 18 images"),
        ([1] * 30, {"batch_size": 20, "m": 5}, "sampler.repeat=true"),
        ([9] * 9, {"batch_size": 20, "m": 5, "world_size": 3}, "3 equal parts"),
    ],
)
def test_m_per_class_refuses(sizes, options, message):
    with pytest.raises(InputError, match=message):
        MPerClass(labels_of(sizes), seed=0, **options)


def test_singletons_only_are_allowed_with_repeat():
    sampler = MPerClass(list(range(30)), seed=0, batch_size=20, m=2, repeat=True)
    assert all(set(Counter(b).values()) == {2} for b in indices(sampler))


def test_draws_are_pairs():
    assert isinstance(next(iter(make("shuffle")))[0], Draw)


def test_planning_an_epoch_looks_at_each_group_a_few_times(monkeypatch):
    looked = []

    class Counting(deque):
        def popleft(self):
            looked.append(1)
            return super().popleft()

    monkeypatch.setattr(m_per_class, "deque", Counting)
    for classes in (1600, 3200):  # sizes as in SOP
        looked.clear()
        sizes = torch.randint(2, 13, (classes,), generator=torch.Generator().manual_seed(0)).tolist()
        MPerClass(labels_of(sizes), seed=0, batch_size=100, m=5).plan(0)
        groups = sum(-(-size // 5) for size in sizes)
        assert groups <= len(looked) < 25 * groups
