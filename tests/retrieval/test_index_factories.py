"""Every kind of index on offer does all that an index does; a float64 search by hand is the judge."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metrixkit.errors import InputError
from metrixkit.retrieval import RetrievalIndex
from metrixkit.retrieval.index import OFFERED
from metrixkit.retrieval.index.factory import parse_factory

pytestmark = pytest.mark.filterwarnings("ignore:.*is trained on:UserWarning")

COUNT, DIM = 900, 16
Build = Callable[..., RetrievalIndex]
METRICS = ("cosine", "dot", "euclidean")
SMALL = {"IVF256": "IVF8", "PQ16": "PQ4", "PQ32": "PQ8", "OPQ16": "OPQ4", "OPQ32": "OPQ8"}
# Every kind of OFFERED in numbers that suit 900 x 16.
KINDS = tuple(re.sub("|".join(sorted(SMALL, key=len, reverse=True)), lambda m: SMALL[m[0]], kind) for kind in OFFERED)
COARSE = tuple(kind for kind in KINDS if "PQ" in kind and "RFlat" not in kind)
SCALAR = tuple(kind for kind in KINDS if "SQ8" in kind and "RFlat" not in kind)
LONG = {"OPQ4,PQ4", "OPQ4,IVF8,PQ4"}  # seconds of training each
EACH = [pytest.param(kind, marks=[pytest.mark.slow] if kind in LONG else []) for kind in KINDS]
FEW = {"Flat", "HNSW32", "IVF8,Flat", "IVF8,PQ8x4fs,RFlat"}  # these in every metric, the others in cosine
EACH_METRIC = [
    pytest.param(
        kind, metric, marks=[] if kind in FEW or (metric == "cosine" and kind not in LONG) else [pytest.mark.slow]
    )
    for kind in KINDS
    for metric in METRICS
]


def clustered(count: int = COUNT, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((30, DIM))
    rows = centres[generator.integers(30, size=count)] + 0.4 * generator.standard_normal((count, DIM))
    return (rows * generator.uniform(0.5, 2.0, (count, 1))).astype(np.float32)


def names(count: int = COUNT, start: int = 0) -> np.ndarray:
    return np.array([f"item/{start + i}" for i in range(count)])


def by_hand(queries: np.ndarray, rows: np.ndarray, metric: str) -> np.ndarray:
    q, x = queries.astype(np.float64), rows.astype(np.float64)
    if metric == "cosine":
        q, x = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (q, x))
    return -((q[:, None] - x) ** 2).sum(2) if metric == "euclidean" else q @ x.T


def agreement(found: np.ndarray, rows: np.ndarray, ids: np.ndarray, queries: np.ndarray, metric: str) -> float:
    k = found.shape[1]
    best = ids[np.argsort(-by_hand(queries, rows, metric), axis=1, kind="stable")[:, :k]]
    return float(np.mean([len(set(a) & set(b)) / k for a, b in zip(found, best, strict=True)]))


def wide(index: RetrievalIndex) -> RetrievalIndex:
    """Search as thoroughly as the kind can, so that what is left is the codes' doing."""
    index.set_parameters(**{name: {"nprobe": 8, "efSearch": 200, "k_factor": 40}[name] for name in index.parameters})
    return index


_BUILT: dict[tuple[str, str], Path] = {}


@pytest.fixture
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RetrievalIndex]:
    """Return a fresh index of a kind; it is trained once."""

    def make(kind: str, metric: str = "cosine") -> RetrievalIndex:
        if (kind, metric) not in _BUILT:
            index = RetrievalIndex.build(clustered(), names(), kind, metric, labels=np.arange(COUNT) % 7)
            _BUILT[kind, metric] = tmp_path_factory.mktemp("built")
            wide(index).save(_BUILT[kind, metric])
        return RetrievalIndex.load(_BUILT[kind, metric], mmap=False, verify=False)

    return make


def test_the_small_kinds_are_those_on_offer() -> None:
    assert len(set(KINDS)) == len(OFFERED)
    for kind in KINDS:
        parse_factory(kind, DIM, COUNT)


