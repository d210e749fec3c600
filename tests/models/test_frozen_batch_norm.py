"""Frozen batch norms against torch's own: the same answers and gradients, folded or not, and plain when they move."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from metrixkit.models import ImageEncoder
from metrixkit.models.frozen_batch_norm import FoldedConv2d, FrozenBatchNorm2d, fold_frozen, freeze_batch_norm
from metrixkit.models.split_batch_norm import split_batch_norms


def shaken(network: nn.Module) -> nn.Module:
    """Give every batch norm statistics, scale and shift that are not those of an empty one."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            for tensor in (module.weight.data, module.running_var):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            for tensor in (module.bias.data, module.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) / 4)
    return network


def frozen(network: nn.Module) -> nn.Module:
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            freeze_batch_norm(module)
    return network.eval()


class Residual(nn.Module):
    """Names that say nothing, a biased convolution, a map that two readers get, a norm without a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.c, self.d = nn.Conv2d(4, 6, 3, stride=2, groups=2, padding=1, padding_mode="reflect"), nn.BatchNorm2d(6)
        self.shared, self.e = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)
        self.first = nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.d(self.c(self.b(self.a(x)).relu_())).relu()
        y = self.shared(self.first(x))
        return self.e(y) + y  # type: ignore[no-any-return]


def value_and_gradients(network: nn.Module, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    images = images.clone().requires_grad_()
    value = network(images)
    (value * torch.linspace(-1, 1, value.numel(), dtype=value.dtype).view(value.shape)).sum().backward()
    assert images.grad is not None
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return value.detach(), {"images": images.grad, **found}


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_answers_and_gradients_are_those_of_plain_norms(fold: bool, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    plain = shaken(Residual()).double().eval()
    ours = frozen(plain)
    if fold:
        assert fold_frozen(ours, 12) == 2  # what `shared` makes is read twice, `first` has no convolution
    images = torch.randn(2, 3, 12, 12, dtype=torch.float64).to(memory_format=layout)
    value, gradients = value_and_gradients(ours.to(memory_format=layout), images)  # type: ignore[call-overload]
    expected, references = value_and_gradients(plain, images)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)
    learned = {"images", *(name for name in references if name.split(".")[0] in ("a", "c", "shared"))}
    assert gradients.keys() == learned
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, references[name], rtol=1e-10, atol=1e-12)


def test_gradcheck_of_a_norm_that_is_not_folded() -> None:
    norm = shaken(nn.Sequential(nn.BatchNorm2d(3))).double()[0]  # type: ignore[index]
    freeze_batch_norm(norm)
    norm.eval()
    assert isinstance(norm, FrozenBatchNorm2d)
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(norm, x)
    assert torch.autograd.gradgradcheck(norm, x)
    bare = nn.BatchNorm2d(3, affine=False).double().eval()
    assert bare.running_var is not None
    bare.running_var.fill_(4.0)
    freeze_batch_norm(bare)
    assert torch.autograd.gradcheck(bare, x)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("backbone", "folded"), [("small", 13), ("torchvision/resnet18", 20), ("torchvision/mobilenet_v2", 52)]
)
def test_backbones_are_folded_whole(backbone: str, folded: int) -> None:
    torch.manual_seed(0)
    encoder = ImageEncoder(backbone, pooling="avg", dim=None, image_size=64, freeze_batch_norm=True)
    shaken(encoder)
    plain = ImageEncoder(backbone, pooling="avg", dim=None, image_size=64)
    assert encoder.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(encoder.state_dict())
    assert sum(isinstance(m, FoldedConv2d) for m in encoder.modules()) == folded
    images = torch.rand(2, 3, 64, 64)
    # In training mode, too: what is frozen does not follow it.
    torch.testing.assert_close(encoder.train()(images), plain.eval()(images), rtol=1e-4, atol=1e-5)


def test_a_folded_backbone_is_cut_as_a_plain_one() -> None:
    torch.manual_seed(0)
    encoder = ImageEncoder("torchvision/mobilenet_v2", pooling="avg", dim=None, image_size=64, freeze_batch_norm=True)
    images = torch.rand(2, 3, 64, 64)
    again = encoder.head_from(3)(encoder.features(images, 3))
    torch.testing.assert_close(again, encoder(images), rtol=1e-5, atol=1e-6)


def test_norms_before_a_convolution_keep_their_place() -> None:
    encoder = ImageEncoder("torchvision/densenet121", pooling="avg", dim=None, image_size=32, freeze_batch_norm=True)
    norms = [m for m in encoder.modules() if isinstance(m, FrozenBatchNorm2d)]
    assert 0 < sum(norm.folded for norm in norms) < len(norms)


@pytest.mark.parametrize("how", ["training", "learning"])
def test_a_norm_that_moves_again_is_plain(how: str) -> None:
    torch.manual_seed(0)
    plain = shaken(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    ours = frozen(plain)
    fold_frozen(ours, 8)
    for network in (plain, ours):
        network.train(how == "training")
        if how == "learning":
            network.requires_grad_(True)
    images = torch.randn(3, 3, 8, 8)
    assert torch.equal(ours(images), plain(images))
    if how == "learning":
        ours(images).square().sum().backward()
        assert ours[1].weight.grad is not None  # type: ignore[index, union-attr]


def test_a_copy_folds_its_own_norms() -> None:
    ours = frozen(shaken(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))))
    fold_frozen(ours, 8)
    images = torch.randn(2, 3, 8, 8)
    before = ours(images)
    other = copy.deepcopy(ours)
    other[1].running_mean += 1  # type: ignore[index, operator]
    assert torch.equal(ours(images), before)
    assert not torch.allclose(other(images), before)


def test_an_answer_that_would_change_is_left_alone() -> None:
    class Peeks(nn.Module):
        """Reads the convolution's answer where no gradient tells."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            maps = self.conv(x)
            return self.norm(maps) + maps.detach()  # type: ignore[no-any-return]

    torch.manual_seed(0)
    plain = shaken(Peeks()).eval()
    ours = frozen(plain)
    assert fold_frozen(ours, 8) == 0
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(ours(images), plain(images))
    assert not any(isinstance(m, FoldedConv2d) for m in ours.modules())


def test_a_backbone_without_gradient_is_left_alone() -> None:
    class Fixed(nn.Sequential):
        @torch.no_grad()
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)  # type: ignore[no-any-return]

    ours = frozen(Fixed(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    assert fold_frozen(ours, 8) == 0


def test_under_autocast_gradients_err_no_more_than_plain_norms_do() -> None:
    torch.manual_seed(0)
    plain = shaken(Residual()).eval()
    ours = frozen(plain)
    fold_frozen(ours, 32)
    images = torch.randn(8, 3, 32, 32)
    _, truth = value_and_gradients(plain, images)
    with torch.autocast("cpu", torch.bfloat16):
        plain.zero_grad()
        _, theirs = value_and_gradients(plain, images)
        _, found = value_and_gradients(ours, images)
    for name, gradient in found.items():
        assert gradient.dtype == torch.float32
        assert (gradient - truth[name]).norm() < 1.5 * (theirs[name] - truth[name]).norm() + 1e-3 * truth[name].norm()


def test_frozen_norms_have_no_groups_to_split() -> None:
    network = frozen(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    network.append(nn.BatchNorm2d(4))  # type: ignore[operator]
    split_batch_norms(network, 2)
    assert isinstance(network[1], FrozenBatchNorm2d)  # type: ignore[index]
    assert not isinstance(network[2], FrozenBatchNorm2d)  # type: ignore[index]
