"""Mutual information of mixture and first image: the bound, its corrected gradient, what it tells, what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from metrixkit import mix
from metrixkit.errors import InputError
from metrixkit.sheets import Mixers, donsker_varadhan, information, mutual_information
from metrixkit.sheets.information import Ascent

FIXTURE = json.loads((Path(__file__).parent / "fixtures" / "samix.json").read_text())["mine_dv"]


def noise(count: int = 60, size: int = 16) -> torch.Tensor:
    """Return images that differ in everything."""
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_the_bound_is_the_reference_and_that_of_numpy() -> None:
    joint, product = (torch.tensor(FIXTURE["inputs"][key], dtype=torch.float64) for key in ("T_joint", "T_marg"))
    value = float(donsker_varadhan(joint, product))
    assert value == pytest.approx(FIXTURE["outputs"]["mi"], abs=FIXTURE["tol"])
    assert value == pytest.approx(np.mean(joint.numpy()) - np.log(np.mean(np.exp(product.numpy()))), abs=1e-12)
    assert float(donsker_varadhan(joint + 900, product + 900)) == pytest.approx(value)  # exp(900) is no number
    order = torch.randperm(len(product))
    assert float(donsker_varadhan(joint.flip(0), product[order])) == pytest.approx(value)


def test_the_gradient_is_divided_by_the_moving_average() -> None:
    draw = torch.Generator().manual_seed(1)
    ascent, average = Ascent(decay=0.1), None
    for _ in range(4):
        joint, product = (torch.randn(6, generator=draw, dtype=torch.float64, requires_grad=True) for _ in range(2))
        mean = product.detach().exp().mean()
        average = mean if average is None else 0.9 * average + 0.1 * mean
        ascent(joint, product).backward()
        assert joint.grad is not None
        assert product.grad is not None
        torch.testing.assert_close(joint.grad, torch.full((6,), 1 / 6, dtype=torch.float64))
        torch.testing.assert_close(product.grad, -product.detach().exp() / 6 / average)
    torch.autograd.gradcheck(lambda a, b: donsker_varadhan(a, b), (joint.detach().requires_grad_(), product.detach().requires_grad_()))  # fmt: skip


def test_a_gaussian_pair_has_the_information_that_theory_gives() -> None:
    # The best T is the log ratio of densities; with it the bound is -log(1 - r^2) / 2.
    draw, r = torch.Generator().manual_seed(2), 0.6
    x, e, other = torch.randn(3, 200_000, generator=draw, dtype=torch.float64)
    y = r * x + math.sqrt(1 - r * r) * e

    def ratio(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return -0.5 * math.log(1 - r * r) - (r * r * (a * a + b * b) - 2 * r * a * b) / (2 * (1 - r * r))

    assert float(donsker_varadhan(ratio(x, y), ratio(x, other))) == pytest.approx(-0.5 * math.log(1 - r * r), abs=0.01)


@pytest.mark.slow
def test_a_mixture_tells_nothing_at_lambda_0_and_more_with_lambda() -> None:
    found = mutual_information(Mixers.named("mixup"), noise(), ["a"] * 60, [0.0, 1.0], steps=40, repeats=2)
    told = found["information"].tolist()
    assert abs(told[0]) < 0.1
    assert told[1] > 1
    assert list(found.columns) == ["mixer", "lambda", "information", "deviation", "repeats", "limit"]
    assert found["limit"].iloc[0] == pytest.approx(math.log(12 * 8))
    again = mutual_information(Mixers.named("mixup"), noise(), ["a"] * 60, [0.5], steps=8, repeats=1)
    torch.rand(3)  # numbers drawn elsewhere change nothing
    same = mutual_information(Mixers.named("mixup"), noise(), ["a"] * 60, [0.5], steps=8, repeats=1)
    pd.testing.assert_frame_equal(again, same)
    assert math.isnan(same["deviation"].iloc[0])


@pytest.mark.slow
def test_a_mixture_never_stands_beside_its_own_partner_as_a_stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    class Recording(information.Statistics):
        def forward(self, mixed: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
            # At lambda 0 a mixture is its partner, which is neither the first image nor an unrelated one.
            assert not (mixed - images).abs().amax((1, 2, 3)).lt(1e-6).any()
            return super().forward(mixed, images)

    monkeypatch.setattr(information, "Statistics", Recording)
    mutual_information(Mixers.named("mixup"), noise(40), ["a"] * 40, [0.0], steps=150, repeats=1)


def test_what_cannot_be_estimated_is_refused() -> None:
    mixers = Mixers.named("mixup")
    for images in (noise(39), noise(60, 8), noise()[0]):
        with pytest.raises(InputError, match="at least 40 images"):
            mutual_information(mixers, images, ["a"] * len(images), [0.5])
    with pytest.raises(InputError, match="60 images and 2 labels"):
        mutual_information(mixers, noise(), ["a", "b"], [0.5])
    for steps, repeats in ((7, 1), (8, 0)):
        with pytest.raises(InputError, match="at least 8 steps and one repeat"):
            mutual_information(mixers, noise(), ["a"] * 60, [0.5], steps, repeats)


def test_the_door_draws_it_and_writes_the_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i, image in enumerate((noise(44) * 255).byte().permute(0, 2, 3, 1).numpy()):
        folder = tmp_path / "photos" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.png")
    words = [str(tmp_path / "photos"), "--mixers", "cutmix,inter-intra", "--lambdas", "0.5", "--steps", "8"]
    more = ["--repeats", "1", "--size", "16", "--information", str(tmp_path / "told.png")]
    assert mix.main([*words, *more]) == 0
    table = pd.read_csv(tmp_path / "told.csv")
    assert table["mixer"].tolist() == ["cutmix", "inter-intra"]
    assert (tmp_path / "told.png").stat().st_size > 10_000
    assert f"information: {tmp_path / 'told.png'}" in capsys.readouterr().out
    assert not (tmp_path / "mixed.png").exists()
    assert mix.main([*words, "--information", str(tmp_path / "told.jpg")]) == 2
