"""A small residual network for images of about 32 pixels, trained from scratch in seconds on a CPU."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Small(nn.Module):
    """A stem at full resolution and four residual stages of one block; the first three halve the side.

    0.74 million parameters at the default width; 32 x 32 pixels become 4 x 4 maps. It takes three channels; grey images
    come as three equal ones.

    Args:
        width: Channels of the stem; the stages have 2, 4, 8 and 10 times as many.
    """

    image_size = 32
    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.stages = nn.Sequential(
            _Block(width, 2 * width, stride=2),
            _Block(2 * width, 4 * width, stride=2),
            _Block(4 * width, 8 * width, stride=2),
            _Block(8 * width, 10 * width, stride=1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return maps (B, 10 width, H / 8, W / 8) of (B, 3, H, W) images."""
        return self.stages(self.stem(images))  # type: ignore[no-any-return]


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))
