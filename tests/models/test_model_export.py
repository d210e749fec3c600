"""An exported model: what is written, and that it comes back bit by bit."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from metrixkit.errors import InputError
from metrixkit.models import ImageEncoder, load_encoder, save_model

TRANSFORM = {"version": 1, "resize": 32}


@pytest.fixture
def encoder() -> ImageEncoder:
    torch.manual_seed(0)
    encoder = ImageEncoder("small", pooling="gem", dim=8, mean=[0.4] * 3, freeze_batch_norm=True, train="last:2")
    with torch.no_grad():
        for buffer in encoder.buffers():  # statistics that differ from a fresh model's
            if buffer.is_floating_point() and buffer.ndim == 1:
                buffer.add_(torch.rand(buffer.shape))
    return encoder


def test_round_trip_is_bit_equal_and_moves_no_random_numbers(encoder: ImageEncoder, tmp_path: Path) -> None:
    save_model(encoder, tmp_path / "a" / "model", TRANSFORM, extra={"run": "test"})
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    again, config = load_encoder(tmp_path / "a" / "model")
    assert torch.equal(torch.rand(1), expected)
    assert not again.training
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    x = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(again(x), encoder.eval()(x))
    assert again.settings() == {**encoder.settings(), "weights": "none"}
    assert config["transform"] == TRANSFORM
    assert config["extra"] == {"run": "test"}


def test_channels_last_weights_come_back(tmp_path: Path) -> None:
    encoder = ImageEncoder("small", dim=8, channels_last=True).eval()
    save_model(encoder, tmp_path, TRANSFORM)
    again, _ = load_encoder(tmp_path)
    x = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(again(x), encoder(x))


def test_saving_over_a_model_leaves_no_temporary_files(encoder: ImageEncoder, tmp_path: Path) -> None:
    save_model(encoder, tmp_path, TRANSFORM)
    save_model(encoder, tmp_path, TRANSFORM)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_a_save_cut_off_between_the_files_is_noticed(
    encoder: ImageEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(encoder, tmp_path, TRANSFORM)
    with torch.no_grad():
        next(encoder.parameters()).add_(1.0)
    replace = os.replace

    def cut_off(source: Path, target: Path) -> None:
        if Path(target).name == "config.json":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", cut_off)
    with pytest.raises(KeyboardInterrupt):
        save_model(encoder, tmp_path, TRANSFORM)
    with pytest.raises(InputError, match="is not the file config.json was written for"):
        load_encoder(tmp_path)


def test_folders_that_hold_no_model_are_refused(encoder: ImageEncoder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no config.json"):
        load_encoder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="is no JSON"):
        load_encoder(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(InputError, match="was not written by metrixkit"):
        load_encoder(tmp_path)
    save_model(encoder, tmp_path, TRANSFORM)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "format": 99}))
    with pytest.raises(InputError, match="format 99"):
        load_encoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "encoder": {**config["encoder"], "colour": 3}}))
    with pytest.raises(InputError, match=r"cannot be built again .*colour"):
        load_encoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match="has no model.safetensors"):
        load_encoder(tmp_path)
