"""Video towers from scratch: frames through a small network, or features made elsewhere.

B clips, T frames or feature vectors of each, D and d dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metrixkit.errors import InputError
from metrixkit.models.sequence import Positions, masked_mean, unit


@dataclass(frozen=True)
class VideoSettings:
    """The video tower.

    Attributes:
        width: Channels of the first layer for frames (later ones have 2, 4 and 4 times as many).
        hidden: Dimensions of a frame between the network and the layers over time, and of the hidden layer for
            features; null takes features by one linear layer.
        temporal: What goes over the frames before their mean; "mean" is nothing, which forgets their order.
        layers: Blocks of that transformer.
        heads: Of the blocks.
        max_frames: Positions there are, at least the frames of a clip.
        image_size: Side of the frames in pixels.
        dropout: Of the blocks.
    """

    width: int = 32
    hidden: int | None = 128
    temporal: Literal["mean", "transformer"] = "transformer"
    layers: int = 1
    heads: int = 4
    max_frames: int = 12
    image_size: int = 32
    dropout: float = 0.1


def unit_pixels(frames: Tensor) -> Tensor:
    """Return frames in [0, 1]: uint8 ones divided by 255, floating ones (mixtures) as they are.

    Raises:
        InputError: Neither.
    """
    if frames.dtype == torch.uint8:
        return frames.float() / 255
    if not frames.is_floating_point():
        raise InputError(f"frames are {frames.dtype}; expected uint8, or floating in [0, 1].")
    return frames


def check_sequence(x: Tensor, mask: Tensor, shape: str) -> None:
    """Raise InputError unless `x` has as many dimensions as `shape` names and the mask fits, with a place in each row.

    Args:
        x: A batch.
        mask: (B, T) bool.
        shape: Such as "(B, T, 3, H, W)".
    """
    if x.ndim != shape.count(",") + 1 or mask.shape != x.shape[:2] or mask.dtype != torch.bool:
        raise InputError(
            f"got {tuple(x.shape)} with a {mask.dtype} mask {tuple(mask.shape)}; expected {shape} and a bool mask "
            "(B, T)."
        )
    empty = ~mask.any(1)
    if bool(empty.any()):
        raise InputError(f"row {int(empty.int().argmax())} of the batch has no frame and no feature vector.")


def each_present(frames: Tensor, mask: Tensor, encode: nn.Module) -> Tensor:
    """Return (B, T, d): every frame that is there encoded by itself, zeros where there is none.

    Args:
        frames: (B, T, 3, H, W).
        mask: (B, T) bool.
        encode: (M, 3, H, W) to (M, d).
    """
    found = encode(frames[mask])
    out = found.new_zeros((*mask.shape, found.shape[1]))
    out[mask] = found
    return out


class FrameNet(nn.Module):
    """Four convolutions that halve the side, maps averaged to 4 x 4, and a linear layer, so that places are kept.

    Groups are normalised, not batches: a mixture in another pass then moves no statistics.

    Args:
        width: Channels of the first layer.
        dim: Of the output.
    """

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        channels = [3, width, 2 * width, 4 * width, 4 * width]
        layers: list[nn.Module] = []
        # The last one keeps the side: of 32 pixels, 4 x 4 maps remain.
        for i, stride in enumerate((2, 2, 2, 1)):
            layers += [
                nn.Conv2d(channels[i], channels[i + 1], 3, stride=stride, padding=1, bias=False),
                nn.GroupNorm(8, channels[i + 1]),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*layers)
        self.project = nn.Linear(16 * channels[-1], dim)

    def forward(self, images: Tensor) -> Tensor:
        """Return (M, dim) of (M, 3, H, W) images in [0, 1], or uint8."""
        maps = self.layers(2 * unit_pixels(images) - 1)
        return self.project(F.adaptive_avg_pool2d(maps, 4).flatten(1))  # type: ignore[no-any-return]


class FrameTower(nn.Module):
    """Each frame through :class:`FrameNet`, perhaps a transformer over time, the mean, a projection.

    Args:
        settings: See there; `hidden` must be a number.
        dim: d of the embeddings.

    Raises:
        InputError: A setting is out of range.
    """

    def __init__(self, settings: VideoSettings, dim: int) -> None:
        super().__init__()
        if settings.hidden is None or settings.width < 8 or settings.width % 8:
            raise InputError(
                f"model.video: width={settings.width}, hidden={settings.hidden}: a tower over frames takes a width "
                "that is a multiple of 8, and a number of hidden dimensions."
            )
        self.frames = FrameNet(settings.width, settings.hidden)
        self.time = _over_time(settings, settings.hidden)
        self.norm = nn.LayerNorm(settings.hidden)
        self.project = nn.Linear(settings.hidden, dim)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Return (B, d) unit embeddings of (B, T, 3, H, W) frames, uint8 or in [0, 1], and their mask."""
        check_sequence(frames, mask, "(B, T, 3, H, W)")
        x = each_present(frames, mask, self.frames)
        x = x if self.time is None else self.time(x, mask)
        return unit(self.project(masked_mean(self.norm(x), mask)))


class FeatureTower(nn.Module):
    """Feature vectors by a linear layer or a network with one hidden layer, perhaps a transformer over time, the mean.

    Args:
        settings: See there.
        inputs: D of the features.
        dim: d of the embeddings.
    """

    def __init__(self, settings: VideoSettings, inputs: int, dim: int) -> None:
        super().__init__()
        hidden = settings.hidden
        self.inputs = inputs
        self.enter: nn.Module = nn.Identity() if hidden is None else nn.Sequential(nn.Linear(inputs, hidden), nn.GELU())
        self.time = _over_time(settings, hidden or inputs)
        self.project = nn.Linear(hidden or inputs, dim)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Return (B, d) unit embeddings of (B, T, D) features and their mask.

        Raises:
            InputError: Another D, or a row without any vector.
        """
        check_sequence(features, mask, "(B, T, D)")
        if features.shape[2] != self.inputs:
            raise InputError(f"features of {features.shape[2]} dimensions; the model takes {self.inputs}.")
        x = self.enter(features)
        x = x if self.time is None else self.time(x, mask)
        return unit(self.project(masked_mean(x, mask)))


def _over_time(settings: VideoSettings, width: int) -> Positions | None:
    if settings.temporal == "mean":
        return None
    return Positions(width, settings.max_frames, settings.layers, settings.heads, dropout=settings.dropout)
