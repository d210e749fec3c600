"""The stem for small images: on ResNets only, and kept through settings, files and cuts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from metrixkit.errors import InputError
from metrixkit.models import ImageEncoder, load_encoder, save_model

RESNETS = ["torchvision/resnet18", "timm/resnet18"]


def encoder(backbone: str, **settings: object) -> ImageEncoder:
    torch.manual_seed(0)
    return ImageEncoder(backbone, **{"dim": None, "image_size": 32, "stem": "small", **settings})


@pytest.mark.sample(1)
@pytest.mark.parametrize("backbone", RESNETS)
def test_small_stem_keeps_positions(backbone: str) -> None:
    small, usual = encoder(backbone), encoder(backbone, stem="imagenet")
    images = torch.rand(2, 3, 32, 32)
    assert small.eval().features(images).shape == (2, 512, 4, 4)
    assert usual.eval().features(images).shape == (2, 512, 1, 1)
    conv = small.trunk.model.conv1
    assert (conv.kernel_size, conv.stride, conv.padding, conv.bias) == ((3, 3), (1, 1), (1, 1), None)
    # Kaiming's normal rule, fan out: variance 2 / (64 * 9).
    assert float(conv.weight.detach().std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
    assert small.state_dict().keys() == usual.state_dict().keys()
    # The stem is a stage as before, and the backbone can be cut after it.
    stem = small.features(images, stage=0)
    assert stem.shape[-2:] == (32, 32)
    torch.testing.assert_close(small.head_from(0)(stem), small(images), rtol=1e-4, atol=1e-5)
    assert small.parameter_groups()[0].params[0] is conv.weight


def test_imagenet_stem_leaves_everything_as_it_is() -> None:
    torch.manual_seed(0)
    plain = ImageEncoder("torchvision/resnet18", dim=None, image_size=32)
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            plain.state_dict().values(),
            encoder("torchvision/resnet18", stem="imagenet").state_dict().values(),
            strict=True,
        )
    )
    assert plain.settings()["stem"] == "imagenet"
    assert isinstance(plain.trunk.model.maxpool, nn.MaxPool2d)


def test_stem_survives_saving_and_loading(tmp_path: Path) -> None:
    saved = encoder("torchvision/resnet18").eval()
    save_model(saved, tmp_path, {"version": 1, "resize": 32})
    again, config = load_encoder(tmp_path)
    assert config["encoder"]["stem"] == "small"
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(again(images), saved(images))


@pytest.mark.slow
def test_weights_from_a_file_fit_the_stem_they_were_trained_with(tmp_path: Path) -> None:
    files = {}
    for stem in ("small", "imagenet"):
        files[stem] = tmp_path / f"{stem}.pth"
        torch.save(encoder("torchvision/resnet18", stem=stem).trunk.model.state_dict(), files[stem])
    same = encoder("torchvision/resnet18", weights=str(files["small"]))
    assert torch.equal(same.trunk.model.conv1.weight, torch.load(files["small"], weights_only=True)["conv1.weight"])
    with pytest.raises(
        InputError, match=r"resnet18 with stem small.*conv1.weight \(64, 3, 7, 7\) instead of \(64, 3, 3, 3\)"
    ):
        encoder("torchvision/resnet18", weights=str(files["imagenet"]))


def test_pretrained_weights_are_refused_before_they_are_fetched() -> None:
    with pytest.raises(InputError, match="stem 'small' with weights: pretrained"):
        encoder("timm/resnet18.tv_in1k", weights="pretrained")


@pytest.mark.parametrize(
    ("backbone", "reason"),
    [
        ("torchvision/mobilenet_v3_small", "it is for the ResNets"),
        ("timm/vit_tiny_patch16_224", "it is for the ResNets"),
        ("timm/resnet18d", "begins with a stack of layers"),
    ],
)
def test_backbones_without_such_a_stem_are_refused(backbone: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        encoder(backbone, image_size=None)


def test_the_own_small_backbone_has_such_a_stem_already() -> None:
    a, b = encoder("small"), encoder("small", stem="imagenet")
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_an_unknown_stem_names_the_near_one() -> None:
    with pytest.raises(InputError, match="Did you mean 'small'"):
        encoder("small", stem="smal")
