"""Which part of an image a view shows: drawn once, rendered at one size or at several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:  # torchvision takes seconds to import; here its transforms are built and called when images come
    from torchvision.transforms import InterpolationMode


class RandomResizedFrame(nn.Module):
    """A part of random area, shape and place, and whether it is mirrored; scaled to each of the sizes.

    Draws what ``v2.RandomResizedCrop`` and ``v2.RandomHorizontalFlip`` draw, in their order; each size is cut from the
    image itself, so a small rendering is no copy of a large one.

    Args:
        sizes: Sides of the renderings in pixels.
        scale: Area of the part as a share of the image's, lowest and highest.
        ratio: Its width / height, lowest and highest.
        flip: Probability of mirroring left and right.
        mode: ``bilinear`` or ``bicubic``, antialiased.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        scale: Sequence[float],
        ratio: Sequence[float],
        flip: float,
        mode: InterpolationMode,
    ) -> None:
        from torchvision.transforms import v2

        super().__init__()
        self.sizes = tuple(sizes)
        self.flip = flip
        self.mode = mode
        self._box = v2.RandomResizedCrop(max(self.sizes), (scale[0], scale[1]), (ratio[0], ratio[1]))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return one (3, size, size) uint8 tensor a size from a (3, H, W) uint8 image."""
        box = self._box.make_params([image])
        top, left = box["top"], box["left"]
        part = image[..., top : top + box["height"], left : left + box["width"]]
        return _mirrored(_scaled(part, self.sizes, self.mode), self.flip)


class Rescaled(nn.Module):
    """What another transform gives, scaled to each of the sizes.

    Args:
        sizes: Sides of the renderings in pixels.
        inner: From (3, H, W) uint8 to (3, size, size) uint8; a rendering of its own size is its result itself.
        flip: Probability of mirroring left and right.
        mode: ``bilinear`` or ``bicubic``, antialiased.
    """

    def __init__(self, sizes: Sequence[int], inner: nn.Module, flip: float, mode: InterpolationMode) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.inner = inner
        self.flip = flip
        self.mode = mode

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return one (3, size, size) uint8 tensor a size from a (3, H, W) uint8 image."""
        return _mirrored(_scaled(self.inner(image), self.sizes, self.mode), self.flip)


def _scaled(image: Tensor, sizes: Sequence[int], mode: InterpolationMode) -> list[Tensor]:
    from torchvision.transforms.v2 import functional as F

    return [F.resize_image(image, [size, size], interpolation=mode, antialias=True) for size in sizes]


def _mirrored(renderings: list[Tensor], probability: float) -> list[Tensor]:
    if probability > 0 and bool(torch.rand(1) < probability):
        return [rendering.flip(-1) for rendering in renderings]
    return renderings
