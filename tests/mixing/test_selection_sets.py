"""Centre-wise selection: the fixture's sets, and a loop over single items on clouds made to be difficult."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import oracle_selection as oracle
import pytest
import torch

from metrixkit.mixing import select_positives
from metrixkit.mixing.clusters import assign, fit_clusters
from metrixkit.mixing.nearest import Points
from metrixkit.mixing.neighbours import all_neighbours, cell_neighbours
from metrixkit.mixing.pools import centre_wise, pool

CLOUD = json.loads((Path(__file__).parent.parent / "fixtures" / "ssl_mixers.json").read_text())["clim_selection_cloud"]


def cloud(kind, seed=0):
    draw = np.random.default_rng(seed)
    if kind == "plain":
        return draw.standard_normal((90, 5))
    if kind == "duplicates":  # each row up to forty times: more than the screen keeps
        return np.repeat(draw.standard_normal((12, 4)), [1, 2, 40, 3, 1, 1, 5, 20, 1, 8, 2, 6], axis=0)[
            draw.permutation(90)
        ]
    if kind == "grid":  # distances tie everywhere
        return draw.integers(-1, 2, (90, 3)) + np.array([0.0, 0.0, 4.0])
    if kind == "collapsed":
        return np.ones((40, 3))
    if kind == "near ties":
        return np.repeat(draw.standard_normal((15, 4)), 6, axis=0) + 1e-5 * draw.standard_normal((90, 4))
    if kind == "blurred":  # copies that only float64 tells apart, as seen from another image
        return np.repeat(draw.standard_normal((6, 4)), [5, 40, 5, 30, 5, 5], axis=0) + 1e-8 * draw.standard_normal(
            (90, 4)
        )
    raise AssertionError(kind)


KINDS = ("plain", "duplicates", "grid", "collapsed", "near ties", "blurred")


def chosen_sets(points, clusters, near):
    items = torch.arange(len(near))
    inside = centre_wise(near, items, clusters, points.tie)
    return [set(row[keep].tolist()) for row, keep in zip(near, inside, strict=True)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_fixture_cloud(dtype):
    given, expected = CLOUD["inputs"], CLOUD["expected"]
    points = Points(torch.tensor(given["points"], dtype=dtype))
    clusters = fit_clusters(points, 4, seed=0, init_centres=torch.tensor(given["init_centres"]))
    assert clusters.assignment.tolist() == expected["assign"]
    assert (clusters.centres.double() - torch.tensor(expected["centres"]).double()).abs().max() < 1e-6
    items = torch.arange(len(points))
    near = all_neighbours(points, items, given["k"])
    inside = centre_wise(near, items, clusters, points.tie)
    same = clusters.assignment[near] == clusters.assignment[:, None]
    pools = {
        name: pool(near, inside, items, given["n_pos"], seed=0, epoch=0, fallback=name) for name in ("fill", "nearest")
    }
    for row in expected["sets"]:
        i = row["i"]
        assert near[i].tolist() == row["omega2"]
        assert near[i][same[i]].tolist() == row["omega12"]
        assert near[i][inside[i]].tolist() == row["omega_p"]
        for name, found in pools.items():
            if row[f"pool_{name}"] is None:
                assert set(found[i].tolist()) < set(row["omega_p"])
                assert len(set(found[i].tolist())) == given["n_pos"]
            else:
                assert set(found[i].tolist()) == set(row[f"pool_{name}"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 7, 39])
def test_sets_equal_a_loop(kind, k):
    rows = oracle.unit(cloud(kind))
    points = Points(torch.from_numpy(rows))
    # Centres that are rows, one of them twice: ties between clusters, and clusters of one.
    centres = points.rows[[3, 11, 3, 20, 31]]
    clusters = assign(points, centres)
    expected = oracle.sets(rows, centres.numpy(), k)
    assert clusters.assignment.tolist() == oracle.assigned(rows, centres.numpy())
    near = all_neighbours(points, torch.arange(len(rows)), k)
    assert near.tolist() == [two for _, two, _ in expected]
    assert chosen_sets(points, clusters, near) == [local for _, _, local in expected]


@pytest.mark.parametrize("kind", KINDS)
def test_float32_features_are_decided_in_float64(kind):
    rows = torch.from_numpy(oracle.unit(cloud(kind))).float()
    near = all_neighbours(Points(rows), torch.arange(len(rows)), 20)
    exact = rows.double().numpy()
    assert near.tolist() == [oracle.nearest(row, i, 20) for i, row in enumerate(oracle.table(exact))]


@pytest.mark.slow
def test_a_screen_in_groups_of_columns_is_exact():
    rows = torch.nn.functional.normalize(torch.randn(3000, 6, generator=torch.Generator().manual_seed(1)), dim=1)
    rows[100:160] = rows[7]  # more duplicates than the screen keeps
    near = all_neighbours(Points(rows), torch.arange(3000), 10)
    squares = torch.cdist(rows.double(), rows.double(), compute_mode="donot_use_mm_for_euclid_dist") ** 2
    squares[torch.arange(3000), torch.arange(3000)] = torch.inf
    key = (squares * 1e11).round()  # in steps well above the tie
    expected = key.sort(dim=1, stable=True).indices[:, :10]
    assert torch.equal(near, expected)


@pytest.mark.sample(4)
@pytest.mark.parametrize("nprobe", [1, 3, 40])
@pytest.mark.parametrize(("kind", "cells"), [("plain", 40), ("duplicates", 40), ("near ties", 40), ("blurred", 6)])
def test_cells_hold_all_neighbours_of_the_own_cluster(kind, cells, nprobe):
    points = Points(torch.from_numpy(np.concatenate([oracle.unit(cloud(kind, seed)) for seed in range(6)])))
    clusters = fit_clusters(points, cells, seed=3, niter=5)
    items = clusters.assignment.argsort(stable=True)
    near = cell_neighbours(points, items, 15, clusters, nprobe)[items.argsort()]
    exact = all_neighbours(points, torch.arange(len(points)), 15)
    assert (near >= 0).all()
    for i in range(len(points)):
        looked, true = near[i].tolist(), exact[i].tolist()
        assert i not in looked
        assert len(set(looked)) == 15
        own = {j for j in true if clusters.assignment[j] == clusters.assignment[i]}
        assert own <= set(looked), i
    if nprobe == 40:  # every cell
        assert torch.equal(near, exact)


@pytest.mark.parametrize("fallback", ["fill", "nearest"])
@pytest.mark.parametrize("kind", ["plain", "duplicates", "grid"])
def test_pools_follow_the_rule(kind, fallback):
    features = torch.from_numpy(cloud(kind))
    chosen = select_positives(features, 20, 4, 5, torch.Generator().manual_seed(0), fallback=fallback)
    rows = oracle.unit(features.numpy())
    seed = int(torch.randint(2**63 - 1, (), generator=torch.Generator().manual_seed(0)))
    clusters = fit_clusters(Points(torch.from_numpy(rows)), 4, seed)
    assert torch.equal(clusters.assignment, chosen.assignment)
    for i, (_, two, local) in enumerate(oracle.sets(rows, clusters.centres.double().numpy(), 20)):
        found = set(chosen.pools[i].tolist())
        assert len(found) == 5
        assert i not in found
        assert bool(chosen.fallback[i]) == (len(local) <= 5)
        assert int(chosen.local[i]) == len(local)
        if len(local) > 5:
            assert found <= local
        else:
            assert found == (oracle.filled(two, local, 5) if fallback == "fill" else set(two[:5]))


@pytest.mark.gpu
def test_cuda_selects_what_the_processor_selects():
    features = torch.from_numpy(np.concatenate([cloud(kind, 4) + 0.5 for kind in ("plain",)] * 3))
    here = Points(torch.from_numpy(oracle.unit(features.numpy())))
    clusters = fit_clusters(here, 6, seed=1)
    there = Points(here.rows.cuda())
    moved = assign(there, clusters.centres.cuda())
    items = clusters.assignment.argsort(stable=True)
    assert torch.equal(moved.assignment.cpu(), clusters.assignment)
    for nprobe in (1, 6):
        near = cell_neighbours(here, items, 12, clusters, nprobe)
        assert torch.equal(near, cell_neighbours(there, items.cuda(), 12, moved, nprobe).cpu())
        inside = centre_wise(near, items, clusters, here.tie)
        pools = pool(near, inside, items, 5, 3, 1, "fill")
        assert torch.equal(pools, pool(near.cuda(), inside.cuda(), items.cuda(), 5, 3, 1, "fill").cpu())
