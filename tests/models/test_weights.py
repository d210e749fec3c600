"""Weights from files: what fits, what is dropped, and what is said when they do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from metrixkit.errors import InputError
from metrixkit.models import ImageEncoder
from metrixkit.models.torchvision_trunk import TorchvisionTrunk
from metrixkit.models.weights import looks_like, read_state
from metrixkit.torch_files import load_torch_file


@pytest.fixture(scope="module")
def resnet() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return {k: v.clone() for k, v in models.resnet18(weights=None).state_dict().items()}


def load(path: Path, backbone: str = "torchvision/resnet18", **settings: object) -> ImageEncoder:
    return ImageEncoder(backbone, weights=str(path), dim=None, image_size=32, **settings)


@pytest.mark.sample(5)
@pytest.mark.parametrize(
    "form",
    [
        "plain",
        "state_dict",
        "model",
        "module.",
        "_orig_mod.",
        "_orig_mod.module.",
        "module._orig_mod.",
        "safetensors",
        "no-classifier",
    ],
)
def test_every_usual_form_of_a_file_loads(form: str, resnet: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        save_file(resnet, path)
    elif form == "no-classifier":
        torch.save({k: v for k, v in resnet.items() if not k.startswith("fc.")}, path)
    elif form.endswith("."):
        torch.save({form + k: v for k, v in resnet.items()}, path)
    else:
        torch.save(resnet if form == "plain" else {form: resnet, "epoch": 3}, path)
    encoder = load(path)
    for name, tensor in encoder.trunk.model.state_dict().items():
        assert torch.equal(tensor, resnet[name]), name


def test_timm_reads_its_own_layout_and_resamples_positions(tmp_path: Path) -> None:
    import timm

    whole = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=10)
    torch.save(whole.state_dict(), tmp_path / "vit.pth")
    encoder = ImageEncoder(
        "timm/vit_tiny_patch16_224", str(tmp_path / "vit.pth"), pooling="token", dim=None, image_size=32
    )
    assert encoder.trunk.model.pos_embed.shape == (1, 5, 192)
    assert torch.equal(encoder.trunk.model.blocks[3].attn.qkv.weight, whole.blocks[3].attn.qkv.weight)


@pytest.mark.slow
def test_a_torchvision_vit_is_resampled_too() -> None:
    trunk = TorchvisionTrunk("vit_b_32", 64, pretrained=False)
    state = trunk.adapt({"encoder.pos_embedding": torch.ones(1, 10, 768), "other": torch.ones(1)})
    assert state["encoder.pos_embedding"].shape == (1, 5, 768)
    assert state["other"].shape == (1,)


def test_another_architecture_is_named_with_counts(resnet: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(resnet, path)
    with pytest.raises(InputError) as caught:
        load(path, "torchvision/mobilenet_v2")
    text = str(caught.value)
    assert "do not fit backbone 'torchvision/mobilenet_v2'" in text
    # 20 convolutions, each with 5 tensors of batch norm, and a classifier of another name with 2.
    assert "122 in the file are unknown to it (bn1.bias, " in text
    assert "missing in the file (features.0.0.weight" in text
    assert "The file looks like a ResNet-18." in text


def test_other_shapes_are_named(resnet: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({**resnet, "conv1.weight": torch.zeros(64, 1, 7, 7)}, path)
    with pytest.raises(
        InputError, match=r"1 have another shape \(conv1.weight \(64, 1, 7, 7\) instead of \(64, 3, 7, 7\)"
    ):
        load(path)


def test_a_single_missing_tensor_is_refused(resnet: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({k: v for k, v in resnet.items() if k != "layer3.0.bn1.running_var"}, path)
    with pytest.raises(InputError, match=r"1 of its \d+ tensors are missing in the file \(layer3.0.bn1.running_var\)"):
        load(path)


@pytest.mark.slow
def test_own_pooling_wants_the_layers_before_the_classifier(tmp_path: Path) -> None:
    state = models.mobilenet_v3_small(weights=None).state_dict()
    torch.save({k: v for k, v in state.items() if not k.startswith("classifier")}, tmp_path / "w.pth")
    load(tmp_path / "w.pth", "torchvision/mobilenet_v3_small", pooling="avg")
    with pytest.raises(InputError, match=r"missing in the file \(classifier.0.bias"):
        load(tmp_path / "w.pth", "torchvision/mobilenet_v3_small", pooling="model")
    torch.save(state, tmp_path / "w.pth")
    encoder = load(tmp_path / "w.pth", "torchvision/mobilenet_v3_small", pooling="model")
    assert torch.equal(encoder.trunk.model.classifier[0].weight, state["classifier.0.weight"])


def test_numpy_numbers_beside_the_weights_are_read(resnet: dict[str, torch.Tensor], tmp_path: Path) -> None:
    beside = {"best": np.float64(0.5), "epoch": np.int32(-7), "half": np.float16(2), "done": np.bool_(True)}
    torch.save({"state_dict": resnet, **beside}, tmp_path / "w.pt")
    assert torch.equal(read_state(tmp_path / "w.pt")["conv1.weight"], resnet["conv1.weight"])
    assert {k: v for k, v in load_torch_file(tmp_path / "w.pt").items() if k != "state_dict"} == {
        "best": 0.5, "epoch": -7, "half": 2.0, "done": True,
    }  # fmt: skip


@pytest.mark.parametrize("other", [np.zeros(3), np.str_("x"), np.datetime64("2020-01-01"), np.complex64(1), Path("x")])
def test_other_objects_beside_the_weights_are_named(other: object, tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.ones(1)}, "beside": other}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"cannot be read as tensors \(.+\)\. Whole pickled") as caught:
        read_state(tmp_path / "w.pt")
    assert "\x1b" not in str(caught.value)
    assert "two options" not in str(caught.value)


class NotATensor:
    pass


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no file .*absent\.pth"):
        load(tmp_path / "absent.pth")
    (tmp_path / "broken.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="cannot be read as tensors"):
        load(tmp_path / "broken.pth")
    (tmp_path / "broken.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="no readable safetensors"):
        load(tmp_path / "broken.safetensors")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(InputError, match="holds no tensors by name"):
        load(tmp_path / "empty.pth")
    torch.save(NotATensor(), tmp_path / "pickle.pth")
    with pytest.raises(InputError, match="Whole pickled models are not loaded"):
        load(tmp_path / "pickle.pth")


@pytest.mark.parametrize(
    ("name", "guess"),
    [
        ("resnet34", "a ResNet-34"),
        ("resnet50", "a ResNet-50"),
        ("mobilenet_v2", "torchvision/mobilenet_v2"),
        ("squeezenet1_0", "a torchvision SqueezeNet"),
        ("densenet121", "a DenseNet"),
        ("vit_b_32", "a vision transformer with 12 layers of width 768"),
        ("alexnet", ""),
    ],
)
def test_guesses(name: str, guess: str) -> None:
    with torch.device("meta"):
        assert looks_like(models.get_model(name, weights=None).state_dict()) == guess


@pytest.mark.data
def test_the_real_mobilenet_loads_strictly_and_sees(shared_data: Path) -> None:
    path = shared_data / "weights" / "mobilenet_v2_imagenet_torchvision_layout.pt"
    settings = {"mean": [0.5] * 3, "std": [0.5] * 3, "pooling": "avg", "normalize": False}
    encoder = ImageEncoder("torchvision/mobilenet_v2", str(path), dim=None, **settings)
    state = torch.load(path, weights_only=True)
    own = encoder.trunk.model.state_dict()
    assert set(state) - set(own) == {"classifier.1.weight", "classifier.1.bias"}
    assert all(torch.equal(tensor, state[name]) for name, tensor in own.items())

    reference = models.mobilenet_v2(weights=None).eval()
    reference.load_state_dict(state)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8, generator=generator)
    with torch.no_grad():
        expected = reference.features((x / 255 - 0.5) / 0.5).mean((2, 3))
        torch.testing.assert_close(encoder.eval()(x), expected)


@pytest.mark.data
def test_the_real_squeezenet_does_not_pass_for_a_mobilenet(shared_data: Path) -> None:
    path = shared_data / "weights" / "squeezenet1_0_imagenet_torchvision_layout.pt"
    load(path, "torchvision/squeezenet1_0")
    with pytest.raises(InputError, match="looks like a torchvision SqueezeNet"):
        load(path, "torchvision/mobilenet_v2")
