"""Each re-ranking against a dense float64 loop of its definition, and its limits."""

import numpy as np
import pytest
import torch

from metrixkit.errors import InputError
from metrixkit.retrieval import evaluate, k_reciprocal, rerank

METRICS = {"recall_at": (1, 2), "metrics": ("map@r",)}


def unit(rows):
    rows = np.asarray(rows, dtype=np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def dense(items, asked, there, k1, k2, weight, rule="released"):
    """k-reciprocal encoding with sets and full matrices; positions `asked` and `there` among all items.

    The released programme lets a set join that shares more than two thirds of itself, the paper from two thirds on.
    """
    x = unit(items)
    d = np.maximum(2 - 2 * x @ x.T, 0)
    d /= d.max(1, keepdims=True)
    n = len(x)
    order = [[p, *(j for j in np.argsort(d[p], kind="stable") if j != p)] for p in range(n)]

    def reciprocal(p, k):
        return {q for q in order[p][: k + 1] if p in order[q][: k + 1]}

    v = np.zeros((n, n))
    for p in range(n):
        members = set(own := reciprocal(p, k1))
        for q in own:
            other = reciprocal(q, round(k1 / 2))
            spare = 3 * len(own & other) - 2 * len(other)
            if spare > 0 or (spare == 0 and rule == "paper"):
                members |= other
        for g in members:
            v[p, g] = np.exp(-d[p, g])
        v[p] /= v[p].sum()
    v = np.stack([v[order[p][:k2]].mean(0) for p in range(n)])
    out = np.empty((len(asked), len(there)))
    for a, p in enumerate(asked):
        for b, g in enumerate(there):
            jaccard = 1 - np.minimum(v[p], v[g]).sum() / np.maximum(v[p], v[g]).sum()
            out[a, b] = (1 - weight) * jaccard + weight * d[p, g]
    return out


def make(seed=0, count=60):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 8, size=count)
    return rng.normal(size=(8, 6))[labels] + 0.9 * rng.normal(size=(count, 6)), labels


@pytest.mark.parametrize("rule", ["released", "paper"])
@pytest.mark.parametrize(("k1", "k2", "weight"), [(10, 4, 0.3), (7, 1, 0.0), (1, 2, 0.5), (200, 3, 0.3)])
def test_k_reciprocal_is_the_dense_one(monkeypatch, k1, k2, weight, rule):
    monkeypatch.setattr(k_reciprocal, "ENTRIES", 60 * 7)  # several blocks
    monkeypatch.setattr(k_reciprocal, "PRODUCTS", 100)
    rows, _ = make()
    found = rerank.k_reciprocal(rows, k1=k1, k2=k2, weight=weight, rule=rule)
    expected = dense(rows, range(60), range(60), min(k1, 59), k2, weight, rule)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_the_released_rule_is_the_default_and_seldom_the_papers():
    """Two thirds exactly: most batches hold a set that only the paper's rule lets join."""
    differ = 0
    for seed in range(8):
        rows, _ = make(seed)
        default = rerank.k_reciprocal(rows, k1=10, k2=4)
        np.testing.assert_array_equal(default, rerank.k_reciprocal(rows, k1=10, k2=4, rule="released"))
        differ += not np.allclose(default, rerank.k_reciprocal(rows, k1=10, k2=4, rule="paper"), rtol=0, atol=1e-9)
    assert differ >= 6


def test_both_rules_are_evaluated_by_name():
    rows, labels = make(5, count=90)
    for method, rule, words in (("k_reciprocal", "released", "more than"), ("k_reciprocal_paper", "paper", "at least")):
        result = rerank.reranked(method, rows, labels, k1=10, k2=4, metrics=("map@r",))
        distances = dense(rows, range(90), range(90), 10, 4, 0.3, rule)
        np.fill_diagonal(distances, np.inf)
        order = distances.argsort(1)
        scores = []
        for q in range(90):
            count = int((labels == labels[q]).sum()) - 1
            hits = labels[order[q, :count]] == labels[q]
            scores.append((hits * hits.cumsum() / np.arange(1, count + 1)).sum() / count)
        name = f"rerank/{method}/map@r"
        assert result[name] == pytest.approx(np.mean(scores), abs=1e-12)
        assert f"{words} two thirds" in result.definitions[name]


def test_k_reciprocal_takes_an_item_of_both_sides_once():
    rows, _ = make(1)
    asked, there = np.arange(25), np.random.default_rng(2).permutation(np.arange(15, 60))
    found = rerank.k_reciprocal(rows[asked], rows[there], asked, there, k1=8, k2=3)
    np.testing.assert_allclose(found, dense(rows, asked, there, 8, 3, 0.3), rtol=0, atol=1e-12)
    apart = rerank.k_reciprocal(rows[asked], rows[25:], k1=8, k2=3)
    np.testing.assert_allclose(apart, dense(rows, asked, range(25, 60), 8, 3, 0.3), rtol=0, atol=1e-12)


def test_weight_one_keeps_the_original_order():
    rows, labels = make(3)
    result = rerank.reranked("k_reciprocal", rows, labels, weight=1.0, **METRICS)
    plain = evaluate(rows, labels, **METRICS)
    assert {name: result[f"rerank/k_reciprocal/{name}"] for name in plain} == pytest.approx(dict(plain), abs=1e-12)


def test_k_reciprocal_is_evaluated_exactly():
    rows, labels = make(4)
    result = rerank.reranked("k_reciprocal", rows, labels, k1=10, k2=4, **METRICS)
    distances = dense(rows, range(60), range(60), 10, 4, 0.3)
    np.fill_diagonal(distances, np.inf)
    first = np.array([labels[distances[q].argmin()] == labels[q] for q in range(60)])
    assert result["rerank/k_reciprocal/recall@1"] == pytest.approx(first.mean())
    assert result["rerank/k_reciprocal/map@r"] > evaluate(rows, labels)["map@r"]
    for name in result:
        assert "sees all queries at once" in result.definitions[name]


