"""What every image mixer answers, and what it asks of its arguments.

B images, C channels, H x W pixels. The share of a mixture is the share of the *first* image, the row itself; the rest
is its partner's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.mixing.partners import check_share


class MixedImages(NamedTuple):
    """A mixed batch.

    Attributes:
        images: (B, C, H, W) floating, the mixtures; [0, 1] where the images were.
        lam: (B,) share of the first image, the one that labels and losses must use; float32, float64 for float64
            images, on the images' device.
        mask: (B, 1, H, W) in [0, 1], in the type of the images: share of the first image in every pixel; None where it
            is `lam` everywhere.
    """

    images: Tensor
    lam: Tensor
    mask: Tensor | None


def prepare(images: Tensor, partner: Tensor, lam: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Check a mixer's arguments and return the first images, the other images and the share of each row.

    Args:
        images: (B, C, H, W) floating, [0, 1]; or uint8, which becomes float32 in [0, 1].
        partner: (B,) integer rows of `images`, or (B, C, H, W) other images.
        lam: Share of the first image: a number in [0, 1], or (B,) of such.

    Returns:
        (B, C, H, W), (B, C, H, W) of the same type and device, and (B,) float64 on the CPU, where boxes are drawn.

    Raises:
        InputError: Types, shapes or values do not fit.
    """
    images = _floating(images, "images")
    lam = check_share(lam, len(images))
    if isinstance(lam, Tensor):
        shares = lam.to("cpu", torch.float64)
    else:
        shares = torch.full((len(images),), lam, dtype=torch.float64)
    return images, partner_images(images, partner), shares


def partner_images(images: Tensor, partner: Tensor) -> Tensor:
    """Return each row's partner as an image: gathered from `images` by (B,) rows, or the (B, C, H, W) given.

    Raises:
        InputError: `partner` is neither, or names a row that is not there.
    """
    if isinstance(partner, Tensor) and partner.ndim == 1:
        if partner.is_floating_point() or partner.dtype == torch.bool or len(partner) != len(images):
            raise InputError(
                f"partner: got {partner.dtype} {tuple(partner.shape)}, expected ({len(images)},) integers, one row "
                "number an image, or the partners' images themselves."
            )
        # Rows on another device are not looked at: that would wait for it.
        if partner.device.type == "cpu" and not 0 <= int(partner.min()) <= int(partner.max()) < len(images):
            raise InputError(
                f"partner holds rows {int(partner.min())} to {int(partner.max())}, expected 0 to {len(images) - 1}: "
                "rows of this batch."
            )
        return images[partner.to(images.device)]
    others = _floating(partner, "partner")
    if others.shape != images.shape or others.device != images.device:
        raise InputError(
            f"partner images: got {tuple(others.shape)} on {others.device}, expected {tuple(images.shape)} on "
            f"{images.device}, as the images."
        )
    return others.to(images.dtype)


def label_share(shares: Tensor, images: Tensor) -> Tensor:
    """Return (B,) shares as :class:`MixedImages` holds them: on the images' device, float32 or float64."""
    return shares.to(images.device, torch.float64 if images.dtype == torch.float64 else torch.float32)


def with_mask(images: Tensor, others: Tensor, mask: Tensor) -> Tensor:
    """Return ``mask * images + (1 - mask) * others``, exactly one of them where the mask is 1 or 0.

    Args:
        images: (B, C, H, W) floating.
        others: (B, C, H, W).
        mask: (B, 1, H, W) share of `images`; bool takes pixels whole, which is cheaper.
    """
    if mask.dtype == torch.bool:
        return torch.where(mask, images, others)
    return torch.lerp(others, images, mask.to(images.dtype))


def branch(generator: torch.Generator | None) -> torch.Generator:
    """Return a CPU generator of one's own, for which one number is taken from `generator` however much is drawn.

    So processes with equal generators stay together even where their batches differ, and the draw is the same on
    every device.

    Raises:
        InputError: There is no generator, or it is not on the CPU.
    """
    if not isinstance(generator, torch.Generator) or generator.device.type != "cpu":
        raise InputError(f"generator: got {generator!r}, expected torch.Generator() on the CPU: this mixer draws.")
    return torch.Generator().manual_seed(int(torch.randint(2**63 - 1, (), generator=generator)))


def _floating(images: Tensor, what: str) -> Tensor:
    """Return images as floating (B, C, H, W); uint8 becomes [0, 1]."""
    if isinstance(images, Tensor) and images.ndim == 4 and len(images):
        if images.is_floating_point():
            return images
        if images.dtype == torch.uint8:
            return images.float() / 255
    got = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
    raise InputError(f"{what} to mix: got {got}, expected (B, C, H, W) floating in [0, 1], or uint8, B > 0.")
