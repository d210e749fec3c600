"""What a caller may ask of an index: how many, within what, among which; and what it answers to nonsense."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from metrixkit.errors import InputError
from metrixkit.retrieval import RetrievalIndex

pytestmark = pytest.mark.filterwarnings("ignore:.*is trained on:UserWarning")

ROWS = np.random.default_rng(0).standard_normal((400, 8)).astype(np.float32)
IDS = np.array([f"a{i}" for i in range(400)])


def made(factory: str = "Flat", metric: str = "cosine", ids: Any = IDS) -> RetrievalIndex:
    return RetrievalIndex.build(ROWS[: len(ids)], ids, factory, metric)


def test_no_more_are_answered_than_there_are() -> None:
    index = made(ids=IDS[:12])
    tracemalloc.start()
    scores, ids = index.search(ROWS[:10], 10**9)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert scores.shape == ids.shape == (10, 12)
    assert set(ids[0]) == set(IDS[:12])
    assert peak < 10**7
    index.remove(IDS[:5])
    assert index.search(ROWS[0], 12)[1].shape == (7,)
    assert index.search(ROWS[0], 12, filter=["a7"])[1].tolist() == ["a7", *[""] * 6]


@pytest.mark.parametrize("none", [np.empty((0, 8)), [], torch.empty(0, 8)])
def test_no_queries_no_answers(none: Any) -> None:
    index = made()
    for filter in (None, ["a1"]):
        scores, ids = index.search(none, 3, filter=filter)
        assert scores.shape == ids.shape == (0, 3)
        assert (scores.dtype, ids.dtype.kind) == (np.float32, "U")
    assert index.range_search(none, 0.5) == ([], [])
    assert [part.shape for part in index.match(none, 0.5)] == [(0,), (0,)]


def test_an_empty_index_matches_nothing() -> None:
    index = made()
    index.remove(IDS)
    assert index.match(ROWS[:2], 0.5)[1].tolist() == ["no match"] * 2
    assert index.match(ROWS[0], 0.5) == (-np.inf, "no match")
    assert [len(found) for found in index.range_search(ROWS[:2], -1)[1]] == [0, 0]
    with pytest.raises(InputError, match="the index is empty"):
        index.set_threshold(0.5, strangers=ROWS)


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("factory", ["Flat", "IVF8,Flat", "HNSW8"])
def test_all_within_a_radius_are_found(factory: str, metric: str) -> None:
    index = made(factory, metric)
    index.set_parameters(**{name: 1 for name in index.parameters})  # it looks at everything all the same
    index.remove(IDS[:40])
    rows = ROWS.astype(np.float64)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    if metric == "euclidean":
        scores, radius = -((rows[:50, None] - rows) ** 2).sum(2), 2.5
        least = -(radius**2)
    else:
        scores = unit[:50] @ unit.T if metric == "cosine" else rows[:50] @ rows.T
        least = radius = 0.6 if metric == "cosine" else 6.0
    odd = np.arange(400) % 2 == 1
    for filter, there in ((None, IDS[40:]), (odd[40:], IDS[40:][odd[40:]]), (lambda name: name.endswith("7"), None)):
        points, found = index.range_search(ROWS[:50], radius, filter=filter)
        there = [name for name in IDS[40:] if name.endswith("7")] if there is None else there
        for query in range(50):
            wanted = {name for name in there if scores[query, int(name[1:])] >= least}
            assert set(found[query]) == wanted
            assert (np.diff(points[query]) <= 0).all()
            at = [int(name[1:]) for name in found[query]]
            np.testing.assert_allclose(points[query], scores[query, at], rtol=1e-4, atol=1e-5)
    assert sum(map(len, index.range_search(ROWS[:50], radius)[1])) > 60


def test_a_radius_reaches_equal_vectors_in_spite_of_float32() -> None:
    for metric, radius in (("cosine", 1.0), ("euclidean", 0.0)):
        index = made("SQfp16" if metric == "euclidean" else "Flat", metric)
        rows = index.reconstruct(IDS)
        found = index.range_search(rows, radius)[1]
        assert all(name in names for name, names in zip(IDS, found, strict=True))
    scores, ids = made("Flat", "euclidean").range_search(ROWS[3], np.linalg.norm(ROWS[3] - ROWS[9]))
    assert "a9" in ids
    assert ids[0] == "a3"
    assert scores[0] == 0


def test_a_radius_of_everything_is_refused_before_memory_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    from metrixkit.retrieval.index import scan

    monkeypatch.setattr(scan.within, "__defaults__", (1000,))
    with pytest.raises(InputError, match=r"more than 1000 results .*\(3 queries, 400 items\).* narrower radius"):
        made().range_search(ROWS[:3], -1.0)
    assert len(made().range_search(ROWS[0], -1.0)[1]) == 400


@pytest.mark.parametrize(
    ("metric", "radius", "says"),
    [
        ("cosine", 80, "lies between -1 and 1"),
        ("euclidean", -1.0, "not squared"),
        ("dot", np.nan, "finite"),
        ("dot", "0.5", "finite"),
        ("dot", True, "finite"),
        ("dot", None, "finite"),
    ],
)
def test_radii_that_cannot_be(metric: str, radius: Any, says: str) -> None:
    with pytest.raises(InputError, match=f"radius=.*{says}"):
        made(metric=metric).range_search(ROWS, radius)


@pytest.mark.parametrize("k", [0, -3, 2.0, True, "3", None, np.nan])
def test_counts_that_cannot_be(k: Any) -> None:
    with pytest.raises(InputError, match="k=.*at least one item"):
        made().search(ROWS, k)


@pytest.mark.parametrize("dtype", [bool, int, np.uint8, float])
def test_masks_of_any_type(dtype: type) -> None:
    index = RetrievalIndex.build(ROWS[:12], range(12))
    mask = (np.arange(12) >= 6).astype(dtype)
    for given in (mask, mask.tolist(), torch.from_numpy(mask), pd.Series(mask)):
        assert set(index.search(ROWS[0], 12, filter=given)[1]) - {""} == {str(i) for i in range(6, 12)}
        with pytest.raises(InputError, match=r"a mask of shape \(11,\) for 12 items"):
            index.search(ROWS[0], 3, filter=given[:11])


def test_numbers_that_are_ids_stay_ids() -> None:
    index = RetrievalIndex.build(ROWS[:12], range(12))
    assert set(index.search(ROWS[0], 3, filter=[1, 0])[1]) == {"0", "1", ""}
    assert set(index.search(ROWS[0], 3, filter=[7, 7, 3])[1]) == {"7", "3", ""}
    assert set(index.search(ROWS[0], 2, filter=np.array([1], np.uint64))[1]) == {"1", ""}
    two = RetrievalIndex.build(ROWS[:2], range(2))
    with pytest.raises(InputError, match=r"filter=\[1, 0\]: may be a mask, or the ids"):
        two.search(ROWS[0], 1, filter=[1, 0])
    assert two.search(ROWS[0], 2, filter=["1", "0"])[1].tolist() == ["0", "1"]
    assert RetrievalIndex.build(ROWS[:2], ["x", "y"]).search(ROWS[0], 1, filter=[0, 1])[1].tolist() == ["y"]
    with pytest.raises(InputError, match="'12' is not in the index"):
        index.search(ROWS[0], 1, filter=[12])
    with pytest.raises(InputError, match=r"b'a1'.*found one text"):
        made().search(ROWS[0], 1, filter=b"a1")


def test_a_cut_off_change_is_not_answered_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    index = made("IVF8,Flat")
    index.save(tmp_path / "i")

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(index._table, "delete", interrupted)
        with pytest.raises(KeyboardInterrupt):
            index.remove(["a3"])
    for call in (
        lambda: index.search(ROWS[0], 1),
        lambda: index.match(ROWS[0], 0.1),
        lambda: index.range_search(ROWS[0], 0.5),
        lambda: index.add(ROWS[:1], ["n"]),
        lambda: index.save(tmp_path / "i"),
    ):
        with pytest.raises(InputError, match="was cut off in its middle.*Load it again"):
            call()
    assert RetrievalIndex.load(tmp_path / "i").search(ROWS[3], 1)[1].tolist() == ["a3"]
    # What is refused before it begins leaves the index as it was.
    with pytest.raises(InputError, match="in the index already"):
        made().add(ROWS[:1], ["a0"])
