"""Omniglot with strokes and the aligned pickles of CMU-MOSEI: real drawings, synthetic and hostile pickles."""

import os
import pickle

import numpy as np
import pytest

from metrixkit.data import Mosei, OmniglotStrokes
from metrixkit.data.decode import decode
from metrixkit.data.features import read_features
from metrixkit.data.sets.omniglot_strokes import trajectory
from metrixkit.errors import InputError


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("METRIXKIT_CACHE", str(tmp_path / "cache"))


def test_a_trajectory_is_evenly_spaced_and_shared_by_length():
    text = "START\n0,0,1\n30,0,2\n30,-20,3\nBREAK\n50,-20,9\n60,-20,10\nBREAK\n"
    found = trajectory(text, 12)
    assert found.shape == (12, 3)
    assert found[:, 2].tolist() == [1.0] + [0.0] * 9 + [1.0, 0.0]  # lengths 50 and 10: ten points and two
    assert found[:, 0].min() == -1
    assert found[:, 0].max() == 1  # the larger side fills it, y upwards
    assert found[0, 1] > found[9, 1]
    steps = np.linalg.norm(np.diff(found[:10, :2], axis=0), axis=1)
    assert steps.std() < 0.15 * steps.mean()


def test_trajectories_at_the_edge():
    dot = trajectory("START\n5,-5,0\nBREAK\n", 8)
    assert (dot[:, :2] == 0).all()
    crowd = "".join(f"{i},0,0\n{i},-{1 + i},1\nBREAK\n" for i in range(20))
    found = trajectory(crowd, 8)  # twenty strokes, eight points: the longest eight
    assert found.shape == (8, 3)
    assert found[:, 2].all()
    with pytest.raises(InputError, match=r"line 2: 'five,6' is no point"):
        trajectory("START\nfive,6\n", 8, "x")
    with pytest.raises(InputError, match="no points"):
        trajectory("START\nBREAK\n", 8)


@pytest.mark.data
@pytest.mark.slow
def test_the_real_drawings_are_paired(shared_data):
    reader = OmniglotStrokes(str(shared_data / "omniglot_small"), archives=["small1", "small2"])
    manifest = reader.read()
    assert len(manifest) == 4840
    assert manifest.items["label"].nunique() == 242
    assert manifest.present.all()
    assert not set(manifest.part("train").items["alphabet"]) & set(manifest.part("test").items["alphabet"])
    correlations = []
    for row in (0, 1234, 4000):
        picture = decode(manifest.items["image"][row])[0].numpy()
        points = read_features(manifest.items["strokes"][row])
        assert picture.shape == (28, 28)
        assert points.shape == (64, 3)
        rows, columns = np.nonzero(picture > 60)
        ink = np.stack([columns, -rows], axis=1).astype(float)
        low, high = ink.min(axis=0), ink.max(axis=0)
        ink = (ink - (low + high) / 2) / max((high - low).max() / 2, 1)
        # Every point of the pen lies on ink of its own picture.
        nearest = np.linalg.norm(points[:, None, :2] - ink[None], axis=2).min(axis=1)
        correlations.append(nearest.mean())
    assert max(correlations) < 0.15
    with pytest.raises(InputError, match="size must lie between"):
        OmniglotStrokes(size=2)


def aligned(count=(6, 3, 4), seed=0):
    rng = np.random.default_rng(seed)
    found = {}
    for split, n in zip(("train", "valid", "test"), count, strict=True):
        audio = rng.normal(size=(n, 5, 7))
        audio[0, 0, 0] = -np.inf
        found[split] = {
            "text": rng.normal(size=(n, 5, 12)).astype(np.float32),
            "audio": audio,
            "vision": rng.normal(size=(n, 5, 3)),
            "labels": rng.uniform(-3, 3, size=(n, 1, 1)),
            "id": np.array([[f"clip{row}", "0", "1"] for row in range(n)]),
        }
    return found


def write(path, content):
    path.write_bytes(pickle.dumps(content))
    return str(path)


def test_an_aligned_pickle(tmp_path):
    content = aligned()
    manifest = Mosei(write(tmp_path / "mosei_data.pkl", content), "tiny").read()
    assert manifest.counts() == {"train": 6, "validation": 3, "test": 4}
    assert dict(manifest.modalities) == {"text": "features", "audio": "features", "vision": "features"}
    test = manifest.part("test")
    assert test.ids[1] == "test/1/clip1"
    assert float(test.items["target"][1]) == content["test"]["labels"][1, 0, 0]
    assert np.allclose(read_features(test.items["vision"][1]), content["test"]["vision"][1])
    assert read_features(test.items["audio"][0])[0, 0] == 0  # minus infinity


def test_pickles_that_are_not_read(tmp_path):
    touched = tmp_path / "touched"

    class Hostile:
        def __reduce__(self):
            return os.system, (f"touch {touched}",)

    content = aligned()
    content["test"]["id"] = Hostile()
    with pytest.raises(InputError, match="system, which plain data does not need"):
        Mosei(write(tmp_path / "hostile.pkl", content)).read()
    assert not touched.exists()
    content = aligned()
    del content["valid"]["vision"]
    with pytest.raises(InputError, match=r"'valid' has no \['vision'\]"):
        Mosei(write(tmp_path / "less.pkl", content)).read()
    content = aligned()
    content["train"]["text"][2, 0, 0] = np.nan
    with pytest.raises(InputError, match=r"train/text holds NaN \(item 2\)"):
        Mosei(write(tmp_path / "nan.pkl", content)).read()
    content = aligned()
    content["train"]["audio"] = content["train"]["audio"][:4]
    with pytest.raises(InputError, match=r"expected \(6, steps, dimensions\)"):
        Mosei(write(tmp_path / "short.pkl", content)).read()
    with pytest.raises(InputError, match="does not exist"):
        Mosei(str(tmp_path / "none.pkl")).read()
    assert not list((tmp_path / "cache").glob("aligned-*"))