@pytest.mark.parametrize(("kind", "metric"), EACH_METRIC)
def test_search_finds_the_nearest_with_their_scores(build: Build, kind: str, metric: str) -> None:
    rows, queries = clustered(), clustered(40, seed=1)
    index = build(kind, metric)
    scores, found = index.search(queries, 5)
    assert scores.dtype == np.float32
    assert found.dtype.kind == "U"
    assert found.shape == scores.shape == (40, 5)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert agreement(found, rows, names(), queries, metric) > (
        0.35 if kind in COARSE else 0.93 if kind in SCALAR else 0.97
    )
    if index._engine.factory.exact_vectors:
        where = {name: i for i, name in enumerate(names())}
        at = np.vectorize(where.get)(found)
        exact = np.take_along_axis(by_hand(queries, rows, metric), at, axis=1)
        np.testing.assert_allclose(scores, exact, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("kind", EACH)
def test_one_query_answers_as_in_a_batch(build: Build, kind: str) -> None:
    index, queries = build(kind), clustered(6, seed=1)
    scores, found = index.search(queries, 3)
    for i, query in enumerate(queries):
        one_score, one = index.search(torch.from_numpy(query), 3)
        assert one.shape == one_score.shape == (3,)
        np.testing.assert_allclose(one_score, scores[i], atol=1e-5)
        assert one.tolist() == found[i].tolist()


@pytest.mark.parametrize("kind", EACH)
def test_add_remove_update(build: Build, kind: str) -> None:
    rows, more = clustered(), clustered(60, seed=2)
    index = build(kind)
    index.add(more[:50], names(50, start=COUNT), labels=["new"] * 50)
    index.remove(names()[100:300:2])
    index.update(more[50:], names()[:10])
    assert len(index) == COUNT + 50 - 100

    removed, old = set(names()[100:300:2]), dict(zip(names(), rows, strict=True))
    now = {name: row for name, row in old.items() if name not in removed}
    now |= dict(zip(names(50, start=COUNT), more[:50], strict=True)) | dict(zip(names()[:10], more[50:], strict=True))
    assert sorted(index.ids) == sorted(now)
    labels = dict(zip(index.ids, index.labels, strict=True))
    assert labels["item/905"] == "new"
    assert all(labels[f"item/{i}"] == str(i % 7) for i in range(100))

    queries = np.concatenate([more[:20], more[50:], rows[100:300:2][:20]])
    scores, found = index.search(queries, 5)
    assert np.isfinite(scores).all()
    assert not set(found.ravel()) & removed
    ids, table = np.array(list(now)), np.array(list(now.values()))
    assert agreement(found, table, ids, queries, "cosine") > (0.35 if kind in COARSE else 0.95)
    assert index.info()["tombstones"] == (0 if index._engine.factory.removes else 110)
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    off = np.abs(index.reconstruct(ids) - unit)
    assert off.mean() < (0.3 if kind in COARSE else 0.005 if kind in SCALAR else 1e-4)
    assert kind in COARSE or kind in SCALAR or off.max() < 1e-3

    before = index.search(queries, 5)[1]
    assert index.compact() == (0 if index._engine.factory.removes else 110)
    assert index.info()["tombstones"] == 0
    assert sorted(index.ids) == sorted(now)
    assert (index.search(queries, 5)[1] == before).mean() > 0.85
    assert kind in COARSE or index.search(table[:1], 1)[1].item() == ids[0]


@pytest.mark.parametrize(("kind", "metric"), EACH_METRIC)
def test_filter(build: Build, kind: str, metric: str) -> None:
    rows, queries = clustered(), clustered(30, seed=1)
    index = build(kind, metric)
    third = np.arange(COUNT) % 3 == 0
    for chosen in (third, names()[third], set(names()[third]), lambda name: int(name[5:]) % 3 == 0):
        asked = (
            queries if isinstance(chosen, np.ndarray) else queries[:8]
        )  # a matrix product, and faiss's own passing over
        scores, found = index.search(asked, 5, filter=chosen)
        assert set(found.ravel()) <= set(names()[third])
        assert np.isfinite(scores).all()
        assert agreement(found, rows[third], names()[third], asked, metric) > (0.35 if kind in COARSE else 0.95)
    # Few, fewer than k, none; with tombstones about.
    index.remove(names()[:9])
    scores, found = index.search(queries, 5, filter=names()[9:12])
    assert all(set(row[:3]) == set(names()[9:12]) and row[3:].tolist() == ["", ""] for row in found)
    assert (scores[:, 3:] == -np.inf).all()
    nothing = index.search(queries, 2, filter=[])
    assert (nothing[1] == "").all()
    mask = np.zeros(len(index), dtype=bool)
    mask[[0, 5]] = True
    assert set(index.search(queries, 2, filter=mask)[1].ravel()) == set(index.ids[[0, 5]])


@pytest.mark.parametrize("kind", EACH)
def test_a_filter_that_leads_away_from_the_query_still_finds_k(build: Build, kind: str) -> None:
    # All that may be found lies far from the queries, where short lists, graphs and short-lists do not come.
    rows = clustered()
    index = build(kind)
    index.set_parameters(**{name: 1 for name in index.parameters})
    near = by_hand(rows[:1], rows, "cosine")[0]
    far = names()[np.argsort(near)[:60]]
    scores, found = index.search(rows[:1], 8, filter=far)
    assert np.isfinite(scores).all()
    assert set(found.ravel()) <= set(far)
    assert len(set(found.ravel())) == 8


@pytest.mark.parametrize("kind", EACH)
def test_save_and_load(build: Build, kind: str, tmp_path: Path) -> None:
    queries = clustered(20, seed=1)
    index = build(kind)
    index.remove(names()[:5])
    assert index.save(tmp_path / "shop") == "v0001"
    expected = index.search(queries, 4)
    for mmap in (True, False):
        other = RetrievalIndex.load(tmp_path / "shop", mmap=mmap)
        assert other.parameters == index.parameters
        assert other.labels.tolist() == index.labels.tolist()
        scores, found = other.search(queries, 4)
        np.testing.assert_array_equal(found, expected[1])
        np.testing.assert_array_equal(scores, expected[0])
        np.testing.assert_array_equal(other.reconstruct("item/77"), index.reconstruct("item/77"))
        # What was mapped can be changed, and the file it came from stays as it is.
        other.add(queries, names(20, start=5000), labels=["q"] * 20)
        other.remove(names()[5:9])
        assert other.search(queries, 1, filter=lambda name: len(name) == 9)[1].shape == (20, 1)
        assert not other.info()["mapped"]
    again = RetrievalIndex.load(tmp_path / "shop")
    assert len(again) == COUNT - 5
    info = again.info()
    size = (tmp_path / "shop" / "v0001" / "index.faiss").stat().st_size
    assert 0.9 < info["bytes"] / size < 1.1
    assert info["tombstone_share"] == pytest.approx(0 if index._engine.factory.removes else 5 / COUNT)


@pytest.mark.parametrize("size", [400, COUNT])
def test_the_seed_decides(size: int) -> None:
    rows, queries = clustered(), clustered(50, seed=1)
    one, two, other = (
        RetrievalIndex.build(rows, names(), "IVF8,PQ4", seed=seed, train_size=size).search(queries, 5)
        for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(one[0], two[0])
    assert (one[0] != other[0]).any()


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        ("Flt", "Did you mean 'Flat'"),
        ("PCA8,Flat", "not on offer"),
        ("IVF2000,Flat", "needs at least 2000 vectors"),
        ("PQ5", "nearest that do: 2, 4, 8"),
        ("IVF8,HNSW32", "stands alone"),
        ("HNSW2", "4 to 256"),
        ("Flat,RFlat", "leave RFlat out"),
        ("OPQ8,PQ4", "as many parts"),
        ("OPQ4_32,PQ4", "cannot turn"),
        ("IVF0,Flat", "no list"),
    ],
)
def test_factories_that_do_not_fit(factory: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        RetrievalIndex.build(clustered(), names(), factory)


def test_ivf_without_a_number_takes_one() -> None:
    assert RetrievalIndex.build(clustered(), names(), "IVF,SQ8").factory == "IVF16,SQ8"


def test_parameters() -> None:
    index = RetrievalIndex.build(clustered(), names(), "IVF8,PQ8x4fs,RFlat")
    assert index.parameters == {"nprobe": 3, "k_factor": 10}
    index.set_parameters("nprobe=2, k_factor=3")
    assert index.parameters == {"nprobe": 2, "k_factor": 3}
    index.set_parameters(nprobe=99)
    assert index.parameters["nprobe"] == 8
    for text, says in (("nprob=1", "'nprobe'"), ("nprobe=0", "at least 1"), ("nprobe", "NAME=NUMBER")):
        with pytest.raises(InputError, match=says):
            index.set_parameters(text)
    with pytest.raises(InputError, match="It has none"):
        RetrievalIndex.build(clustered(), names()).set_parameters(nprobe=1)


def test_parameters_outlive_a_load_and_a_change(build: Build, tmp_path: Path) -> None:
    build("IVF8,Flat").save(tmp_path / "i")
    index = RetrievalIndex.load(tmp_path / "i")
    index.set_parameters(nprobe=2)
    index.remove(names()[:3])
    assert index.parameters == {"nprobe": 2}
    index.save(tmp_path / "i")
    assert RetrievalIndex.load(tmp_path / "i").parameters == {"nprobe": 2}
    assert RetrievalIndex.load(tmp_path / "i", version="v0001").parameters == {"nprobe": 8}


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["Flat", "IVF8,Flat"])
def test_gpu_agrees_up_to_ties(build: Build, kind: str) -> None:
    index, queries = build(kind), clustered(20, seed=1)
    scores, found = index.search(queries, 5)
    try:
        index.to_gpu()
    except InputError as error:
        pytest.skip(str(error))
    there, other = index.search(queries, 5)
    np.testing.assert_allclose(there, scores, atol=1e-5)
    assert ((found == other) | (np.abs(there - scores) < 1e-6)).all()
    index.remove(names()[:3])
    assert not set(index.search(queries, 5)[1].ravel()) & set(names()[:3])


