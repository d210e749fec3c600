"""Where an image is conspicuous: centre against surround at six scales, without a network or training.

After Montabone and Soto, "Human detection using a mobile platform and novel features derived from a visual saliency
mechanism", 2010: the "fine-grained" saliency that SaliencyMix uses. Scaling or shifting an image does not change its
map, so that normalised images serve as well as those in [0, 1]. Agreement with OpenCV's implementation is measured in
benchmarks/RESULTS.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Half side in pixels of each surround.
RADII = (12, 24, 28, 48, 56, 112)
# Weights of red, green and blue in the brightness (ITU-R BT.601).
BRIGHTNESS = (0.299, 0.587, 0.114)


def fine_grained_saliency(images: Tensor) -> Tensor:
    """Return how much brighter or darker each pixel is than its surround, summed over six sizes of the surround.

    The brightness is smoothed twice by [1, 2, 1] / 4. A surround is a square around the pixel, clipped to the image,
    without the pixel itself. What is brighter and what is darker are summed apart and scaled to a maximum of 1 each.

    Args:
        images: (B, C, H, W) floating. Three channels are weighed as red, green and blue, any other number evenly.

    Returns:
        (B, H, W) in [0, 2], float32 (float64 for float64 images), without gradient.
    """
    images = images.detach()
    images = images if images.dtype == torch.float64 else images.float()
    channels, height, width = images.shape[1:]
    weights = BRIGHTNESS if channels == 3 else (1 / channels,) * channels
    with torch.autocast(images.device.type, enabled=False):
        grey = torch.einsum("bchw,c->bhw", images, images.new_tensor(weights))
        smooth = _smoothing(height, grey) @ grey @ _smoothing(width, grey).T
        brighter, darker = torch.zeros_like(smooth), torch.zeros_like(smooth)
        for radius in RADII:
            rows, columns = _window(height, radius, grey), _window(width, radius, grey)
            count = rows.sum(1)[:, None] * columns.sum(1)
            around = (rows @ smooth @ columns.T - smooth) / (count - 1).clamp(min=1)
            brighter += (smooth - around).clamp(min=0)
            darker += (around - smooth).clamp(min=0)
    return _to_one(brighter) + _to_one(darker)


def _to_one(maps: Tensor) -> Tensor:
    """Scale each map to a maximum of 1; one of zeros stays."""
    return maps / maps.amax((1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)


def _window(size: int, radius: int, like: Tensor) -> Tensor:
    """Return (size, size), 1 where two places are at most `radius` apart: applied, it sums over a window."""
    place = torch.arange(size, device=like.device)
    return ((place[:, None] - place).abs() <= radius).to(like.dtype)


def _smoothing(size: int, like: Tensor) -> Tensor:
    """Return (size, size): [1, 2, 1] / 4 applied twice, the image reflected about its border pixels."""
    once = torch.zeros((size, size), dtype=like.dtype, device=like.device)
    place = torch.arange(size, device=like.device)
    for shift, weight in ((-1, 0.25), (0, 0.5), (1, 0.25)):
        source = (place + shift).abs()
        source = torch.where(source >= size, 2 * (size - 1) - source, source).clamp(min=0)
        once[place, source] += weight
    return once @ once
