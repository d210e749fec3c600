"""Panels and curves: what is drawn, how rows are chosen, what is refused."""

import json

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from metrixkit.errors import InputError
from metrixkit.report import panel, read_metrics, retrieval_panel, training_curves
from metrixkit.report.panel import choose_rows
from metrixkit.retrieval import Predictions, predictions


@pytest.fixture
def predicted() -> Predictions:
    rng = np.random.default_rng(0)
    labels = np.array([f"class {c} with a name far too long for its cell" for c in range(4)])[np.arange(20) % 4]
    labels[0] = "$\\notmath 日本"  # neither mathematics nor in the font
    rows = rng.normal(size=(20, 4)) + 2 * np.eye(4)[np.arange(20) % 4]
    return predictions(rows, labels, query_ids=[f"{i}.jpg" for i in range(20)], k=5)


def load(name):
    shade = 12 * int(name.removesuffix(".jpg"))
    return np.full((30, 50, 3), shade, dtype=np.uint8)


def count(path, colour):
    """Return how many pixels are of a colour (give or take the smoothing)."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(pixels - wanted).max(-1) < 6).sum())


def test_panel_shows_right_and_wrong_and_is_the_same_each_time(tmp_path, predicted):
    one = retrieval_panel(tmp_path / "pictures" / "a.png", predicted, load, rows=4, k=3, title="a $title")
    two = retrieval_panel(tmp_path / "b.png", predicted, load, rows=4, k=3, title="a $title")
    other = retrieval_panel(tmp_path / "c.png", predicted, load, rows=4, k=3, title="a $title", seed=1)
    assert one.read_bytes() == two.read_bytes() != other.read_bytes()
    assert count(one, panel.RIGHT) > 500
    assert count(one, panel.WRONG) > 500
    right = vars(predicted) | {"neighbour_labels": np.repeat(predicted.query_labels[:, None], 5, axis=1)}
    perfect = retrieval_panel(tmp_path / "d.png", Predictions(**right), load, rows=4, k=3)
    assert count(perfect, panel.WRONG) == 0


def test_rows_are_half_right_half_wrong_as_far_as_there_are_any():
    hit = np.array([True] * 90 + [False] * 10)
    chosen = choose_rows(hit, 8, seed=0)
    assert hit[chosen].tolist() == [True] * 4 + [False] * 4
    assert len(set(chosen.tolist())) == 8
    assert choose_rows(hit, 8, 0).tolist() == chosen.tolist() != choose_rows(hit, 8, 1).tolist()
    assert hit[choose_rows(hit, 30, 0)].sum() == 20
    assert hit[choose_rows(np.ones(100, dtype=bool), 8, 0)].size == 8
    assert len(choose_rows(np.array([False, False]), 8, 0)) == 2


def test_more_columns_than_neighbours_and_missing_ones_are_fine(tmp_path):
    rows, labels = np.eye(3), ["a", "b", "b"]
    made = predictions(rows, labels, rows[:2], labels[:2], ["0", "1", "2"], ["0", "1"], k=9)
    assert (made.neighbour_ids[:2, 1] == "").all()
    assert retrieval_panel(tmp_path / "a.png", made, load).is_file()


def test_panel_refuses_what_it_cannot_draw(tmp_path, predicted):
    with pytest.raises(InputError, match=r"gave shape \(5, 5\)"):
        retrieval_panel(tmp_path / "a.png", predicted, lambda name: np.zeros((5, 5), np.uint8))
    with pytest.raises(InputError, match="rows=0"):
        retrieval_panel(tmp_path / "a.png", predicted, load, rows=0)
    assert not (tmp_path / "a.png").exists()


def told(path):
    with Image.open(path) as picture:
        return picture.text


def test_the_most_confident_are_those_with_the_highest_similarity():
    labels, scores = np.array(list("aabbc")), np.array([0.9, 0.9, 0.7, 0.8, 0.99], dtype=np.float32)
    found = Predictions(
        query_ids=np.array(list("01234")), query_labels=labels, neighbour_ids=np.array([["1"], ["0"], ["4"], ["1"], ["0"]]),
        neighbour_labels=np.array([["a"], ["a"], ["c"], ["a"], ["a"]]), neighbour_scores=scores[:, None],
        rank_of_first=np.array([1, 1, 5, 2, 0]),
    )  # fmt: skip
    assert panel.most_confident(found, "right", 5).tolist() == [0]  # 1 finds 0 and 0 finds 1: one pair
    assert panel.most_confident(found, "wrong", 5).tolist() == [3, 2]  # 4 has no other of its class: no mistake
    assert panel.most_confident(found, "wrong", 1).tolist() == [3]


def test_panels_say_how_their_rows_were_chosen(tmp_path, predicted):
    paths = {c: retrieval_panel(tmp_path / f"{c}.png", predicted, load, rows=3, k=2, choice=c) for c in panel.TITLES}
    assert "3 of 20 queries, drawn with seed 0" in told(paths["random"])["Description"]
    assert told(paths["wrong"])["Title"] == "Most confidently wrong"
    assert "surest and mistaken" in told(paths["wrong"])["Description"]
    assert told(paths["right"])["Kind"] == "photographs"
    assert count(paths["wrong"], panel.WRONG) > count(paths["right"], panel.WRONG)
    with pytest.raises(InputError, match=r"choice='rihgt'.*right"):
        retrieval_panel(tmp_path / "x.png", predicted, load, choice="rihgt")
    right = vars(predicted) | {"neighbour_labels": np.repeat(predicted.query_labels[:, None], 5, axis=1)}
    with pytest.raises(InputError, match="no query has a nearest item that is wrong"):
        retrieval_panel(tmp_path / "x.png", Predictions(**right), load, choice="wrong")


def lines(path, entries, end="\n"):
    path.write_text("\n".join(json.dumps(e) for e in entries) + end)
    return path


def test_curves_are_drawn_from_what_was_logged(tmp_path, monkeypatch):
    titles = []
    original = Axes.set_title
    monkeypatch.setattr(Axes, "set_title", lambda self, t, **k: (titles.append(t), original(self, t, **k))[1])
    entries = [{"step": i, "epoch": 0, "loss/total": 1 / (i + 1), "lr/head": 1e-4, "note": "x"} for i in range(90)]
    entries[5]["loss/total"] = float("nan")
    entries += [{"step": 90, "gradient/mixed_to_clean_ratio": 0.3, "validation/recall@1": 0.5}]
    out = training_curves(lines(tmp_path / "m.jsonl", entries), tmp_path / "new" / "curves.png")
    assert out is not None
    with Image.open(out) as picture:
        assert picture.size[0] > 500
    assert titles == ["loss", "retrieval, %", "mixed / clean gradient", "learning rate"]
    titles.clear()
    training_curves(lines(tmp_path / "m.jsonl", [{"step": 1, "loss/total": 0.5}]), tmp_path / "one.png")
    assert titles == ["loss"]
    assert training_curves(lines(tmp_path / "m.jsonl", [{"step": 1}]), tmp_path / "none.png") is None
    assert not (tmp_path / "none.png").exists()


def test_a_killed_run_leaves_a_readable_log(tmp_path):
    path = lines(tmp_path / "m.jsonl", [{"step": 1, "loss/total": 2.0}], end='\n{"step": 2, "los')
    assert read_metrics(path) == [{"step": 1, "loss/total": 2.0}]
    path.write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(InputError, match="line 2 is not JSON"):
        read_metrics(path)
    with pytest.raises(InputError, match="written while training"):
        read_metrics(tmp_path / "absent.jsonl")
