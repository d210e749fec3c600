"""The map, the histogram of similarities and mixed examples: what is drawn, how it is chosen, what is refused."""

import numpy as np
import pytest
from PIL import Image

from metrixkit.errors import InputError
from metrixkit.report import Mixture, embedding_map, mixed, mixed_examples, similarity_histogram
from metrixkit.report.map import choose_items, flatten
from metrixkit.report.similarities import Items, similarities


def load(name):
    return np.full((8, 12, 3), (7 * sum(map(ord, name))) % 256, dtype=np.uint8)


def told(path):
    with Image.open(path) as picture:
        return picture.text


def clusters(count=90, classes=3, dim=8, seed=0):
    rng = np.random.default_rng(seed)
    codes = np.arange(count) % classes
    return rng.normal(scale=0.05, size=(count, dim)) + np.eye(dim)[codes], np.array([f"c{code}" for code in codes])


def test_items_are_whole_classes_and_a_filling():
    labels = np.array([f"c{i % 50}" for i in range(1000)] + [f"alone{i}" for i in range(500)])
    chosen, coloured = choose_items(labels, 300, 5, seed=0)
    assert len(chosen) == len(set(chosen.tolist())) == 300
    assert len(coloured) == 5
    assert not any(name.startswith("alone") for name in coloured)
    assert all((labels[chosen] == name).sum() == 20 for name in coloured)  # the whole class: fewer than 300 / 10
    assert choose_items(labels, 300, 5, seed=0)[0].tolist() == chosen.tolist()
    assert choose_items(labels, 300, 5, seed=1)[0].tolist() != chosen.tolist()
    assert choose_items(labels, 5000, 5, seed=0)[0].tolist() == list(range(1500))
    assert len(choose_items(np.repeat(["a", "b"], 1000), 100, 20, 0)[0]) == 100
    one = choose_items(np.array(["a", "b"]), 9, 9, 0)
    assert one[1].tolist() == ["a", "b"]


def test_map_keeps_clusters_apart_and_is_the_same_each_time():
    vectors, labels = clusters()
    places = flatten(vectors)
    assert places.shape == (90, 2)
    gaps = np.linalg.norm(places[:, None] - places[None], axis=2) + np.diag(np.full(90, np.inf))
    assert (labels[gaps.argmin(1)] == labels).all()
    np.testing.assert_array_equal(places, flatten(3 * vectors))  # only directions count
    assert not np.array_equal(flatten(vectors * np.arange(1, 91)[:, None], unit=False), places)


@pytest.mark.parametrize("rows", [np.ones((20, 4)), np.ones((20, 1)), np.eye(12), np.zeros((14, 3)) + 1e-30])
def test_degenerate_embeddings_still_have_a_map(rows):
    assert np.isfinite(flatten(rows)).all()


def test_map_is_drawn_and_says_what_it_is(tmp_path):
    vectors, labels = clusters(60)
    labels[0] = "$\\notmath <b> 日本"
    ids = [f"{i}.jpg" for i in range(60)]
    path = embedding_map(
        tmp_path / "new" / "map.png", vectors.astype(np.float32), labels, ids, load, items=40, classes=2
    )
    assert path is not None
    text = told(path)["Description"]
    assert "40 of 60 test items" in text
    assert "2 of 4 classes" in text
    assert "mean little" in text
    assert not list(path.parent.glob("*.part"))
    assert embedding_map(tmp_path / "few.png", vectors[:5], labels[:5]) is None
    assert not (tmp_path / "few.png").exists()
    with pytest.raises(InputError, match="60 rows, 59 labels"):
        embedding_map(tmp_path / "x.png", vectors, labels[:59])
    vectors[3] = 0
    with pytest.raises(InputError, match="row 3 is zero"):
        embedding_map(tmp_path / "x.png", vectors, labels)
    vectors[3] = np.nan
    with pytest.raises(InputError, match="finite"):
        embedding_map(tmp_path / "x.png", vectors, labels)


@pytest.mark.parametrize("own_gallery", [True, False])
def test_similarities_are_those_of_a_loop(own_gallery):
    rng = np.random.default_rng(0)
    queries = Items(
        rng.normal(size=(40, 5)), np.array(list("aabbcdde") * 5).astype("U5"), np.array([f"{i}" for i in range(40)])
    )
    queries.labels[0] = "alone"
    gallery = None
    other = queries
    if not own_gallery:
        other = gallery = Items(
            rng.normal(size=(30, 5)), np.array(list("aabbz") * 6), np.array([f"{i + 35}" for i in range(30)])
        )
    found = similarities(queries, gallery, most=100)
    positive, nearest, hardest = [], [], []
    for x, label, name in zip(queries.vectors, queries.labels, queries.ids, strict=True):
        right, wrong = [], []
        for y, theirs, own in zip(other.vectors, other.labels, other.ids, strict=True):
            if own != name:
                (right if theirs == label else wrong).append(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
        if right and wrong:
            positive, nearest, hardest = positive + right, [*nearest, max(right)], [*hardest, max(wrong)]
    assert 0 < found.queries == len(nearest) < 40
    for ours, theirs in ((found.positive, positive), (found.nearest, nearest), (found.hardest, hardest)):
        np.testing.assert_allclose(np.sort(ours), np.sort(theirs), atol=1e-6)
    assert similarities(queries, gallery, most=7).queries <= 7


def test_histogram_says_how_many_are_right(tmp_path):
    vectors, labels = clusters(30)
    found = similarities(Items(vectors, labels, np.arange(30)))
    path = similarity_histogram(tmp_path / "s.png", found, 30)
    assert "30 of 30 queries" in told(path)["Description"]
    assert "(100.0 % of these)" in told(path)["Description"]
    assert told(path)["Kind"] == "drawing"
    collapsed = similarities(Items(np.ones((6, 2)), np.array(list("aabbcc")), np.arange(6)))
    assert "(0.0 % of these)" in told(similarity_histogram(tmp_path / "c.png", collapsed, 6))["Description"]
    alone = similarities(Items(vectors[:3], np.array(list("abc")), np.arange(3)))
    assert similarity_histogram(tmp_path / "none.png", alone, 3) is None
    with pytest.raises(InputError, match="not zero"):
        similarities(Items(np.zeros((6, 2)), np.array(list("aabbcc")), np.arange(6)))


def test_mixed_examples_show_both_elements_and_their_neighbours(tmp_path):
    labels = {"p": "$one", "n": "two", "x": "one more", "q": "$one"}
    rows = [
        Mixture("p", "n", 0.7, "input", ["q", "x"], [0.9, 0.8], np.full((8, 8, 3), 99, np.uint8)),
        Mixture("n", "p", 0.2, "embed", ["p"], [0.5]),
    ]
    path = mixed_examples(tmp_path / "m.png", rows, labels, load, "Drawn by hand.")
    assert told(path)["Description"].startswith("Drawn by hand. ")
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    for colour in (mixed.FIRST, mixed.SECOND, mixed.OTHER):
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(pixels - wanted).max(-1) < 6).sum() > 200, colour
    assert ((pixels == 99).all(-1)).sum() > 5000  # the mixed image
    with pytest.raises(InputError, match="no mixture"):
        mixed_examples(tmp_path / "x.png", [], labels, load, "")
