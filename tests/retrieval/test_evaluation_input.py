"""What evaluate() refuses, warns of, counts and says."""

import json

import numpy as np
import pytest
import torch

from metrixkit.errors import InputError
from metrixkit.retrieval import evaluate, evaluation, nmi_ami

ROWS = np.random.default_rng(0).normal(size=(6, 3))
LABELS = ["a", "a", "b", "b", "c", "c"]


@pytest.mark.parametrize(
    ("value", "word"), [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite"), (0.0, "zero")]
)
def test_bad_rows_name_the_first(value, word):
    rows = ROWS.copy()
    rows[2], rows[4] = value, value
    with pytest.raises(InputError, match=rf"queries: row 2 \(id 'img2'\).*{word}.*; 2 of 6 rows"):
        evaluate(rows, LABELS, query_ids=[f"img{i}" for i in range(6)])
    with pytest.raises(InputError, match=r"gallery: row 2 "):
        evaluate(ROWS, LABELS, rows, LABELS)


def test_zero_rows_are_fine_where_length_does_not_matter():
    rows = ROWS.copy()
    rows[2] = 0
    for distance in ("euclidean", "dot"):
        assert evaluate(rows, LABELS, recall_at=(5,), distance=distance)["recall@5"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query_labels": LABELS[:5]}, "query_labels has 5 values but queries has 6 rows"),
        ({"query_ids": list("abcde")}, "query_ids has 5 values but queries has 6 rows"),
        ({"query_ids": list("abcdbf")}, "query_ids: 'b' stands at positions 1 and 4"),
        ({"queries": ROWS[0]}, "queries: expected a matrix"),
        ({"queries": ROWS[:0]}, "queries: is empty"),
        ({"queries": [["x"] * 3] * 6}, "queries: expected real numbers"),
        ({"queries": [[1.0], [1.0, 2.0]]}, "queries: cannot be read as a matrix"),
        ({"query_labels": ["a", None, "b", "b", "c", "c"]}, "query_labels: the value at position 1 is missing"),
        ({"query_labels": np.array([0.5] * 6)}, "query_labels: expected integers or strings"),
        ({"query_labels": list("abcdef")}, "no query has a relevant item"),
        ({"gallery": ROWS.copy()}, "a gallery was given without gallery_labels"),
        ({"gallery": ROWS, "gallery_labels": LABELS}, "every query would find itself"),
        ({"gallery_labels": LABELS}, "gallery_labels were given without a gallery"),
        ({"gallery_ids": LABELS}, "gallery_ids were given without a gallery"),
        ({"gallery": ROWS[:, :2].copy(), "gallery_labels": LABELS}, "queries have 3 dimensions and the gallery has 2"),
        ({"gallery": ROWS.copy(), "gallery_labels": LABELS[:2]}, "gallery_labels has 2 values but gallery has 6 rows"),
        ({"gallery": ROWS.copy(), "gallery_labels": list("uvwxyz")}, "no query has a relevant item"),
        ({"metrics": ("map@R",)}, "no metric is called 'map@R'. Did you mean 'map@r'"),
        ({"metrics": ("recall@1",)}, r"recall is asked for by recall_at=\(1,\)"),
        ({"metrics": ("alignment",)}, "metric 'alignment' is a function of its own"),
        ({"recall_at": (0,)}, "recall_at holds 0"),
        ({"recall_at": (1.5,)}, "recall_at holds 1.5"),
        ({"recall_at": (), "metrics": ()}, "nothing to evaluate"),
        ({"distance": "cosin"}, "distance='cosin' is not known. Did you mean 'cosine'"),
        ({"precision": "fp16"}, "precision='fp16' is not known"),
    ],
)
def test_bad_input_is_explained(arguments, message):
    with pytest.raises(InputError, match=message):
        evaluate(**({"queries": ROWS, "query_labels": LABELS, "recall_at": (1,)} | arguments))


