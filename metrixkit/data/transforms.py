"""What happens to an image between the file and the encoder: uint8 in, uint8 out, one size.

Normalisation is not here; it happens on the device, inside the encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from metrixkit.errors import InputError, did_you_mean

Interpolation = Literal["bilinear", "bicubic"]
Recipe = Literal["random-resized-crop", "random-crop", "affine", "none"]

_MAX_ASPECT = 4
_CONFIG_VERSION = 1


@dataclass
class Transform:
    """Settings of the two transforms; the defaults are the recipe of Metrix (ICLR 2022, Section 5.1).

    Attributes:
        resize: Short side before the central crop of evaluation (and before ``random-crop``), pixels, at least
            the model's image size; None is ``round(image_size * 256 / 224)``. Equal to it, images that have this size
            already pass untouched: what small square images need.
        train: ``random-resized-crop``: a crop of random area and shape, scaled to the size. ``random-crop``: resized,
            then a crop at a random place. ``affine``: the evaluation image, turned, moved and scaled a little, edges
            continued. ``none``: the evaluation image.
        scale: Area of ``random-resized-crop`` as a share of the image, lowest and highest.
        ratio: Width / height of ``random-resized-crop``, lowest and highest.
        flip: Probability of mirroring left and right.
        color_jitter: Strength j: brightness, contrast and saturation change by a factor in [1 - j, 1 + j], hue by at
            most j / 4 of the circle; 0 to 1.
        degrees: Largest turn of ``affine``, either way.
        translate: Largest move of ``affine`` as a share of the side, either way.
        zoom: Scale factor of ``affine``, lowest and highest.
        interpolation: ``bilinear`` or ``bicubic``, always antialiased (``affine`` turns bilinearly).
    """

    resize: int | None = None
    train: Recipe = "random-resized-crop"
    scale: list[float] = field(default_factory=lambda: [0.08, 1.0])
    ratio: list[float] = field(default_factory=lambda: [3 / 4, 4 / 3])
    flip: float = 0.5
    color_jitter: float = 0.0
    degrees: float = 10.0
    translate: float = 0.1
    zoom: list[float] = field(default_factory=lambda: [0.9, 1.1])
    interpolation: Interpolation = "bilinear"


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
    size, resize = _sizes(settings, image_size)
    _check(settings)
    mode = InterpolationMode(settings.interpolation)
    steps: list[nn.Module]
    if settings.train == "random-resized-crop":
        steps = [
            v2.RandomResizedCrop(size, tuple(settings.scale), tuple(settings.ratio), interpolation=mode, antialias=True)
        ]
    elif settings.train == "random-crop":
        steps = [LimitAspect(), v2.Resize(resize, interpolation=mode, antialias=True), v2.RandomCrop(size)]
    else:
        steps = [eval_transform(settings, image_size)]
    if settings.train == "affine":
        # Continued edges instead of a fill colour: right for dark glyphs on light ground and for the reverse.
        turned = v2.RandomAffine(
            settings.degrees,
            translate=(settings.translate / 2, settings.translate / 2),  # of the padded side, which is twice as long
            scale=tuple(settings.zoom),
            interpolation=InterpolationMode.BILINEAR,
        )
        steps += [v2.Pad(size // 2, padding_mode="edge"), turned, v2.CenterCrop(size)]
    if settings.flip > 0:
        steps.append(v2.RandomHorizontalFlip(settings.flip))
    if settings.color_jitter > 0:
        j = settings.color_jitter
        steps.append(v2.ColorJitter(brightness=j, contrast=j, saturation=j, hue=j / 4))
    return nn.Sequential(*steps)


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
    size, resize = _sizes(settings, image_size)
    _one_of("interpolation", settings.interpolation, get_args(Interpolation))
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
        return F.center_crop(image, [min(height, limit), min(width, limit)])


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


def _check(settings: Transform) -> None:
    _one_of("train", settings.train, get_args(Recipe))
    _one_of("interpolation", settings.interpolation, get_args(Interpolation))
    for name, upper in (("scale", 1.0), ("ratio", float("inf")), ("zoom", float("inf"))):
        pair = getattr(settings, name)
        if len(pair) != 2 or not 0 < pair[0] <= pair[1] <= upper:
            raise InputError(f"transform.{name}: expected [low, high] with 0 < low <= high <= {upper:g}, got {pair}")
    for name, upper in (("flip", 1.0), ("color_jitter", 1.0), ("translate", 1.0), ("degrees", 180.0)):
        value = getattr(settings, name)
        if not 0 <= value <= upper:
            raise InputError(f"transform.{name}: expected a number from 0 to {upper:g}, got {value}")


def _one_of(name: str, value: str, options: tuple[str, ...]) -> None:
    if value not in options:
        raise InputError(f"transform.{name}: {value!r} is none of its values.{did_you_mean(value, options)}")
