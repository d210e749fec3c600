"""Backbones by name: shapes, cards, sizes, and names that do not exist."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from metrixkit.errors import InputError
from metrixkit.models import ImageEncoder

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])


def run(encoder: ImageEncoder) -> tuple[torch.Tensor, torch.Tensor]:
    encoder.eval()
    with torch.no_grad():
        features = encoder.features(torch.zeros(1, 3, encoder.image_size, encoder.image_size, dtype=torch.uint8))
        return features, encoder.head(features)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("backbone", "size", "card"),
    [
        ("timm/resnet50.tv_in1k", 224, IMAGENET),
        ("timm/vit_tiny_patch16_224", 224, ([0.5] * 3, [0.5] * 3)),
        ("torchvision/mobilenet_v2", 224, IMAGENET),
        ("torchvision/resnet18.IMAGENET1K_V1", 224, IMAGENET),
        ("small", 32, ([0.5] * 3, [0.5] * 3)),
    ],
)
def test_size_and_normalisation_default_to_the_weights_card(
    backbone: str, size: int, card: tuple[list[float], list[float]]
) -> None:
    encoder = ImageEncoder(backbone, dim=None)
    assert encoder.image_size == size
    assert (encoder.settings()["mean"], encoder.settings()["std"]) == card
    assert encoder.notes == []


def test_departures_from_the_card_are_noted() -> None:
    encoder = ImageEncoder("torchvision/mobilenet_v2", dim=None, image_size=96, mean=[0.5] * 3, std=[0.5] * 3)
    assert [note.split(";")[0] for note in encoder.notes] == [
        "image_size 96",
        "mean [0.5, 0.5, 0.5]",
        "std [0.5, 0.5, 0.5]",
    ]


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("backbone", "size", "shape", "own"),
    [
        ("timm/resnet18", 64, (512, 2, 2), 512),
        ("timm/mobilenetv3_small_100", 64, (576, 2, 2), 1024),
        ("timm/swin_tiny_patch4_window7_224", 64, (768, 2, 2), 768),
        ("torchvision/resnet18", 64, (512, 2, 2), 512),
        ("torchvision/mobilenet_v2", 64, (1280, 2, 2), 1280),
        ("torchvision/mobilenet_v3_small", 64, (576, 2, 2), 1024),
        ("torchvision/densenet121", 64, (1024, 2, 2), 1024),
        ("torchvision/squeezenet1_0", 64, (512, 3, 3), 512),
        ("torchvision/convnext_tiny", 64, (768, 2, 2), 768),
        ("torchvision/swin_t", 64, (768, 2, 2), 768),
    ],
)
def test_maps_and_own_pooling(backbone: str, size: int, shape: tuple[int, ...], own: int) -> None:
    features, _ = run(ImageEncoder(backbone, pooling="avg", dim=None, image_size=size))
    assert features.shape == (1, *shape)
    _, embedding = run(ImageEncoder(backbone, pooling="model", dim=None, image_size=size))
    assert embedding.shape == (1, own)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "mobilenet_v3_small", "densenet121", "swin_t", "alexnet"])
def test_torchvision_models_split_where_torchvision_itself_pools(name: str) -> None:
    from torchvision import models

    torch.manual_seed(0)
    whole = models.get_model(name, weights=None).eval()
    encoder = ImageEncoder(f"torchvision/{name}", pooling="model", dim=None, normalize=False).eval()
    encoder.trunk.model.load_state_dict(whole.state_dict(), strict=False)
    seen = []
    last = [module for module in whole.modules() if isinstance(module, nn.Linear)][-1]
    last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        whole((x - encoder.mean) / encoder.std)
        torch.testing.assert_close(encoder(x), seen[0])


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("backbone", "size", "tokens", "prefix", "card"),
    [
        ("timm/vit_small_patch14_dinov2", 56, 17, 1, IMAGENET),
        ("timm/vit_small_patch14_reg4_dinov2", 56, 21, 5, IMAGENET),
        ("timm/vit_base_patch32_clip_224", 64, 5, 1, CLIP),
        ("timm/vit_base_patch16_siglip_224", 32, 4, 0, ([0.5] * 3, [0.5] * 3)),
        ("timm/deit_tiny_distilled_patch16_224", 32, 6, 2, IMAGENET),
    ],
)
def test_vit_towers_with_random_weights_at_another_size(
    backbone: str, size: int, tokens: int, prefix: int, card: tuple[list[float], list[float]]
) -> None:
    encoder = ImageEncoder(backbone, pooling="avg", dim=None, normalize=False, image_size=size)
    assert (encoder.settings()["mean"], encoder.settings()["std"]) == card
    assert encoder.notes[0].startswith(f"image_size {size}")
    features, embedding = run(encoder)
    assert features.shape[:2] == (1, tokens)
    torch.testing.assert_close(embedding, features[:, prefix:].mean(1))


@pytest.mark.slow
def test_the_class_token_and_the_models_own_pooling() -> None:
    settings = {"dim": None, "normalize": False, "image_size": 32}
    features, embedding = run(ImageEncoder("timm/vit_tiny_patch16_224", pooling="token", **settings))
    torch.testing.assert_close(embedding, features[:, 0])
    encoder = ImageEncoder("timm/vit_tiny_patch16_224", pooling="model", **settings)
    features, embedding = run(encoder)
    torch.testing.assert_close(embedding, encoder.trunk.model.forward_head(features, pre_logits=True))
    with pytest.raises(InputError, match="has no class token"):
        ImageEncoder("timm/vit_base_patch16_siglip_224", pooling="token", **settings)


@pytest.mark.slow
def test_a_torchvision_vit_is_built_for_its_size() -> None:
    features, _ = run(ImageEncoder("torchvision/vit_b_32", pooling="token", dim=None, image_size=64))
    assert features.shape == (1, 5, 768)


@pytest.mark.parametrize(
    ("backbone", "size"),
    [("timm/vit_small_patch14_dinov2", 60), ("torchvision/vit_b_32", 100)],
)
def test_sizes_the_patches_do_not_divide_are_refused(backbone: str, size: int) -> None:
    with pytest.raises(InputError, match=f"image_size {size} is no multiple"):
        ImageEncoder(backbone, dim=None, pooling="avg", image_size=size)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("timm/resnet55", "no such model. Did you mean 'resnet5"),
        ("timm/resnet50.tv_in2k", "no weights tagged 'tv_in2k'. Did you mean 'tv_in1k'"),
        ("torchvision/mobilnet_v2", "Did you mean 'mobilenet_v2'"),
        ("torchvision/resnet50.IMAGENET1K_V9", "Did you mean 'IMAGENET1K_V"),
        ("torchvision/googlenet", "cannot be split"),
        ("resnet50", "Did you mean 'timm/resnet50' or 'torchvision/resnet50'"),
        ("smal", "Did you mean 'small'"),
        ("own_backbones:Absent", "cannot import 'own_backbones'"),
    ],
)
def test_unknown_backbones_answer_with_near_names(backbone: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        ImageEncoder(backbone)
    assert message in str(caught.value)


def test_own_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_nets.py").write_text(
        "from torch import nn\n"
        "class Maps(nn.Module):\n"
        "    image_size = 16\n"
        "    mean = (0.1, 0.2, 0.3)\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv = nn.Conv2d(3, 6, 3)\n"
        "    def forward(self, x):\n"
        "        return self.conv(x)\n"
        "class Vectors(Maps):\n"
        "    def forward(self, x):\n"
        "        return self.conv(x).mean((2, 3)) + x.new_tensor([float(x.sum())])\n"  # needs real tensors
        "class Picky(nn.Module):\n"
        "    def __init__(self, width):\n"
        "        super().__init__()\n"
        "def function():\n"
        "    return None\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    encoder = ImageEncoder("own_nets:Maps", dim=4)
    assert (encoder.image_size, encoder.settings()["mean"]) == (16, [0.1, 0.2, 0.3])
    assert run(encoder)[1].shape == (1, 4)
    assert run(ImageEncoder("own_nets:Vectors", pooling="model", dim=4))[1].shape == (1, 4)
    for name, message in [
        ("own_nets:Picky", "without arguments"),
        ("own_nets:function", "no nn.Module class"),
        ("own_nets:Map", "Did you mean 'Maps'"),
    ]:
        with pytest.raises(InputError, match=message):
            ImageEncoder(name)
    with pytest.raises(InputError, match="returns vectors already"):
        ImageEncoder("own_nets:Vectors", pooling="avg")
    with pytest.raises(InputError, match="no pretrained weights"):
        ImageEncoder("own_nets:Maps", weights="pretrained")


def test_pretrained_weights_without_a_network_say_where_to_get_them(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import timm
    from torchvision.models import ResNet18_Weights

    def offline(*_: object, **__: object) -> None:
        raise OSError("network is unreachable")

    caplog.set_level(logging.INFO, logger="metrixkit")
    monkeypatch.setattr(type(ResNet18_Weights.DEFAULT), "get_state_dict", offline)
    with pytest.raises(InputError, match=r"network is unreachable.*download\.pytorch\.org.*weights: PATH"):
        ImageEncoder("torchvision/resnet18", weights="pretrained")
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(InputError, match=r"network is unreachable.*timm/resnet18.*weights: PATH"):
        ImageEncoder("timm/resnet18.tv_in1k", weights="pretrained")
    assert "downloaded" in caplog.text  # nothing is fetched in silence
    with pytest.raises(InputError, match="timm has no weights for it"):
        ImageEncoder("timm/botnet50ts_256", weights="pretrained")
