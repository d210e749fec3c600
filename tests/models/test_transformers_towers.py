"""Vision towers of transformers from tiny configurations with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from metrixkit.errors import InputError
from metrixkit.models import ImageEncoder, load_encoder, save_model

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
TRANSFORM = {"version": 1}


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import (
        CLIPVisionConfig,
        CLIPVisionModel,
        Dinov2Config,
        Dinov2Model,
        SiglipVisionConfig,
        SiglipVisionModel,
        ViTConfig,
    )

    root = tmp_path_factory.mktemp("towers")
    torch.manual_seed(0)
    CLIPVisionModel(CLIPVisionConfig(**SHAPE, image_size=32, patch_size=8)).save_pretrained(root / "clip")
    SiglipVisionModel(SiglipVisionConfig(**SHAPE, image_size=32, patch_size=8)).save_pretrained(root / "siglip")
    Dinov2Model(Dinov2Config(**SHAPE, image_size=32, patch_size=8)).save_pretrained(root / "dinov2")
    ViTConfig(**SHAPE).save_pretrained(root / "vit")
    return root


@pytest.mark.parametrize(("kind", "tokens"), [("clip", 17), ("siglip", 16), ("dinov2", 17)])
def test_features_and_own_pooling_are_transformers_own(towers: Path, kind: str, tokens: int) -> None:
    encoder = ImageEncoder(f"transformers/{towers / kind}", "pretrained", pooling="model", dim=None, normalize=False)
    encoder.eval()
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = encoder.trunk.model(pixel_values=(x - encoder.mean) / encoder.std)
        features = encoder.features(x)
        assert features.shape == (2, tokens, 32)
        torch.testing.assert_close(features, expected.last_hidden_state)
        torch.testing.assert_close(encoder(x), expected.pooler_output)
    grouped = [id(p) for group in encoder.parameter_groups() for p in group.params]
    assert sorted(grouped) == sorted(id(p) for p in encoder.parameters() if p.requires_grad)


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", ["clip", "siglip", "dinov2"])
def test_other_sizes_stages_and_export(towers: Path, kind: str, tmp_path: Path) -> None:
    pooling = "avg" if kind == "siglip" else "token"
    encoder = ImageEncoder(
        f"transformers/{towers / kind}", pooling=pooling, dim=4, image_size=48, train="last:1"
    ).eval()
    assert len(encoder.trunk.stages()) == 3
    x = torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    assert encoder.features(x).shape[1] == 36 + (kind != "siglip")
    trained = {n for n, p in encoder.trunk.model.named_parameters() if p.requires_grad}
    assert trained
    assert not any(".0." in name or "embedding" in name for name in trained)

    save_model(encoder, tmp_path / "model", TRANSFORM)
    again, _ = load_encoder(tmp_path / "model")
    assert again.settings()["backbone"] == f"transformers/{tmp_path / 'model' / 'backbone'}"
    assert torch.equal(again(x), encoder(x))


def test_a_whole_clip_gives_its_tower_and_its_card(tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    text = {**SHAPE, "vocab_size": 99, "max_position_embeddings": 8}
    whole = CLIPModel(CLIPConfig(text_config=text, vision_config={**SHAPE, "image_size": 32, "patch_size": 8}))
    whole.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1] * 3, "image_std": [0.2] * 3}))
    weights = str(tmp_path / "model.safetensors")
    encoder = ImageEncoder(f"transformers/{tmp_path}", weights, pooling="token", dim=None).eval()
    assert (encoder.settings()["mean"], encoder.settings()["std"]) == ([0.1] * 3, [0.2] * 3)
    state = whole.state_dict()
    for name, tensor in encoder.trunk.model.state_dict().items():
        assert any(torch.equal(tensor, v) for k, v in state.items() if k.endswith(name) and "vision" in k), name


def test_other_models_and_absent_folders_are_refused(
    towers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="is a 'vit'; expected one of clip_vision_model"):
        ImageEncoder(f"transformers/{towers / 'vit'}")
    with pytest.raises(InputError, match="no configuration"):
        ImageEncoder(f"transformers/{tmp_path / 'absent'}")
    with pytest.raises(InputError, match="no multiple of the 8 px patches"):
        ImageEncoder(f"transformers/{towers / 'clip'}", image_size=33)
