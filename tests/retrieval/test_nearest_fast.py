"""The screened neighbours and utilization: the same as float64 against everything, on data made to be difficult."""

import tracemalloc

import numpy as np
import pytest
import torch

from metrixkit.errors import InputError
from metrixkit.retrieval import neighbours, utilization
from metrixkit.retrieval.exact import shortlist
from metrixkit.retrieval.exact.setting import pair_up

PRECISIONS = ["bfloat16", "float32"]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
KINDS = ["grid", "near", "nearer", "collapsed", "twins", "negative", "normal"]


def difficult(rng, n, dim, kind):
    if kind == "grid":  # many exact ties
        rows = rng.integers(-2, 3, size=(n, dim)).astype(np.float64)
        rows[np.abs(rows).sum(1) == 0, 0] = 1.0
        return rows
    if kind in ("near", "nearer"):  # scores that low precision cannot tell, some closer than 1e-12
        return np.ones((1, dim)) + {"near": 1e-4, "nearer": 1e-6}[kind] * rng.normal(size=(n, dim))
    if kind == "collapsed":
        return np.full((n, dim), 0.3, dtype=np.float32)
    rows = rng.normal(size=(n, dim)).astype(np.float32)
    if kind == "twins":
        return rows[rng.integers(0, n // 3, size=n)]
    return np.concatenate([-np.abs(rows[:1]), np.abs(rows[1:])]) if kind == "negative" else rows


@pytest.fixture(params=[(2, 8, 5, 1.0), (4, 12, 64, 1 / 2), (3, 16, 7, 1 / 8)])
def small(request, monkeypatch):
    """Many groups, tiles and blocks even for small data; the last of each is incomplete."""
    for name, value in zip(("GROUP", "TILE", "QUERIES", "CROWDED"), request.param, strict=True):
        monkeypatch.setattr(shortlist, name, value)
    monkeypatch.setattr(shortlist, "MAXIMA", 300)
    monkeypatch.setattr(shortlist, "SCORES", 150)


@pytest.mark.sample(21)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("distance", ["cosine", "dot"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("device", DEVICES)
def test_screened_neighbours_are_the_exact_ones(small, kind, distance, precision, device):
    rng = np.random.default_rng(len(kind))
    for n, k in ((61, 1), (61, 4), (37, 9)):
        rows = torch.from_numpy(difficult(rng, n, 5, kind)).to(device)
        scores, index = neighbours(rows, k=k, distance=distance, precision=precision)
        wanted_scores, wanted = neighbours(rows, k=k, distance=distance, precision="float64")
        np.testing.assert_array_equal(index, wanted)
        np.testing.assert_allclose(scores, wanted_scores, rtol=0, atol=1e-13 * max(1, np.abs(wanted_scores).max()))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_shared_ids_long_rows_and_queries_outside(small, precision):
    rng = np.random.default_rng(3)
    rows = 1e3 * difficult(rng, 70, 4, "grid") * rng.integers(1, 9, size=(70, 1))
    queries, gallery = np.arange(40), rng.permutation(np.arange(20, 70))
    for distance in ("cosine", "dot", "euclidean"):
        given = (rows[queries], rows[gallery], 3, queries, gallery, distance)
        for found, wanted in zip(neighbours(*given, precision), neighbours(*given, "float64"), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-13)


def test_the_screen_looks_at_little_and_loses_nothing():
    rng = np.random.default_rng(4)
    rows = rng.normal(size=(3000, 64)).astype(np.float32)
    pair = pair_up(rows, None, None, None, "cosine")
    seen = 0
    for found in shortlist.shortlists(pair, 10, "bfloat16"):
        seen += int(found.costs.isfinite().sum())
    assert 30_000 <= seen < 30_000 * 10  # of nine million pairs
    one = next(iter(shortlist.shortlists(pair, 10, "float64")))
    assert one.costs.shape[1] == 3000


@pytest.mark.parametrize("kind", ["collapsed", "near", "normal"])
def test_each_query_comes_once(small, kind):
    rows = difficult(np.random.default_rng(10), 90, 5, kind)
    lists = list(shortlist.shortlists(pair_up(rows, None, None, None, "cosine"), 2, "bfloat16"))
    assert sorted(np.concatenate([found.rows for found in lists]).tolist()) == list(range(90))


@pytest.mark.parametrize("precision", [*PRECISIONS, "float64", "auto"])
@pytest.mark.parametrize("device", DEVICES)
def test_utilization_of_each_query(small, precision, device):
    rng = np.random.default_rng(5)
    for kind in KINDS:
        x, q = difficult(rng, 83, 6, kind), difficult(rng, 31, 6, kind)
        u, v = (a.astype(np.float64) / np.linalg.norm(a.astype(np.float64), axis=1, keepdims=True) for a in (x, q))
        wanted = ((v[:, None] - u[None]) ** 2).sum(2).min(1)
        found = utilization(torch.from_numpy(q).to(device), x, per_query=True, precision=precision)
        assert found.shape == (31,)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-13)
        assert utilization(q, x, precision=precision) == pytest.approx(wanted.mean(), abs=1e-13)
    assert utilization(x, x, precision=precision) == pytest.approx(0.0, abs=1e-13)  # an item is its own nearest


@pytest.mark.slow
def test_larger_than_memory(tmp_path, monkeypatch):
    """A map is read in portions: what is held stays far below the float64 rows, and below the scores."""
    monkeypatch.setattr("metrixkit.retrieval.exact.screen.KEPT", 0)
    monkeypatch.setattr(shortlist, "MAXIMA", 2**18)
    monkeypatch.setattr(shortlist, "BLOCK", 512)
    rows = np.random.default_rng(6).normal(size=(40_000, 64)).astype(np.float32)
    mapped = np.lib.format.open_memmap(tmp_path / "e.npy", mode="w+", dtype=np.float32, shape=rows.shape)
    mapped[:] = rows
    tracemalloc.start()  # numpy's share; torch's blocks are tiles by construction
    found = neighbours(rows[:600].copy(), mapped, k=5, precision="bfloat16")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < mapped.nbytes / 2
    for a, b in zip(found, neighbours(rows[:600].copy(), rows, k=5, precision="bfloat16"), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-14)


def test_unknown_precision():
    with pytest.raises(InputError, match="precision='bfloat' is not known. Did you mean 'bfloat16'"):
        neighbours(np.eye(4), k=1, precision="bfloat")
    with pytest.raises(InputError, match="precision='half' is not known"):
        utilization(np.eye(4), np.eye(4), precision="half")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["clustered", "twins"])
def test_many_rows(kind):
    rng = np.random.default_rng(7)
    rows = rng.normal(size=(1500, 128))[rng.integers(0, 1500, size=12_000)]
    rows = rows + (0.7 * rng.normal(size=rows.shape) if kind == "clustered" else 0)
    wanted = neighbours(rows, k=12, precision="float64")
    for precision in (*PRECISIONS, "auto"):
        found = neighbours(rows, k=12, precision=precision)
        np.testing.assert_array_equal(found[1], wanted[1])
        np.testing.assert_allclose(found[0], wanted[0], rtol=0, atol=1e-13)


@pytest.mark.slow
def test_random_cases(monkeypatch):
    rng = np.random.default_rng(8)
    for case in range(2000):
        monkeypatch.setattr(shortlist, "GROUP", int(rng.integers(1, 6)))
        monkeypatch.setattr(shortlist, "TILE", int(rng.integers(2, 20)))
        monkeypatch.setattr(shortlist, "QUERIES", int(rng.integers(1, 20)))
        monkeypatch.setattr(shortlist, "CROWDED", float(rng.choice([1.0, 0.5, 0.125])))
        monkeypatch.setattr(shortlist, "MAXIMA", 100)
        n, k = int(rng.integers(4, 60)), int(rng.integers(1, 8))
        rows = difficult(rng, n, int(rng.integers(2, 8)), KINDS[case % len(KINDS)])
        distance, precision = ("cosine", "dot")[case // 7 % 2], PRECISIONS[case // 14 % 2]
        found = neighbours(rows, k=k, distance=distance, precision=precision)
        wanted = neighbours(rows, k=k, distance=distance, precision="float64")
        np.testing.assert_array_equal(found[1], wanted[1], err_msg=str(case))
