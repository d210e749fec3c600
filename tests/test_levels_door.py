"""Mixing features and inputs from the door, on Glyphs with the small network; and the method that splits the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from metrixkit import train
from metrixkit.errors import InputError
from metrixkit.losses import Metrix, MultiSimilarity, ProxyAnchor
from metrixkit.methods import MetricLearning
from metrixkit.models import ImageEncoder
from metrixkit.seam import Batch

pytestmark = pytest.mark.usefixtures("blank_pictures")

TINY = [
    "data.train_classes=12", "data.test_classes=8", "sampler.batch_size=20", "sampler.m=4", "model.dim=16", "training.epochs=1",
    "training.accelerator=cpu", "training.tensorboard=false", "training.log_every=1", "loader.workers=0",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(["loss.level=feature"], marks=pytest.mark.slow),
        pytest.param(
            ["loss.level=feature", "method.stage=2", "loss.hardest=2", "loss.chunk=16", "training.precision=bf16"],
            marks=pytest.mark.slow,
        ),
        pytest.param(["loss.level=feature", "training.precision=bf16", "model.train=head"], marks=pytest.mark.slow),
        pytest.param(["loss.level=input", "loss.positives=1"], marks=pytest.mark.slow),
        ["loss.level=[embed,feature,input]", "loss.reduction=mean"],
    ],
    ids=["feature", "stage and bf16", "frozen and bf16", "input", "drawn"],
)
def test_levels_train_from_the_door(settings: list[str], repository: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    status = train.main([str(repository / "configs/glyphs_metrix.yaml"), *TINY, *settings, "--run", str(run)])
    assert status == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss/mixed" in line]
    assert steps
    assert all(line["loss/mixed"] > 0 for line in steps)
    shown = [line for line in steps if "gradient_ratio/mixed_to_clean" in line]
    assert len(shown) == len(steps)
    assert 0 <= json.loads((run / "results.json").read_text())["metrics"]["recall@1"] <= 1


def batch(n: int = 12) -> Batch:
    images = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch([str(i) for i in range(n)], torch.arange(n) % 4, [images])


def encoder(**settings: object) -> ImageEncoder:
    torch.manual_seed(0)
    return ImageEncoder(**{"backbone": "small", "image_size": 32, "dim": 8, "freeze_batch_norm": True, **settings})


@pytest.mark.sample(5)
@pytest.mark.parametrize("stage", [None, 0, 3])
@pytest.mark.parametrize("pooling", ["avg", "avg+max", "gem"])
@pytest.mark.parametrize("proxies", [False, True])
def test_the_method_encodes_once_and_mixes_what_the_stage_made(stage: int | None, pooling: str, proxies: bool) -> None:
    model = encoder(pooling=pooling)
    loss = ProxyAnchor(num_classes=4, dim=8) if proxies else MultiSimilarity()
    method = MetricLearning(model, Metrix(loss, level="feature", hardest=2, chunk=10), stage=stage)
    ran = []
    model.trunk.model.stem[0].register_forward_hook(lambda _, __, y: ran.append(len(y)))
    output = method(batch())
    assert ran == [12]
    output.losses["total"].backward()
    grads = {name: p.grad.clone() for name, p in method.named_parameters() if p.requires_grad}
    method.zero_grad()
    # The same by hand, every mixture formed and run through the rest of the model.
    x = model.features(batch().views[0], stage)
    rest = model.head_from(stage)
    criterion = method.loss
    total = criterion.loss(rest(x), batch().labels) + 0.4 * criterion.mixed_loss(
        rest(x), batch().labels, lam=criterion.last.ratio, features=x, head=lambda f: rest(f)
    )
    total.backward()
    assert output.losses["total"].item() == pytest.approx(total.item(), rel=1e-5)
    for name, p in method.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(grads[name], p.grad, rtol=1e-3, atol=1e-4 * float(p.grad.abs().max()), msg=name)
    assert output.logs()["gradient_ratio/mixed_to_clean"] > 0


@pytest.mark.parametrize("train_part", ["head", "last:1"])
def test_frozen_parts_stay_frozen(train_part: str) -> None:
    method = MetricLearning(encoder(train=train_part), Metrix(MultiSimilarity(), level="feature"))
    method(batch()).losses["total"].backward()
    for name, p in method.named_parameters():
        assert (p.grad is not None) == p.requires_grad, name


def test_a_criterion_may_say_its_level_as_an_attribute() -> None:
    seen = {}

    class Criterion(nn.Module):
        level = "input"

        def forward(self, embeddings: torch.Tensor, labels: torch.Tensor, **mixed: object) -> torch.Tensor:
            seen.update(mixed)
            return embeddings.sum()

    method = MetricLearning(encoder(), Criterion())
    method(batch())
    assert seen["head"] is method.model
    assert torch.equal(seen["features"], batch().views[0])


class OnlyForward(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float().mean((2, 3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MetricLearning(encoder(), Metrix(MultiSimilarity()), stage=2), "loss.level=feature"),
        (lambda: MetricLearning(encoder(), Metrix(MultiSimilarity(), level="feature"), stage=9), "stage 9"),
        (lambda: MetricLearning(OnlyForward(), Metrix(MultiSimilarity(), level="feature")), "no features"),
    ],
)
def test_bad_settings_are_refused_at_once(make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()  # type: ignore[operator]


def test_a_model_of_ones_own_with_features_and_head() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.layer = nn.Conv2d(3, 4, 3), nn.Linear(4, 6)

        def features(self, images: torch.Tensor) -> torch.Tensor:
            return self.conv(images / 255)

        def head(self, maps: torch.Tensor) -> torch.Tensor:
            return self.layer(maps.amax((2, 3)))

    method = MetricLearning(Own(), Metrix(MultiSimilarity(), level="feature"))
    method(batch()).losses["total"].backward()
    assert method.model.conv.weight.grad.abs().sum() > 0
