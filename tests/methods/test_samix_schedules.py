"""SAMix' weights and momentum over a run, and the clusters of its memory: fixtures of the release, definitions, ends."""

import json
import math
from pathlib import Path

import pytest
import torch

from metrixkit.errors import InputError
from metrixkit.methods.online_clusters import blended_features, member_means, nearest_cluster, refilled_clusters
from metrixkit.methods.samix_schedules import decayed_weight, samix_momentum

FIXTURES = json.loads((Path(__file__).resolve().parents[1] / "fixtures" / "samix.json").read_text())


def double(values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("steps", [1000, 20000])
def test_released_weight(steps):
    entry = FIXTURES["beta_schedule_official"]
    for step, expected in entry["outputs"][f"T={steps}"].items():
        weight = decayed_weight(int(step), steps, entry["inputs"]["attr_base"], "official")
        assert weight == pytest.approx(expected, rel=entry["tol"], abs=1e-300)


def test_weights():
    assert [decayed_weight(t, 10) for t in (0, 5, 10, 12)] == pytest.approx([0.1, 0.05, 0, 0])
    assert [decayed_weight(t, 10, 2.0, "constant") for t in (0, 9)] == [2, 2]
    assert decayed_weight(3, 10, 1.0, "cosine") == pytest.approx((1 + math.cos(0.3 * math.pi)) / 2)
    assert decayed_weight(10, 10, 1.0, "official") == 0
    for bad, message in [
        ({"schedule": "linea"}, "Did you mean 'linear'"),
        ({"step": -1}, "step=-1"),
        ({"steps": 0}, "at least one step"),
        ({"base": -0.1}, "base=-0.1"),
    ]:
        with pytest.raises(InputError, match=message):
            decayed_weight(**{"step": 0, "steps": 10, **bad})


def test_momentum():
    assert samix_momentum(0, 1000) == pytest.approx(0.999)
    assert samix_momentum(1000, 1000) == 1
    assert samix_momentum(500, 1000) == pytest.approx(0.9995)
    held = [samix_momentum(t, 1000, end=0.999999, official=True) for t in (0, 99, 100, 1000)]
    assert held[0] == held[1] == pytest.approx(0.999, abs=1e-12)
    assert held[2] - held[1] == pytest.approx(2.4e-5, rel=0.03)
    assert held[3] == pytest.approx(0.999999, abs=1e-12)
    later = 0.999999 - (0.999999 - 0.999) * (math.cos(0.4 * math.pi) + 1) / 2
    assert samix_momentum(400, 1000, end=0.999999, official=True) == pytest.approx(later, abs=1e-12)


def test_released_memory():
    entry = FIXTURES["odc_memory"]
    inputs, outputs, tol = entry["inputs"], entry["outputs"], entry["tol"]
    features, labels = torch.nn.functional.normalize(double(inputs["features"]), dim=1), torch.tensor(inputs["labels"])
    index = torch.tensor(inputs["idx"])
    centroids = member_means(features, labels, torch.zeros(3, 4, dtype=torch.float64))
    assert torch.allclose(centroids, double(outputs["centroids_init"]), atol=tol)
    fresh = blended_features(features[index], double(inputs["new_features"]), inputs["momentum"])
    assert torch.allclose(fresh, double(outputs["updated_features"]), atol=tol)
    assigned = nearest_cluster(fresh, centroids)
    assert float((assigned != labels[index]).double().mean()) == pytest.approx(outputs["change_ratio"], rel=tol)
    features[index], labels[index] = fresh, assigned
    assert labels.tolist() == outputs["labels"]
    assert torch.allclose(member_means(features, labels, centroids), double(outputs["centroids_after"]), atol=tol)


def test_empty_clusters_keep_their_centre():
    previous = double([[1.0, 2.0], [3.0, 4.0]])
    means = member_means(double([[0.0, 1.0], [2.0, 1.0]]), torch.tensor([0, 0]), previous)
    assert means.tolist() == [[1.0, 1.0], [3.0, 4.0]]


def test_small_clusters_are_dissolved_and_refilled():
    g = torch.Generator().manual_seed(0)
    centres = torch.eye(4, dtype=torch.float64)
    groups = torch.tensor([0] * 30 + [1] * 30 + [2] * 25 + [3] * 3)
    features = torch.nn.functional.normalize(
        centres[groups] + 0.05 * torch.randn(88, 4, generator=g, dtype=torch.float64), dim=1
    )
    labels = torch.tensor([0] * 60 + [1] * 25 + [2] * 3)  # one cluster holds two groups, one is small, one empty
    centroids = member_means(features, labels, torch.zeros(4, 4, dtype=torch.float64))
    before = labels.clone(), centroids.clone()
    new, means = refilled_clusters(features, labels, centroids, torch.Generator().manual_seed(1), least=20)
    assert torch.equal(labels, before[0])
    assert torch.equal(centroids, before[1])
    counts = torch.bincount(new, minlength=4)
    assert int(counts.min()) >= 1
    assert int(counts.sum()) == 88
    assert len(set(new[:30].tolist()) & set(new[30:60].tolist())) == 0  # the largest was split between its groups
    assert torch.allclose(means[new[0]], features[new == new[0]].mean(0))
    again, _ = refilled_clusters(features, labels, centroids, torch.Generator().manual_seed(1), least=20)
    assert torch.equal(new, again)
    same, _ = refilled_clusters(features, groups, centroids, torch.Generator().manual_seed(1), least=3)
    assert torch.equal(same, groups)
    alike, _ = refilled_clusters(
        torch.ones(8, 4).double(), torch.zeros(8, dtype=torch.long), centroids, torch.Generator(), least=2
    )
    assert torch.bincount(alike, minlength=4).tolist() == [2, 2, 2, 2]
    with pytest.raises(InputError, match="all 4 clusters have fewer"):
        refilled_clusters(features, labels, centroids, torch.Generator(), least=100)
    with pytest.raises(InputError, match="cannot fill"):
        refilled_clusters(features[:3], torch.zeros(3, dtype=torch.long), centroids, torch.Generator(), least=1)
