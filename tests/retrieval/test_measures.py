"""Every metric by rank against a loop over a sorted list, on data with and without ties."""

import math

import numpy as np
import pytest

from metrixkit.errors import InputError
from metrixkit.retrieval import evaluate
from metrixkit.retrieval.measures import cap_of, depth_of, measure, measures_of

NAMES = (
    "map@r", "r_precision", "mrr", "mean_rank", "median_rank", "map@1", "map@10", "precision@1", "precision@5",
    "ndcg@1", "ndcg@10", "ndcg@40",
)  # fmt: skip


def positions(rows, labels, q, optimistic):
    """Ranks of the relevant items of item q: ties after (or before) all others."""
    unit = rows / np.sqrt((rows**2).sum(1, keepdims=True))
    score = unit @ unit[q]
    found = []
    mine = sorted((score[j] for j in range(len(rows)) if j != q and labels[j] == labels[q]), reverse=True)
    others = [score[j] for j in range(len(rows)) if labels[j] != labels[q]]
    for t, s in enumerate(mine, 1):
        front = sum(o > s + 1e-12 if optimistic else o >= s - 1e-12 for o in others)
        found.append(t + front)
    return found


def value(name, ranks):
    """The definition, by filling a list of hits."""
    relevant = len(ranks)
    hits = [0] * (max(ranks) + 100)
    for r in ranks:
        hits[r - 1] = 1
    name, _, at = name.partition("@")
    k = relevant if at == "r" or name == "r_precision" else int(at or 0)
    if name in ("mean_rank", "median_rank"):
        return ranks[0]
    if name == "mrr":
        return 1 / ranks[0]
    if name == "map":
        total = sum(sum(hits[: i + 1]) / (i + 1) for i in range(k) if hits[i])
        return total / min(k, relevant)
    if name == "ndcg":
        ideal = sum(1 / math.log2(i + 2) for i in range(min(k, relevant)))
        return sum(hits[i] / math.log2(i + 2) for i in range(k)) / ideal
    return sum(hits[:k]) / k


@pytest.mark.parametrize("kind", ["ties", "distinct"])
def test_metrics_are_the_loop(kind):
    rng = np.random.default_rng(1)
    labels = np.array([0] * 23 + [1] * 9 + [2] * 5 + [3] * 2 + [4])
    rows = rng.integers(-1, 2, size=(40, 4)) + 0.0 if kind == "ties" else rng.normal(size=(40, 5))
    rows[np.abs(rows).sum(1) == 0, 0] = 1.0
    with pytest.warns(UserWarning, match="ndcg@40 asks for more than the 39 gallery items"):
        result = evaluate(rows, labels, recall_at=(1, 4), metrics=NAMES)
    for optimistic in (False, True):
        ranks = [positions(rows, labels, q, optimistic) for q in range(39)]
        for name in NAMES:
            wanted = [value(name, r) for r in ranks]
            column = measure(name).optimistic if optimistic else measure(name).column
            np.testing.assert_allclose(
                result.per_query[column][:39].astype(float), wanted, rtol=0, atol=1e-13, err_msg=name
            )
            assert np.isnan(result.per_query[column].astype(float).iloc[39])
            over = np.median(wanted) if name == "median_rank" else np.mean(wanted)
            found = result.get(f"{name}/optimistic", result[name]) if optimistic else result[name]
            assert found == pytest.approx(over, abs=1e-13), name
        for k in (1, 4):
            column = f"recall@{k}" + ("/optimistic" if optimistic else "")
            assert result.per_query[column][:39].tolist() == [float(r[0] <= k) for r in ranks]
    assert set(result) <= set(result.definitions)


def test_a_perfect_list_has_exactly_one():
    ranks = np.arange(1, 61)[None]
    for name in ("ndcg@10", "ndcg@60", "ndcg@100", "map@10", "map@100", "map@r", "r_precision", "precision@60"):
        assert measure(name).values(ranks, np.array([60]))[0] == 1.0, name


def test_values_on_paper():
    # Relevant items at ranks 1, 3 and 4 of a query with R = 3.
    ranks, relevant = np.array([[1, 3, 4]]), np.array([3])
    expected = {
        "map@2": 1 / 2, "map@3": (1 + 2 / 3) / 3, "map@10": (1 + 2 / 3 + 3 / 4) / 3, "precision@4": 3 / 4,
        "precision@10": 3 / 10, "ndcg@2": 1 / (1 + 1 / math.log2(3)), "map@r": (1 + 2 / 3) / 3, "r_precision": 2 / 3,
    }  # fmt: skip
    for name, wanted in expected.items():
        assert measure(name).values(ranks, relevant)[0] == pytest.approx(wanted, abs=1e-15), name


def test_each_metric_alone_follows_enough_items():
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 4, size=60)
    rows = rng.normal(size=(60, 3))
    together = evaluate(rows, labels, metrics=NAMES[:-1])
    for name in NAMES[:-1]:
        assert evaluate(rows, labels, recall_at=(), metrics=(name,))[name] == together[name]


def test_depth_and_cap():
    relevant = np.array([0, 2, 30])
    assert depth_of(measures_of([1, 8], ["mrr"])) == 1
    assert cap_of(measures_of([1, 8], ["mrr", "precision@1"]), relevant) is None
    asked = measures_of([1], ["ndcg@10", "precision@5"])
    assert depth_of(asked) == 10
    assert cap_of(asked, relevant).tolist() == [10, 10, 10]
    asked = measures_of([1000], ["map@r", "map@5"])
    assert depth_of(asked) is None
    assert cap_of(asked, relevant).tolist() == [5, 5, 30]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("map@0", "'map@0': the cutoff must be at least 1"),
        ("ndgc@10", "no metric is called 'ndgc@10'. Did you mean 'ndcg@10'"),
        ("precision@", "no metric is called"),
        ("mean_ranks", "Did you mean 'mean_rank'"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(InputError, match=message):
        evaluate(np.eye(4), [0, 0, 1, 1], metrics=(name,))


def test_a_run_is_not_selected_by_a_rank():
    from metrixkit.tasks import EvaluationSettings, Retrieval

    with pytest.raises(InputError, match="better when lower"):
        Retrieval(None, None, EvaluationSettings(metrics=["mean_rank"], select_by="mean_rank"))
