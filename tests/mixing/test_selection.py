"""Selection as a whole: draws, baselines, input, several processes."""

from __future__ import annotations

import collections
import itertools

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from metrixkit.errors import InputError
from metrixkit.mixing import select_positives
from metrixkit.mixing.draws import draw_others, hashed
from metrixkit.mixing.pools import pool


def clustered(count=600, dim=8, groups=12, seed=0):
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(groups, dim, generator=draw)
    return centres[torch.arange(count) % groups] + 0.4 * torch.randn(count, dim, generator=draw)


def selected(features=None, seed=0, **changes):
    options = {"k": 30, "clusters": 10, "n_pos": 6} | changes
    features = clustered() if features is None else features
    return select_positives(features, generator=torch.Generator().manual_seed(seed), **options)


def test_draws_depend_on_seed_and_epoch_alone():
    first, again, other = selected(epoch=3), selected(epoch=3), selected(epoch=4)
    assert torch.equal(first.pools, again.pools)
    assert torch.equal(first.assignment, other.assignment)
    drawn = ~first.fallback
    assert 0.3 < float(drawn.double().mean()) < 1
    assert torch.equal(first.pools[~drawn], other.pools[~drawn])
    assert (first.pools[drawn] != other.pools[drawn]).any(1).double().mean() > 0.8
    assert first.logs()["selection/fallback_share"] == pytest.approx(1 - float(drawn.double().mean()))


def test_length_of_features_does_not_matter_and_nor_does_their_container():
    features = clustered()
    first = selected(features)
    scaled = features * (2.0 ** torch.randint(-3, 4, (600, 1), generator=torch.Generator().manual_seed(2)))
    assert torch.equal(first.pools, selected(scaled).pools)
    assert torch.equal(first.pools, selected(features.numpy()).pools)
    assert torch.equal(selected(features.half()).pools, selected(features.half().float()).pools)


def test_one_number_is_taken_from_the_generator():
    used, fresh = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    select_positives(clustered(), 30, 10, 6, used)
    torch.randint(2**63 - 1, (), generator=fresh)
    assert torch.equal(used.get_state(), fresh.get_state())


def test_every_subset_of_the_local_neighbours_is_equally_likely():
    near, local = torch.arange(1, 8)[None], torch.tensor([[1, 0, 1, 1, 0, 0, 1]]).bool()
    seen = collections.Counter(
        tuple(pool(near, local, torch.tensor([9]), 2, seed=1, epoch=epoch, fallback="fill")[0].tolist())
        for epoch in range(600)
    )
    assert set(seen) == set(itertools.combinations([1, 3, 4, 7], 2))
    assert sum((n - 100) ** 2 / 100 for n in seen.values()) < 20.5  # chi squared, 5 degrees: 1 in 1,000


def test_hash_is_splitmix64():
    def mixed(x):
        x = (x + 0x9E3779B97F4A7C15) % 2**64
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    assert mixed(0) == 0xE220A8397B1DCDAF  # the published first number of seed 0
    counters = torch.tensor([0, 1, 5, 2**40, -3])
    found = hashed(-7, 2, counters, 9)
    for counter, number in zip(counters.tolist(), found.tolist(), strict=True):
        state = mixed(-7 % 2**64)
        for c in (2, counter, 9):
            state = mixed((state + mixed(c % 2**64)) % 2**64)
        assert number == state % 2**62


@pytest.mark.slow
def test_floyd_draws_every_set_equally_often():
    groups = torch.tensor([0, 1, 0, 0, 1, 0, 0, 2])
    seen = collections.Counter()
    for epoch in range(1200):
        drawn = draw_others(torch.arange(8), groups, 2, seed=5, epoch=epoch)
        assert sorted(drawn[1].tolist()) == [-1, 4]
        assert drawn[7].tolist() == [-1, -1]
        assert drawn[1, 0] == 4  # padding stands at the end
        seen[tuple(sorted(drawn[2].tolist()))] += 1
    assert set(seen) == set(itertools.combinations([0, 3, 5, 6], 2))
    assert sum((n - 200) ** 2 / 200 for n in seen.values()) < 20.5


def test_baselines():
    features = clustered()
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    nearest = selected(features, rule="knn", clusters=None)
    squares = (2 - 2 * unit @ unit.T).fill_diagonal_(9)
    assert torch.equal(nearest.pools, squares.argsort(dim=1)[:, :6])
    assert nearest.assignment is None
    assert nearest.clusters == 0
    assert nearest.fallback_share == 0

    same = selected(features, rule="k-means")
    assert (same.assignment[same.pools] == same.assignment[:, None]).all()
    assert not torch.equal(same.pools, selected(features, rule="k-means", epoch=1).pools)

    anyone = selected(features, rule="random", clusters=None)
    assert len(anyone.pools.unique()) > 580
    assert (anyone.local == 599).all()
    for chosen in (same, anyone):
        assert (chosen.pools != torch.arange(600)[:, None]).all()
        assert all(len(set(row)) == 6 for row in chosen.pools.tolist())


