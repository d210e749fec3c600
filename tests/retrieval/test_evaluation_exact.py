"""evaluate() against a naive float64 loop, on data made to be difficult: ties, duplicates, near ties, overlapping ids."""

import numpy as np
import pytest
import torch

from metrixkit.retrieval import Evaluation, evaluate
from metrixkit.retrieval.exact import tiles

DISTANCES = ["cosine", "euclidean", "dot"]
PRECISIONS = ["auto", "bfloat16", "float32", "float64"]


def naive(queries, query_labels, gallery, gallery_labels, own, recall_at, distance="cosine"):
    """The contract, word by word. Returns {name: (pessimistic, optimistic)} and the first ranks of each query."""
    x, g = np.asarray(queries, dtype=np.float64), np.asarray(gallery, dtype=np.float64)
    if distance == "cosine":
        x, g = (a / np.sqrt((a**2).sum(1, keepdims=True)) for a in (x, g))
    totals, firsts = {}, []
    for q in range(len(x)):
        score = -((x[q] - g) ** 2).sum(1) if distance == "euclidean" else (x[q] * g).sum(1)
        keep = [j for j in range(len(g)) if j != own[q]]
        relevant = sorted((score[j] for j in keep if gallery_labels[j] == query_labels[q]), reverse=True)
        others = [score[j] for j in keep if gallery_labels[j] != query_labels[q]]
        if not relevant:
            firsts.append(None)
            continue
        both = []
        for t, s in enumerate(relevant, 1):
            both.append((t + sum(o >= s - 1e-12 for o in others), t + sum(o > s + 1e-12 for o in others)))
        firsts.append(both[0])
        r = len(relevant)
        for side in (0, 1):
            rank = [pair[side] for pair in both]
            values = {f"recall@{k}": float(rank[0] <= k) for k in recall_at}
            values["mrr"] = 1 / rank[0]
            values["map@r"] = sum(t / i for t, i in enumerate(rank, 1) if i <= r) / r
            values["r_precision"] = sum(i <= r for i in rank) / r
            for name, value in values.items():
                totals.setdefault(name, ([], []))[side].append(value)
    return {name: tuple(float(np.mean(v)) for v in sides) for name, sides in totals.items()}, firsts


def check(result: Evaluation, expected, firsts):
    for name, (pessimistic, optimistic) in expected.items():
        assert result[name] == pytest.approx(pessimistic, abs=1e-14), name
        assert result.get(f"{name}/optimistic", result[name]) == pytest.approx(optimistic, abs=1e-14), name
        assert (f"{name}/optimistic" in result) == (abs(pessimistic - optimistic) > 1e-15), name
    ranks_found = result.per_query[["rank", "rank_optimistic"]].to_numpy(dtype=float, na_value=np.nan)
    wanted = np.array([(np.nan, np.nan) if f is None else f for f in firsts], dtype=float)
    np.testing.assert_array_equal(ranks_found, wanted)


@pytest.fixture
def small_tiles(monkeypatch):
    """Many blocks and tiles even for small data, and every open pair rechecked one by one."""
    monkeypatch.setattr(tiles, "GALLERY_TILE", 7)
    monkeypatch.setattr(tiles, "QUERY_BLOCK", 5)
    monkeypatch.setattr(tiles, "FIRST", 2)
    monkeypatch.setattr(tiles, "OPEN_SHARE", 2.0)


def difficult(rng, n, dim, kind):
    if kind == "grid":  # many exact ties and duplicates
        rows = rng.integers(-2, 3, size=(n, dim)).astype(np.float64)
        rows[np.abs(rows).sum(1) == 0, 0] = 1.0
        return rows
    if kind == "near":  # scores closer than float32 can tell, farther than 1e-12
        return np.ones((1, dim)) + 1e-5 * rng.normal(size=(n, dim))
    return rng.normal(size=(n, dim)).astype(np.float32)


@pytest.mark.sample(18)
@pytest.mark.parametrize("kind", ["grid", "near", "normal"])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_self_retrieval_is_the_naive_loop(small_tiles, kind, distance, precision, device):
    rng = np.random.default_rng(3)
    rows, labels = difficult(rng, 41, 4, kind), rng.integers(0, 9, size=41)
    labels[0] = 100  # a class of one
    expected, firsts = naive(rows, labels, rows, labels, range(41), (1, 2, 4, 8), distance)
    result = evaluate(
        torch.from_numpy(rows).to(device),
        labels,
        metrics=("map@r", "r_precision", "mrr"),
        distance=distance,
        precision=precision,
    )
    check(result, expected, firsts)