def test_collapsed_models_are_not_helped():
    for method in rerank.METHODS:
        result = rerank.reranked(method, np.ones((40, 4)), np.arange(40) // 4, recall_at=(1,), metrics=())
        assert result[f"rerank/{method}/recall@1"] < 0.2, method


@pytest.mark.parametrize("alpha", [0.0, 1.0, 3.0])
def test_query_expansion_is_the_loop(alpha):
    rows, _ = make(5)
    x = unit(rows)
    found = rerank.alpha_query_expansion(torch.from_numpy(rows).float(), k=5, alpha=alpha)
    for q in range(60):
        scores = x @ x[q]
        near = [j for j in np.argsort(-scores) if j != q][:5]
        mixed = x[q] + sum(max(scores[j], 0.0) ** alpha * x[j] for j in near)
        np.testing.assert_allclose(found[q], mixed / np.linalg.norm(mixed), atol=1e-6)


def test_query_expansion_limits():
    rows, labels = make(6)
    np.testing.assert_allclose(rerank.alpha_query_expansion(rows, k=0), unit(rows), atol=1e-15)
    result = rerank.reranked("alpha_qe", rows, labels, k=0, **METRICS)
    plain = evaluate(rows, labels, **METRICS)
    assert {name: result[f"rerank/alpha_qe/{name}"] for name in plain} == pytest.approx(dict(plain), abs=1e-12)
    # A query leaves its own gallery by id in the second search too.
    ids = np.arange(60)
    split = rerank.reranked("alpha_qe", rows[:30], labels[:30], rows, labels, ids[:30], ids, **METRICS)
    assert split.counts["in_own_gallery"] == 30
    # Fewer neighbours than asked for, and neighbours on the other side, add nothing that is not a number.
    two = rerank.alpha_query_expansion(np.array([[1.0, 0.0], [-1.0, 0.1]]), k=9)
    np.testing.assert_allclose(two, unit([[1.0, 0.0], [-1.0, 0.1]]), atol=1e-12)


def test_dual_softmax_has_the_order_of_the_product():
    rng = np.random.default_rng(7)
    scores = np.clip(0.3 + 0.2 * rng.normal(size=(30, 40)), -0.1, 1)
    scores[3, 5] = 0.0
    prior = np.exp(scores / 0.05)
    product = scores * prior / prior.sum(0)
    found = rerank.dual_softmax(torch.from_numpy(scores), temperature=0.05)
    np.testing.assert_array_equal(found.argsort(1), product.argsort(1))
    assert (np.sign(found) == np.sign(scores)).all()
    # Products that float64 would lose stay apart.
    sharp = rerank.dual_softmax(scores, temperature=1e-4)
    assert np.isfinite(sharp).all()
    assert (np.diff(np.sort(sharp[0])) > 1e-12).all()
    # One query has no rival: its order stays.
    np.testing.assert_array_equal(rerank.dual_softmax(scores[:1] + 0.2).argsort(1), scores[:1].argsort(1))


def test_querybank_norm_is_the_definition():
    rng = np.random.default_rng(8)
    scores, bank = rng.normal(size=(30, 12)) / 5, rng.normal(size=(9, 12)) / 5
    hubs = {int(j) for row in bank for j in np.argsort(-row)[:2]}
    found = rerank.querybank_norm(scores, bank, beta=20, k=2)
    touched = 0
    for q in range(30):
        expected = scores[q]
        if int(scores[q].argmax()) in hubs:
            expected, touched = np.exp(20 * scores[q]) / np.exp(20 * bank).sum(0), touched + 1
        np.testing.assert_array_equal(found[q].argsort(), expected.argsort())
    assert 0 < touched < 30
    # A bank for which all items are alike changes no order.
    flat = rerank.querybank_norm(scores, np.full((9, 12), 0.2), k=12)
    np.testing.assert_array_equal(flat.argsort(1), scores.argsort(1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rerank.reranked("k_reciprocl", np.eye(2), [0, 0]), "Did you mean 'k_reciprocal'"),
        (lambda: rerank.reranked("k_reciprocal", np.eye(2), [0, 0], metrics=("nmi",)), "leave out 'nmi'"),
        (lambda: rerank.k_reciprocal(np.eye(3), k1=0), "k1=0"),
        (lambda: rerank.k_reciprocal(np.eye(3), rule="releasd"), "Did you mean 'released'"),
        (lambda: rerank.k_reciprocal(np.eye(3), weight=2), "weight=2"),
        (lambda: rerank.alpha_query_expansion(np.eye(3), k=-1), "k=-1"),
        (lambda: rerank.dual_softmax([[0.1, -0.2], [-0.3, -0.1]]), "row 1 of the similarity holds no positive value"),
        (lambda: rerank.dual_softmax([[0.1]], temperature=0), "temperature=0"),
        (lambda: rerank.dual_softmax([0.1]), "expected a matrix"),
        (lambda: rerank.dual_softmax([[0.1, np.nan]]), r"similarity: the value at \(0, 1\) is not finite"),
        (lambda: rerank.querybank_norm(np.eye(2), np.eye(3)), "2 items and bank_similarity 3"),
        (lambda: rerank.querybank_norm(np.eye(2), np.eye(2), beta=0), "beta=0"),
    ],
)
def test_what_cannot_be_reranked(call, message):
    with pytest.raises(InputError, match=message):
        call()
