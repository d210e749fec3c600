"""CutMix: a box of one image is replaced by the same box of another (Yun et al., 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.mixing.images.boxes import Boxes, check_edges, draw_boxes, inside, share_outside
from metrixkit.mixing.images.mixed import MixedImages, label_share, prepare, with_mask


def cutmix(
    images: Tensor, partner: Tensor, lam: float | Tensor, generator: torch.Generator, shared_box: bool = False
) -> MixedImages:
    """Paste a box of the partner, of area 1 - lambda before clipping, at the place where it was.

    The box's pixel in the middle is drawn evenly, and what lies outside the image is cut off, so the first image's
    share is at least the lambda asked for: at lambda 0 it still keeps up to three quarters of its pixels, where the box
    sits in a corner.

    Args:
        images: (B, C, H, W) floating, [0, 1]; or uint8.
        partner: (B,) int64 rows of `images`, or (B, C, H, W) other images.
        lam: Share of the first image asked for: a number in [0, 1], or (B,) of such. On the CPU if possible: boxes
            are drawn there.
        generator: A CPU generator, advanced by one draw; the boxes are the same on every device.
        shared_box: One centre for the whole batch, as the first implementations do.

    Returns:
        The mixtures; lambda is what is left of the first image after clipping, ``1 - area / (H W)``, and the mean of
        the mask.

    Raises:
        InputError: Types, shapes or values do not fit.
    """
    images, others, shares = prepare(images, partner, lam)
    boxes = draw_boxes(shares, len(images), generator, shared_box)
    return paste_boxes(images, others, boxes.edges(*images.shape[-2:]))


def cutmix_boxes(images: Tensor, partner: Tensor, boxes: Boxes | Tensor) -> MixedImages:
    """CutMix with boxes that are given: so one draw serves the same images at several sizes.

    Args:
        images: (B, C, H, W) floating, [0, 1]; or uint8.
        partner: (B,) int64 rows of `images`, or (B, C, H, W) other images.
        boxes: Relative ones, as :func:`draw_boxes` returns; or (B, 4) int64 pixels: top, left, bottom, right.

    Returns:
        The mixtures, with the lambda of this size: rounding to pixels may make it differ from that of another.

    Raises:
        InputError: Types or shapes do not fit, or a box leaves the image.
    """
    images, others, _ = prepare(images, partner, 1.0)
    height, width = images.shape[-2:]
    if isinstance(boxes, Boxes):
        if len(boxes.side) != len(images):
            raise InputError(f"boxes: got {len(boxes.side)}, expected {len(images)}, one an image.")
        return paste_boxes(images, others, boxes.edges(height, width))
    boxes = boxes.cpu()
    check_edges(boxes, len(images), height, width)
    return paste_boxes(images, others, boxes)


def paste_boxes(images: Tensor, others: Tensor, edges: Tensor) -> MixedImages:
    """Paste `others`, at the same place, into the (B, 4) boxes of `images`; arguments that are checked already."""
    height, width = images.shape[-2:]
    stays = ~inside(edges, height, width, images.device)
    lam = label_share(share_outside(edges, height, width), images)
    return MixedImages(with_mask(images, others, stays), lam, stays.to(images.dtype))