@pytest.mark.parametrize("kind", ["grid", "near"])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_overlapping_ids_leave_the_gallery(small_tiles, kind, distance, precision):
    rng = np.random.default_rng(4)
    everything, labels = difficult(rng, 60, 3, kind), rng.integers(0, 7, size=60)
    queries, gallery = np.arange(0, 35), rng.permutation(np.arange(20, 60))  # 20..34 are both
    own = [int(np.flatnonzero(gallery == q)[0]) if q in gallery else -1 for q in queries]
    expected, firsts = naive(
        everything[queries], labels[queries], everything[gallery], labels[gallery], own, (1, 3), distance
    )
    result = evaluate(
        everything[queries],
        [f"class {c}" for c in labels[queries]],
        everything[gallery],
        [f"class {c}" for c in labels[gallery]],
        [f"img/{i}.jpg" for i in queries],
        [f"img/{i}.jpg" for i in gallery],
        recall_at=(1, 3),
        metrics=("map@r", "r_precision", "mrr"),
        distance=distance,
        precision=precision,
    )
    check(result, expected, firsts)
    assert result.counts["in_own_gallery"] == 15


@pytest.mark.parametrize("depth_metrics", [(), ("mrr",)])
def test_following_only_the_first_relevant_item_changes_nothing(depth_metrics):
    rng = np.random.default_rng(5)
    rows, labels = difficult(rng, 50, 3, "grid"), rng.integers(0, 5, size=50)
    shallow = evaluate(rows, labels, metrics=depth_metrics)
    deep = evaluate(rows, labels, metrics=("map@r", "mrr"))
    assert {k: deep[k] for k in shallow} == dict(shallow)
    assert "ap@r" not in shallow.per_query


