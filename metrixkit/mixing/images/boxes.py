"""Boxes in relative coordinates, so that one draw fits an image at any size, and the masks they make.

The rule is CutMix's: a side is ``int(S * sqrt(1 - lambda))`` pixels of S, half of it (rounded down) to each side of a
pixel drawn evenly, and what lies outside the image is cut off. An odd side so loses a pixel and a side of one all of
it; lambda 1 leaves no box. Only a box around the very middle keeps all of its area.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.mixing.images.mixed import branch
from metrixkit.mixing.partners import check_share


@dataclass(frozen=True)
class Boxes:
    """B boxes in relative coordinates, on the CPU.

    Attributes:
        side: (B,) float64 in [0, 1], a box's side as a share of the image's, the same for rows and columns.
        centre: (B, 2) float64 in [0, 1), row and column of its centre as a share of height and width.
    """

    side: Tensor
    centre: Tensor

    def edges(self, height: int, width: int) -> Tensor:
        """Return (B, 4) int64: top, left, bottom, right in pixels of a `height` x `width` image, ends exclusive."""
        size = torch.tensor([height, width])
        half = (size * self.side[:, None]).long() // 2
        middle = (self.centre * size).long()
        return torch.cat([(middle - half).clamp(min=0), torch.minimum(middle + half, size)], dim=1)


def draw_boxes(lam: float | Tensor, count: int, generator: torch.Generator, shared: bool = False) -> Boxes:
    """Draw a box of area 1 - lambda, before clipping, for each of `count` images, its centre anywhere in the image.

    Args:
        lam: Share of the image that stays: a number in [0, 1], or (count,) of such.
        count: B.
        generator: A CPU generator; one number is taken from it whatever `count` is, so that processes with equal
            generators stay together. The boxes are the same on every device.
        shared: One centre for the whole batch, as the first implementations do, instead of one an image.

    Returns:
        The boxes; several sizes of the same images may share them.

    Raises:
        InputError: Lambda is neither, or there is no CPU generator.
    """
    centre = torch.rand((1 if shared else count, 2), generator=branch(generator), dtype=torch.float64)
    return Boxes(relative_side(lam, count), centre.expand(count, 2))


def relative_side(lam: float | Tensor, count: int) -> Tensor:
    """Return ``sqrt(1 - lam)`` as (count,) float64 on the CPU."""
    shares = torch.as_tensor(check_share(lam, count), dtype=torch.float64, device="cpu")
    return (1 - shares).sqrt().expand(count)


def inside(edges: Tensor, height: int, width: int, device: torch.device) -> Tensor:
    """Return (B, 1, H, W) bool on `device`: whether a pixel lies in its image's box.

    Args:
        edges: (B, 4) int64 as :meth:`Boxes.edges` returns them.
        height: H.
        width: W.
        device: Where the mask is made.
    """
    top, left, bottom, right = edges.to(device, non_blocking=True)[:, :, None].unbind(1)
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    in_rows = (rows >= top) & (rows < bottom)
    in_columns = (columns >= left) & (columns < right)
    return (in_rows[:, :, None] & in_columns[:, None, :])[:, None]


def share_outside(edges: Tensor, height: int, width: int) -> Tensor:
    """Return (B,) float64: the share of the image that its box leaves, 1 - area / (H W)."""
    area = (edges[:, 2:] - edges[:, :2]).prod(1)
    return 1 - area.double() / (height * width)


def check_edges(edges: Tensor, count: int, height: int, width: int) -> None:
    """Raise InputError unless `edges` are (count, 4) integers, top <= bottom <= height and left <= right <= width."""
    limit = torch.tensor([height, width])
    if (
        edges.shape == (count, 4)
        and not edges.is_floating_point()
        and bool(((edges[:, :2] >= 0) & (edges[:, :2] <= edges[:, 2:]) & (edges[:, 2:] <= limit)).all())
    ):
        return
    raise InputError(
        f"boxes for {count} images of {height} x {width}: got {edges.dtype} {tuple(edges.shape)}, expected "
        f"({count}, 4) integers top, left, bottom, right within the image."
    )
