"""Choosing a kind, setting a threshold, sweeping parameters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metrixkit.errors import InputError
from metrixkit.retrieval import RetrievalIndex, choose_factory, neighbours, sweep
from metrixkit.retrieval.index.factory import lists_for, parse_factory
from metrixkit.retrieval.index.threshold import threshold_from_scores


@pytest.mark.parametrize(
    ("count", "dim", "memory", "latency", "factory"),
    [
        (300, 64, None, None, "Flat"),
        (60_502, 512, None, None, "Flat"),
        (1_000_000, 128, None, None, "Flat"),
        (1_000_000, 512, None, None, "IVF4096,Flat"),
        (1_000_000, 128, None, 5, "IVF4096,Flat"),
        (10_000_000, 512, None, 20, "IVF16384,PQ256x4fs,RFlat"),
        (1_000_000, 128, "200MB", None, "IVF4096,SQ8"),
        (1_000_000, 128, "60MB", None, "IVF4096,PQ64x4fs"),
        (60_502, 512, "0.1GiB", None, "IVF1024,SQ8"),
        (60_502, 512, 200_000_000, None, "Flat"),
        (100_000, 101, None, 0.5, "IVF1024,Flat"),
    ],
)
def test_auto(count: int, dim: int, memory: int | str | None, latency: float | None, factory: str) -> None:
    choice = choose_factory(count, dim, memory, latency)
    assert choice.factory == factory
    assert str(parse_factory(choice.factory, dim, count)) == factory
    assert factory in choice.reason


@pytest.mark.parametrize(
    ("memory", "latency", "says"),
    [
        ("1MB", None, "The smallest, IVF4096,PQ64x4fs"),
        (None, 1e-3, "quickest"),
        ("2 parsecs", None, "512MiB"),
        (None, 0, "above 0"),
    ],
)
def test_budgets_that_nothing_fits(memory: str | None, latency: float | None, says: str) -> None:
    with pytest.raises(InputError, match=says):
        choose_factory(1_000_000, 128, memory, latency)


def test_lists_for() -> None:
    assert [lists_for(n) for n in (1, 39, 1_000, 60_502, 1_000_000)] == [1, 1, 16, 1024, 4096]


def test_auto_builds_what_was_chosen() -> None:
    rows = np.random.default_rng(0).standard_normal((2000, 8))
    index = RetrievalIndex.build(rows, np.arange(2000), "auto", memory_budget="40kB")
    assert index.factory == choose_factory(2000, 8, "40kB").factory == "IVF32,SQ8"


def population(seed: int, classes: range) -> tuple[np.ndarray, np.ndarray]:
    centres = np.random.default_rng(5).standard_normal((200, 16))
    labels = np.repeat(np.array(classes), 10)
    return centres[labels] + 0.35 * np.random.default_rng(seed).standard_normal((len(labels), 16)), labels


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_threshold_keeps_the_wanted_rate_on_strangers(metric: str, tmp_path: Path) -> None:
    gallery, labels = population(0, range(60))
    index = RetrievalIndex.build(gallery, np.arange(len(gallery)), "Flat", metric, labels=labels)
    found = index.set_threshold(0.05, strangers=population(1, range(60, 130))[0])
    assert found.impostors == 700
    assert found.measured_false_match_rate == pytest.approx(0.05)
    assert found.gallery == 600
    index.save(tmp_path / "i")
    index = RetrievalIndex.load(tmp_path / "i")
    assert index.threshold == found

    _, answers = index.match(population(2, range(130, 200))[0])
    assert (answers != "no match").mean() < 0.1
    known, truth = population(3, range(60))
    scores, answers = index.match(known)
    matched = answers != "no match"
    assert matched.mean() > 0.8
    assert (matched == (scores >= np.float32(found.value))).all()
    assert (index.labels[answers[matched].astype(int)].astype(int) == truth[matched]).mean() > 0.95
    score, answer = index.match(known[0], threshold=-1e9)
    assert isinstance(score, float)
    assert answer == index.search(known[0], 1)[1][0]
    assert index.match(known[0], threshold=1e9)[1] == "no match"


def test_the_threshold_from_validation_and_from_scores_agree() -> None:
    rows, labels = population(0, range(40))
    rows += 0.9 * np.random.default_rng(9).standard_normal(rows.shape)
    index = RetrievalIndex.build(rows, np.arange(len(rows)))
    found = index.set_threshold(0.02, embeddings=rows, labels=labels, force=True)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    table = unit @ unit.T
    same = labels[:, None] == labels
    impostor = np.where(same, -2, table).max(1)
    genuine = np.where(same & ~np.eye(len(rows), dtype=bool), table, -2).max(1)
    other = index.set_threshold(0.02, impostor=impostor, genuine=genuine, force=True)
    assert found.value == pytest.approx(other.value, abs=1e-6)
    assert (impostor >= found.value).sum() == 8
    assert 0 < found.true_match_rate < 0.99
    assert found.true_match_rate == pytest.approx((genuine >= found.value).mean())
    assert (found.source, other.source, found.gallery) == ("validation", "scores", 400)


def test_ties_at_the_threshold_do_not_match() -> None:
    found = threshold_from_scores(0.2, [0.9, 0.5, 0.5, 0.5, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
    assert found.measured_false_match_rate == pytest.approx(0.1)
    assert 0.5 < found.value < 0.5001


def test_thresholds_that_cannot_be_told() -> None:
    rows, labels = population(0, range(4))
    index = RetrievalIndex.build(rows, np.arange(len(rows)))
    cases = [
        (lambda: index.set_threshold(0.001, impostor=np.zeros(500)), "at least 1000"),
        (lambda: index.set_threshold(1.5, impostor=np.zeros(500)), "between 0 and 1"),
        (lambda: index.set_threshold(0.1), "give one of"),
        (lambda: index.set_threshold(0.1, impostor=np.zeros(50), strangers=rows), "give one of"),
        (lambda: index.set_threshold(0.1, impostor=[np.nan] * 50), "finite"),
        (lambda: index.set_threshold(0.1, embeddings=rows, labels=labels[:3]), "3 values but there are 40"),
        (lambda: index.set_threshold(0.1, embeddings=rows, labels=[1] * 40), "no impostor"),
        (lambda: index.match(rows), "no threshold is set"),
    ]
    for call, says in cases:
        with pytest.raises(InputError, match=says):
            call()


def test_sweep_of_an_index_and_of_kinds() -> None:
    rows = np.random.default_rng(0).standard_normal((1500, 16)).astype(np.float32)
    queries, ids = rows[:100] + 0.1, np.arange(1500)
    exact = neighbours(queries, rows, 5)[1].astype(str)
    index = RetrievalIndex.build(rows, ids, "IVF16,Flat")
    before = index.parameters
    table = sweep(index, queries, exact, ["nprobe=1", "nprobe=4", "nprobe=16"], repeats=1)
    assert table["agreement@5"].is_monotonic_increasing
    assert table["agreement@5"].iloc[-1] == 1.0
    assert table["agreement@5"].iloc[0] < 0.9
    assert table["parameters"].tolist() == ["nprobe=1", "nprobe=4", "nprobe=16"]
    assert index.parameters == before
    kinds = sweep(rows, queries, exact, {"Flat": [""], "IVF16,SQ8": ["nprobe=2", "nprobe=16"]}, ids=ids, repeats=1)
    assert kinds["factory"].tolist() == ["Flat", "IVF16,SQ8", "IVF16,SQ8"]
    assert kinds["agreement@5"].iloc[0] == 1.0
    assert kinds["bytes_per_vector"].tolist() == [64, 24, 24]
    assert (kinds[["queries_per_second", "build_seconds"]] > 0).all(axis=None)
    with pytest.raises(InputError, match="no search parameter"):
        sweep(index, queries, exact, ["efSearch=3"])
    assert index.parameters == before
    for call in (
        lambda: sweep(index, queries, exact[:3], ["nprobe=1"]),
        lambda: sweep(index, queries, exact, []),
        lambda: sweep(index, queries, exact, "nprobe=1"),
        lambda: sweep(rows, queries, exact, ["nprobe=1"]),
    ):
        with pytest.raises(InputError):
            call()


def test_a_threshold_tells_what_it_rejects_and_above_a_half_wants_force(tmp_path: Path) -> None:
    scores = {"impostor": [0.9, 0.5, 0.4, 0.1], "genuine": [0.95, 0.7, 0.6, 0.3, 0.2, 0.1]}
    index = RetrievalIndex.build(np.eye(3), np.arange(3))
    assert index.set_threshold(0.5, **scores).false_rejection_rate == pytest.approx(0.5)
    kept = index.threshold
    with pytest.raises(InputError, match=r"rejects 83\.3 % of the 6 right answers.*--force"):
        index.set_threshold(0.25, impostor=[0.9, 0.8, 0.4, 0.1], genuine=scores["genuine"])
    assert index.threshold == kept
    found = index.set_threshold(0.25, impostor=[0.9, 0.8, 0.4, 0.1], genuine=scores["genuine"], force=True)
    assert index.info()["threshold"]["false_rejection_rate"] == pytest.approx(5 / 6) == found.false_rejection_rate
    index.save(tmp_path / "i")
    assert RetrievalIndex.load(tmp_path / "i").threshold == found


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_strangers_take_right_answers_from_the_labels_of_the_index(metric: str) -> None:
    rows, labels = population(0, range(30))
    rows += 0.9 * np.random.default_rng(9).standard_normal(rows.shape)
    index = RetrievalIndex.build(rows, np.arange(len(rows)), "Flat", metric, labels=labels)
    index.remove(np.arange(10, 15))
    found = index.set_threshold(0.05, strangers=population(1, range(60, 130))[0], force=True)
    left = np.setdiff1d(np.arange(len(rows)), np.arange(10, 15))
    rows, labels = rows[left].astype(np.float32).astype(np.float64), labels[left]
    if metric == "cosine":
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        table = rows @ rows.T
    else:
        table = -np.square(rows[:, None] - rows).sum(2)
    same = (labels[:, None] == labels) & ~np.eye(len(rows), dtype=bool)
    best = np.where(same, table, -np.inf).max(1)
    assert found.genuine == 295
    assert found.true_match_rate == pytest.approx((best >= found.value).mean())
    assert 0 < found.true_match_rate < 1
    bare = RetrievalIndex.build(rows, np.arange(len(rows)), "Flat", metric)
    assert bare.set_threshold(0.05, strangers=population(1, range(60, 130))[0]).false_rejection_rate is None
