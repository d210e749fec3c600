"""The first layers of a ResNet, for small images."""

from __future__ import annotations

from typing import Literal, get_args

from torch import nn

from metrixkit.errors import InputError, did_you_mean
from metrixkit.models.small import Small

StemName = Literal["imagenet", "small"]


def check_stem(stem: str, weights: str, backbone: str) -> None:
    """Raise InputError unless `stem` is known and `weights` can fill it.

    Args:
        stem: See :data:`StemName`.
        weights: As of the encoder.
        backbone: Its name, for messages.
    """
    if stem not in get_args(StemName):
        raise InputError(f"stem {stem!r}.{did_you_mean(stem, get_args(StemName))}")
    if stem == "small" and weights == "pretrained":
        raise InputError(
            f"stem 'small' with weights: pretrained: those of {backbone!r} belong to its own stem, whose first "
            "convolution the small 3 x 3 one cannot load. Take stem: imagenet, weights: none, or a file of weights "
            "that were trained with this stem."
        )


def small_stem(model: nn.Module, backbone: str) -> None:
    """Give a ResNet the stem for images of 32 to 96 pixels, in place: 3 x 3 with stride 1 first, and no max-pool.

    As is usual on CIFAR and Tiny-ImageNet (Chen et al., SimCLR, ICML 2020, appendix B.9). Maps become four times as
    large in each direction. The names in the state dict stay; the new convolution is drawn by Kaiming's normal rule
    (fan out) from torch's global generator.

    Args:
        model: A ResNet, ResNeXt or Wide ResNet of torchvision or timm; or ``small``, whose stem is such a one already.
        backbone: Its name, for messages.

    Raises:
        InputError: A backbone for which this is not defined.
    """
    if isinstance(model, Small):
        return
    first = getattr(model, "conv1", None)
    if not _is_resnet(model):
        raise InputError(
            f"stem 'small' is not defined for backbone {backbone!r} ({type(model).__name__}): it is for the ResNets, "
            "ResNeXts and Wide ResNets of torchvision and timm. Take one of those, or stem: imagenet."
        )
    if not isinstance(first, nn.Conv2d) or not isinstance(getattr(model, "maxpool", None), nn.MaxPool2d):
        raise InputError(
            f"stem 'small' is not defined for backbone {backbone!r}: it begins with a stack of layers, not with one "
            "7 x 7 convolution and a max-pool. Take the plain variant (resnet50 for resnet50d), or stem: imagenet."
        )
    conv = nn.Conv2d(first.in_channels, first.out_channels, 3, stride=1, padding=1, bias=first.bias is not None)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    model.conv1, model.maxpool = conv, nn.Identity()


def _is_resnet(model: nn.Module) -> bool:
    from timm.models.resnet import ResNet as TimmResNet
    from torchvision.models import ResNet as TorchvisionResNet

    return isinstance(model, (TimmResNet, TorchvisionResNet))