def test_few_items_leave_padding_at_the_end():
    features = clustered(count=5, groups=2)
    for rule in ("centre-wise", "knn", "random"):
        pools = selected(features, rule=rule, clusters=2, n_pos=7).pools
        assert all(set(row[:4]) == set(range(5)) - {i} for i, row in enumerate(pools.tolist()))
        assert (pools[:, 4:] == -1).all()
    alone = selected(features, rule="k-means", clusters=5)
    assert (alone.pools == -1).all()
    assert alone.fallback_share == 1
    assert (alone.local == 0).all()


def test_clusters_of_one_and_duplicates_fall_back():
    apart = selected(clustered(count=20), clusters=20, k=6)
    assert apart.fallback_share == 1
    assert apart.clusters == 20
    assert (apart.pools >= 0).all()
    # Three different images, each many times: most of 10 clusters end empty.
    features = torch.eye(3, 4).repeat(20, 1)
    copies = selected(features, clusters=10)
    assert copies.clusters == 3
    assert copies.empty == 7
    assert copies.reseeded > 0
    assert (features[copies.pools] == features[:, None]).all()
    assert (copies.pools != torch.arange(60)[:, None]).all()


def test_cells_choose_within_the_exact_sets_or_among_added_ones():
    whole, cells = selected(exact=True), selected(exact=False, nprobe=10)
    assert torch.equal(whole.pools, cells.pools)
    assert whole.exact
    assert not cells.exact
    one = selected(exact=False, nprobe=1)
    assert (one.local >= whole.local).all()  # nothing is lost; what fewer rivals let in is added
    knn = selected(exact=False, rule="knn", nprobe=2)
    assert (knn.pools == selected(exact=True, rule="knn").pools).double().mean() > 0.8


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"clusters": 601}, "fewer images than clusters"),
        ({"clusters": 0}, "clusters=0"),
        ({"clusters": 4.0}, "clusters=4.0"),
        ({"clusters": None}, "clusters is missing"),
        ({"n_pos": 31}, "more than k=30"),
        ({"n_pos": 0}, "n_pos=0"),
        ({"k": 2.0}, "k=2.0"),
        ({"nprobe": 0}, "nprobe=0"),
        ({"niter": 0}, "niter=0"),
        ({"rule": "center-wise"}, "centre-wise"),
        ({"fallback": "fil"}, "'fill'"),
        ({"exact": "yes"}, "exact='yes'"),
        ({"features": torch.ones(4)}, "expected floating"),
        ({"features": torch.ones(4, 3, dtype=torch.int64)}, "int64"),
        ({"features": torch.ones(1, 3)}, "at least 2"),
    ],
)
def test_bad_input_is_named(changes, words):
    with pytest.raises(InputError, match=words):
        selected(**changes)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_a_bad_row_is_named(value):
    features = clustered()
    features[[17, 40]] = value
    with pytest.raises(InputError, match=r"row 17 .*2 such rows"):
        selected(features)


def test_a_generator_is_needed():
    with pytest.raises(InputError, match="Generator"):
        select_positives(clustered(), clusters=4)


CASES = (
    {"rule": "centre-wise", "exact": True},
    {"rule": "centre-wise", "exact": False, "nprobe": 2, "fallback": "nearest"},
    {"rule": "k-means"},
    {"rule": "random"},
)


def one_rank(rank, world, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    # Another seed in each process: the first one's counts.
    found = [selected(clustered(601), seed=rank, epoch=2, **case) for case in CASES]
    kept = [(c.pools, c.fallback, c.local, c.reseeded) for c in found]
    tiny = selected(clustered(2, groups=2), clusters=1, n_pos=1, seed=rank)  # the third process has no item
    torch.save([*kept, tiny.pools], f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_select_what_one_selects(tmp_path, world):
    mp.spawn(one_rank, args=(world, str(tmp_path)), nprocs=world)
    expected = [selected(clustered(601), seed=0, epoch=2, **case) for case in CASES]
    for rank in range(world):
        *found, tiny = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for one, (pools, fallback, local, reseeded) in zip(expected, found, strict=True):
            assert torch.equal(one.pools, pools)
            assert torch.equal(one.fallback, fallback)
            assert torch.equal(one.local, local)
            assert one.reseeded == reseeded
        assert tiny.tolist() == [[1], [0]]


def test_arrays_may_be_read_only():
    features = clustered().numpy()
    features.flags.writeable = False
    assert np.array_equal(selected(features).pools, selected().pools)
