"""Neighbours that vote, against loops and scikit-learn; the intra-class similarity against all pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from metrixkit.errors import InputError
from metrixkit.probing import intra_class_similarity, knn_accuracy


def cloud(count: int, seed: int, classes: int = 7, dim: int = 5) -> tuple[np.ndarray, list[str]]:
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, count)
    centres = np.random.default_rng(99).normal(size=(classes, dim))
    return centres[labels] + 1.2 * draw.normal(size=(count, dim)), [f"c{v}" for v in labels]


def vote(train: np.ndarray, labels: list[str], queries: np.ndarray, k: int, temperature: float) -> list[list[str]]:
    """For each query, the classes that got a vote, best first."""
    answers = []
    for q in queries:
        scores = [float(q @ t) / math.sqrt(float(q @ q) * float(t @ t)) for t in train]
        order = sorted(range(len(train)), key=lambda i: (-scores[i], i))[:k]
        votes: dict[str, float] = {}
        for i in order:
            votes[labels[i]] = votes.get(labels[i], 0.0) + math.exp(scores[i] / temperature)
        answers.append(sorted(votes, key=lambda name: (-votes[name], name)))
    return answers


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.5), (200, 0.07), (10_000, 0.07)])
def test_votes_are_those_of_a_loop(k: int, temperature: float) -> None:
    (train, labels), (queries, truth) = cloud(120, 0), cloud(60, 1)
    found = knn_accuracy(train, labels, queries, truth, k=k, temperature=temperature)
    answers = vote(train, labels, queries, k, temperature)
    for top in (1, 5):
        share = sum(t in a[:top] for t, a in zip(truth, answers, strict=True)) / len(truth)
        assert found[f"knn@{top}"] == pytest.approx(share, abs=1e-12)
    assert 0.2 < found["knn@1"] < 1


def test_one_neighbour_is_that_of_scikit_learn() -> None:
    (train, labels), (queries, truth) = cloud(150, 2), cloud(80, 3)
    peer = KNeighborsClassifier(1, metric="cosine").fit(train, labels).score(queries, truth)
    assert knn_accuracy(train, labels, queries, truth, k=1)["knn@1"] == pytest.approx(peer, abs=1e-12)


def test_equal_votes_go_to_the_class_that_sorts_first() -> None:
    train, labels = np.eye(2), ["b", "a"]
    found = knn_accuracy(train, labels, np.ones((2, 2)), ["a", "b"], k=2)
    assert found == {"knn@1": 0.5, "knn@5": 1.0}
    # Of a collapsed model the answer is one class, whatever is asked.
    same = knn_accuracy(np.ones((40, 3)), ["a", "b"] * 20, np.ones((10, 3)), ["a"] * 3 + ["b"] * 7)
    assert same["knn@1"] == 0.3


def test_an_unvoted_class_is_no_answer_and_tiny_temperatures_hold() -> None:
    train, labels = np.array([[1.0, 0], [0.9, 0.1], [0, 1]]), ["a", "a", "b"]
    found = knn_accuracy(train, labels, np.array([[1.0, 0.05]]), ["b"], k=2, temperature=1e-4)
    assert found["knn@5"] == 0
    assert knn_accuracy(train, labels, np.array([[0.1, 1.0]]), ["b"], k=3, temperature=1e-4)["knn@1"] == 1


def test_an_item_does_not_vote_for_itself() -> None:
    rows, labels = cloud(50, 4)
    ids = [f"i{i}" for i in range(50)]
    assert knn_accuracy(rows, labels, rows.copy(), labels, k=1)["knn@1"] == 1
    without = knn_accuracy(rows, labels, rows, labels, k=1, train_ids=ids, query_ids=ids)["knn@1"]
    truth = [
        vote(np.delete(rows, i, 0), labels[:i] + labels[i + 1 :], rows[i : i + 1], 1, 0.07)[0][0] for i in range(50)
    ]
    assert without == pytest.approx(np.mean([a == b for a, b in zip(truth, labels, strict=True)]), abs=1e-12)


def test_absent_classes_are_said() -> None:
    rows, labels = cloud(30, 5, classes=3)
    with pytest.warns(UserWarning, match="1 of 2 queries are of classes without"):
        found = knn_accuracy(rows, labels, rows[:2], [labels[0], "new"])
    assert found["knn@5"] == 0.5
    with pytest.raises(InputError, match="no class of the 2 queries"):
        knn_accuracy(rows, labels, rows[:2], ["x", "y"])


def test_bad_input() -> None:
    rows, labels = cloud(10, 6)
    for changes, words in (
        ({"k": 0}, "at least one neighbour"),
        ({"temperature": 0.0}, "positive number"),
        ({"train_ids": ["a"] * 10}, "come together"),
    ):
        with pytest.raises(InputError, match=words):
            knn_accuracy(rows, labels, rows.copy(), labels, **changes)
    with pytest.raises(InputError, match="9 labels"):
        knn_accuracy(rows, labels[:9], rows, labels)
    with pytest.raises(InputError, match="row 3 holds NaN"):
        knn_accuracy(np.where(np.arange(10)[:, None] == 3, np.nan, rows), labels, rows, labels)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_similarity_is_that_of_all_pairs(device: str) -> None:
    rows, labels = cloud(40, 7)
    labels[5] = "alone"
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    means = []
    for name in sorted(set(labels) - {"alone"}):
        own = [i for i, label in enumerate(labels) if label == name]
        means.append(np.mean([unit[i] @ unit[j] for i in own for j in own if i != j]))
    found = intra_class_similarity(torch.from_numpy(rows * 3).to(device), labels)
    assert found == pytest.approx(np.mean(means), abs=1e-12)
    assert intra_class_similarity(np.ones((4, 2)), ["a", "a", "b", "b"]) == pytest.approx(1)
    with pytest.raises(InputError, match="every label stands once"):
        intra_class_similarity(rows[:3], ["a", "b", "c"])
    with pytest.raises(InputError, match="needs exactly one"):
        intra_class_similarity(rows, labels[:3])