def test_collapsed_model_scores_zero():
    for value in (np.ones((20, 3)), torch.ones(20, 3, dtype=torch.bfloat16)):
        result = evaluate(value, [i // 4 for i in range(20)], recall_at=(1, 16, 17))
        assert result["recall@1"] == 0.0
        assert result["recall@16"] == 0.0
        assert result["recall@17"] == 1.0  # 16 items of other classes stand in front
        assert result["recall@1/optimistic"] == 1.0
        assert result["map@r"] == result["r_precision"] == 0.0
        assert result.counts["tied"] == 20


def test_duplicates_of_other_ids_stay_in_the_gallery():
    # The first two are twins of different classes. Dropping "column 0" would drop one or the other by chance.
    rows = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    result = evaluate(rows, ["a", "b", "a", "b"], recall_at=(1, 2))
    assert result.per_query["rank"].tolist() == [3, 2, 3, 3]
    assert result.per_query["rank_optimistic"].tolist() == [3, 2, 2, 2]
    assert (result["recall@1"], result["recall@2"], result["recall@2/optimistic"]) == (0.0, 0.25, 0.75)


def test_perfect_ranking_with_negative_cosines_is_perfect():
    angles = np.deg2rad([0, 100, 180, 280])  # cosines with the query: relevant -0.17, others below
    queries = np.array([[1.0, 0.0]])
    gallery = np.stack([np.cos(angles[1:3]), np.sin(angles[1:3])], 1)
    result = evaluate(queries, ["a"], gallery, ["a", "b"], recall_at=(1,), metrics=("map@r", "r_precision", "mrr"))
    assert set(result.values()) == {1.0}


def test_recall_is_any_hit_not_the_share_found():
    rows = np.array([[1.0, 0.0], [0.99, 0.1], [0.9, 0.4], [0.0, 1.0]])
    result = evaluate(rows, [0, 0, 0, 1], recall_at=(1,))
    assert result["recall@1"] == 1.0


def test_permutation_changes_nothing():
    rng = np.random.default_rng(6)
    rows, labels = difficult(rng, 80, 3, "grid"), rng.integers(0, 12, size=80)
    order = rng.permutation(80)
    one, other = evaluate(rows, labels), evaluate(rows[order], labels[order])
    assert dict(one) == pytest.approx(dict(other), abs=1e-14)
    assert one.per_query["rank"].to_numpy()[order].tolist() == other.per_query["rank"].tolist()


@pytest.mark.parametrize("distance", DISTANCES)
def test_long_equal_rows_are_still_equal(distance):
    # Dots of rows of length 1e4 carry rounding far above 1e-12.
    rng = np.random.default_rng(7)
    rows = np.repeat(1e4 * rng.normal(size=(1, 1037)), 203, axis=0)
    result = evaluate(rows, np.arange(203) // 3, recall_at=(1,), metrics=(), distance=distance)
    assert result["recall@1"] == 0.0


def test_input_kinds_agree(tmp_path):
    rng = np.random.default_rng(8)
    rows, labels = rng.normal(size=(30, 5)).astype(np.float32), rng.integers(0, 6, size=30)
    mapped = np.lib.format.open_memmap(tmp_path / "e.npy", mode="w+", dtype=np.float32, shape=rows.shape)
    mapped[:] = rows
    expected = dict(evaluate(rows, labels))
    for given in (torch.from_numpy(rows).requires_grad_(), mapped, rows.tolist(), rows.astype(">f4"), rows[:, ::-1]):
        for names in (
            labels,
            torch.from_numpy(labels),
            labels.tolist(),
            [str(c) for c in labels],
            labels.astype(float),
        ):
            assert dict(evaluate(given, names)) == pytest.approx(expected, abs=1e-14)


def test_agrees_with_pytorch_metric_learning_without_ties():
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    rng = np.random.default_rng(9)
    labels = rng.integers(0, 10, size=150)
    rows = rng.normal(size=(10, 16))[labels] + 1.5 * rng.normal(size=(150, 16))
    peer = AccuracyCalculator(
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r"),
        k="max_bin_count",
        knn_func=CustomKNN(CosineSimilarity()),
    )
    theirs = peer.get_accuracy(torch.from_numpy(rows), torch.from_numpy(labels))
    ours = evaluate(rows, labels)
    assert ours["recall@1"] == pytest.approx(theirs["precision_at_1"], abs=1e-12)
    assert ours["map@r"] == pytest.approx(theirs["mean_average_precision_at_r"], abs=1e-12)
    assert ours["r_precision"] == pytest.approx(theirs["r_precision"], abs=1e-12)


def test_screen_agrees_with_float64_on_many_tiles():
    rng = np.random.default_rng(10)
    labels = rng.integers(0, 400, size=2500)
    rows = (rng.normal(size=(400, 48))[labels] + 2 * rng.normal(size=(2500, 48))).astype(np.float32)
    rows[::7] = rows[3]  # a crowd of duplicates in several classes
    exact, screened = evaluate(rows, labels, precision="float64"), evaluate(rows, labels, precision="float32")
    assert dict(exact) == dict(screened)
    assert exact.per_query.equals(screened.per_query)


def test_ranks_survive_any_screen_error_within_the_bound(monkeypatch, small_tiles):
    rng = np.random.default_rng(12)
    labels = rng.integers(0, 15, size=120)
    rows = np.ones((1, 512)) + 1e-2 * rng.normal(size=(120, 512))  # cosines differ by about the error
    exact = evaluate(rows, labels, precision="float64")
    product = tiles.products

    def off(queries, gallery, out=None):
        right = product(queries, gallery, out)
        return right + torch.from_numpy(rng.choice([-1.0, 1.0], size=right.shape)).float() * (512 * 2.0**-24)

    monkeypatch.setattr(tiles, "products", off)
    screened = evaluate(rows, labels, precision="float32")
    assert exact.per_query.equals(screened.per_query)


def test_the_screen_does_not_follow_torch_switches():
    rng = np.random.default_rng(11)
    labels = rng.integers(0, 20, size=300)
    rows = np.ones((1, 32)) + 1e-3 * rng.normal(size=(300, 32))
    before = torch.get_float32_matmul_precision()
    exact = evaluate(rows, labels, precision="float64")
    try:
        torch.set_float32_matmul_precision("medium")
        assert dict(evaluate(rows, labels, precision="float32")) == dict(exact)
    finally:
        torch.set_float32_matmul_precision(before)
