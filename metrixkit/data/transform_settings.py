"""The settings of the image transforms, and what they may be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from metrixkit.data.photometric import within
from metrixkit.errors import InputError, did_you_mean

Interpolation = Literal["bilinear", "bicubic"]
PaddingMode = Literal["reflect", "symmetric", "edge", "constant"]
MOST_PIXELS = 16_384  # of a side that saved settings may ask for: such an image takes 0.8 GB
Recipe = Literal["random-resized-crop", "random-crop", "affine", "none"]


@dataclass
class SecondView:
    """What is otherwise in every second view, as in BYOL (appendix B: blur 1.0 and 0.1, solarize 0 and 0.2).

    Attributes:
        blur: Probability of the blur; None as in the first view.
        solarize: Probability of solarisation; None as in the first view.
    """

    blur: float | None = None
    solarize: float | None = None


@dataclass
class Transform:
    """Settings of the two transforms; the defaults are the recipe of Metrix (ICLR 2022, Section 5.1).

    Training draws the part of the image and whether it is mirrored, then colours and sharpness: jitter, grey, blur,
    solarisation, in the order of SimCLR and BYOL. (MoCo v2 mirrors last; the order makes no difference there.)

    Attributes:
        resize: Short side before the central crop of evaluation (and before ``random-crop``), pixels, at least
            the model's image size; None is ``round(image_size * 256 / 224)``. Equal to it, images that have this size
            already pass untouched: what small square images need.
        train: ``random-resized-crop``: a crop of random area and shape, scaled to the size. ``random-crop``: resized,
            padded by `padding`, then a crop at a random place. ``affine``: the evaluation image, turned, moved and
            scaled a little, edges continued. ``none``: the evaluation image.
        padding: Pixels added on each side before ``random-crop``. The usual one of CIFAR is 4, with `resize` at the
            model's image size.
        padding_mode: What is there: ``reflect`` and ``symmetric`` mirror the image, without and with its last row;
            ``edge`` continues that row; ``constant`` is black.
        scale: Area of ``random-resized-crop`` as a share of the image, lowest and highest.
        ratio: Width / height of ``random-resized-crop``, lowest and highest.
        flip: Probability of mirroring left and right.
        color_jitter: Strength j: brightness, contrast and saturation change by a factor in [1 - j, 1 + j], hue by at
            most j / 4 of the circle; 0 to 1. The form of metric learning, always applied.
        jitter: ``[brightness, contrast, saturation, hue]``, the form of self-supervised learning, applied with
            `jitter_probability`; None for none. The first three are strengths as above, each 0 or more, the fourth is
            the largest turn of the hue, 0 to 0.5. MoCo v2: ``[0.4, 0.4, 0.4, 0.1]``; SimCLR: ``[0.8, 0.8, 0.8, 0.2]``;
            BYOL: ``[0.4, 0.4, 0.2, 0.1]``.
        jitter_probability: Probability of `jitter`; 0.8 in all three.
        grayscale: Probability of a grey picture; 0.2 in all three.
        blur: Probability of a Gaussian blur; 0.5 in MoCo v2 and SimCLR.
        blur_sigma: Standard deviation of the blur, lowest and highest, in pixels of the rendered view. The papers'
            0.1 to 2 are of 224 pixels; on small images it is a stronger blur.
        solarize: Probability that values of 128 and more are inverted.
        second_view: What is otherwise in the second of two views; None for nothing.
        small_scale: As `scale`, for the small views of multi-crop.
        degrees: Largest turn of ``affine``, either way.
        translate: Largest move of ``affine`` as a share of the side, either way.
        zoom: Scale factor of ``affine``, lowest and highest.
        interpolation: ``bilinear`` or ``bicubic``, always antialiased (``affine`` turns bilinearly).
    """

    resize: int | None = None
    train: Recipe = "random-resized-crop"
    padding: int = 0
    padding_mode: PaddingMode = "reflect"
    scale: list[float] = field(default_factory=lambda: [0.08, 1.0])
    ratio: list[float] = field(default_factory=lambda: [3 / 4, 4 / 3])
    flip: float = 0.5
    color_jitter: float = 0.0
    jitter: list[float] | None = None
    jitter_probability: float = 0.8
    grayscale: float = 0.0
    blur: float = 0.0
    blur_sigma: list[float] = field(default_factory=lambda: [0.1, 2.0])
    solarize: float = 0.0
    second_view: SecondView | None = None
    small_scale: list[float] = field(default_factory=lambda: [0.05, 0.14])
    degrees: float = 10.0
    translate: float = 0.1
    zoom: list[float] = field(default_factory=lambda: [0.9, 1.1])
    interpolation: Interpolation = "bilinear"


def check(settings: Transform) -> None:
    """Refuse settings that are out of range or contradict one another.

    Raises:
        InputError: Names the first.
    """
    one_of("train", settings.train, get_args(Recipe))
    one_of("padding_mode", settings.padding_mode, get_args(PaddingMode))
    if settings.padding < 0:
        raise InputError(f"transform.padding: expected a number of pixels, 0 or more, got {settings.padding}")
    if settings.padding and settings.train != "random-crop":
        raise InputError(
            f"transform.padding={settings.padding}: only train=random-crop pads, this one is {settings.train!r}; set "
            "it to 0, or transform.train=random-crop"
        )
    one_of("interpolation", settings.interpolation, get_args(Interpolation))
    for name, upper in (("scale", 1.0), ("small_scale", 1.0), ("ratio", float("inf")), ("zoom", float("inf"))):
        pair = getattr(settings, name)
        if len(pair) != 2 or not 0 < pair[0] <= pair[1] <= upper:
            raise InputError(f"transform.{name}: expected [low, high] with 0 < low <= high <= {upper:g}, got {pair}")
    if not within(settings.blur_sigma):
        raise InputError(f"transform.blur_sigma: expected [low, high] with 0 < low <= high, got {settings.blur_sigma}")
    probabilities = ("flip", "jitter_probability", "grayscale", "blur", "solarize")
    for name, upper in (*((name, 1.0) for name in probabilities), ("color_jitter", 1.0), ("translate", 1.0)):
        _between(f"transform.{name}", getattr(settings, name), upper)
    _between("transform.degrees", settings.degrees, 180.0)
    if settings.second_view is not None:
        for name in ("blur", "solarize"):
            value = getattr(settings.second_view, name)
            if value is not None:
                _between(f"transform.second_view.{name}", value, 1.0)
    if settings.jitter is not None:
        _check_jitter(settings.jitter, settings.color_jitter)


def _check_jitter(jitter: list[float], color_jitter: float) -> None:
    finite = len(jitter) == 4 and all(0 <= value < float("inf") for value in jitter)
    if not finite or jitter[3] > 0.5:
        raise InputError(
            "transform.jitter: expected [brightness, contrast, saturation, hue], each 0 or more and hue at most 0.5, "
            f"got {jitter}"
        )
    if color_jitter > 0:
        raise InputError(
            "transform.jitter and transform.color_jitter are two forms of one change; set one of them to null or 0"
        )


def _between(name: str, value: float, upper: float) -> None:
    if not 0 <= value <= upper:
        raise InputError(f"{name}: expected a number from 0 to {upper:g}, got {value}")


def one_of(name: str, value: str, options: tuple[str, ...]) -> None:
    """Refuse a value that is none of `options`.

    Raises:
        InputError: Names the setting and the near values.
    """
    if value not in options:
        raise InputError(f"transform.{name}: {value!r} is none of its values.{did_you_mean(value, options)}")
