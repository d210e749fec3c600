"""Filling, and how predictions are judged."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from metrixkit.errors import InputError
from metrixkit.retrieval import classification_outcome, fuse, regression_outcome
from metrixkit.retrieval.missing.outcomes import linear_probe, nearest_mean, ridge_probe

FIXTURES = json.loads((Path(__file__).parents[1] / "fixtures" / "dmm.json").read_text(encoding="utf-8"))


def test_the_numbers_of_mosei():
    inputs, outputs = (FIXTURES["mosei_metrics"][key] for key in ("inputs", "outputs"))
    found = regression_outcome(inputs["pred"], inputs["truth"])
    official = regression_outcome(inputs["pred"], inputs["truth"], official=True)
    for name, key in (("mae", "mae"), ("pearson", "corr"), ("accuracy", "acc"), ("weighted_f1", "f1_correct")):
        assert abs(found[name] - outputs[key]) < 1e-8
    assert abs(official["weighted_f1"] - outputs["f1_official"]) < 1e-8
    assert {k: v for k, v in official.items() if k != "weighted_f1"} == {
        k: v for k, v in found.items() if k != "weighted_f1"
    }


def test_scores_agree_with_scikit_learn():
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    labels, guesses = rng.integers(4, size=(2, 200))
    found = classification_outcome(guesses, labels)
    assert found["accuracy"] == (labels == guesses).mean()
    assert abs(found["macro_f1"] - f1_score(labels, guesses, average="macro")) < 1e-12
    values, told = rng.normal(size=(2, 300))
    expected = f1_score(values > 0, told > 0, average="weighted")
    assert abs(regression_outcome(told, values)["weighted_f1"] - expected) < 1e-12


def test_predictions_that_cannot_be_judged():
    assert regression_outcome([1.0, 1.0], [1.0, -2.0])["pearson"] == 0
    with pytest.raises(InputError, match="number 1 is not finite"):
        regression_outcome([1.0, float("nan")], [1.0, 2.0])
    with pytest.raises(InputError, match="the same count"):
        regression_outcome([1.0], [1.0, 2.0])
    with pytest.raises(InputError, match="all values are 0"):
        regression_outcome([1.0], [0.0])
    with pytest.raises(InputError, match="the same"):
        classification_outcome(["a"], ["a", "b"])


def test_probes_learn_what_is_there():
    rng = np.random.default_rng(1)
    labels = np.array(["x", "y", "z"])[rng.integers(3, size=120)]
    rows = np.eye(5)[np.searchsorted(["x", "y", "z"], labels)] + 0.05 * rng.normal(size=(120, 5))
    for fit in (nearest_mean, linear_probe):
        assert (fit(rows[:60], labels[:60])(rows[60:]) == labels[60:]).all()
    values = rows @ np.arange(5)
    assert np.corrcoef(ridge_probe(rows[:60], values[:60])(rows[60:]), values[60:])[0, 1] > 0.99


def test_four_ways_to_fill():
    parts = torch.nn.functional.normalize(torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0)), dim=2)
    present = torch.tensor([[True, True, True], [True, False, True], [False, False, True], [False, False, False]])
    poisoned = torch.where(present[:, :, None], parts, torch.nan)  # what is missing is never looked at
    mean = fuse(poisoned, present)
    assert torch.allclose(mean[1], (parts[1, 0] + parts[1, 2]) / 2)
    assert mean[1].norm() < 0.999  # published: not brought back to length 1
    assert torch.equal(mean[3], torch.zeros(5))
    unit = fuse(poisoned, present, "renormalized")
    assert torch.allclose(unit[:3].norm(dim=1), torch.ones(3))
    assert torch.allclose(fuse(poisoned, present, "zeros")[1], (parts[1, 0] + parts[1, 2]) / 3)
    means = torch.ones(3, 5)
    assert torch.allclose(fuse(poisoned, present, "mean_embedding", means)[2], (parts[2, 2] + 2 * torch.ones(5)) / 3)
    with pytest.raises(InputError, match="needs means of shape"):
        fuse(parts, present, "mean_embedding")
    with pytest.raises(InputError, match="Did you mean 'zeros'"):
        fuse(parts, present, "zero")
    with pytest.raises(InputError, match="expected \\(items, modalities"):
        fuse(parts, present[:, :2])
