"""Ranking products by their best photo, against a loop over products."""

import numpy as np
import pytest
import torch

from metrixkit.errors import InputError
from metrixkit.retrieval import evaluate, groups

METRICS = ("map@r", "r_precision", "mrr", "ndcg@3")


def naive(queries, query_labels, gallery, gallery_labels, products, own, distance):
    """First ranks (pessimistic, optimistic) and r_precision of each query, product by product."""
    x, g = np.asarray(queries, dtype=np.float64), np.asarray(gallery, dtype=np.float64)
    if distance == "cosine":
        x, g = (a / np.sqrt((a**2).sum(1, keepdims=True)) for a in (x, g))
    out = []
    for q in range(len(x)):
        score = -((x[q] - g) ** 2).sum(1) if distance == "euclidean" else (x[q] * g).sum(1)
        best, label = {}, {}
        for j, product in enumerate(products):
            if j != own[q]:
                best[product] = max(best.get(product, -np.inf), score[j])
                label[product] = gallery_labels[j]
        mine = sorted((s for p, s in best.items() if label[p] == query_labels[q]), reverse=True)
        others = [s for p, s in best.items() if label[p] != query_labels[q]]
        if not mine:
            out.append((np.nan,) * 4)
            continue
        worse = [t + sum(o >= s - 1e-12 for o in others) for t, s in enumerate(mine, 1)]
        better = [t + sum(o > s + 1e-12 for o in others) for t, s in enumerate(mine, 1)]
        out.append((worse[0], better[0], np.mean(np.array(worse) <= len(mine)), np.mean(np.array(better) <= len(mine))))
    return np.array(out)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(groups, "TILE", 7)
    monkeypatch.setattr(groups, "QUERY_BLOCK", 5)


def make(seed, kind):
    rng = np.random.default_rng(seed)
    products = rng.integers(0, 17, size=60)
    labels = products // 3  # several products of a label
    rows = rng.integers(-1, 2, size=(60, 3)) + 0.0 if kind == "grid" else rng.normal(size=(60, 4))
    rows[np.abs(rows).sum(1) == 0, 0] = 1.0
    return rows, labels, products


@pytest.mark.parametrize("kind", ["grid", "normal"])
@pytest.mark.parametrize("distance", ["cosine", "euclidean", "dot"])
@pytest.mark.parametrize("overlap", ["self", "ids", "apart"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_groups_are_the_loop(small_blocks, kind, distance, overlap, device):
    rows, labels, products = make(1, kind)
    if overlap == "self":
        own, there = range(60), range(60)
        asked = range(60)
        result = evaluate(
            torch.from_numpy(rows).to(device), labels, metrics=METRICS, distance=distance, gallery_groups=products
        )
    else:
        asked, there = np.arange(35), np.arange(20, 60)
        ids = {"query_ids": asked, "gallery_ids": there} if overlap == "ids" else {}
        own = [q - 20 if q >= 20 and ids else -1 for q in asked]
        result = evaluate(
            torch.from_numpy(rows[asked]).to(device), labels[asked], torch.from_numpy(rows[there]).to(device),
            labels[there], metrics=METRICS, distance=distance, gallery_groups=[f"p{p}" for p in products[there]], **ids,
        )  # fmt: skip
    expected = naive(
        rows[list(asked)], labels[list(asked)], rows[list(there)], labels[list(there)], products[list(there)], own,
        distance,
    )  # fmt: skip
    columns = ["rank", "rank_optimistic", "r_precision", "r_precision/optimistic"]
    found = result.per_query[columns].to_numpy(dtype=float, na_value=np.nan)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
    assert result.counts["gallery_groups"] == len(set(products[list(there)]))
    assert "groups of gallery items are ranked" in result.definitions["convention"]


def test_label_as_group_asks_which_product():
    # Ten photos of b lie before the second photo of a: as photos they push it to rank 11, as a product to 2.
    rows = np.array([[1.0, 0.0], [0.8, 0.6]] + [[0.9, 0.1]] * 10)
    labels = ["a", "a"] + ["b"] * 10
    assert evaluate(rows, labels, recall_at=(1,)).per_query["rank"].iloc[0] == 11
    by_product = evaluate(rows, labels, recall_at=(1, 2), gallery_groups=labels)
    assert by_product.per_query["rank"].iloc[0] == 2
    assert by_product.per_query["relevant"].tolist() == [1] * 12


def test_every_item_its_own_group_changes_nothing():
    rows, labels, _ = make(2, "grid")
    assert dict(evaluate(rows, labels, gallery_groups=np.arange(60))) == dict(evaluate(rows, labels))


def test_a_product_of_one_photo_leaves_with_it():
    rows = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    result = evaluate(rows, ["a", "a", "b"], recall_at=(1,), gallery_groups=["p", "q", "r"])
    assert result.per_query["relevant"].tolist() == [1, 1, 0]
    with pytest.raises(InputError, match="no query has a relevant item"):
        evaluate(rows, ["a", "b", "c"], recall_at=(1,), gallery_groups=["p", "q", "r"])


def test_groups_that_cannot_be():
    rows, labels, products = make(3, "normal")
    with pytest.raises(InputError, match="gallery_groups has 59 values but the gallery has 60"):
        evaluate(rows, labels, gallery_groups=products[1:])
    with pytest.raises(InputError, match=r"group '0' holds items of label '0' and of label '1' \(3 such groups\)"):
        evaluate(rows, labels, gallery_groups=products // 5)
    with pytest.warns(UserWarning, match="recall@50 asks for more than the 17 gallery groups"):
        evaluate(rows, labels, recall_at=(50,), gallery_groups=products)
