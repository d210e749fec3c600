"""``metrixkit mix``: what is mixed with what, what is measured, and each fault with its remedy."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from metrixkit import mix
from metrixkit.__main__ import VERBS
from metrixkit.data.transforms import Transform, eval_transform_config
from metrixkit.errors import InputError
from metrixkit.mixing.images import IMAGE_MIXERS, gradient_saliency
from metrixkit.mixing.mixer import Mixer, adjust_mask, load_mixer, save_mixer
from metrixkit.models import ImageEncoder, save_model
from metrixkit.models.classifier import Classifier, save_classifier
from metrixkit.report.mix_sheet import heat
from metrixkit.sheets import (
    Mixers,
    Pairs,
    RunModels,
    blocks,
    choose_pairs,
    load_run,
    mask_statistics,
    mixed_accuracy,
    read_pairs,
    ring_pairs,
    slopes,
)
from metrixkit.sheets.models import saliency

Door = Callable[..., str]
CLASSES = ["ant", "bee", "cat", "dog"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of three noisy pictures, none of them square."""
    root = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for name in CLASSES:
        (root / name).mkdir()
        colour = draw.integers(0, 255, 3)
        for i in range(3):
            pixels = np.clip(colour + draw.integers(-60, 60, (40, 56 + 8 * i, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 32 pixels with a Mixer on its second stage and a classifier."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    encoder = ImageEncoder("small", dim=None, normalize=False, pooling="avg", image_size=32)
    save_model(encoder, folder / "model", eval_transform_config(Transform(), 32))
    channels = encoder.features(torch.zeros(1, 3, 32, 32), 1).shape[1]
    mixer = Mixer(channels)
    with torch.no_grad():  # masks that are not flat, and follow lambda
        mixer.content[0].weight.mul_(200)
        mixer.content[3].weight.mul_(200)
        mixer.raw_gamma.fill_(0.7)
    save_mixer(mixer, folder / "model", 1, {"note": "kept"})
    save_classifier(Classifier(encoder, torch.nn.Linear(encoder.embedding_dim, 4)), CLASSES, folder / "model")
    return folder


@pytest.fixture
def door(capsys: pytest.CaptureFixture[str]) -> Door:
    def call(*words: str | Path, status: int = 0) -> str:
        capsys.readouterr()
        found = mix.main([str(word) for word in words])
        told = capsys.readouterr()
        assert found == status, told.out + told.err
        assert "Traceback" not in told.err
        return told.out if status == 0 else told.err

    return call


def some_pairs(count: int = 3, side: int = 32, seed: int = 0) -> Pairs:
    images = torch.rand(2, count, 3, side, side, generator=torch.Generator().manual_seed(seed))
    names = [(CLASSES[i % 4], CLASSES[(i + 1) % 4]) for i in range(count)]
    return Pairs(images[0], images[1], names)


def listed(labels: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"path": [f"{i}.png" for i in range(len(labels))], "label": labels})


# --- pairs


def test_files_are_paired_in_their_order_and_folders_by_seed_across_labels():
    items = listed(list("aaaabb"))
    assert choose_pairs(items, 3, None) == [(0, 1), (2, 3), (4, 5)]
    drawn = choose_pairs(items, 3, 7)
    assert sorted(row for pair in drawn for row in pair) == list(range(6))
    assert drawn == choose_pairs(items, 3, 7)
    assert any(choose_pairs(items, 1, seed) != choose_pairs(items, 1, 0) for seed in range(1, 5))
    labels = items["label"].tolist()
    assert sum(labels[a] != labels[b] for a, b in drawn) == 2  # as many as there are b
    assert all(labels[a] != labels[b] for a, b in choose_pairs(items, 2, 1))


def test_a_ring_takes_every_image_once_on_each_side():
    items = listed(list("abcdefgh"))
    rows = ring_pairs(items, 99, 0)
    assert sorted(a for a, _ in rows) == sorted(b for _, b in rows) == list(range(8))
    assert all(a != b for a, b in rows)
    assert ring_pairs(items, 3, 0) == rows[:3] != ring_pairs(items, 3, 1)
    mostly = listed(list("aaaaaabb"))
    for a, b in ring_pairs(mostly, 99, 0, different=True):
        assert mostly["label"][a] != mostly["label"][b]
    with pytest.raises(InputError, match="label 'a'"):
        ring_pairs(listed(list("aaa")), 9, 0, different=True)


def test_pairs_are_read_as_the_transform_makes_them(photos):
    items = pd.DataFrame({"path": sorted(map(str, photos.glob("*/*.png"))), "label": np.repeat(CLASSES, 3)})
    seen = []

    def transform(image):
        seen.append(tuple(image.shape))
        return image[:, :32, :32]

    pairs = read_pairs(items, [(0, 5), (5, 0)], transform)
    assert seen == [(3, 40, 56), (3, 40, 72)]  # each once
    assert torch.equal(pairs.first[0], pairs.second[1])
    with Image.open(items["path"][0]) as picture:
        expected = np.asarray(picture)[:32, :32].transpose(2, 0, 1) / 255
    np.testing.assert_allclose(pairs.first[0].numpy(), expected, atol=1e-6)
    assert pairs.labels == [("ant", "bee"), ("bee", "ant")]


# --- mixers


@pytest.mark.parametrize("name", sorted(IMAGE_MIXERS))
@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_every_mixer_is_told_by_its_mask_and_draws_alike_for_all_lambdas(name, lam):
    pairs, mixers = some_pairs(), Mixers((name,))
    mixed = mixers.mix(name, pairs, lam, seed=3)
    assert torch.equal(mixed.images, mixers.mix(name, pairs, lam, seed=3).images)
    (block, *_), (one,) = blocks(mixers, pairs, [lam], seed=3), [mixed]
    mask = block.rows[0].cells[0].mask
    assert block.labels == ("ant", "bee")
    if name not in ("puzzlemix", "resizemix"):  # they move the pixels
        expected = mask * pairs.first[0].numpy() + (1 - mask) * pairs.second[0].numpy()
        np.testing.assert_allclose(one.images[0].numpy(), expected, atol=1e-6)
        np.testing.assert_array_equal(
            block.rows[0].cells[0].image, np.round(255 * one.images[0].numpy()).transpose(1, 2, 0).astype(np.uint8)
        )
    lines = block.rows[0].cells[0].lines
    assert lines[0] == f"λ {lam:.2f}"
    assert lines[1] == f"label {float(mixed.lam[0]):.2f}"
    assert abs(float(lines[2].removeprefix("mask ")) - mask.mean()) <= 0.005 + 1e-9
    if name != "fmix":
        assert abs(mask.mean() - float(mixed.lam[0])) < 1e-5


def test_boxes_stay_where_they_are_while_lambda_changes():
    mixers, pairs = Mixers(("cutmix", "fmix")), some_pairs(2, 64)
    for name in mixers.names:
        small, large = (mixers.mix(name, pairs, lam, seed=1).mask for lam in (0.7, 0.4))
        assert (large <= small).all()  # what the partner has it keeps
        assert not torch.equal(mixers.mix(name, pairs, 0.4, seed=2).mask, large)


def test_names_are_looked_up_and_near_ones_told(run):
    assert Mixers.named("all").names == tuple(IMAGE_MIXERS)
    assert Mixers.named("mixup, cutmix,mixup").names == ("mixup", "cutmix")
    learned = load_run(run)
    assert Mixers.named("all", learned).names == ("samix", *IMAGE_MIXERS)
    assert Mixers.named("samix-adjusted", learned).names == ("samix-adjusted",)
    own = Mixers.named("metrixkit.mixing.images.mixup:mixup")
    assert torch.allclose(own.mix(own.names[0], some_pairs(), 0.3, 0).lam, torch.tensor(0.3))
    for text, message in (
        ("mixupp", "Did you mean 'mixup'"),
        (" , ", "names no mixer"),
        ("manifoldmix", "nothing to draw"),
        ("samix", "give it with --run"),
    ):
        with pytest.raises(InputError, match=message):
            Mixers.named(text)


def test_the_learned_mixer_sees_the_stage_it_was_made_for(run):
    models, pairs = load_run(run), some_pairs(3, 64)
    encoder, mixer = models.encoder, models.mixer
    assert models.stage == 1
    mixers = Mixers(("samix", "samix-adjusted"), models)
    small = [
        torch.nn.functional.interpolate(x, (32, 32), mode="bilinear", antialias=True)
        for x in (pairs.first, pairs.second)
    ]
    with torch.no_grad():
        expected = mixer(*(encoder.features(x, 1) for x in small), 0.3, (64, 64)).first
    mixed = mixers.mix("samix", pairs, 0.3, 0)
    torch.testing.assert_close(mixed.mask, expected)
    assert mixed.mask.std() > 0.005
    torch.testing.assert_close(mixed.images, expected * pairs.first + (1 - expected) * pairs.second)
    assert torch.allclose(mixed.lam, torch.tensor(0.3))
    adjusted = mixers.mix("samix-adjusted", pairs, 0.3, 0)
    torch.testing.assert_close(adjusted.mask, adjust_mask(expected, 0.3))
    torch.testing.assert_close(adjusted.mask.mean((1, 2, 3)), torch.full((3,), 0.3))


def test_a_saved_mixer_comes_back_and_a_broken_one_does_not(run, tmp_path):
    state = torch.random.get_rng_state()
    found = load_mixer(run / "model")
    assert torch.equal(state, torch.random.get_rng_state())
    assert found.stage == 1
    assert found.extra == {"note": "kept"}
    assert not found.mixer.training
    torch.manual_seed(1)
    for preset in ("automix", "paper", "official"):
        made = Mixer(8, preset, attention_limit=2**20).eval()
        save_mixer(made, tmp_path / preset, None)
        z = torch.rand(2, 2, 8, 4, 4)
        again = load_mixer(tmp_path / preset).mixer
        assert again.settings == made.settings
        torch.testing.assert_close(again(z[0], z[1], 0.4, 2).first, made(z[0], z[1], 0.4, 2).first)
    with pytest.raises(InputError, match="holds no Mixer"):
        load_mixer(tmp_path)
    settings = tmp_path / "paper" / "mixer.json"
    told = json.loads(settings.read_text())
    settings.write_text(json.dumps({**told, "format": 99}))
    with pytest.raises(InputError, match="format 1"):
        load_mixer(settings.parent)
    settings.write_text(json.dumps({**told, "channels": 16}))
    with pytest.raises(InputError, match="cannot be built again"):
        load_mixer(settings.parent)
    settings.write_text("{")
    with pytest.raises(InputError, match="no JSON"):
        load_mixer(settings.parent)
    settings.write_text(json.dumps(told))
    (settings.parent / "mixer.safetensors").write_bytes(b"cut off")
    with pytest.raises(InputError, match="not the file"):
        load_mixer(settings.parent)


def test_saliency_is_the_gradient_of_what_it_says(run):
    models, images = load_run(run), some_pairs(2).first
    for classifier in (models.classifier, None):
        with_or_without = RunModels(models.where, models.encoder, models.transform, classifier=classifier)
        seen = images.clone().requires_grad_()
        if classifier is not None:
            logits = classifier(seen)
            (logits.logsumexp(1) - logits.amax(1)).sum().backward()
        else:
            (models.encoder.features(seen) ** 2).sum().backward()
        torch.testing.assert_close(saliency(images, with_or_without), gradient_saliency(seen.grad))
        assert models.encoder.trunk.training is False
    larger = saliency(torch.rand(1, 3, 48, 48), models)
    assert larger.shape == (1, 48, 48)
    notes = {Mixers(("puzzlemix",), m).note("puzzlemix") for m in (None, models, with_or_without)}
    assert len(notes) == 3


# --- measurements


def test_mask_statistics_and_slopes_are_those_of_plain_loops():
    pairs, mixers = some_pairs(6), Mixers(("mixup", "cutmix", "puzzlemix"))
    lambdas = [0.0, 0.4, 1.0]
    found = mask_statistics(mixers, pairs, lambdas, seed=5)
    for row in found.to_dict("records"):
        means, deviations, binary, labels = [], [], 0, []
        for number, start in enumerate((0, 4)):
            part = Pairs(
                pairs.first[start : start + 4], pairs.second[start : start + 4], pairs.labels[start : start + 4]
            )
            mixed = mixers.mix(row["mixer"], part, row["lambda"], 5 + number)
            for i in range(len(part)):
                mask = [float(mixed.lam[i])] * 1024 if mixed.mask is None else mixed.mask[i].flatten().tolist()
                mean = sum(mask) / 1024
                means.append(mean)
                deviations.append(math.sqrt(sum((m - mean) ** 2 for m in mask) / 1024))
                binary += sum(m <= 0.1 or m >= 0.9 for m in mask)
                labels.append(float(mixed.lam[i]))
        middle = sum(means) / 6
        assert row["pairs"] == 6
        assert row["mask_mean"] == pytest.approx(middle, abs=1e-6)
        assert row["mask_mean_deviation"] == pytest.approx(
            math.sqrt(sum((m - middle) ** 2 for m in means) / 6), abs=1e-6
        )
        assert row["pixel_deviation"] == pytest.approx(sum(deviations) / 6, abs=1e-6)
        assert row["nearly_binary"] == pytest.approx(binary / 6 / 1024)
        assert row["label_share"] == pytest.approx(sum(labels) / 6, abs=1e-6)
    fitted = slopes(found).set_index("mixer")
    assert fitted.loc["mixup", "slope"] == pytest.approx(1, abs=1e-6)  # no mask: an even one of lambda
    assert fitted.loc["mixup", "intercept"] == pytest.approx(0, abs=1e-6)
    y = found[found["mixer"] == "cutmix"]["mask_mean"].to_numpy()
    x = np.array(lambdas)
    slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    assert fitted.loc["cutmix", "slope"] == pytest.approx(slope)
    assert 0.2 < slope < 0.9
    with pytest.raises(InputError, match="two lambdas"):
        slopes(mask_statistics(Mixers(("mixup",)), pairs, [0.5]))


def test_mixed_accuracy_counts_ranks_and_ties_against_the_classifier():
    pairs = some_pairs(70, 8)  # more than a batch
    draw = torch.Generator().manual_seed(1)
    table = torch.randint(0, 4, (70, 5), generator=draw).double()  # many ties
    classes = [*CLASSES, "eel"]
    start = 0

    def logits(images):
        nonlocal start
        rows = table[start : start + len(images)]
        start = (start + len(images)) % 70
        return rows

    found = mixed_accuracy(logits, classes, Mixers(("mixup", "cutmix")), pairs, [0.5])
    one = two = 0
    for row, (a, b) in zip(table.tolist(), pairs.labels, strict=True):
        mine = [row[classes.index(a)], row[classes.index(b)]]
        others = [value for value, name in zip(row, classes, strict=True) if name not in (a, b)]
        one += max(mine) > max(others)
        two += min(mine) > max(others)
    assert 0 < two < one < 70
    for row in found.to_dict("records"):
        assert row["top1"] == pytest.approx(one / 70)
        assert row["top2"] == pytest.approx(two / 70)
    flat = mixed_accuracy(lambda images: torch.zeros(len(images), 5), classes, Mixers(("mixup",)), pairs, [0.5])
    assert flat["top1"].tolist() == flat["top2"].tolist() == [0]


def test_mixed_accuracy_refuses_what_it_cannot_count():
    pairs, mixers = some_pairs(4, 8), Mixers(("mixup",))

    def logits(images):
        return torch.zeros(len(images), 4)

    with pytest.raises(InputError, match="'bee' is none of the classifier's 3 classes"):
        mixed_accuracy(lambda i: logits(i)[:, :3], ["ant", "beetle", "cat"], mixers, pairs, [0.5])
    with pytest.raises(InputError, match="at least 3"):
        mixed_accuracy(logits, ["ant", "bee"], mixers, pairs, [0.5])
    with pytest.raises(InputError, match="shape"):
        mixed_accuracy(logits, [*CLASSES, "eel"], mixers, pairs, [0.5])
    with pytest.raises(InputError, match="NaN"):
        mixed_accuracy(lambda i: logits(i) * torch.nan, CLASSES, mixers, pairs, [0.5])
    with pytest.raises(InputError, match="one class"):
        mixed_accuracy(logits, CLASSES, mixers, Pairs(pairs.first[:1], pairs.second[:1], [("ant", "ant")]), [0.5])


# --- the door


def test_a_sheet_of_a_folder_and_a_curve_with_its_numbers(door, photos, tmp_path):
    assert "mix" in VERBS
    out, curve = tmp_path / "deep" / "sheet.png", tmp_path / "curve.png"
    told = door(
        photos,
        "--mixers",
        "mixup,cutmix",
        "--lambdas",
        "1,0,0.5",
        "--pairs",
        "2",
        "--out",
        out,
        "--curve",
        curve,
        "--measure",
        "5",
    )
    assert str(out) in told
    assert "mixup            slope 1.000" in told
    with Image.open(out) as picture:
        caption = picture.text["Description"]
    assert "2 pairs of 12 images drawn with seed 0" in caption
    numbers = pd.read_csv(curve.with_suffix(".csv"))
    assert numbers["lambda"].tolist() == [0, 0.5, 1] * 2
    assert set(numbers["pairs"]) == {5}
    assert numbers["slope"].iloc[0] == pytest.approx(1)
    with Image.open(curve) as picture:
        assert picture.text["Kind"] == "drawing"


def test_a_run_brings_its_mixer_its_views_and_its_classifier(door, photos, run, tmp_path):
    out, accuracy = tmp_path / "sheet.png", tmp_path / "accuracy.png"
    told = door(
        photos, "--run", run, "--mixers", "samix,puzzlemix", "--lambdas", "0.2,0.8", "--views", "content,attention",
        "--position", "0,1", "--out", out, "--accuracy", accuracy, "--measure", "6",
    )  # fmt: skip
    assert str(accuracy) in told
    with Image.open(out) as picture:
        caption = picture.text["Description"]
    assert "classifier's input gradient" in caption
    assert "attention: of the ringed place, to the content of the partner" in caption
    numbers = pd.read_csv(accuracy.with_suffix(".csv"))
    assert set(numbers["mixer"]) == {"samix", "puzzlemix"}
    assert ((numbers["top2"] <= numbers["top1"]) & (numbers["top1"] <= 1)).all()


def test_views_show_the_attention_of_the_place_asked_for(run):
    models, pairs = load_run(run), some_pairs(2)
    (block, _) = blocks(Mixers(("samix",), models), pairs, [0.5], 0, ["attention"], (0.0, 0.99))
    cell = block.rows[1].cells[0]
    masks = models.masks(pairs.first, pairs.second, 0.5)
    height, width = masks.content.shape[-2:]
    weights = masks.attention[0, width - 1]
    assert cell.mark == (0.5 / height, (width - 0.5) / width)
    np.testing.assert_array_equal(cell.image, heat(block.second, weights.numpy().reshape(height, width)))
    assert cell.lines[2] == f"{float(weights.max()) * height * width:.3g} × even"


def test_what_is_wrong_is_said_before_anything_is_drawn(door, photos, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "broken" / name).write_bytes(b"no image")
    bare = tmp_path / "bare"
    torch.manual_seed(0)
    encoder = ImageEncoder("small", dim=8)
    save_model(encoder, bare / "model", eval_transform_config(Transform(), encoder.image_size))
    one = next(photos.glob("*/*.png"))
    for words, message in (
        ([one], "1 pair needs at least 2 images, found 1"),
        ([one, "--curve", "c.png"], "2 images"),
        (["broken"], "broken"),
        (["empty"], "no images in empty"),
        (["nowhere"], "no file or folder"),
        ([], "no images: name files"),
        (["data=glyphs_video_text"], "holds no images but"),
        ([photos, "--mixers", "cutmx"], "Did you mean 'cutmix'"),
        ([photos, "--lambdas", "0,1.5"], "got 1.5"),
        ([photos, "--lambdas", "0,nan"], "got nan"),
        ([photos, "--lambdas", "0;1"], "expected numbers"),
        ([photos, "--lambdas", ","], "got none"),
        ([photos, "--pairs", "7"], "7 pairs need at least 14 images, found 12"),
        ([photos, "--pairs", "0"], "at least 2"),
        ([photos, "--measure", "0", "--curve", "c.png"], "0 pairs"),
        ([photos, "--size", "4"], "at least 16"),
        ([photos, "--size", "101", "--mixers", "puzzlemix"], "divides"),
        ([photos, "--out", "sheet.jpg"], "written as .png"),
        ([photos, "--curve", "c.png", "--lambdas", "0.5", "--out", "s.png"], "two lambdas"),
        ([photos, "--views", "content"], "give it with --run"),
        ([photos, "--views", "contents", "--run", run], "Did you mean 'content'"),
        ([photos, "--views", "content", "--run", bare], "holds none"),
        ([photos, "--mixers", "samix", "--run", bare], "holds none"),
        ([photos, "--views", "attention", "--run", run, "--position", "2,0"], "shares in"),
        ([photos, "--position", "1"], "row,column"),
        ([photos, "--accuracy", "a.png"], "method=classification"),
        ([photos, "--accuracy", "a.png", "--run", bare, "--out", "s.png"], "holds none"),
        ([photos, "--run", tmp_path / "empty"], "no model at"),
        (["--run", run], "no images"),
    ):
        told = door(*words, status=2)
        assert message in told, (words, told)
        assert not list(tmp_path.glob("*.png")), words


def test_images_of_any_shape_are_cut_to_their_middle_square(door, tmp_path):
    for name, size in (("wide.png", (400, 20)), ("high.png", (20, 90))):
        Image.effect_noise(size, 80).convert("RGB").save(tmp_path / name)
    out = tmp_path / "sheet.png"
    door(tmp_path / "wide.png", tmp_path / "high.png", "--size", "32", "--lambdas", "0.5", "--out", out)
    with Image.open(out) as picture:
        assert "in the order in which the files were given" in picture.text["Description"]


@pytest.mark.data
@pytest.mark.slow
def test_photographs(door, shared_data, tmp_path):
    birds = shared_data / "CUB_200_2011_first50" / "CUB_200_2011" / "images"
    told = door(birds, "--curve", tmp_path / "c.png", "--measure", "64", "--mixers", "mixup,cutmix,fmix")
    numbers = pd.read_csv(tmp_path / "c.csv").groupby("mixer")["slope"].first()
    assert numbers["mixup"] == pytest.approx(1)
    assert numbers["fmix"] == pytest.approx(1, abs=1e-3)
    assert numbers["cutmix"] < 0.7  # boxes are clipped at the border
    assert "curve" in told
