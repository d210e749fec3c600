"""Logistic regression on features at hand, beside scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from metrixkit.errors import InputError
from metrixkit.probing import fit_probe
from metrixkit.probing.labels import true_rank
from metrixkit.probing.linear import hold_out


def cloud(count: int, seed: int, noise: float = 1.5) -> tuple[np.ndarray, list[str]]:
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 6, count)
    rows = np.random.default_rng(9).normal(size=(6, 12))[labels] + noise * draw.normal(size=(count, 12))
    return rows * np.linspace(0.01, 30, 12) + 5, [f"c{v}" for v in labels]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("strength", [1e-1, 1e-3])
def test_a_given_strength_is_the_optimum_of_scikit_learn(strength: float, device: str) -> None:
    (rows, labels), (asked, truth) = cloud(300, 0), cloud(100, 1)
    probe = fit_probe(torch.from_numpy(rows).to(device), labels, strengths=(strength,))
    unit = (rows - rows.mean(0)) / rows.std(0)
    peer = LogisticRegression(C=1 / (strength * len(rows)), max_iter=5000, tol=1e-9).fit(unit, labels)
    np.testing.assert_allclose(probe.weight.cpu().numpy(), peer.coef_, atol=2e-3)
    score = peer.score((asked - rows.mean(0)) / rows.std(0), truth)
    assert probe.accuracy(torch.from_numpy(asked).to(device), truth)["linear@1"] == pytest.approx(score, abs=0.011)
    assert probe.strength == strength


def test_the_strength_is_chosen_and_everything_repeats() -> None:
    (rows, labels), (asked, truth) = cloud(300, 0), cloud(1000, 1)
    draw = np.random.default_rng(3)  # sixty features that tell nothing
    rows, asked = (np.hstack([x, draw.normal(size=(len(x), 60))]) for x in (rows, asked))
    one, two = fit_probe(rows, labels), fit_probe(rows, labels)
    assert torch.equal(one.weight, two.weight)
    assert one.strength > 1e-6
    weakest = fit_probe(rows, labels, strengths=(1e-6,))
    gain = one.accuracy(asked, truth)["linear@1"] - weakest.accuracy(asked, truth)["linear@1"]
    assert gain > 0.03  # 300 rows are overfitted without


def test_constant_features_and_rare_classes() -> None:
    rows, labels = cloud(60, 2)
    rows[:, 3] = 7.1
    probe = fit_probe(rows, [*labels[:59], "rare"])
    assert torch.isfinite(probe.weight).all()
    assert probe.weight[:, 3].abs().max() < 1e-12
    assert "rare" in probe.classes


def test_held_out_items_are_of_each_class_and_never_all() -> None:
    codes = np.array([0] * 10 + [1] * 2 + [2])
    apart = hold_out(codes, 0.2, seed=0)
    assert [int(apart[codes == c].sum()) for c in range(3)] == [2, 1, 0]
    assert (apart == hold_out(codes, 0.2, seed=0)).all()
    assert any((apart != hold_out(codes, 0.2, seed=s)).any() for s in range(1, 4))


def test_ranks_are_pessimistic_and_nan_is_never_right() -> None:
    scores = torch.tensor([[1.0, 2.0, 3.0], [2.0, 2.0, 0.0], [float("nan")] * 3, [3.0, 1.0, 0.0]])
    assert true_rank(scores, torch.tensor([1, 0, 2, -1])).tolist() == [2, 2, 3, 2**31]


def test_bad_input() -> None:
    rows, labels = cloud(20, 0)
    with pytest.raises(InputError, match="two classes or more"):
        fit_probe(rows, ["a"] * 20)
    with pytest.raises(InputError, match="needs exactly one"):
        fit_probe(rows, labels[:3])
    with pytest.raises(InputError, match="finite"):
        fit_probe(np.full((20, 2), np.nan), labels)
    with pytest.raises(InputError, match="a share between"):
        fit_probe(rows, labels, held_out=1.0)
    with pytest.raises(InputError, match="needs exactly one"):
        fit_probe(rows, labels).accuracy(rows, labels[:2])
