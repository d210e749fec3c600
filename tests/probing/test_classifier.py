"""Classifiers trained on crops: frozen is frozen, fine-tuning moves a copy, and everything repeats."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from metrixkit.data.transforms import Transform, eval_transform, train_transform
from metrixkit.errors import InputError
from metrixkit.models import ImageEncoder
from metrixkit.probing import LINEAR, SEMI, Pictures, Pooled, ProbeSchedule, linear_schedule, train_classifier

SIDE = 16


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Three classes of striped pictures, 12 to learn from and 6 to judge on each."""
    folder, draw, rows = tmp_path_factory.mktemp("stripes"), np.random.default_rng(0), []
    for c in range(3):
        for i in range(18):
            image = draw.normal(90, 30, (SIDE, SIDE, 3))
            image[:, :, c] += 80
            path = folder / f"{c}_{i}.png"
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(path)
            rows.append((path.name, str(path), f"c{c}", "train" if i < 12 else "test"))
    return pd.DataFrame(rows, columns=["id", "path", "label", "split"])


def part(items: pd.DataFrame, split: str) -> pd.DataFrame:
    return items[items["split"] == split].reset_index(drop=True)


@pytest.fixture
def pictures() -> Pictures:
    settings = Transform(resize=SIDE)
    return Pictures(train_transform(settings, SIDE), eval_transform(settings, SIDE))


