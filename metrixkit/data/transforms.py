"""What happens to an image between the file and the encoder: uint8 in, uint8 out, one size.

Normalisation is not here; it happens on the device, inside the encoder. torchvision, seconds to import, is asked for
where a transform is built: every command reads this file, few transform an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from torch import Tensor, nn

from metrixkit.data.framing import RandomResizedFrame, Rescaled
from metrixkit.data.photometric import Photometric, is_off
from metrixkit.data.transform_settings import MOST_PIXELS, Interpolation, SecondView, Transform, check, one_of
from metrixkit.errors import InputError, did_you_mean

__all__ = [
    "LimitAspect",
    "SecondView",
    "Transform",
    "eval_transform",
    "eval_transform_config",
    "eval_transform_from_config",
    "framing",
    "photometric",
    "train_transform",
]

_MAX_ASPECT = 4
_CONFIG_VERSION = 1


def train_transform(settings: Transform, image_size: int) -> nn.Module:
    """Return the augmentation. It draws from torch's global CPU generator only; callers seed it.

    Args:
        settings: The recipe.
        image_size: Side of what the encoder gets, pixels.

    Returns:
        A module from (3, H, W) uint8 to (3, size, size) uint8.

    Raises:
        InputError: A setting out of range.
    """
    return nn.Sequential(framing(settings, image_size), _Only(), photometric(settings))


def framing(settings: Transform, image_size: int, sizes: Sequence[int] = ()) -> nn.Module:
    """Return the first half of the augmentation: which part of the image a view shows, rendered at each size.

    Args:
        settings: The recipe.
        image_size: Side of what the encoder gets, pixels.
        sizes: Sides of the renderings in pixels; empty is `image_size` alone. Only ``random-resized-crop`` renders each
            from the image itself; what the other recipes give at `image_size` is scaled.

    Returns:
        A module from (3, H, W) uint8 to a list of one (3, size, size) uint8 tensor a size. It draws once.

    Raises:
        InputError: A setting out of range.
    """
    from torchvision.transforms import InterpolationMode, v2

    size, resize = _sizes(settings, image_size)
    check(settings)
    sizes = tuple(sizes) or (size,)
    mode = InterpolationMode(settings.interpolation)
    if settings.train == "random-resized-crop":
        return RandomResizedFrame(sizes, settings.scale, settings.ratio, settings.flip, mode)
    steps: list[nn.Module]
    if settings.train == "random-crop":
        if settings.padding >= resize and settings.padding_mode in ("reflect", "symmetric"):
            raise InputError(
                f"transform.padding={settings.padding}: an image of {resize} pixels can be mirrored over fewer than "
                "that; lower it, or take transform.padding_mode=edge"
            )
        padded = [v2.Pad(settings.padding, padding_mode=settings.padding_mode)] if settings.padding else []
        scaled = v2.Resize(resize, interpolation=mode, antialias=True)
        steps = [LimitAspect(), scaled, *padded, v2.RandomCrop(size)]
    else:
        steps = [eval_transform(settings, size)]
    if settings.train == "affine":
        # Continued edges instead of a fill colour: right for dark glyphs on light ground and for the reverse.
        turned = v2.RandomAffine(
            settings.degrees,
            translate=(settings.translate / 2, settings.translate / 2),  # of the padded side, which is twice as long
            scale=tuple(settings.zoom),
            interpolation=InterpolationMode.BILINEAR,
        )
        steps += [v2.Pad(size // 2, padding_mode="edge"), turned, v2.CenterCrop(size)]
    return Rescaled(sizes, nn.Sequential(*steps), settings.flip, mode)


def photometric(settings: Transform, second: bool = False) -> nn.Module:
    """Return the second half of the augmentation: what happens to the colours and sharpness of one rendering.

    Args:
        settings: The recipe.
        second: Whether it is the second of two views.

    Returns:
        A module from (3, H, W) uint8 to (3, H, W) uint8. Where everything is off it draws nothing.

    Raises:
        InputError: A setting out of range.
    """
    check(settings)
    blur, solarize = settings.blur, settings.solarize
    if second and settings.second_view is not None:
        blur = blur if settings.second_view.blur is None else settings.second_view.blur
        solarize = solarize if settings.second_view.solarize is None else settings.second_view.solarize
    if settings.color_jitter > 0:
        from torchvision.transforms import v2

        j = settings.color_jitter
        first: list[nn.Module] = [v2.ColorJitter(brightness=j, contrast=j, saturation=j, hue=j / 4)]
    else:
        first = []
    if not is_off(settings.jitter, settings.grayscale, blur, solarize):
        first.append(
            Photometric(
                settings.jitter,
                settings.jitter_probability,
                settings.grayscale,
                blur,
                settings.blur_sigma,
                solarize,
            )
        )
    return nn.Sequential(*first)


def eval_transform(settings: Transform, image_size: int) -> nn.Module:
    """Return the deterministic transform of evaluation: short side to `resize`, then the central square.

    Args:
        settings: The recipe.
        image_size: Side of what the encoder gets, pixels.

    Returns:
        A module from (3, H, W) uint8 to (3, size, size) uint8.

    Raises:
        InputError: `resize` below the size, a size below 1, or an unknown interpolation.
    """
    from torchvision.transforms import InterpolationMode, v2

    size, resize = _sizes(settings, image_size)
    one_of("interpolation", settings.interpolation, get_args(Interpolation))
    mode = InterpolationMode(settings.interpolation)
    return nn.Sequential(LimitAspect(), v2.Resize(resize, interpolation=mode, antialias=True), v2.CenterCrop(size))


def eval_transform_config(settings: Transform, image_size: int) -> dict[str, Any]:
    """Return all that :func:`eval_transform_from_config` needs, as plain JSON values; saved with a model.

    Args:
        settings: The recipe.
        image_size: Side of what the encoder gets, pixels.
    """
    size, resize = _sizes(settings, image_size)
    return {
        "version": _CONFIG_VERSION,
        "resize": resize,
        "image_size": size,
        "interpolation": settings.interpolation,
        "antialias": True,
    }


def eval_transform_from_config(config: Mapping[str, Any]) -> nn.Module:
    """Return the evaluation transform that `config`, as saved with a model, describes.

    Raises:
        InputError: A key that is missing, unknown or of another version.
    """
    known = {"version", "resize", "image_size", "interpolation", "antialias"}
    for key in sorted(known - config.keys()):
        raise InputError(f"evaluation transform: {key!r} is missing; was the file written by this package?")
    for key in sorted(config.keys() - known):
        raise InputError(f"evaluation transform: unknown key {key!r}.{did_you_mean(key, known)}")
    if config["version"] != _CONFIG_VERSION or config["antialias"] is not True:
        raise InputError(
            f"evaluation transform: version {config['version']!r} with antialias={config['antialias']!r} cannot be "
            f"repeated here (known: version {_CONFIG_VERSION}, antialias true); a newer metrixkit wrote it"
        )
    for key in ("resize", "image_size"):
        if not isinstance(config[key], int) or isinstance(config[key], bool) or not 1 <= config[key] <= MOST_PIXELS:
            raise InputError(
                f"evaluation transform: {key} is {config[key]!r}; expected a side from 1 to {MOST_PIXELS} pixels."
            )
    settings = Transform(resize=config["resize"], interpolation=config["interpolation"])
    return eval_transform(settings, config["image_size"])


class LimitAspect(nn.Module):
    """Cut a strip to its middle, so that scaling its short side up cannot fill the memory.

    Only images longer than four times their width are touched, and of those only what a central crop leaves out.
    """

    def forward(self, image: Tensor) -> Tensor:
        """Return (..., H, W) with the long side at most four times the short one."""
        height, width = image.shape[-2:]
        limit = _MAX_ASPECT * min(height, width)
        if max(height, width) <= limit:
            return image
        from torchvision.transforms.v2 import functional as F

        return F.center_crop(image, [min(height, limit), min(width, limit)])


class _Only(nn.Module):
    """The one rendering of a list of one."""

    def forward(self, renderings: list[Tensor]) -> Tensor:
        return renderings[0]


def _sizes(settings: Transform, image_size: int) -> tuple[int, int]:
    resize = settings.resize if settings.resize is not None else round(image_size * 256 / 224)
    if image_size < 1:
        raise InputError(f"image size: expected at least 1 pixel, got {image_size}")
    if resize < image_size:
        raise InputError(
            f"transform.resize: {resize} is below the image size {image_size}, so the crop would reach beyond it; "
            f"set transform.resize to {image_size} or more"
        )
    return image_size, resize
