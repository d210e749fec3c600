"""Backbones in two parts: forward is the head of the features after every stage, and mixtures go through the rest."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from metrixkit.errors import InputError
from metrixkit.models import ImageEncoder
from metrixkit.models.head import Head

BACKBONES = [
    ("small", 32),
    ("timm/resnet18", 64),
    ("timm/vit_tiny_patch16_224", 32),
    ("timm/mobilenetv3_small_100", 64),
    pytest.param("timm/swin_tiny_patch4_window7_224", 64, marks=pytest.mark.slow),
    ("torchvision/mobilenet_v2", 64),
    ("torchvision/resnet18", 64),
    pytest.param("torchvision/vit_b_32", 64, marks=pytest.mark.slow),
    pytest.param("torchvision/densenet121", 64, marks=pytest.mark.slow),
]


def images(n: int = 3, size: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(7))


def encoder(backbone: str = "small", size: int = 32, **settings: object) -> ImageEncoder:
    torch.manual_seed(0)
    return ImageEncoder(**{"backbone": backbone, "dim": 8, "image_size": size, **settings})


def last_stage(model: ImageEncoder) -> int:
    return len(model.trunk.stages()) - 1


@pytest.mark.sample(2)
@pytest.mark.parametrize(("backbone", "size"), BACKBONES)
def test_forward_is_head_of_features_after_every_stage(backbone: str, size: int) -> None:
    model = encoder(backbone, size).eval()
    x = images(size=size)
    with torch.no_grad():
        whole = model(x)
        stages = range(last_stage(model) + 1)
        for stage in stages if len(stages) < 9 else [0, 1, len(stages) // 2, len(stages) - 2, len(stages) - 1]:
            features = model.features(x, stage)
            assert features.shape[0] == 3
            again = model.head_from(stage)(features[[2, 0, 1, 0]])
            torch.testing.assert_close(again, whole[[2, 0, 1, 0]], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_transformers_tower(tmp_path: object) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=32, patch_size=16
    )
    config.save_pretrained(tmp_path)
    model = encoder(f"transformers/{tmp_path}", 32, pooling="token").eval()
    x = images()
    for stage in range(last_stage(model) + 1):
        torch.testing.assert_close(model.head_from(stage)(model.features(x, stage)), model(x))


@pytest.mark.parametrize("stage", [0, 2, 4])
def test_gradients_and_batch_statistics_are_those_of_the_whole(stage: int) -> None:
    made = []
    for split in (False, True):
        model = encoder()
        x = images(4)
        rows = model.head_from(stage)(model.features(x, stage)) if split else model(x)
        rows.square()[:, 0].sum().backward()
        made.append((model, rows))
    (one, rows), (two, again) = made
    torch.testing.assert_close(again, rows, rtol=0, atol=0)
    for (name, p), q in zip(one.named_parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=0, atol=0, msg=name)
    for (name, p), q in zip(one.named_buffers(), two.buffers(), strict=True):
        torch.testing.assert_close(q, p, rtol=0, atol=0, msg=name)


def test_only_the_rest_is_run_on_features() -> None:
    model = encoder("timm/resnet18", 64).eval()
    features = model.features(images(size=64), 2)
    ran = []
    for name, module in model.trunk.model.named_modules():
        if isinstance(module, nn.Conv2d):
            # A stand-in's answer is one number seen many times.
            module.register_forward_hook(lambda _, __, y, name=name: ran.append(name) if y.stride(0) else None)
    model.head_from(2)(features)
    assert ran
    assert all(name.startswith(("layer3", "layer4")) for name in ran)
    ran.clear()
    model.features(images(size=64), 2)
    assert not any(name.startswith(("layer3", "layer4")) for name in ran)


def test_the_split_leaves_the_model_as_it_was() -> None:
    model = encoder()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    modes = [module.training for module in model.modules()]
    model.head_from(1)
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    model.eval()
    x = images()
    whole = model(x)
    features = model.features(x, 1)
    with pytest.raises(RuntimeError):
        model.head_from(1)(features[:, :3])
    assert not any("forward" in module.__dict__ for module in model.modules())
    torch.testing.assert_close(model(x), whole, rtol=0, atol=0)
    torch.testing.assert_close(copy.deepcopy(model).head_from(1)(features), whole)


@pytest.mark.parametrize("train", ["head", "last:2", "all"])
def test_frozen_stages_stay_frozen(train: str) -> None:
    model = encoder(train=train)
    features = model.features(images(), 2)
    assert features.requires_grad == (train == "all")
    model.head_from(2)(features).square()[:, 0].sum().backward()
    for name, p in model.named_parameters():
        assert (p.grad is not None) == p.requires_grad, name


@pytest.mark.parametrize("pooling", ["avg", "max", "avg+max", "token"])
@pytest.mark.parametrize("dim", [8, None])
def test_parts_say_how_mixtures_are_embedded(pooling: str, dim: int | None) -> None:
    backbone = ("timm/vit_tiny_patch16_224", 32) if pooling == "token" else ("small", 32)
    model = encoder(*backbone, pooling=pooling, dim=dim).eval()
    with torch.no_grad():
        if model.projection is not None:
            model.projection.bias.normal_()
        features = model.features(images())
        linear, maps, weight = model.head.parts(features)
        mixed = 0.3 * features[[0]] + 0.7 * features[[2]]
        row = 0.3 * linear[0] + 0.7 * linear[2]
        if maps is not None:
            top = (0.3 * maps[:, 0] + 0.7 * maps[:, 2]).amax(0)
            row = row + (top if weight is None else weight @ top)
        expected = model.head(mixed)[0]
    torch.testing.assert_close(row / row.norm(), expected, rtol=1e-4, atol=1e-5)


def test_what_does_not_mix_by_parts_says_so() -> None:
    model = encoder(pooling="gem")
    assert model.head.parts(model.features(images())) is None
    model = encoder()
    assert model.head_from(2).parts(model.features(images(), 2)) is None
    assert model.head_from(4).parts(model.features(images(), 4)) is not None
    model.projection = nn.Sequential(nn.Linear(160, 8), nn.ReLU())
    assert model.head.parts(model.features(images())) is None
    assert isinstance(model.head, Head)


class Skipping(nn.Module):
    """Carries what its first stage made past the next two."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two, self.last = (nn.Conv2d(i, o, 1) for i, o in ((3, 4), (4, 4), (4, 4), (8, 4)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.stem(x)
        return self.last(torch.cat([first, self.two(self.one(first))], 1))


def test_a_backbone_that_cannot_be_cut_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ImageEncoder.__init__.__globals__["build_trunk"].__globals__["BACKBONES"], "skipping", Skipping)
    model = encoder("skipping", 8, pooling="avg")
    x = images(size=8)
    for stage in (0, 2):  # before the two ways part, and where they have met
        torch.testing.assert_close(model.head_from(stage)(model.features(x, stage)), model(x))
    with pytest.raises(InputError, match="stage 1.*cannot be cut.*another stage"):
        model.features(x, 1)


@pytest.mark.parametrize("stage", [-1, 5])
def test_stages_that_do_not_exist(stage: int) -> None:
    with pytest.raises(InputError, match=r"0 \(stem\) to 4"):
        encoder().features(images(), stage)
