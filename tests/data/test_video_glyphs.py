"""Glyphs with words and motion."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from metrixkit.data.check_pairs import check_pairs
from metrixkit.data.decode import decode
from metrixkit.data.features import read_features
from metrixkit.data.frames import read_frames
from metrixkit.data.sets.glyph_images import Faces
from metrixkit.data.sets.glyph_motion import MOTIONS, clip, style_of
from metrixkit.data.sets.glyph_outlines import Outlines, _shares
from metrixkit.data.sets.glyphs import Glyphs
from metrixkit.data.sets.glyphs_video_text import GlyphsVideoText
from metrixkit.errors import InputError


@pytest.fixture(scope="module")
def faces():
    return Faces()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METRIXKIT_CACHE", str(folder))
        # Few characters are in so many faces, which keeps the still pictures quick to draw.
        patch.setattr("metrixkit.data.sets.glyphs_video_text.Glyphs", partial(Glyphs, min_faces=17, test_classes=1))
        yield folder


@pytest.fixture(scope="module")
def found(cache):
    return GlyphsVideoText(characters=30, size=24, frames=6, captions=3).read()


def centre(frames):
    """(T, 2) centre of light: x to the right, y downwards, in shares of the side."""
    weight = frames.astype(float).reshape(len(frames), -1)
    side = frames.shape[-1]
    y, x = np.mgrid[:side, :side].reshape(2, -1) / side
    return np.stack([(weight * x).sum(1), (weight * y).sum(1)], axis=1) / weight.sum(1, keepdims=True)


def moved(faces, motion):
    return clip(faces, "DejaVuSans", ord("F"), motion, 32, 8, seed=0)


def test_motions_do_what_their_names_say(faces):
    for motion, axis, sign in (
        ("moving right", 0, 1),
        ("moving left", 0, -1),
        ("moving down", 1, 1),
        ("moving up", 1, -1),
    ):
        steps = np.diff(centre(moved(faces, motion)), axis=0)
        assert (sign * steps[:, axis] > 0.02).all(), motion
        assert (np.abs(steps[:, 1 - axis]) < 0.02).all(), motion
    ink = {motion: moved(faces, motion).astype(float).sum(axis=(1, 2)) for motion in MOTIONS}
    assert (np.diff(ink["growing"]) > 0).all()
    assert (np.diff(ink["shrinking"]) < 0).all()
    assert (np.diff(moved(faces, "fading in").max(axis=(1, 2)).astype(int)) > 0).all()
    assert (np.diff(moved(faces, "fading out").max(axis=(1, 2)).astype(int)) < 0).all()
    still = moved(faces, "standing still")
    assert (still == still[0]).all()
    shaken = moved(faces, "shaking")
    assert np.array_equal(shaken[0], shaken[2])
    assert abs(centre(shaken)[1, 0] - centre(shaken)[0, 0]) > 0.1


def test_turns_are_clockwise_and_counterclockwise(faces):
    """A quarter turn of the last frame of one is the last frame of the other, turned by a half."""
    for motion, quarter in (("turning clockwise", -1), ("turning counterclockwise", 1)):
        frames = moved(faces, motion).astype(float)
        scores = {k: (np.rot90(frames[0], k) * frames[-1]).sum() for k in range(4)}
        assert max(scores, key=scores.get) == quarter % 4, motion


def test_no_motion_loses_ink_at_the_edge(found):
    for row in range(0, len(found), 5):
        frames = read_frames(found.items["video"][row], size=24, max_frames=None).frames[:, 0].numpy()
        edge = np.concatenate([frames[:, 0], frames[:, -1], frames[:, :, 0], frames[:, :, -1]], axis=1)
        assert (edge > 128).sum(axis=1).max() <= 3, found.captions[row]


def test_words(faces):
    styles = [style_of(name) for name in faces.files]
    assert len(set(styles)) == len(styles)
    assert style_of("DejaVuSerif-BoldItalic") == "bold italic serif"
    assert style_of("STIXSizTwoSymBol") == "bold larger"
    assert style_of("Own-Face") == "own-face"


def test_outlines(faces):
    outlines = Outlines(faces.files, 64)
    for character, contours in (("I", 1), ("O", 2), ("B", 3), ("%", 5), (".", 1)):
        found = outlines.outline("DejaVuSans", ord(character))
        assert found.shape == (64, 3)
        assert found.dtype == np.float32
        assert found[:, 2].sum() == contours
        assert set(found[:, 2].tolist()) <= {0.0, 1.0}
        assert np.abs(found[:, :2]).max() == pytest.approx(1.0)
    high = outlines.outline("DejaVuSans", ord("T"))
    assert np.ptp(high[high[:, 1] > 0.9, 0]) > np.ptp(high[high[:, 1] < -0.9, 0])  # the bar of a T is above
    assert _shares(np.array([1.0, 1.0, 98.0]), 10) == [1, 1, 8]
    assert _shares(np.array([1.0, 3.0, 2.0]), 2) == [0, 1, 1]


def test_manifest(found):
    assert dict(found.modalities) == {"video": "video", "image": "image", "outline": "features", "name": "text"}
    assert found.present.all()
    assert len(found.texts) == 3 * len(found)
    assert len(set(found.captions)) == len(found.texts)
    row = found.items.iloc[7]
    mine = found.texts[found.texts["item"] == row["id"]]["caption"].tolist()
    assert all(part in caption for caption in mine for part in (row["name"], row["style"], row["motion"]))
    assert mine[0] == f"{row['name']}, {row['style']}, {row['motion']}"
    assert read_frames(row["video"], size=24).frames.shape == (6, 3, 24, 24)
    assert decode(row["image"]).shape == (3, 24, 24)
    assert read_features(row["outline"]).shape == (64, 3)
    assert found.split_name == "clips-characters=30-captions=3-frames=6-size=24"
    assert check_pairs(found).problems == []


def test_splits(found, cache):
    train, test = found.part("train"), found.part("test")
    assert 0.2 < len(test) / len(found) < 0.26
    assert set(test.items["label"]) <= set(train.items["label"])
    most = GlyphsVideoText(characters=30, size=24, frames=6, test_share=0.95).read()
    assert (most.part("train").items["label"].value_counts() >= 2).all()
    assert len(set(most.part("train").items["label"])) == 30
    unseen = GlyphsVideoText(characters=30, size=24, frames=6, split="characters", test_share=0.3).read()
    assert not set(unseen.part("train").items["label"]) & set(unseen.part("test").items["label"])
    assert len(set(unseen.part("test").items["label"])) == 9
    assert unseen.items["video"].tolist() == found.items["video"].tolist()


def test_drawn_once_and_the_same_again(found, cache, monkeypatch):
    again = GlyphsVideoText(characters=30, size=24, frames=6, captions=3).read()
    assert again.items.equals(found.items)
    monkeypatch.setenv("METRIXKIT_CACHE", str(cache / "other"))
    (cache / "other").mkdir(exist_ok=True)
    for folder in cache.glob("glyphs-[0-9a-f]*"):
        (cache / "other" / folder.name).symlink_to(folder)  # the still pictures are drawn as before
    fresh = GlyphsVideoText(characters=30, size=24, frames=6, captions=3).read()
    for name in ("clips.npy", "outlines.npy"):
        assert torch.equal(*(torch.from_numpy(np.load(each.root / name)) for each in (found, fresh)))


def test_bad_settings(cache):
    for settings, reason in (
        ({"frames": 1}, "frames must lie between 2 and 64"),
        ({"captions": 4}, "captions must lie between 1 and 3"),
        ({"test_share": 1.0}, "test_share=1.0"),
        ({"characters": 1}, "characters=1"),
        ({"characters": 10**6, "size": 24}, "1000000 characters were asked for"),
    ):
        with pytest.raises(InputError, match=reason):
            GlyphsVideoText(**settings).read()
