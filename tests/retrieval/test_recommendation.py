"""Recommendations: the release's numbers, a loop over users as oracle, ties, and input that does not fit."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from metrixkit.errors import InputError
from metrixkit.retrieval.recommendation import evaluate_recommendations, popularity

FIXTURE = json.loads((Path(__file__).parent.parent / "fixtures" / "dmm.json").read_text())["recommender_evaluator"]
NONE = np.zeros((0, 2), dtype=np.int64)


def loop(scores, liked, exclude, k, zero=True, tie=1e-9):
    """Every user by sorting the candidates, ties against the liked items."""
    values = []
    for user in range(len(scores)):
        gone = {i for u, i in exclude if u == user}
        good = {i for u, i in liked if u == user}
        candidates = [i for i in range(scores.shape[1]) if i not in gone]
        if not candidates or (not good and not zero):
            continue
        ranks = []
        for t, i in enumerate(sorted(good, key=lambda i: -scores[user, i]), 1):
            ahead = sum(scores[user, j] >= scores[user, i] - tie for j in candidates if j not in good)
            ranks.append(t + ahead)
        inside = [r for r in ranks if r <= k]
        most = sum(1 / math.log2(1 + r) for r in range(1, min(k, len(good)) + 1))
        precision = sum(t / r for t, r in enumerate(inside, 1))
        values.append(
            {
                "item_recall": len(inside) / max(len(good), 1),
                "hit_rate": float(bool(inside)),
                "ndcg": sum(1 / math.log2(1 + r) for r in inside) / (most or 1),
                "map": precision / max(min(k, len(good)), 1),
                "map_by_hits": precision / max(len(inside), 1),
            }
        )
    return {name: sum(v[name] for v in values) / len(values) for name in values[0]}


def test_the_releases_numbers():
    inputs, outputs = FIXTURE["inputs"], FIXTURE["outputs"]["mean_over_users"]
    scores = np.array([inputs[f"s{user}"] for user in "ABC"])
    labels = np.array([inputs[f"y{user}"] for user in "ABC"])
    found = evaluate_recommendations(scores, np.eye(12), np.argwhere(labels), NONE, distance="dot")
    for ours, theirs in (("ndcg", "nDCG"), ("map_by_hits", "MAP"), ("item_recall", "Recall"), ("hit_rate", "HitRatio")):
        for k in (1, 5, 10):
            assert abs(found[f"{ours}@{k}"] - outputs[f"{theirs}@{k}"]) < 1e-9, (ours, k)
    first = found.per_query.iloc[0]
    assert abs(first["ndcg@10"] - FIXTURE["outputs"]["userA"]["nDCG@10"]) < 1e-9
    # Divided by what could be found, not by what was.
    assert found["map@5"] < found["map_by_hits@5"]


@pytest.mark.parametrize("zero", ["zero", "leave_out"])
@pytest.mark.parametrize("distance", ["dot", "euclidean", "cosine"])
def test_against_a_loop_over_users(distance, zero, monkeypatch):
    monkeypatch.setattr("metrixkit.retrieval.recommendation.BLOCK", 64)  # several blocks
    rng = np.random.default_rng(0)
    for trial in range(8):
        users, items = rng.normal(size=(17, 4)), rng.normal(size=(23, 4))
        if trial % 2:  # exact ties
            items[5:10] = items[4]
            users = rng.integers(-1, 2, size=(17, 4)) + 0.5
        marks = rng.random((17, 23))
        marks[3] = 0.5  # nothing liked, something excluded
        marks[4, :] = 0.3  # everything excluded
        liked, exclude = np.argwhere(marks > 0.8), np.argwhere((marks > 0.2) & (marks < 0.45))
        if distance == "dot":
            scores = users @ items.T
        elif distance == "euclidean":
            scores = -((users[:, None] - items[None]) ** 2).sum(-1)
        else:
            unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (users, items)]
            scores = unit[0] @ unit[1].T
        shuffled = rng.permutation(len(liked))
        found = evaluate_recommendations(
            users, items, liked[shuffled], exclude, at=(1, 3, 40), distance=distance, without_liked=zero
        )
        for k in (1, 3, 40):
            expected = loop(scores, liked, exclude.tolist(), k, zero == "zero")
            for name, value in expected.items():
                assert abs(found[f"{name}@{k}"] - value) < 1e-9, (name, k, trial)
        assert found.counts["without_candidates"] == 1
        assert found.counts["evaluated"] == (16 if zero == "zero" else len(set(liked[:, 0])))


def test_a_collapsed_model_finds_nothing():
    found = evaluate_recommendations(np.ones((3, 2)), np.ones((50, 2)), np.array([[0, 1], [1, 2], [2, 3]]), NONE)
    assert found["hit_rate@10"] == 0


def test_popularity_is_the_same_list_for_all():
    liked = np.array([[0, 2], [1, 2], [2, 2], [0, 1], [1, 1], [2, 0]])
    users, items = popularity(liked, 4, 5)
    found = evaluate_recommendations(users, items, np.array([[3, 2]]), NONE, at=(1,), distance="dot")
    assert found["hit_rate@1"] == 0.25
    assert found.counts["without_relevant"] == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"liked": NONE}, "nothing to find"),
        ({"liked": np.array([[0, 9]])}, "outside the 3 users and 4 items"),
        ({"liked": np.array([[0, 1], [0, 1]])}, "twice"),
        ({"liked": np.array([[0.5, 1.0]])}, "integers"),
        ({"exclude": np.array([[0, 1]])}, "stand in `liked` and in `exclude`"),
        ({"at": (0,)}, "whole numbers"),
        ({"users": np.full((3, 2), np.nan)}, "NaN"),
        ({"items": np.ones((4, 3))}, "dimensions"),
    ],
)
def test_input_that_does_not_fit(change, said):
    given = {"users": np.ones((3, 2)), "items": np.ones((4, 2)), "liked": np.array([[0, 1]]), "exclude": NONE}
    with pytest.raises(InputError, match=said):
        evaluate_recommendations(**(given | change))