def test_one_id_with_two_labels_is_refused():
    ids = [str(i) for i in range(6)]
    other = ["a", "a", "b", "b", "c", "a"]
    with pytest.raises(InputError, match="id '5' has label .*'c'.* among the queries and .*'a'.* in the gallery"):
        evaluate(ROWS, LABELS, ROWS, other, ids, ids)


def test_k_beyond_the_gallery_warns_and_is_defined():
    with pytest.warns(UserWarning, match=r"recall@9 asks for more than the 5 gallery items"):
        result = evaluate(ROWS, LABELS, recall_at=(5, 9))
    assert result["recall@9"] == result["recall@5"] == 1.0


def test_queries_without_relevant_items_are_counted_and_left_out():
    rows = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0], [-1.0, 0.0]])
    result = evaluate(rows, ["a", "a", "b", "b", "alone"], recall_at=(1,))
    assert result["recall@1"] == 1.0
    assert result.counts["queries"] == 5
    assert result.counts["evaluated"] == 4
    assert result.counts["without_relevant"] == 1
    assert result.counts["classes"] == 3
    assert result.per_query["rank"].isna().tolist() == [False] * 4 + [True]
    assert np.isnan(result.per_query["ap@r"].iloc[4])


def test_integer_and_string_labels_of_two_sources_meet():
    result = evaluate(
        ROWS, torch.tensor([1, 1, 2, 2, 3, 3]), ROWS.copy(), ["1", "1", "2", "2", "3", "3"], recall_at=(1,)
    )
    assert result["recall@1"] == 1.0  # different items by default: each finds its copy


def test_result_is_a_mapping_with_definitions_and_json():
    result = evaluate(ROWS, LABELS, recall_at=(1, 2), metrics=("map@r", "mrr", "nmi", "ami"))
    assert list(result)[:2] == ["recall@1", "recall@2"]
    assert set(result) <= set(result.definitions)
    assert "seed 0" in result.definitions["nmi"]
    assert "KMeans" in result.definitions["ami"]
    assert "without_relevant" in result.definitions["convention"]
    assert json.loads(json.dumps(result.to_dict()))["metrics"] == dict(result)
    with pytest.raises(KeyError, match="recall@1"):
        result["recall_1"]


def test_nothing_given_is_changed():
    rows, labels = (
        torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
        list(range(10)) * 2,
    )
    for distance in ("cosine", "dot", "euclidean"):
        copy = rows.clone()
        evaluate(rows, labels, metrics=("map@r", "nmi"), distance=distance)
        assert torch.equal(rows, copy)


def test_clusters_of_separated_classes_are_found():
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(5), 12)
    rows = np.eye(5)[labels] + 0.02 * rng.normal(size=(60, 5))
    assert nmi_ami(rows, labels) == pytest.approx({"nmi": 1.0, "ami": 1.0})
    noise = nmi_ami(rng.normal(size=(60, 5)), labels)
    assert noise["ami"] < 0.3 < noise["nmi"] + 0.3
    collapsed = nmi_ami(np.ones((60, 5)), labels)
    assert collapsed["nmi"] == collapsed["ami"] == 0.0
    assert nmi_ami(rows, labels, seed=4) == nmi_ami(rows, labels, seed=4)
    with pytest.raises(InputError, match="only one class"):
        nmi_ami(rows, ["x"] * 60)


def test_clustering_takes_each_item_once(monkeypatch):
    seen = []
    monkeypatch.setattr(
        evaluation, "clustering_scores", lambda rows, codes, seed: (seen.append((rows, codes)), ({"nmi": 0.5}, ""))[1]
    )
    ids = [str(i) for i in range(6)]
    result = evaluate(ROWS[:4], LABELS[:4], ROWS[2:], LABELS[2:], ids[:4], ids[2:], recall_at=(), metrics=("nmi",))
    ((rows, codes),) = seen
    np.testing.assert_allclose(rows, ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True))
    assert codes.tolist() == [0, 0, 1, 1, 2, 2]
    assert result["nmi"] == 0.5
