"""A backbone in its library's own layout: loaded there by hand, it computes the same."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from torch import nn
from torchvision import models

from metrixkit.errors import InputError
from metrixkit.models import ImageEncoder, export_backbone, momentum_copy, split_batch_norms


def trained(backbone: str, **settings: object) -> ImageEncoder:
    """Return an encoder whose statistics and weights differ from a fresh model's."""
    torch.manual_seed(0)
    encoder = ImageEncoder(
        backbone, **{"dim": None, "normalize": False, "pooling": "avg", "image_size": 64, **settings}
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in encoder.trunk.state_dict().items():
            if tensor.is_floating_point() and "running" in name:
                tensor.add_(0.2 * torch.rand(tensor.shape, generator=generator))
    return encoder


def loaded(path: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)


@pytest.mark.sample(1)
@pytest.mark.parametrize(("library", "suffix"), [("torchvision", ".pth"), ("timm", ".safetensors")])
def test_the_library_loads_the_file_and_computes_the_same(tmp_path: Path, library: str, suffix: str) -> None:
    encoder = trained(f"{library}/resnet18")
    path = tmp_path / "made" / f"backbone{suffix}"
    moved = torch.random.get_rng_state()
    report = export_backbone(encoder, path)
    assert torch.equal(torch.random.get_rng_state(), moved)
    if library == "timm":
        fresh = timm.create_model("resnet18", num_classes=0)
        fresh.load_state_dict(loaded(path), strict=True)
    else:
        fresh = models.get_model("resnet18", weights=None)
        found = fresh.load_state_dict(loaded(path), strict=False)
        assert found.missing_keys == ["fc.weight", "fc.bias"]
        assert found.unexpected_keys == []
        fresh.fc = nn.Identity()
    said = json.loads((tmp_path / "made" / "backbone.json").read_text())
    images = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(said[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        expected, got = encoder.eval()(images), fresh.eval()((images - mean) / std)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert report.keys == len(loaded(path)) == said["keys"]
    assert report.max_difference <= 1e-6
    assert said["library"] == library
    assert (said["name"], said["image_size"], said["stem"]) == ("resnet18", 64, "imagenet")
    assert said["weights_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (report.weights, report.description) == (path, path.with_suffix(".json"))
    assert sorted(p.name for p in path.parent.iterdir()) == sorted([path.name, "backbone.json"])


@pytest.mark.parametrize("backbone", ["torchvision/mobilenet_v2", "torchvision/squeezenet1_1"])
def test_classifiers_of_every_shape_are_left_out(tmp_path: Path, backbone: str) -> None:
    report = export_backbone(trained(backbone), tmp_path / "b.pth")
    assert report.max_difference <= 1e-6
    assert not [key for key in loaded(report.weights) if key.startswith("classifier")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "backbone",
    [
        "torchvision/vit_b_32",
        "timm/vit_tiny_patch16_224",
        "torchvision/resnet50.IMAGENET1K_V1",
        "timm/convnext_atto",
        "torchvision/densenet121",
    ],
)
def test_other_families(tmp_path: Path, backbone: str) -> None:
    assert export_backbone(trained(backbone, image_size=96), tmp_path / "b.safetensors").max_difference <= 1e-6


@pytest.mark.slow
def test_after_split_batch_norms_a_copy_and_a_small_stem(tmp_path: Path) -> None:
    encoder = split_batch_norms(trained("torchvision/resnet18", stem="small", image_size=32), 2)
    encoder(torch.rand(4, 3, 32, 32))
    copy = momentum_copy(encoder)
    before = {name: tensor.clone() for name, tensor in copy.state_dict().items()}
    report = export_backbone(copy, tmp_path / "b.safetensors")
    assert json.loads(report.description.read_text())["stem"] == "small"
    assert loaded(report.weights)["conv1.weight"].shape == (64, 3, 3, 3)
    assert copy.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in copy.state_dict().items())
    # And back in again, by name.
    again = ImageEncoder("torchvision/resnet18", str(report.weights), "avg", None, False, image_size=32, stem="small")
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(again.eval()(images), encoder.eval()(images))


@pytest.mark.slow
def test_a_changed_layer_is_noticed_and_nothing_is_written(tmp_path: Path) -> None:
    encoder = trained("torchvision/resnet18")
    encoder.trunk.model.layer1[0].relu = nn.GELU()  # no tensor tells
    with pytest.raises(InputError, match="gives other features"):
        export_backbone(encoder, tmp_path / "b.pth")
    encoder = trained("torchvision/resnet18")
    encoder.trunk.model.layer1[0].conv1 = nn.Conv2d(64, 64, 3, padding=1)
    with pytest.raises(InputError, match=r"1 are unknown there \(layer1.0.conv1.bias\)"):
        export_backbone(encoder, tmp_path / "b.pth")
    encoder.trunk.model.layer1[0].conv1 = nn.Conv2d(64, 64, 1, bias=False)
    with pytest.raises(InputError, match="no longer fits"):
        export_backbone(encoder, tmp_path / "b.pth")
    assert list(tmp_path.iterdir()) == []


def test_what_has_no_layout_or_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="backbone 'small' has no layout"):
        export_backbone(ImageEncoder("small"), tmp_path / "b.pth")
    with pytest.raises(InputError, match=r"ends in .safetensors or .pth"):
        export_backbone(trained("torchvision/resnet18"), tmp_path / "b.bin")
    assert list(tmp_path.iterdir()) == []