def encoder() -> ImageEncoder:
    torch.manual_seed(0)
    return ImageEncoder("small", dim=None, image_size=SIDE, pooling="avg")


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.sample(1)
@pytest.mark.parametrize("training", [True, False])
def test_frozen_is_frozen_bit_for_bit(items: pd.DataFrame, pictures: Pictures, training: bool) -> None:
    model = encoder().train(training)
    before, random = state(model), torch.get_rng_state()
    schedule = ProbeSchedule(lr=0.3, epochs=4, batch_size=10)
    found = train_classifier(model, part(items, "train"), part(items, "test"), pictures, schedule, seed=1)
    assert same(before, state(model))
    assert all(module.training == training for module in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert model.normalize
    assert torch.equal(random, torch.get_rng_state())
    again = train_classifier(model, part(items, "train"), part(items, "test"), pictures, schedule, seed=1)
    assert found.history == again.history
    assert torch.equal(found.head.weight, again.head.weight)
    other = train_classifier(model, part(items, "train"), part(items, "test"), pictures, schedule, seed=2)
    assert not torch.equal(found.head.weight, other.head.weight)
    metrics = found.metrics("linear")
    assert len(found.history) == 4
    assert metrics["linear@1"] == found.history[-1]["top@1"]
    assert "linear@5" not in metrics  # of three classes every item is right
    assert metrics["oracle/linear@1"] == max(e["top@1"] for e in found.history)


class Colour(nn.Module):
    """The mean colour: what tells these classes apart, with one weight and one buffer to be left alone."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(images.float().mean(dim=(2, 3)) / 255 - 0.5)


def test_what_can_be_learnt_is(items: pd.DataFrame, pictures: Pictures) -> None:
    model, schedule = Colour(), ProbeSchedule(lr=10.0, epochs=10, batch_size=12)
    found = train_classifier(model, part(items, "train"), part(items, "test"), pictures, schedule)
    assert found.metrics("linear")["linear@1"] == 1
    assert not model.norm.num_batches_tracked
    # Names decide what is right, not the order in which test items come or classes are absent.
    turned = part(items, "test").iloc[::-1].reset_index(drop=True).iloc[:9]
    assert train_classifier(model, part(items, "train"), turned, pictures, schedule).history[-1]["top@1"] == 1


def test_one_step_is_that_of_the_formula(items: pd.DataFrame) -> None:
    """A full batch without augmentation: W1 = W0 - lr dL/dW of the un-normalised pooled features, by hand."""
    whole = eval_transform(Transform(resize=SIDE), SIDE)
    model, train = encoder(), part(items, "train")
    schedule = ProbeSchedule(lr=0.5, epochs=1, batch_size=64)
    found = train_classifier(model, train, part(items, "test"), Pictures(whole, whole), schedule, seed=3)
    images = torch.stack([torch.from_numpy(np.array(Image.open(p))).permute(2, 0, 1) for p in train["path"]])
    model.eval()
    x = model.trunk((images / 255 - model.mean) / model.std).mean(dim=(2, 3)).detach().double().numpy()
    start = np.random.default_rng(3).normal(0, 0.01, (3, x.shape[1]))
    logits = x @ start.T
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = np.eye(3)[[int(name[1]) for name in train["label"]]]
    step = (shares - truth) / len(x)
    np.testing.assert_allclose(found.head.weight.detach().numpy(), start - 0.5 * step.T @ x, atol=2e-6)
    np.testing.assert_allclose(found.head.bias.detach().numpy(), -0.5 * step.sum(0), atol=2e-6)


def test_fine_tuning_moves_a_copy(items: pd.DataFrame, pictures: Pictures) -> None:
    model = encoder()
    before = state(model)
    schedule = ProbeSchedule(lr=1.0, epochs=3, batch_size=12, backbone_lr=0.01)
    found = train_classifier(model, part(items, "train"), part(items, "test"), pictures, schedule)
    assert same(before, state(model))
    moved = state(found.encoder)
    assert all(not torch.equal(before[n], moved[n]) for n, p in model.named_parameters() if p.ndim > 1)
    assert any(not torch.equal(before[n], moved[n]) for n in before if n.endswith("running_mean"))
    assert found.metrics("semi").keys() == {"semi@1", "oracle/semi@1"}


def test_pooled_drops_the_length_and_nothing_else() -> None:
    model = encoder().eval()
    images = torch.randint(0, 256, (4, 3, SIDE, SIDE), dtype=torch.uint8)
    rows = Pooled(model)(images)
    assert (rows.norm(dim=1) - 1).abs().max() > 0.01
    torch.testing.assert_close(nn.functional.normalize(rows), model(images))
    with pytest.raises(InputError):
        Pooled(model)(images[:, :1])
    assert model.normalize


def test_the_published_schedules() -> None:
    moco = linear_schedule("moco")
    assert (moco.lr, moco.epochs, moco.batch_size, moco.weight_decay) == (30.0, 100, 256, 0.0)
    assert [moco.factor(e) for e in (0, 59, 60, 79, 80, 99)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert (LINEAR["mixco"].lr, LINEAR["samix"].lr, LINEAR["clim"].lr) == (3.0, 0.1, 30.0)
    assert [SEMI.factor(e) for e in (19, 20, 39, 40)] == pytest.approx([1, 0.1, 0.1, 0.01])
    assert (SEMI.lr, SEMI.backbone_lr, SEMI.epochs) == (10.0, 1e-4, 60)
    byol = linear_schedule("byol", {"epochs": 10})
    assert [byol.factor(e) for e in (0, 5)] == pytest.approx([1, 0.5])
    short = linear_schedule("moco", {"epochs": 10, "lr": 2, "steps": [0.5]})
    assert [short.factor(e) for e in (4, 5)] == pytest.approx([1, 0.1])
    assert "lr 2" in str(short)
    for changes, words in (
        ({"rate": 1}, "linear.rate is not a setting"),
        ({"lr": 0}, "expected a positive rate"),
        ({"epochs": 2.5}, "a whole number"),
        ({"steps": [60, 80]}, "shares of the epochs"),
        ({"backbone_lr": 0.1}, "leaves the encoder frozen"),
        ({"decay": "step"}, "Did you mean 'steps'"),
    ):
        with pytest.raises(InputError, match=words):
            linear_schedule("moco", changes)
    with pytest.raises(InputError, match="no linear protocol is called 'mocco'.*'moco'"):
        linear_schedule("mocco")


class Broken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        return self.weight * images.float().flatten(1)[:, :4] * 1e30


def test_bad_input(items: pd.DataFrame, pictures: Pictures) -> None:
    train, test = part(items, "train"), part(items, "test")
    schedule = ProbeSchedule(lr=1.0, epochs=2)
    with pytest.raises(InputError, match="two classes or more"):
        train_classifier(encoder(), train[train["label"] == "c0"].reset_index(drop=True), test, pictures, schedule)
    with pytest.raises(InputError, match="diverged in epoch 1"):
        train_classifier(Broken(), train, test, pictures, schedule)
    with pytest.raises(InputError, match="no class of the 18 test items"):
        train_classifier(encoder(), train, test.assign(label="z"), pictures, schedule)


@pytest.mark.gpu
def test_frozen_on_cuda(items: pd.DataFrame, pictures: Pictures) -> None:
    model = encoder().cuda()
    before = state(model)
    schedule = ProbeSchedule(lr=3.0, epochs=2, batch_size=12)
    assert train_classifier(model, part(items, "train"), part(items, "test"), pictures, schedule).history[-1]
    assert same(before, state(model))
