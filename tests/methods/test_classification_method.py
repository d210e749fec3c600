"""What a step of supervised classification does, clean and with every mixer, against the same step written out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from toy_tower import Toy, toy, views

from metrixkit.errors import InputError
from metrixkit.methods import LABEL_MIXERS, Classification
from metrixkit.methods.image_mixers import CutMix, ImageMixer, InterIntra, ManifoldMix, MixUp, Pairing, PuzzleMix
from metrixkit.mixing import draw_partners, draw_ratio
from metrixkit.mixing.images import MixedImages, cutmix
from metrixkit.models import ImageEncoder
from metrixkit.seam import Batch, Method

CLASSES, SIDE = 4, 16
NAMES = sorted(LABEL_MIXERS)


def encoder(**settings: Any) -> ImageEncoder:
    torch.manual_seed(0)
    return ImageEncoder("small", dim=None, normalize=False, pooling="avg", image_size=SIDE, **settings)


def made(mixer: ImageMixer | None = None, model: Any = None, **settings: Any) -> Classification:
    model = encoder() if model is None else model
    return Classification(model, CLASSES, mixer, **settings)


def data(count: int = 6, seed: int = 0, side: int = SIDE, labels: Tensor | None = None) -> Batch:
    found = torch.arange(count) % CLASSES if labels is None else labels
    return Batch(ids=[str(i) for i in range(count)], labels=found, views=views(count, 1, seed, side))


def step(method: Classification, batch: Batch) -> float:
    total: Tensor = method(batch).losses["total"]
    total.backward()
    with torch.no_grad():
        for p in method.parameters():
            assert p.grad is not None
            p.sub_(0.1 * p.grad)
            p.grad = None
    return float(total.detach())


class Spy(ImageMixer):
    """Notes what it is given and mixes pixels by the lambda it is told; labels may be told another."""

    told: float | None

    def __init__(self, lam: float | None = None, alpha: float = 1.0) -> None:
        self.lam, self.alpha, self.told = lam, alpha, None
        self.seen: list[Pairing] = []

    def mix(self, inputs: Tensor, pairing: Pairing) -> MixedImages:
        self.seen.append(pairing)
        lam = pairing.lam if self.lam is None else self.lam
        share = torch.as_tensor(lam, dtype=inputs.dtype).expand(len(inputs))
        rows = share[:, None, None, None]
        mixed = rows * inputs + (1 - rows) * inputs[pairing.partner]
        return MixedImages(mixed, share if self.told is None else torch.full_like(share, self.told), None)


@pytest.mark.sample(5)
@pytest.mark.parametrize("name", NAMES)
def test_every_mixer_trains_the_whole_model(name: str) -> None:
    method = made(LABEL_MIXERS[name](), encoder(), ratio_per="batch")
    assert isinstance(method, Method)
    groups = method.parameter_groups()
    trained = [id(p) for group in groups for p in group.params]
    assert sorted(trained) == sorted(id(p) for p in method.parameters() if p.requires_grad)
    assert groups[-1].name == "classifier"
    for number in range(3):
        output = method(data(seed=number))
        output.losses["total"].backward()
        logs = output.logs()
        assert 0 <= logs["lambda"] <= 1
        assert 0 <= logs["accuracy"] <= 1
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in method.parameters())


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("name", "ratio_per"), [*((name, "batch") for name in NAMES if name != "none"), ("cutmix", "sample")]
)
def test_resumed_is_uninterrupted(name: str, ratio_per: Any) -> None:
    straight = made(LABEL_MIXERS[name](), seed=3, ratio_per=ratio_per, probability=0.7)
    for number in range(2):
        step(straight, data(seed=number))
    resumed = made(LABEL_MIXERS[name](), seed=5, ratio_per=ratio_per, probability=0.7)
    resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
    for number in range(2, 4):
        assert step(straight, data(seed=number)) == step(resumed, data(seed=number))


def test_a_mixed_step_written_out() -> None:
    method = made(CutMix(alpha=0.5), toy().double(), seed=7).double()
    batch = Batch(ids=[], labels=torch.tensor([0, 1, 2, 3, 1]), views=views(5, 1))
    draw = torch.Generator().manual_seed(7)
    lam = float(draw_ratio(0.5, draw))
    partner = draw_partners(5, "permutation", draw)
    mixed = cutmix(batch.views[0].float() / 255, partner, lam, draw)
    logits = method.linear(method.model(mixed.images.double())).detach()
    assert batch.labels is not None
    expected = 0.0
    for i in range(5):
        share = float(mixed.lam[i])
        for label, weight in ((batch.labels[i], share), (batch.labels[partner[i]], 1 - share)):
            expected -= weight * float(logits[i, label] - logits[i].logsumexp(0)) / 5
    assert not torch.allclose(mixed.lam, torch.tensor(lam))  # labels follow the pasted area
    output = method(batch)
    assert float(output.losses["total"].detach()) == pytest.approx(expected, rel=1e-6)
    assert output.logs()["lambda"] == pytest.approx(float(mixed.lam.mean()))


@pytest.mark.parametrize("how", ["none", "alpha 0", "probability 0"])
def test_vanilla_is_plain_cross_entropy_and_draws_nothing(how: str) -> None:
    mixer = MixUp(alpha=0.0 if how == "alpha 0" else 1.0)
    method = made(None if how == "none" else mixer, probability=0.0 if how == "probability 0" else 1.0)
    method.eval()
    batch, before = data(), method.generator.get_state()
    found = method(batch).losses["total"]
    logits = method.encoders()["classifier"](batch.views[0])
    assert batch.labels is not None
    torch.testing.assert_close(found, F.cross_entropy(logits, batch.labels))
    assert torch.equal(method.generator.get_state(), before)
    smooth = made(mixer, probability=0.0, label_smoothing=0.1).eval()
    smooth.load_state_dict(method.state_dict())
    torch.testing.assert_close(
        smooth(batch).losses["total"], F.cross_entropy(logits, batch.labels, label_smoothing=0.1)
    )


def test_probability_is_of_steps() -> None:
    spy = Spy()
    method = made(spy, toy(), probability=0.25)
    for number in range(200):
        method(data(2, seed=number, side=8))
    assert 30 < len(spy.seen) < 70


def test_lambda_of_a_batch_and_of_each_sample() -> None:
    spy = Spy()
    made(spy, toy())(data(side=8))
    made(spy, toy(), ratio_per="sample")(data(side=8))
    assert isinstance(spy.seen[0].lam, float)
    assert isinstance(spy.seen[1].lam, Tensor)
    assert len(set(spy.seen[1].lam.tolist())) == 6
    assert sorted(spy.seen[0].partner.tolist()) == list(range(6))


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_lambda_zero_and_one_are_one_of_the_images(lam: float) -> None:
    spy = Spy(lam)
    method, batch = made(spy, toy()), data(side=8)
    found = float(method(batch).losses["total"].detach())
    assert batch.labels is not None
    order = torch.arange(6) if lam == 1 else spy.seen[0].partner
    logits = method.encoders()["classifier"](batch.views[0][order].float() / 255)
    assert found == pytest.approx(float(F.cross_entropy(logits, batch.labels[order]).detach()))


def test_both_partners_of_one_class_have_one_label() -> None:
    batch = data(labels=torch.full((6,), 2), side=8)
    totals = []
    for lam in (0.5, 0.25):
        spy = Spy(0.5)
        method = made(spy, toy())
        method.linear.weight.data.copy_(torch.arange(24.0).view(4, 6) / 10)
        spy.told = lam
        totals.append(float(method(batch).losses["total"].detach()))
    assert totals[0] == totals[1]


def test_manifold_mixes_maps_where_it_says() -> None:
    method = made(ManifoldMix(stages=[0, 2], images=True), seed=1).eval()
    stages, total = [], []
    draw = method.mixer.draw_stage
    method.mixer.draw_stage = lambda generator: stages.append(draw(generator)) or stages[-1]  # type: ignore[func-returns-value,method-assign]
    for number in range(12):
        state = method.generator.get_state()
        total.append(method(data(seed=number)).losses["total"])
        check = torch.Generator()
        check.set_state(state)
        draw(check)
        lam = float(draw_ratio(1.0, check))
        partner = draw_partners(6, "permutation", check)
        images, labels = data(seed=number).views[0], data().labels
        maps = images / 255 if stages[-1] is None else method.model.features(images, stages[-1])  # type: ignore[operator]
        mixed = lam * maps + (1 - lam) * maps[partner]
        rest = method.model if stages[-1] is None else method.model.head_from(stages[-1])  # type: ignore[operator]
        logits = method.linear(rest(mixed))
        assert labels is not None
        expected = lam * F.cross_entropy(logits, labels) + (1 - lam) * F.cross_entropy(logits, labels[partner])
        torch.testing.assert_close(total[-1], expected, rtol=1e-4, atol=1e-5)
    assert set(stages) == {None, 0, 2}


def test_saliency_is_of_the_clean_loss_in_evaluation_mode() -> None:
    method = made(PuzzleMix())
    batch = data()
    assert batch.labels is not None
    state = copy.deepcopy(method.state_dict())
    saliency = method._saliency(batch.views[0] / 255, batch.labels)
    assert method.training
    assert method.model.training
    assert all(p.grad is None for p in method.parameters())
    for name, value in method.state_dict().items():
        assert not isinstance(value, Tensor) or torch.equal(value, state[name]), name
    # One pixel's derivative by differences.
    own = copy.deepcopy(method).double().eval()
    x = (batch.views[0] / 255).double()

    def loss(images: Tensor) -> float:
        return float(F.cross_entropy(own.linear(own.model(images)), batch.labels).detach())  # type: ignore[arg-type]

    squares = []
    for channel in range(3):
        moved = [x.clone(), x.clone()]
        for image, sign in zip(moved, (1, -1), strict=True):
            image[2, channel, 5, 9] += sign * 1e-6
        squares.append(((loss(moved[0]) - loss(moved[1])) / 2e-6) ** 2)
    assert float(saliency[2, 5, 9]) == pytest.approx((sum(squares) / 3) ** 0.5, rel=1e-3)


def test_inter_intra_looks_at_labels() -> None:
    mixer = InterIntra()
    images = torch.rand(4, 3, 8, 8)
    pairing = Pairing(
        torch.tensor([1, 0, 3, 2]), 0.5, torch.tensor([0, 0, 1, 2]), torch.Generator().manual_seed(0), None
    )
    mask = mixer.mix(images, pairing).mask
    assert mask is not None
    assert mask[0].unique().numel() == 1
    assert 0 < float(mask[0].unique()) < 1
    assert set(mask[2].unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_one_and_images_that_are_not_square(name: str) -> None:
    method = made(LABEL_MIXERS[name]())
    for number in range(3):
        assert torch.isfinite(method(data(1, seed=number)).losses["total"])
    batch = data()
    batch.views = [batch.views[0][:, :, :, :8]]
    for _ in range(3):
        assert torch.isfinite(method(batch).losses["total"])


def test_towers() -> None:
    method = made(model=encoder())
    towers = method.encoders()
    assert towers["image"] is method.model
    images = data().views[0]
    method.eval()
    torch.testing.assert_close(towers["classifier"](images), method.linear(method.model(images)))
    assert not any(name.startswith("classifier") for name in method.state_dict())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_classes": 1}, "has 1 class"),
        ({"probability": 1.5}, "method.probability=1.5"),
        ({"classifier_lr": -1.0}, "method.classifier_lr"),
        ({"label_smoothing": 1.0}, "label smoothing"),
        ({"image_mixer": ManifoldMix(stages=[9])}, "stage 9"),
        ({"model": toy(), "image_mixer": ManifoldMix()}, "Toy cannot be cut"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], words: str) -> None:
    arguments: dict[str, Any] = {"model": encoder(), "num_classes": CLASSES, **settings}
    with pytest.raises(InputError, match=words):
        Classification(**arguments)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MixUp(alpha=-1), "image_mixer.alpha=-1"),
        (lambda: MixUp(alpha=float("nan")), "image_mixer.alpha=nan"),
        (lambda: ManifoldMix(stages=[], images=False), "nowhere to mix"),
        (lambda: InterIntra(intra_alpha=0), "alpha is 0"),
        (lambda: LABEL_MIXERS["cutmix-or-mixup"](mixup_share=2), "mixup_share=2"),  # type: ignore[call-arg]
    ],
)
def test_mixers_that_cannot_be(make: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()


def test_unit_rows_are_refused() -> None:
    model = ImageEncoder("small", dim=None, normalize=True, pooling="avg", image_size=SIDE)
    with pytest.raises(InputError, match=r"model\.normalize=false"):
        Classification(model, CLASSES)
    assert isinstance(toy(), Toy)  # a model of one's own that says nothing is taken as it is


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("name", NAMES)
def test_on_an_accelerator(name: str, device: str) -> None:
    here, there = made(LABEL_MIXERS[name]()), made(LABEL_MIXERS[name]()).to(device)
    for number in range(2):
        a = here(data(seed=number)).losses["total"]
        b = there(data(seed=number).to(device)).losses["total"]
        torch.testing.assert_close(b.cpu(), a, rtol=1e-3, atol=1e-3)
