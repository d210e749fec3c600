"""Which parameters train, in which group and at which rate."""

from __future__ import annotations

import pytest
import torch

from metrixkit.models import ImageEncoder
from metrixkit.models.trunk import stages_by_prefix

BACKBONES = [
    ("small", {}),
    ("timm/resnet18", {}),
    ("timm/mobilenetv3_small_100", {}),
    ("timm/convnext_atto", {}),
    ("timm/vit_tiny_patch16_224", {"image_size": 32}),
    ("torchvision/mobilenet_v3_small", {}),
    ("torchvision/squeezenet1_0", {"pooling": "gem"}),
    ("torchvision/shufflenet_v2_x0_5", {}),
]


@pytest.mark.sample(4)
@pytest.mark.parametrize(("backbone", "settings"), BACKBONES)
@pytest.mark.parametrize("layer_decay", [1.0, 0.8])
def test_each_trainable_parameter_is_in_exactly_one_group(
    backbone: str, settings: dict[str, object], layer_decay: float
) -> None:
    encoder = ImageEncoder(backbone, dim=4, layer_decay=layer_decay, **settings)
    grouped = [id(p) for group in encoder.parameter_groups() for p in group.params]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in encoder.parameters() if p.requires_grad}


@pytest.mark.sample(3)
@pytest.mark.parametrize(("backbone", "settings"), [*BACKBONES, ("torchvision/densenet121", {"train": "last:2"})])
def test_every_trainable_parameter_gets_a_gradient(backbone: str, settings: dict[str, object]) -> None:
    encoder = ImageEncoder(backbone, dim=4, **{"image_size": 64, **settings}).eval()
    generator = torch.Generator().manual_seed(0)
    encoder(torch.rand(2, 3, encoder.image_size, encoder.image_size, generator=generator))[:, 0].sum().backward()
    for name, parameter in encoder.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_rates_fall_from_output_to_input() -> None:
    encoder = ImageEncoder("timm/vit_tiny_patch16_224", dim=4, image_size=32, layer_decay=0.5, head_lr=10.0)
    groups = {group.name: group for group in encoder.parameter_groups()}
    # Twelve layers and the stem, backbone.0.
    assert list(groups) == [f"backbone.{i}" for i in range(13)] + ["head"]
    assert groups["backbone.12"].lr_scale == 0.5
    assert groups["backbone.11"].lr_scale == 0.25
    assert groups["backbone.0"].lr_scale == 0.5**13
    assert groups["head"].lr_scale == 10.0
    assert [group.name for group in groups.values() if group.warm] == ["head"]
    names = {id(p): n for n, p in encoder.trunk.model.named_parameters()}
    assert {names[id(p)] for p in groups["backbone.12"].params} >= {"blocks.11.attn.qkv.weight", "norm.weight"}
    assert {names[id(p)] for p in groups["backbone.0"].params} >= {"cls_token", "pos_embed"}


def test_without_decay_there_are_two_groups_and_one_weight_decay() -> None:
    groups = ImageEncoder("small", pooling="gem", dim=4).parameter_groups()
    assert [(g.name, g.lr_scale, g.weight_decay, g.warm) for g in groups] == [
        ("backbone", 1.0, None, False),
        ("head", 1.0, None, True),
    ]
    assert len(groups[1].params) == 3  # weight, bias and GeM's power


def test_head_only_leaves_the_head_and_frozen_batch_norm_leaves_the_rest() -> None:
    assert [g.name for g in ImageEncoder("small", dim=4, train="head").parameter_groups()] == ["head"]
    assert ImageEncoder("small", dim=None, train="head").parameter_groups() == []
    encoder = ImageEncoder("small", dim=4, freeze_batch_norm=True)
    names = {id(p): n for n, p in encoder.named_parameters()}
    trained = {names[id(p)] for g in encoder.parameter_groups() for p in g.params}
    assert trained
    assert not any("bn" in name for name in trained)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("backbone", "count", "last"),
    [
        ("timm/resnet18", 5, "layer4."),
        ("torchvision/resnet18", 5, "layer4."),
        ("torchvision/mobilenet_v2", 19, "features.18."),
        ("timm/mobilenetv3_small_100", 7, ("blocks.5.", "conv_head.")),
        ("torchvision/squeezenet1_0", 9, "features.12."),
        ("torchvision/densenet121", 8, ("features.denseblock4.", "features.norm5.")),
    ],
)
def test_division_into_stages(backbone: str, count: int, last: str | tuple[str, ...]) -> None:
    encoder = ImageEncoder(backbone, dim=4, train="last:1")
    stages = encoder.trunk.stages()
    assert len(stages) == count
    assert sorted(n for stage in stages for n in stage) == sorted(n for n, _ in encoder.trunk.model.named_parameters())
    trained = [n for n, p in encoder.trunk.model.named_parameters() if p.requires_grad]
    assert trained
    assert all(name.startswith(last) for name in trained)


def test_whole_prefixes_count_and_loose_names_go_with_their_neighbours() -> None:
    names = ["token", "layers.1.a", "layers.10.a", "norm"]
    assert stages_by_prefix(names, ["layers.1", "layers.10"]) == [["token"], ["layers.1.a"], ["layers.10.a", "norm"]]
