"""Glyphs: what is drawn, what is merged, the split, the cache, and how hard it is."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from metrixkit.data import Glyphs
from metrixkit.data.decode import decode
from metrixkit.data.sets.glyph_images import Faces, merge_alike
from metrixkit.errors import InputError

SMALL = {"min_faces": 17, "test_classes": 10}


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _use_cache(cache, monkeypatch):
    monkeypatch.setenv("METRIXKIT_CACHE", str(cache))


def array(manifest) -> np.ndarray:
    return np.load(manifest.paths[0].rpartition("#")[0], mmap_mode="r")


def pictures(manifest) -> np.ndarray:
    return array(manifest)[[int(path.rpartition("#")[2]) for path in manifest.paths]]


def test_faces_leave_out_those_without_unicode():
    names = Faces().files
    assert len(names) > 12
    assert not [name for name in names if name.startswith(("cm", "STIXNonUni", "LastResort"))]


def test_characters_have_ink_and_enough_faces():
    characters = Faces().characters(12)
    assert 2_300 <= len(characters) <= 2_500
    assert ord(" ") not in characters
    assert min(len(names) for names in characters.values()) >= 12


def test_what_renders_alike_is_one_class_and_what_differs_is_not():
    faces = Faces()
    wanted = [ord(c) for c in "AΑАBВOО0cCсI.·,lLÈЀὠὡ"]
    groups = merge_alike(faces, {p: names for p, names in faces.characters(12).items() if p in wanted})
    together = {frozenset(map(chr, group)) for group in groups}
    assert {
        frozenset("AΑА"),
        frozenset("BВ"),
        frozenset("OО"),
        frozenset("cс"),
        frozenset(".·"),
        frozenset("ÈЀ"),
    } <= together
    assert {frozenset(c) for c in "0CIlL,ὠὡ"} <= together


@pytest.mark.slow
def test_raw_pixels_find_seven_of_ten_unseen_characters():
    found = Glyphs().read()
    assert found.split_name == "zero-shot"
    test = found.part("test")
    assert len(test.classes()) == 400
    assert 1_700 <= len(found.part("train").classes()) <= 2_000
    assert not set(found.part("train").classes()) & set(test.classes())
    rows = pictures(test).reshape(len(test), -1).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    scores = rows @ rows.T
    np.fill_diagonal(scores, -1.0)
    labels = np.array(test.labels)
    recall = (labels[scores.argmax(axis=1)] == labels).mean()
    assert 0.68 <= recall <= 0.76
    assert decode(test.paths[0]).shape == (3, 32, 32)


@pytest.mark.slow
def test_every_picture_has_ink_that_is_not_cut():
    found = pictures(Glyphs().read())
    assert found.reshape(len(found), -1).max(axis=1).min() > 40
    border = np.concatenate([found[:, 0], found[:, -1], found[:, :, 0], found[:, :, -1]], axis=1)
    assert (border.max(axis=1) > 0).mean() < 0.005


def test_same_settings_same_bytes_in_another_cache(tmp_path, monkeypatch):
    first = Glyphs(size=16, **SMALL).read()
    monkeypatch.setenv("METRIXKIT_CACHE", str(tmp_path))
    second = Glyphs(size=16, **SMALL).read()
    assert first.root != second.root
    assert first.ids == second.ids
    assert first.items["split"].equals(second.items["split"])
    assert np.array_equal(array(first), array(second))
    other = Glyphs(size=16, seed=1, **SMALL).read()
    assert not np.array_equal(array(first), array(other))


def test_fewer_classes_are_a_subset_of_the_same_pictures():
    whole, few = Glyphs(size=16, **SMALL).read(), Glyphs(size=16, train_classes=5, **SMALL).read()
    assert few.split_name == "zero-shot-size=16-min_faces=17-test_classes=10-train_classes=5"
    assert len(few.part("train").classes()) == 5
    assert few.part("test").ids == whole.part("test").ids
    where = dict(zip(whole.ids, whole.paths, strict=True))
    assert all(where[key] == path for key, path in zip(few.ids, few.paths, strict=True))


def test_a_second_read_draws_nothing(monkeypatch):
    Glyphs(size=16, **SMALL).read()
    monkeypatch.setattr("metrixkit.data.sets.glyphs.Faces", lambda: pytest.fail("drew again"))
    assert len(Glyphs(size=16, **SMALL).read()) > 100


def test_a_kill_while_drawing_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("METRIXKIT_CACHE", str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr("metrixkit.data.sets.glyphs.np.save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            Glyphs(size=16, **SMALL).read()
    assert not list(tmp_path.iterdir())
    assert len(Glyphs(size=16, **SMALL).read()) > 100


def test_two_processes_that_draw_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("METRIXKIT_CACHE", str(tmp_path))
    glyphs = Glyphs(size=16, **SMALL)
    draw, inside = Glyphs._draw, []

    def draw_and_be_overtaken(self, folder):
        draw(self, folder)
        if not inside:
            inside.append(True)
            self.read()

    monkeypatch.setattr(Glyphs, "_draw", draw_and_be_overtaken)
    assert len(glyphs.read()) > 100
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.slow
def test_rows_have_face_character_and_unicode_name():
    found = Glyphs().read().items.set_index("id")
    row = found.loc["U+002B/DejaVuSans"]
    assert (row["label"], row["face"], row["character"], row["name"]) == ("U+002B", "DejaVuSans", "+", "PLUS SIGN")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 4}, "size must lie"),
        ({"min_faces": 1}, "min_faces must lie"),
        ({"test_classes": 0}, "test_classes must be positive"),
        ({"min_faces": 17, "test_classes": 4_000}, "4000 test and 1 training characters were asked for"),
        ({**SMALL, "train_classes": 4_000}, "4000 training characters were asked for"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(InputError, match=message):
        Glyphs(**settings).read()


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("METRIXKIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="METRIXKIT_CACHE"):
        Glyphs(size=16, **SMALL).read()
    assert os.listdir(tmp_path) == ["file"]
