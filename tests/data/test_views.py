"""Views: old pipelines to the byte, new operations against second implementations, one crop at several sizes."""

from __future__ import annotations

import colorsys
import math
import pickle

import pytest
import torch
from torch import nn
from torchvision.transforms import v2

from metrixkit.data.photometric import Photometric, gaussian_blur, turn_hue
from metrixkit.data.transforms import LimitAspect, SecondView, Transform, eval_transform, train_transform
from metrixkit.data.views import TrainViews
from metrixkit.errors import InputError
from metrixkit.schema import check_value, instantiate

MOCO = {"scale": [0.2, 1.0], "jitter": [0.4, 0.4, 0.4, 0.1], "grayscale": 0.2, "blur": 0.5}


def noise(height=90, width=130, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


def smooth(side=96, seed=0):
    """A picture with structure at large scales only, so that renderings of one part resemble one another."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 7, 7, generator=generator) * 255
    return nn.functional.interpolate(coarse, side, mode="bicubic").clamp(0, 255).to(torch.uint8)[0]


def seeded(seed, function, image):
    torch.manual_seed(seed)
    return function(image)


def former(settings, size):
    """The augmentation as it was before self-supervised recipes came: torchvision's classes, one after another."""
    crop = v2.RandomResizedCrop(size, tuple(settings.scale), tuple(settings.ratio), antialias=True)
    resized = [LimitAspect(), v2.Resize(round(size * 256 / 224), antialias=True)]
    steps = {
        "random-resized-crop": [crop],
        "random-crop": [*resized, v2.RandomCrop(size)],
        "none": [eval_transform(settings, size)],
        "affine": [
            eval_transform(settings, size),
            v2.Pad(size // 2, padding_mode="edge"),
            v2.RandomAffine(
                10.0, translate=(0.05, 0.05), scale=(0.9, 1.1), interpolation=v2.InterpolationMode.BILINEAR
            ),
            v2.CenterCrop(size),
        ],
    }[settings.train]
    if settings.flip:
        steps = [*steps, v2.RandomHorizontalFlip(settings.flip)]
    j = settings.color_jitter
    return nn.Sequential(*steps, *([v2.ColorJitter(j, j, j, j / 4)] if j else []))


@pytest.mark.parametrize("train", ["random-resized-crop", "random-crop", "affine", "none"])
@pytest.mark.parametrize("color_jitter", [0.0, 0.3])
@pytest.mark.parametrize("flip", [0.0, 0.3])
def test_former_pipelines_are_the_same_to_the_byte(train, color_jitter, flip):
    settings = Transform(train=train, color_jitter=color_jitter, flip=flip)
    expected, found, one = former(settings, 40), train_transform(settings, 40), TrainViews(settings, 40)
    for seed in range(8):
        image = noise(50 + 7 * seed, 64, seed)
        before = seeded(seed, expected, image)
        state = torch.get_rng_state()
        assert torch.equal(seeded(seed, found, image), before)
        assert torch.equal(torch.get_rng_state(), state)  # not a draw more or less
        views = seeded(seed, one, image)
        assert len(views) == 1
        assert torch.equal(views[0], before)


def test_one_view_is_the_training_transform_with_everything_on():
    settings = Transform(**MOCO, solarize=0.3)
    one, plain = TrainViews(settings, 32), train_transform(settings, 32)
    assert all(torch.equal(seeded(s, one, noise())[0], seeded(s, plain, noise())) for s in range(20))


def test_hue_is_that_of_colorsys():
    pixels = torch.tensor([[r, g, b] for r in (0, 90, 200, 255) for g in (0, 90, 201, 255) for b in (0, 17, 90, 255)])
    image = pixels.double().T.reshape(3, 8, 8)
    for turn in (-0.5, -0.13, 0.0, 0.2, 0.5):
        found = turn_hue(image, turn).reshape(3, -1).T
        for pixel, changed in zip(pixels.tolist(), found.tolist(), strict=True):
            h, s, v = colorsys.rgb_to_hsv(*(value / 255 for value in pixel))
            expected = [255 * value for value in colorsys.hsv_to_rgb((h + turn) % 1.0, s, v)]
            assert changed == pytest.approx(expected, abs=1e-4)


def test_blur_is_a_gaussian_over_the_pixels_there_are():
    image = torch.rand(2, 9, 6, dtype=torch.float64) * 255
    for sigma in (0.1, 0.7, 2.0):
        found = gaussian_blur(image, sigma)
        for y, x in ((0, 0), (4, 3), (8, 5), (2, 0)):
            weights = torch.tensor(
                [[math.exp(-((a - y) ** 2 + (b - x) ** 2) / (2 * sigma**2)) for b in range(6)] for a in range(9)],
                dtype=torch.float64,
            )
            expected = (image * weights).sum((1, 2)) / weights.sum()
            assert torch.allclose(found[:, y, x], expected, atol=0.02)
    flat = torch.full((3, 40, 40), 255.0)
    assert torch.equal((gaussian_blur(flat, 1.3) + 0.5).to(torch.uint8), flat.to(torch.uint8))


@pytest.mark.parametrize(
    ("strengths", "draws", "expected"),
    [
        ([0.4, 0, 0, 0], [0.9, 0, 0, 0], lambda x: v2.functional.adjust_brightness(x, 0.6 + 0.8 * 0.9)),
        ([0, 0.8, 0, 0], [0, 0.1, 0, 0], lambda x: v2.functional.adjust_contrast(x, 0.2 + 1.6 * 0.1)),
        ([0, 0, 2.0, 0], [0, 0, 0.7, 0], lambda x: v2.functional.adjust_saturation(x, 3.0 * 0.7)),
        ([0, 0, 0, 0.2], [0, 0, 0, 0.8], lambda x: v2.functional.adjust_hue(x, 0.2 * 0.6)),
    ],
)
def test_each_jitter_is_torchvisions(monkeypatch, strengths, draws, expected):
    fixed = torch.tensor([0.0, 1, 1, 1, 0, *draws, 0.1, 0.2, 0.3, 0.4])
    monkeypatch.setattr(torch, "rand", lambda count: fixed[:count])
    image = noise(20, 30)
    found = Photometric(strengths, 1.0)(image)
    difference = (found.int() - expected(image).int()).abs()
    assert difference.max() <= 2
    assert difference.float().mean() < 1


def test_grey_and_solarised():
    image = noise(20, 30)
    grey = Photometric(grayscale=1.0)(image)
    expected = v2.functional.rgb_to_grayscale(image, 3)
    assert torch.equal(grey[0], grey[1])
    assert (grey.int() - expected.int()).abs().max() <= 1
    assert torch.equal(Photometric(solarize=1.0)(image), v2.functional.solarize(image, 128))


@pytest.mark.parametrize("order", [(0.1, 0.2), (0.2, 0.1)])
def test_the_last_four_draws_order_the_jitter(monkeypatch, order):
    fixed = torch.tensor([0.0, 1, 1, 1, 0, 0.9, 0.8, 0.5, 0.5, *order, 0.3, 0.4])
    monkeypatch.setattr(torch, "rand", lambda count: fixed[:count])
    expected = image = noise(20, 30)
    for _, step in sorted(zip(order, ("brightness", "contrast"), strict=True)):
        factor = 0.2 + 1.6 * {"brightness": 0.9, "contrast": 0.8}[step]
        expected = getattr(v2.functional, f"adjust_{step}")(expected, factor)
    found = Photometric([0.8, 0.8, 0.0, 0.0], 1.0)(image)
    assert (found.int() - expected.int()).abs().max() <= 3


@pytest.mark.parametrize("name", ["jitter_probability", "grayscale", "blur", "solarize"])
def test_how_often_a_step_happens(name):
    options = {"jitter": [0.9, 0, 0, 0]} if name == "jitter_probability" else {}
    step = Photometric(**options, **{name: 0.3}, blur_sigma=(1.0, 2.0))
    image = noise(6, 6)
    torch.manual_seed(1)
    changed = sum(not torch.equal(step(image), image) for _ in range(2000))
    assert 520 < changed < 680  # 600, standard deviation 20


def test_order_and_sizes_of_the_views():
    views = TrainViews(Transform(**MOCO), 48, views=2, resolutions=(48, 32), small_views=3, small_size=16)
    assert views.sizes == (48, 32, 48, 32, 16, 16, 16)
    found = seeded(0, views, noise())
    assert [tuple(v.shape) for v in found] == [(3, s, s) for s in views.sizes]
    assert all(v.dtype == torch.uint8 for v in found)
    large = seeded(0, views.large, noise())
    assert len(large) == 4
    assert all(map(torch.equal, large, found))
    assert TrainViews(Transform(), 224, small_views=1).sizes == (224, 96)
    assert TrainViews(Transform(), 96, small_views=1).sizes == (96, 41)
    assert all(map(torch.equal, seeded(3, pickle.loads(pickle.dumps(views)), noise()), seeded(3, views, noise())))


def correlation(a, b):
    """How alike two renderings are, at the size of the smaller one."""
    a, b = sorted((a.float()[None], b.float()[None]), key=lambda x: x.shape[-1])
    b = nn.functional.interpolate(b, a.shape[-1], mode="bilinear", antialias=True)
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


@pytest.mark.parametrize("train", ["random-resized-crop", "random-crop", "affine"])
def test_a_view_shows_one_part_at_every_resolution(train):
    settings = Transform(train=train, scale=[0.08, 0.3], degrees=60, translate=0.5, resize=140, flip=0.5)
    views = TrainViews(settings, 64, views=2, resolutions=(64, 40, 24))
    within, across = [], []
    for seed in range(8):
        a, b, c, d, e, f = seeded(seed, views, smooth(seed=seed))
        within += [correlation(a, b), correlation(a, c), correlation(d, e), correlation(d, f)]
        across += [correlation(a, d), correlation(b, f)]
    assert min(within) > 0.98
    assert sorted(across)[len(across) // 2] < 0.9


def test_equal_resolutions_differ_by_their_colours_only():
    plain = seeded(0, TrainViews(Transform(), 32, resolutions=(32, 32)), noise())
    assert torch.equal(*plain)
    settings = Transform(jitter=[0.4, 0, 0, 0], jitter_probability=1)
    coloured = seeded(0, TrainViews(settings, 32, resolutions=(32, 32)), smooth())
    assert not torch.equal(*coloured)
    assert correlation(*coloured) > 0.95


def test_small_renderings_are_cut_from_the_image_itself():
    image = noise(64, 64)
    settings = Transform(scale=[1.0, 1.0], ratio=[1.0, 1.0], flip=0)
    found = TrainViews(settings, 64, resolutions=(64, 20))(image)
    assert torch.equal(found[0], image)
    assert torch.equal(found[1], v2.functional.resize(image, [20, 20], antialias=True))


def test_small_views_show_small_parts():
    ramp = torch.arange(128, dtype=torch.uint8).expand(3, 128, 128).contiguous()
    settings = Transform(train="none", resize=128, flip=0, small_scale=[0.05, 0.14], ratio=[1.0, 1.0])
    views = TrainViews(settings, 128, small_views=20, small_size=54)
    large, *small = seeded(0, views, ramp)
    assert torch.equal(large, ramp)
    widths = [float(v[0, 0, -1]) - float(v[0, 0, 0]) for v in small]
    assert min(widths) >= 25
    assert max(widths) <= 49
    assert len({float(v[0, 0, 0]) for v in small}) > 10


def test_the_second_view_of_byol():
    settings = Transform(train="none", resize=32, flip=0, second_view=SecondView(solarize=1.0))
    image = noise(32, 32)
    first, second, third, fourth = TrainViews(settings, 32, views=4)(image)
    inverted = v2.functional.solarize(image, 128)
    assert torch.equal(first, image)
    assert torch.equal(third, image)
    assert torch.equal(second, inverted)
    assert torch.equal(fourth, inverted)
    settings.second_view = SecondView(blur=1.0)
    first, second = TrainViews(settings, 32, views=2)(image)
    assert torch.equal(first, image)
    assert second.float().std() < image.float().std()


def test_settings_pass_through_a_config():
    node = {"jitter": [0.4, 0.4, 0.2, 0.1], "second_view": {"solarize": 0.2}, "blur": 1}
    settings = instantiate(check_value(node, Transform, "transform"), Transform)
    assert settings == Transform(jitter=[0.4, 0.4, 0.2, 0.1], second_view=SecondView(solarize=0.2), blur=1.0)
    assert instantiate(check_value({}, Transform, "transform"), Transform) == Transform()
    with pytest.raises(InputError, match="transform.second_view.solarise"):
        check_value({"second_view": {"solarise": 0.2}}, Transform, "transform")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": 0}, "views: expected 1 or more, got 0"),
        ({"small_views": -1}, "small views: expected 0 or more"),
        ({"resolutions": (48, 33)}, "resolutions: 48 pixels, expected 1 to 40.*model.image_size=48"),
        ({"resolutions": (0,)}, "resolutions: 0 pixels"),
        ({"small_size": 41}, "small size: 41 pixels"),
        ({"image_size": 0}, "expected"),
    ],
)
def test_views_out_of_range(options, message):
    with pytest.raises(InputError, match=message):
        TrainViews(Transform(), **{"image_size": 40, **options})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"jitter": [0.4, 0.4, 0.4]}, "transform.jitter: expected .brightness"),
        ({"jitter": [0.4, 0.4, 0.4, 0.6]}, "hue at most 0.5"),
        ({"jitter": [0.4, -0.1, 0.4, 0.1]}, "transform.jitter"),
        ({"jitter": [0.4, 0.4, 0.4, 0.1], "color_jitter": 0.2}, "two forms of one change"),
        ({"jitter_probability": 1.1}, "transform.jitter_probability"),
        ({"grayscale": -0.1}, "transform.grayscale"),
        ({"blur": 2}, "transform.blur: expected a number from 0 to 1"),
        ({"blur_sigma": [0.0, 2.0]}, "transform.blur_sigma"),
        ({"blur_sigma": [2.0, 1.0]}, "transform.blur_sigma"),
        ({"blur_sigma": [1.0, float("inf")]}, "transform.blur_sigma"),
        ({"solarize": float("nan")}, "transform.solarize"),
        ({"small_scale": [0.1]}, "transform.small_scale"),
        ({"second_view": SecondView(blur=-1.0)}, "transform.second_view.blur"),
    ],
)
def test_settings_of_colour_out_of_range(settings, message):
    for make in (train_transform, TrainViews):
        with pytest.raises(InputError, match=message):
            make(Transform(**settings), 32)
