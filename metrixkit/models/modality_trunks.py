"""Small encoders of one modality each: pictures, frames, sequences of vectors, texts by their bytes.

B items, T steps, C channels or dimensions, w the width of all answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metrixkit.errors import InputError

Sequences = Literal["conv", "gru"]
BYTES = 257  # a code for each byte, 0 for no byte


@dataclass(frozen=True)
class ModalityInput:
    """What a modality looks like.

    Attributes:
        kind: "image" (B, C, H, W), "video" (B, T, C, H, W), "features" (B, T, C) or "text" (B, T) byte codes.
        channels: C; for text it does not matter.
    """

    kind: str
    channels: int


class PictureTrunk(nn.Module):
    """Pictures, or frames averaged over time: three convolutions with stride 2, then a linear map of all places.

    Args:
        channels: C.
        width: w.
        places: Side of the grid that the last maps are pooled to.
    """

    def __init__(self, channels: int, width: int, places: int = 4) -> None:
        super().__init__()
        sizes = [channels, 16, 32, 64]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(4, after), nn.ReLU()]
        self.maps = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(places))
        self.out = nn.Linear(64 * places * places, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (B, w) of (B, C, H, W), or of (B, T, C, H, W) with (B, T) bool of what is no padding."""
        frames = x if x.ndim == 4 else x.flatten(0, 1)
        found = self.out(self.maps(frames).flatten(1))
        return found if x.ndim == 4 else masked_mean(found.unflatten(0, x.shape[:2]), mask)


class SequenceTrunk(nn.Module):
    """Sequences of vectors; what is padding has no part in the answer.

    Args:
        channels: C.
        width: w.
        how: "conv": three convolutions over time, then the mean and the maximum of the steps; "gru": the mean of a
            recurrent network's states.
    """

    def __init__(self, channels: int, width: int, how: Sequences = "conv") -> None:
        super().__init__()
        if how not in ("conv", "gru"):
            raise InputError(f"model.sequence={how!r}: expected 'conv' or 'gru'.")
        self.how = how
        if how == "gru":
            self.recurrent = nn.GRU(channels, width, batch_first=True)
            self.out = nn.Linear(width, width)
            return
        sizes = [channels, 32, 64, 64]
        self.steps = nn.ModuleList(nn.Conv1d(before, after, 5, padding=2) for before, after in pairwise(sizes))
        self.out = nn.Linear(128, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (B, w) of (B, T, C) and (B, T) bool, or None where nothing is padding."""
        mask = x.new_ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
        if self.how == "gru":
            states, _ = self.recurrent(x)
            return self.out(masked_mean(states, mask))  # type: ignore[no-any-return]
        there = mask[:, None, :]
        h = x.transpose(1, 2)
        for number, layer in enumerate(self.steps):
            h = F.relu(layer(h * there))
            if number < 2 and h.shape[2] > 1:
                # Pairs of steps become one; a pair with a step that is there is there.
                h = F.max_pool1d(h * there, 2, ceil_mode=True)
                there = F.max_pool1d(there.float(), 2, ceil_mode=True) > 0
        mean = masked_mean(h.transpose(1, 2), there[:, 0])
        return self.out(torch.cat([mean, (h * there).amax(dim=2)], dim=1))  # type: ignore[no-any-return]


def masked_mean(states: Tensor, mask: Tensor | None) -> Tensor:
    """Return (B, w), the mean over the steps of (B, T, w) that (B, T) bool marks; 0 where it marks none."""
    if mask is None:
        return states.mean(dim=1)
    weight = mask.to(states.dtype)[:, :, None]
    return (states * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


def trunk_of(form: ModalityInput, width: int, sequence: Sequences, text_width: int) -> nn.Module:
    """Return the encoder of a modality; texts come as (B, T, `text_width`) vectors of their bytes.

    Raises:
        InputError: A kind of modality that nothing encodes.
    """
    if form.kind in ("image", "video"):
        return PictureTrunk(form.channels, width)
    if form.kind in ("features", "text"):
        return SequenceTrunk(form.channels if form.kind == "features" else text_width, width, sequence)
    raise InputError(f"no encoder for modalities of the kind {form.kind!r}; there are image, video, features, text.")
