"""FMix: masks of any shape, cut from noise of low frequency (Harris et al., 2020)."""

from __future__ import annotations

import torch
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.mixing.images.mixed import MixedImages, branch, label_share, prepare, with_mask


def fmix(
    images: Tensor,
    partner: Tensor,
    lam: float | Tensor,
    generator: torch.Generator,
    decay: float = 3.0,
    max_soft: float = 0.0,
    shared_mask: bool = False,
    official: bool = False,
) -> MixedImages:
    """Take the first image where a grey image of low-frequency noise is brightest, the partner elsewhere.

    Args:
        images: (B, C, H, W) floating, [0, 1]; or uint8.
        partner: (B,) int64 rows of `images`, or (B, C, H, W) other images.
        lam: Share of the first image: a number in [0, 1], or (B,) of such.
        generator: A CPU generator, advanced by one draw; the noise is the same on every device.
        decay: How fast amplitude falls with frequency, delta of the paper; higher is smoother.
        max_soft: Share of the pixels, to each side of the edge, over which the mask passes from 1 to 0; at most
            ``min(lam, 1 - lam)`` of it is used.
        shared_mask: One noise image and one coin for the whole batch, as the authors do, instead of one an image.
        official: The released code's noise: it takes the first two frequency rows for the real and the imaginary part.

    Returns:
        The mixtures; lambda is the one given, as the authors do: the mask's mean is it rounded to a whole number of
        pixels, up or down by a fair coin.

    Raises:
        InputError: Types, shapes or values do not fit.
    """
    images, others, shares = prepare(images, partner, lam)
    if not decay >= 0 or not 0 <= max_soft <= 1:
        raise InputError(f"decay={decay} and max_soft={max_soft}: expected decay >= 0 and max_soft in [0, 1].")
    count, _, height, width = images.shape
    own = branch(generator)
    drawn = 1 if shared_mask else count
    noise = torch.randn((drawn, *noise_size(height, width, official), 2), generator=own)
    up = torch.rand(drawn, generator=own) > 0.5
    grey = low_frequency(noise.to(images.device), height, width, decay, official)
    mask = top_share(grey.expand(count, -1, -1), shares, up.expand(count), max_soft)[:, None]
    mixed = with_mask(images, others, mask if max_soft else mask.bool())
    return MixedImages(mixed, label_share(shares, images), mask.to(images.dtype))


def noise_size(height: int, width: int, official: bool = False) -> tuple[int, int]:
    """Return how many frequency rows and columns the noise of a height x width image has."""
    return (min(2, height), width // 2 + 1 + width % 2) if official else (height, width // 2 + 1)


def low_frequency(noise: Tensor, height: int, width: int, decay: float = 3.0, official: bool = False) -> Tensor:
    """Return grey images in [0, 1] of noise whose amplitude falls as ``1 / frequency^decay``.

    Args:
        noise: (B, rows, columns, 2) standard normal, sizes as :func:`noise_size` tells; real and imaginary parts.
        height: H.
        width: W.
        decay: delta of the paper.
        official: As for :func:`fmix`.

    Returns:
        (B, H, W) in the type of `noise`, each from 0 to 1; all 0 where an image has one pixel.
    """
    rows, columns = noise.shape[1:3]
    options = {"dtype": noise.dtype, "device": noise.device}
    down = torch.fft.fftfreq(height, **options)[:rows, None]
    across = torch.fft.fftfreq(width, **options)[None, :columns]
    amplitude = torch.hypot(down, across).clamp(min=1 / max(height, width)) ** -decay
    scaled = noise * amplitude[:, :, None]
    if official:
        spectrum = torch.complex(scaled[:, 0].contiguous(), scaled[:, -1].contiguous())
    else:
        spectrum = torch.view_as_complex(scaled)
    # One axis at a time: a joint real transform of a spectrum without the symmetry differs between libraries.
    half = torch.fft.ifft(spectrum, n=height, dim=1)
    grey = torch.fft.irfft(half, n=width, dim=2)
    grey = grey - grey.amin((1, 2), keepdim=True)
    return grey / grey.amax((1, 2), keepdim=True).clamp(min=torch.finfo(grey.dtype).tiny)


def top_share(grey: Tensor, shares: Tensor, up: Tensor, max_soft: float = 0.0) -> Tensor:
    """Return masks that are 1 at the brightest share of the pixels and 0 elsewhere, with a soft edge if asked.

    Args:
        grey: (B, H, W).
        shares: (B,) float64 on the CPU, share of pixels that become 1.
        up: (B,) bool on the CPU, whether a fraction of a pixel counts as one.
        max_soft: As for :func:`fmix`.

    Returns:
        (B, H, W) in the type of `grey`. Of equally bright pixels the first come first.
    """
    count, pixels = len(grey), grey[0].numel()
    wanted = shares * pixels
    ones = torch.where(up, wanted.ceil(), wanted.floor())
    soft = torch.minimum(torch.full_like(shares, max_soft), torch.minimum(shares, 1 - shares))
    half = (soft * pixels).floor()
    order = grey.reshape(count, pixels).argsort(dim=1, descending=True, stable=True)
    # From the brightest pixel on: 1 up to `low`, then evenly down to 0 at the last before `high`, then 0.
    low, high = ((ones - half).to(grey.device)[:, None], (ones + half).to(grey.device)[:, None])
    rank = torch.arange(pixels, device=grey.device)
    ramp = (1 - (rank - low) / (high - low - 1).clamp(min=1)).clamp(0, 1)
    values = torch.where(rank < low, 1.0, torch.where(rank < high, ramp, 0.0)).to(grey.dtype)
    return torch.zeros_like(values).scatter_(1, order, values).view_as(grey)
