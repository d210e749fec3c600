"""neighbours() and predictions: exact order, ties by position, self left out by id, files."""

import numpy as np
import pytest
import torch

from metrixkit.errors import InputError
from metrixkit.retrieval import (
    Predictions,
    evaluate,
    load_predictions,
    neighbours,
    predictions,
    save_predictions,
)
from metrixkit.retrieval.exact import shortlist


def naive(x, g, own, k, distance):
    x, g = x.astype(float), g.astype(float)
    if distance == "cosine":
        x, g = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, g))
    index = []
    for q in range(len(x)):
        score = -((x[q] - g) ** 2).sum(1) if distance == "euclidean" else (x[q] * g).sum(1)
        order = sorted((j for j in range(len(g)) if j != own[q]), key=lambda j: (-round(score[j], 9), j))
        index.append([*order, -1][: min(k, len(g))])
    return np.array([row[: max(map(len, index))] for row in index])


@pytest.mark.parametrize("distance", ["cosine", "euclidean", "dot"])
@pytest.mark.parametrize("k", [1, 3, 11, 29, 50])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_order_is_the_naive_one_with_ties_by_position(monkeypatch, distance, k, device):
    monkeypatch.setattr(shortlist, "BLOCK", 8)
    monkeypatch.setattr(shortlist, "SCORES", 200)
    rng = np.random.default_rng(0)
    rows = rng.integers(-1, 2, size=(30, 3)).astype(float)
    rows[np.abs(rows).sum(1) == 0] = 1.0
    scores, index = neighbours(torch.from_numpy(rows).to(device), k=k, distance=distance)
    assert index.shape == (30, min(k, 29))
    np.testing.assert_array_equal(index, naive(rows, rows, range(30), min(k, 29), distance))
    assert (np.diff(scores, axis=1) <= 1e-12).all()


def test_collapsed_rows_come_in_gallery_order():
    scores, index = neighbours(np.ones((6, 4)), k=3)
    assert index.tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2], [0, 1, 2], [0, 1, 2]]
    np.testing.assert_allclose(scores, 1.0)


def test_rounding_noise_is_a_tie_and_more_is_not():
    gallery = np.array([[1.0, 1e-7], [1.0, 0.0], [1.0, 1e-3]])  # cosine 1 - 5e-15, 1, 1 - 5e-7
    assert neighbours(np.array([[1.0, 0.0]]), gallery, k=3)[1].tolist() == [[0, 1, 2]]
    assert neighbours(np.array([[1.0, 0.0]]), gallery, k=1)[1].tolist() == [[0]]
    assert neighbours(np.array([[1.0, 0.0]]), gallery[::-1], k=2)[1].tolist() == [[1, 2]]


def test_only_queries_in_the_gallery_are_left_out():
    rows = np.eye(3)
    scores, index = neighbours(rows, rows[:2], 5, ["a", "b", "c"], ["a", "b"])
    assert index.tolist() == [[1, -1], [0, -1], [0, 1]]
    assert np.isneginf(scores[:2, 1]).all()
    assert neighbours(rows, rows[:2].copy(), 1)[1].tolist() == [[0], [1], [0]]  # no ids: other items
    for k in (0, True, 1.5, None, "2"):
        with pytest.raises(InputError, match="at least one neighbour"):
            neighbours(rows, k=k)
    assert neighbours(rows[:1])[1].shape == (1, 0)


def test_predictions_are_the_neighbours_and_survive_a_file(tmp_path):
    rng = np.random.default_rng(1)
    labels = np.array(["Straße", "b", "c", "alone"])[[0, 0, 0, 1, 1, 1, 2, 2, 2, 3]]
    rows, ids = rng.normal(size=(10, 4)), np.array([f"bild {i}.jpg" for i in range(10)])
    result = evaluate(rows, labels, query_ids=ids)
    made = predictions(rows, labels, query_ids=ids, k=4)
    scores, index = neighbours(rows, k=4)
    np.testing.assert_array_equal(made.neighbour_ids, ids[index])
    np.testing.assert_array_equal(made.neighbour_labels, labels[index])
    np.testing.assert_allclose(made.neighbour_scores, scores, atol=1e-6)
    assert made.rank_of_first.tolist() == [int(r) for r in result.per_query["rank"].fillna(0)]
    assert made.rank_of_first[9] == 0
    reused = predictions(rows, labels, query_ids=ids, k=4, evaluation=result)
    read = load_predictions(save_predictions(tmp_path / "predictions.npz", made))
    for name in Predictions.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(read, name), getattr(made, name))
        np.testing.assert_array_equal(getattr(reused, name), getattr(made, name))
    assert [p.name for p in tmp_path.iterdir()] == ["predictions.npz"]
    with np.load(tmp_path / "predictions.npz", allow_pickle=False) as file:
        assert file["neighbour_scores"].dtype == np.float32
        assert file["query_ids"].dtype.kind == "U"


def test_places_of_the_own_class_are_kept(tmp_path):
    rows, labels = np.random.default_rng(2).normal(size=(6, 3)), [0, 0, 1, 1, 2, 2]
    made = predictions(rows, labels, k=2)
    assert not made.class_ranks
    ranks = {"top": np.arange(1, 7), "linear@": np.full(6, 2**31)}
    kept = Predictions(**(vars(made) | {"class_ranks": ranks}))
    read = load_predictions(save_predictions(tmp_path / "predictions.npz", kept))
    assert read.class_ranks.keys() == ranks.keys()
    for name, places in ranks.items():
        np.testing.assert_array_equal(read.class_ranks[name], places)
    for wrong in (np.arange(1, 6), np.arange(6), np.ones(6)):
        with pytest.raises(InputError, match="class ranks 'top' have shape"):
            Predictions(**(vars(made) | {"class_ranks": {"top": wrong}}))


def test_predictions_refuse_what_does_not_fit(tmp_path):
    rows, labels = np.random.default_rng(2).normal(size=(6, 3)), [0, 0, 1, 1, 2, 2]
    made = predictions(rows, labels, k=2)
    with pytest.raises(InputError, match="rank_of_first has shape"):
        Predictions(**(vars(made) | {"rank_of_first": made.rank_of_first[:3]}))
    with pytest.raises(InputError, match="neighbour_labels has shape"):
        Predictions(**(vars(made) | {"neighbour_labels": made.neighbour_labels[:, :1]}))
    with pytest.raises(InputError, match="evaluation is of other queries"):
        predictions(rows, labels, k=2, evaluation=evaluate(rows, labels, query_ids=list("abcdef"), recall_at=(1,)))
    (tmp_path / "x.npz").write_bytes(b"not a zip")
    with pytest.raises(InputError, match="cannot be read as predictions"):
        load_predictions(tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", query_ids=made.query_ids)
    with pytest.raises(InputError, match="cannot be read as predictions"):
        load_predictions(tmp_path / "y.npz")
    with pytest.raises(InputError, match="cannot be read as predictions"):
        load_predictions(tmp_path / "absent.npz")
