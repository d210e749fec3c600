"""Changes of colour and sharpness, as self-supervised learning draws them: uint8 in, uint8 out.

The operations are those of SimCLR (Chen et al., ICML 2020, appendix A), MoCo v2 (Chen et al., 2020, section 3) and BYOL
(Grill et al., NeurIPS 2020, appendix B), in their order: jitter, grey, blur, solarise. They work in float32 and
round once at the end, which chains of library calls do at every step; benchmarks/views.py has what that saves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

# Rec. 601 weights of red, green and blue.
_LUMA = torch.tensor([[0.299, 0.587, 0.114]])
# Red, green and blue as piecewise linear functions of the hue: offset + sign * |hue - centre|, cut to [0, 1].
_CENTRE = torch.tensor([3.0, 2.0, 4.0]).view(3, 1, 1)
_SIGN = torch.tensor([1.0, -1.0, -1.0]).view(3, 1, 1)
_OFFSET = torch.tensor([-1.0, 2.0, 2.0]).view(3, 1, 1)
_DRAWS = 13


class Photometric(nn.Module):
    """Jitter, grey, blur and solarise a picture, each with a probability.

    Draws 13 numbers from torch's global CPU generator, whatever happens to the picture.

    Args:
        jitter: (brightness, contrast, saturation, hue), or None for none. The first three change by a factor in
            [max(0, 1 - s), 1 + s], hue by at most its strength of the circle, in random order.
        jitter_probability: Probability of the jitter.
        grayscale: Probability of a grey picture (Rec. 601 luma in all three channels).
        blur: Probability of a Gaussian blur.
        blur_sigma: Its standard deviation in pixels of the rendered picture, lowest and highest. At the border the
            weights that lie outside are left out and the others made to sum to one.
        solarize: Probability that values of 128 and more are replaced by 255 minus themselves.
    """

    def __init__(
        self,
        jitter: Sequence[float] | None = None,
        jitter_probability: float = 0.8,
        grayscale: float = 0.0,
        blur: float = 0.0,
        blur_sigma: Sequence[float] = (0.1, 2.0),
        solarize: float = 0.0,
    ) -> None:
        super().__init__()
        self.jitter = None if jitter is None else tuple(jitter)
        self.jitter_probability = jitter_probability
        self.grayscale = grayscale
        self.blur = blur
        self.blur_sigma = tuple(blur_sigma)
        self.solarize = solarize

    def forward(self, image: Tensor) -> Tensor:
        """Return the (3, H, W) uint8 picture changed."""
        draws = torch.rand(_DRAWS).tolist()
        jittered = self.jitter is not None and draws[0] < self.jitter_probability
        grey = draws[1] < self.grayscale
        blurred = draws[2] < self.blur
        if jittered or grey or blurred:
            values = image.float()
            if jittered:
                values = self._jittered(values, draws[5:9], draws[9:13])
            if grey:
                values = _luma(values).expand_as(values)
            if blurred:
                low, high = self.blur_sigma
                values = gaussian_blur(values, low + (high - low) * draws[4])
            # Half is added and the fraction cut off: one step less than rounding, and every value is in [0, 255].
            image = (values + 0.5).to(torch.uint8)
        if draws[3] < self.solarize:
            image = torch.where(image >= 128, 255 - image, image)
        return image

    def _jittered(self, values: Tensor, strengths: list[float], order: list[float]) -> Tensor:
        brightness, contrast, saturation, hue = self.jitter or (0.0, 0.0, 0.0, 0.0)
        for step in sorted(range(4), key=order.__getitem__):
            draw = strengths[step]
            if step == 0 and brightness:
                values = (values * _factor(brightness, draw)).clamp_(0, 255)
            elif step == 1 and contrast:
                factor = _factor(contrast, draw)
                middle = float(_luma(values).mean())
                values = (values * factor).add_(middle * (1 - factor)).clamp_(0, 255)
            elif step == 2 and saturation:
                values = torch.lerp(_luma(values).expand_as(values), values, _factor(saturation, draw)).clamp_(0, 255)
            elif step == 3 and hue:
                values = turn_hue(values, hue * (2 * draw - 1))
        return values


def turn_hue(values: Tensor, turn: float) -> Tensor:
    """Return a picture with its hues turned; value and saturation in the sense of HSV stay.

    Args:
        values: (3, H, W) floating point, not negative.
        turn: Part of the circle, in [-1, 1].
    """
    highest, lowest = values.amax(0), values.amin(0)
    chroma = highest - lowest
    red, green, blue = values.unbind(0)
    # In sixths of the circle; greys have no hue, and their chroma of zero makes any value right.
    scale = chroma.clamp(min=1e-6)
    hue = torch.where(highest == green, (blue - red) / scale + 2, (red - green) / scale + 4)
    hue = torch.where(highest == red, (green - blue) / scale, hue)
    hue = (hue + 6 * turn).remainder_(6)
    part = torch.addcmul(_OFFSET.to(values), (hue - _CENTRE.to(values)).abs_(), _SIGN.to(values)).clamp_(0, 1)
    return torch.addcmul(lowest, part, chroma)


def gaussian_blur(values: Tensor, sigma: float) -> Tensor:
    """Return pictures blurred by a Gaussian, normalised over the pixels there are.

    Two products with a matrix of weights: faster than convolutions on small pictures, about as fast at 224 pixels.

    Args:
        values: (C, H, W) floating point.
        sigma: Standard deviation in pixels, above 0.
    """
    height, width = values.shape[-2:]
    across = _weights(width, sigma, values)
    down = across if height == width else _weights(height, sigma, values)
    return down @ values @ across.T


def _weights(side: int, sigma: float, like: Tensor) -> Tensor:
    place = torch.arange(side, dtype=like.dtype, device=like.device)
    weights = torch.exp((place[:, None] - place).square_().mul_(-0.5 / (sigma * sigma)))
    # Beyond five standard deviations nothing is left but denormal numbers, which are slow.
    weights = nn.functional.threshold(weights, 1e-6, 0.0)
    return weights / weights.sum(1, keepdim=True)


def _luma(values: Tensor) -> Tensor:
    return (_LUMA.to(values) @ values.reshape(3, -1)).view(1, *values.shape[-2:])


def _factor(strength: float, draw: float) -> float:
    low = max(0.0, 1 - strength)
    return low + (1 + strength - low) * draw


def is_off(jitter: Sequence[float] | None, *probabilities: float) -> bool:
    """Return whether nothing would ever happen to a picture."""
    return (jitter is None or not any(jitter)) and not any(probability > 0 for probability in probabilities)


def within(pair: Sequence[float]) -> bool:
    """Return whether a pair of standard deviations is usable: 0 < low <= high, both finite."""
    return len(pair) == 2 and 0 < pair[0] <= pair[1] and math.isfinite(pair[1])
