"""A linear classifier beside a saved encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from metrixkit.data.transforms import Transform, eval_transform_config
from metrixkit.errors import InputError
from metrixkit.models import Classifier, ImageEncoder, load_classifier, load_encoder, save_classifier, save_model

CLASSES = ["ä", "b, c", '"d"']


def made(seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    encoder = ImageEncoder("small", dim=4, normalize=False, image_size=16, pooling="avg")
    return Classifier(encoder, nn.Linear(4, 3)).eval()


def saved(folder: Path, seed: int = 0) -> Classifier:
    classifier = made(seed)
    save_model(classifier.encoder, folder, eval_transform_config(Transform(resize=16), 16))  # type: ignore[arg-type]
    save_classifier(classifier, CLASSES, folder)
    return classifier


def test_saved_and_loaded_again(tmp_path: Path) -> None:
    classifier = saved(tmp_path)
    again = load_classifier(tmp_path, load_encoder(tmp_path)[0])
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    assert again.classes == tuple(CLASSES)
    assert not again.training
    with torch.no_grad():
        logits = classifier(images)
        assert torch.equal(again(images), logits)
        torch.testing.assert_close(again.scores(again.encoder(images)).float(), logits)
    assert again.scores(torch.zeros(1, 4)).dtype == torch.float64


def test_a_view_changes_no_mode() -> None:
    encoder = made().encoder
    for mode in (True, False):
        encoder.train(mode)
        assert Classifier(encoder, nn.Linear(4, 3)).training == mode
        assert encoder.training == mode


def test_logits_are_float32_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert made()(torch.rand(2, 3, 16, 16)).dtype == torch.float32


def test_bad_input(tmp_path: Path) -> None:
    classifier = saved(tmp_path / "a")
    with pytest.raises(InputError, match="2 names for a classifier of 3 classes"):
        save_classifier(classifier, ["x", "y"], tmp_path / "a")
    saved(tmp_path / "b", seed=1)
    encoder, _ = load_encoder(tmp_path / "b")
    (tmp_path / "b" / "classifier.safetensors").write_bytes((tmp_path / "a" / "classifier.safetensors").read_bytes())
    with pytest.raises(InputError, match="saved for another encoder"):
        load_classifier(tmp_path / "b", encoder)
    (tmp_path / "b" / "classifier.safetensors").write_bytes(b"broken")
    with pytest.raises(InputError, match="cannot be read as a classifier"):
        load_classifier(tmp_path / "b", encoder)
    (tmp_path / "b" / "classifier.safetensors").unlink()
    with pytest.raises(InputError, match="trained no classifier"):
        load_classifier(tmp_path / "b", encoder)
