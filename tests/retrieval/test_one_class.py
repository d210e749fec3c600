"""Evaluations that nothing could go wrong in are refused, or say what they tell of."""

import numpy as np
import pytest

from metrixkit.errors import InputError
from metrixkit.retrieval import classification_outcome, crossmodal, evaluate, regression_outcome
from metrixkit.retrieval.rerank import reranked

ROWS = np.random.default_rng(0).standard_normal((12, 4))


@pytest.mark.parametrize("distance", ["cosine", "euclidean", "dot"])
def test_a_gallery_of_one_class_is_refused(distance):
    with pytest.raises(InputError, match=r"all 12 items are of one class \('a'\)"):
        evaluate(ROWS, ["a"] * 12, distance=distance, recall_at=(1,))
    with pytest.raises(InputError, match="all 6 gallery items are of one class"):
        evaluate(ROWS[:6], ["a", "b"] * 3, ROWS[6:], ["a"] * 6, distance=distance, recall_at=(1,))
    with pytest.raises(InputError, match="one class"):
        evaluate(ROWS, ["a"] * 12, gallery_groups=np.arange(12) // 3, distance=distance, recall_at=(1,))
    # Nothing of the asked class is there: another fault, said as such.
    with pytest.raises(InputError, match="no query has a relevant item"):
        evaluate(ROWS[:6], ["b"] * 6, ROWS[6:], ["a"] * 6, distance=distance, recall_at=(1,))


def test_a_reranked_gallery_of_one_class_is_refused():
    with pytest.raises(InputError, match="one class"):
        reranked("alpha_qe", ROWS, ["a"] * 12)


def test_queries_of_one_class_are_told_as_such():
    found = evaluate(ROWS[:4], ["a"] * 4, ROWS[4:], ["a", "b"] * 4, recall_at=(1,))
    assert "All evaluated queries are of one class ('a')" in found.definitions["convention"]
    assert found.intervals()["recall@1"]["by_class"] is None
    with pytest.raises(InputError, match="drawing classes tells nothing"):
        found.interval("recall@1", by="class")
    several = evaluate(ROWS, ["a", "b"] * 6, recall_at=(1,))
    assert "one class" not in several.definitions["convention"]
    assert len(several.intervals()["recall@1"]["by_class"]) == 2


def test_texts_of_one_video_are_told_as_such():
    found = crossmodal(ROWS[:3], ROWS[3:5], [0, 0, 0], recall_at=(1,))
    assert "All texts are of one video" in found.definitions["convention"]
    assert "one video" not in crossmodal(ROWS[:2], ROWS[3:5], recall_at=(1,)).definitions["convention"]


def test_predictions_of_one_class_and_one_sign():
    with pytest.raises(InputError, match="of one class"):
        classification_outcome(["a", "b", "a"], ["a", "a", "a"])
    assert regression_outcome([1.0, 2.0, 2.5], [1.0, 2.0, 3.0]).keys() == {"mae", "pearson"}
    assert regression_outcome([1.0, 2.0], [2.0, 2.0]) == {"mae": 0.5}
    assert regression_outcome([1.0, 2.0], [2.0, -2.0]).keys() == {"mae", "pearson", "accuracy", "weighted_f1"}
