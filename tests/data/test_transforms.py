"""Sizes, recipes, randomness and the saved form of the transforms."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from metrixkit.config import load
from metrixkit.data.transforms import (
    Transform,
    eval_transform,
    eval_transform_config,
    eval_transform_from_config,
    train_transform,
)
from metrixkit.errors import InputError

RECIPES = ["random-resized-crop", "random-crop", "affine", "none"]


def picture(height=90, width=130, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


def drawn(transform, image, seed):
    torch.manual_seed(seed)
    return transform(image)


@pytest.mark.parametrize("train", RECIPES)
@pytest.mark.parametrize(("height", "width"), [(90, 130), (20, 31), (64, 64), (300, 2), (1, 1)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_any_image_becomes_uint8_of_one_size(train, height, width, interpolation):
    settings = Transform(train=train, interpolation=interpolation, color_jitter=0.4)
    for transform in (train_transform(settings, 64), eval_transform(settings, 64)):
        out = transform(picture(height, width))
        assert out.shape == (3, 64, 64)
        assert out.dtype == torch.uint8


@pytest.mark.parametrize("train", RECIPES[:3])
def test_training_draws_from_torchs_generator_and_nothing_else(train):
    transform = train_transform(Transform(train=train, color_jitter=0.3), 48)
    image = picture()
    assert torch.equal(drawn(transform, image, 5), drawn(transform, image, 5))
    assert len({drawn(transform, image, seed).sum().item() for seed in range(6)}) == 6


def test_the_papers_recipe():
    """Resize 256 and central crop 224; random resized crop 224 and mirroring."""
    image = picture(300, 400)
    expected = v2.functional.center_crop(v2.functional.resize(image, [256], antialias=True), [224, 224])
    assert torch.equal(eval_transform(Transform(), 224)(image), expected)
    paper = v2.Compose([v2.RandomResizedCrop(224, antialias=True), v2.RandomHorizontalFlip()])
    assert torch.equal(drawn(train_transform(Transform(), 224), image, 3), drawn(paper, image, 3))


def test_small_square_images_pass_untouched():
    image = picture(32, 32)
    settings = Transform(resize=32, train="none", flip=0.0)
    assert torch.equal(eval_transform(settings, 32)(image), image)
    assert torch.equal(train_transform(settings, 32)(image), image)


@pytest.mark.parametrize("value", [0, 255])
def test_affine_continues_the_ground(value):
    settings = Transform(train="affine", resize=32, degrees=30, translate=0.2, zoom=[0.7, 0.8], flip=0)
    image = torch.full((3, 32, 32), value, dtype=torch.uint8)
    image[:, 14:18, 14:18] = 255 - value
    out = drawn(train_transform(settings, 32), image, 0)
    assert not torch.equal(out, image)
    edge = torch.cat([out[:, 0], out[:, -1], out[:, :, 0], out[:, :, -1]])
    assert (edge == value).all()


def test_affine_moves_at_most_as_far_as_it_says():
    settings = Transform(train="affine", resize=40, degrees=0, translate=0.1, zoom=[1, 1], flip=0)
    image = torch.zeros(3, 40, 40, dtype=torch.uint8)
    image[:, 20, 20] = 255
    moves = [drawn(train_transform(settings, 40), image, s)[0].nonzero()[0] - 20 for s in range(60)]
    assert torch.stack(moves).abs().max() == 4


@pytest.mark.parametrize("mode", ["reflect", "symmetric", "edge", "constant"])
def test_a_padded_crop_is_one_of_the_padded_image(mode):
    settings = Transform(train="random-crop", resize=32, padding=4, padding_mode=mode, flip=0)
    image = picture(32, 32)
    padded = np.pad(image.numpy(), ((0, 0), (4, 4), (4, 4)), mode=mode)
    crops = {padded[:, y : y + 32, x : x + 32].tobytes(): (y, x) for y in range(9) for x in range(9)}
    transform = train_transform(settings, 32)
    places = [crops[drawn(transform, image, seed).numpy().tobytes()] for seed in range(150)]
    for axis in zip(*places, strict=True):
        assert set(axis) == set(range(9))


def test_the_padded_crop_of_cifar():
    """As the release of SAMix has it: 4 pixels, mirrored, a crop of 32 and a flip."""
    config = load(Path(__file__).parents[2] / "configs/cifar100_samix.yaml")["transform"]
    settings = Transform(**{key: config[key] for key in ("resize", "train", "padding", "padding_mode", "flip")})
    assert settings == Transform(resize=32, train="random-crop", padding=4, padding_mode="reflect", flip=0.5)
    published = v2.Compose([v2.RandomCrop(32, padding=4, padding_mode="reflect"), v2.RandomHorizontalFlip()])
    image = picture(32, 32)
    for seed in range(5):
        assert torch.equal(drawn(train_transform(settings, 32), image, seed), drawn(published, image, seed))


def test_flip_probability():
    image = picture(32, 32)
    settings = Transform(train="none", resize=32, flip=1.0)
    assert torch.equal(train_transform(settings, 32)(image), image.flip(-1))


def test_long_strips_stay_small():
    """Scaled whole, a strip of 2 x 200,000 would have six thousand million pixels; only its middle counts."""
    strip = torch.zeros(3, 2, 200_000, dtype=torch.uint8)
    strip[:, :, 99_990:100_010] = 200
    assert (eval_transform(Transform(), 224)(strip) == 200).all()


def test_strip_limit_does_not_change_what_the_crop_shows():
    image = picture(40, 400)
    plain = v2.functional.center_crop(v2.functional.resize(image, [48], antialias=True), [40, 40])
    assert torch.equal(eval_transform(Transform(resize=48), 40)(image), plain)


@pytest.mark.parametrize("settings", [Transform(), Transform(resize=70, interpolation="bicubic")])
def test_evaluation_survives_json(settings):
    config = json.loads(json.dumps(eval_transform_config(settings, 64)))
    image = picture(200, 150)
    assert torch.equal(eval_transform_from_config(config)(image), eval_transform(settings, 64)(image))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resise": 1}, "unknown key 'resise'. Did you mean 'resize'"),
        ({"version": 9}, "version 9"),
        ({"interpolation": "nearest"}, "'nearest'"),
        ({"resize": 5}, "below the image size"),
    ],
)
def test_saved_form_of_another_kind(change, message):
    with pytest.raises(InputError, match=message):
        eval_transform_from_config(eval_transform_config(Transform(), 64) | change)


def test_saved_form_with_a_gap():
    config = eval_transform_config(Transform(), 64)
    del config["resize"]
    with pytest.raises(InputError, match="'resize' is missing"):
        eval_transform_from_config(config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Transform(resize=200), "transform.resize: 200 is below the image size 224"),
        (Transform(train="random-crops"), "Did you mean 'random-crop'"),  # type: ignore[arg-type]
        (Transform(scale=[0.5, 0.1]), "transform.scale"),
        (Transform(scale=[0.5, 2.0]), "transform.scale"),
        (Transform(ratio=[1.0]), "transform.ratio"),
        (Transform(train="random-crop", padding=-1), "transform.padding: .*0 or more"),
        (Transform(train="random-crop", padding=256), "padding=256: an image of 256 pixels"),
        (Transform(padding=4), "only train=random-crop pads, this one is 'random-resized-crop'"),
        (Transform(padding_mode="reflection"), "Did you mean 'reflect'"),  # type: ignore[arg-type]
        (Transform(flip=1.5), "transform.flip"),
        (Transform(color_jitter=-1), "transform.color_jitter"),
        (Transform(interpolation="nearest"), "transform.interpolation"),  # type: ignore[arg-type]
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(InputError, match=message):
        train_transform(settings, 224)