class PretendGpu:
    """faiss with one GPU, on which an index is a copy that cannot pass over vectors."""

    def __init__(self, faiss: Any) -> None:
        self._faiss, self.copies = faiss, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._faiss, name)

    def StandardGpuResources(self) -> object:
        return object()

    def get_num_gpus(self) -> int:
        return 1

    def index_cpu_to_gpu(self, _: object, device: int, index: Any) -> Any:
        self.copies += 1
        return self._faiss.clone_index(index)


def test_what_a_gpu_searches_follows_every_change(build: Build) -> None:
    index, queries = build("IVF8,Flat"), clustered(8, seed=1)
    pretend = index._engine._faiss = PretendGpu(index._engine._faiss)
    expected = index.search(queries, 5)
    index.to_gpu()
    assert index.search(queries, 5)[1].tolist() == expected[1].tolist()
    assert pretend.copies == 1
    gone = expected[1][:, 0]
    found = index.search(queries, 4, filter=lambda name: name not in set(gone))[1]
    assert not set(found.ravel()) & set(gone)
    index.remove(sorted(set(gone)))
    assert index.search(queries, 4)[1].tolist() == found.tolist()
    index.set_parameters(nprobe=1)
    index.search(queries, 4)
    assert pretend.copies == 3
    assert index.info()["gpu"] == 0
    index.to_cpu()
    index.search(queries, 4)
    assert pretend.copies == 3
    with pytest.raises(InputError, match="sees no such GPU"):
        index.to_gpu(1)


def test_without_a_gpu_the_error_says_so(build: Build) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(InputError, match="sees no such GPU"):
        build("Flat").to_gpu()


@pytest.mark.slow
def test_filters_survive_the_patches_of_faiss_contrib():
    """In a process of its own: importing torch_utils replaces methods of faiss for good."""
    code = (
        "import torch, numpy as np, faiss.contrib.torch_utils\n"
        "from metrixkit.retrieval import RetrievalIndex\n"
        "rows = np.eye(4, dtype=np.float32)\n"
        "index = RetrievalIndex.build(rows, ['a', 'b', 'c', 'd'])\n"
        "assert index.search(rows[:1], 1, filter=['b', 'c'])[1][0, 0] in ('b', 'c')\n"
        "index.remove(['a'])\n"
        "assert index.search(rows[1:2], 1)[1][0, 0] == 'b'\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
