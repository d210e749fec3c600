"""The pictures of a finished run: which are drawn for which run, and that mixtures are those of the loss's level."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from metrixkit.data.manifest import Manifest
from metrixkit.data.transforms import Transform, eval_transform
from metrixkit.jobs.pictures import Encode, draw_mixtures, draw_pictures
from metrixkit.losses import Contrastive, Metrix
from metrixkit.models import ImageEncoder
from metrixkit.tasks import EvaluationSettings, Retrieval


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Manifest:
    """Eight classes of four images, half of them for the test."""
    root, rows = tmp_path_factory.mktemp("images"), []
    rng = np.random.default_rng(0)
    for c in range(8):
        base = rng.integers(0, 256, (16, 16, 3))
        for i in range(4):
            path = root / f"{c}-{i}.png"
            Image.fromarray(np.clip(base + rng.integers(-30, 30, base.shape), 0, 255).astype(np.uint8)).save(path)
            rows.append((path.name, str(path), f"class {c}", "train" if c < 4 else "test"))
    return Manifest("toy", "halves", pd.DataFrame(rows, columns=["id", "path", "label", "split"]), root)


@pytest.fixture(scope="module")
def model() -> ImageEncoder:
    torch.manual_seed(0)
    return ImageEncoder("small", dim=8, image_size=16, pooling="avg", weights="none")


def task_of(manifest, **settings):
    return Retrieval(manifest, eval_transform(Transform(resize=16), 16), EvaluationSettings(**settings))


def told(path):
    with Image.open(path) as picture:
        return picture.text


@pytest.mark.sample(1)
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_a_finished_run_gets_its_pictures(tmp_path, manifest, model, distance):
    task = task_of(manifest, distance=distance)
    evaluation, queries, gallery = task.evaluate(model, "test")
    found = task.describe(model, evaluation, queries, gallery)[2]
    draw_pictures(tmp_path, manifest, task, found, queries, gallery)
    right = found.neighbour_labels[:, 0] == found.query_labels
    wanted = {"retrieval.png", "map.png"} | ({"similarities.png"} if distance == "cosine" else set())
    wanted |= ({"retrieval_right.png"} if right.any() else set()) | (
        {"retrieval_wrong.png"} if not right.all() else set()
    )
    assert {path.name for path in tmp_path.iterdir()} == wanted
    assert "16 of 16 test items" in told(tmp_path / "map.png")["Description"]


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("level", "pairs", "stage"),
    [("embed", "positive-negative", None), ("feature", "anchor-negative", None), ("feature", "positive-positive", 1),
     ("input", ["positive-negative", "negative-negative"], None)],
)  # fmt: skip
def test_mixtures_are_drawn_at_the_level_of_the_loss(tmp_path, manifest, model, level, pairs, stage):
    criterion = Metrix(Contrastive(), level=level, pairs=pairs, alpha=1.5, reduction="mean")
    before = criterion.generator.get_state()
    model.train()
    path = draw_mixtures(tmp_path / "mixed.png", criterion, model, stage, task_of(manifest), seed=3)
    assert model.training
    assert torch.equal(criterion.generator.get_state(), before)
    text = told(path)["Description"]
    assert {"embed": "embeddings", "feature": "features", "input": "images"}[level] in text
    assert "Beta(1.5, 1.5)" in text
    assert "16 training pictures of 4 classes" in text
    assert draw_mixtures(tmp_path / "none.png", Contrastive(), model, None, task_of(manifest)) is None
    assert draw_mixtures(tmp_path / "none.png", None, model, None, task_of(manifest)) is None
    assert not (tmp_path / "none.png").exists()


def test_a_mixture_with_ratio_one_is_its_first_element(manifest, model):
    encode = Encode(model, None, task_of(manifest))
    paths = manifest.part("train").paths[:6:5]
    own = encode.items(paths)
    for level in ("feature", "input"):
        for ratio, row in ((1.0, 0), (0.0, 1)):
            vector, image, _ = encode.mixture(level, paths, ratio)
            torch.testing.assert_close(vector, own[row], atol=1e-5, rtol=1e-5)
            assert (image is None) == (level == "feature")
    half = encode.mixture("input", paths, 0.5)[1].astype(float)
    both = [np.asarray(Image.open(path)).astype(float) for path in paths]
    assert np.abs(half - (both[0] + both[1]) / 2).max() <= 1
