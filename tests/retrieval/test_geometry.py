"""utilization, alignment and uniformity against the reference numbers and naive loops."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from metrixkit.errors import InputError
from metrixkit.retrieval import alignment, evaluate, geometry, uniformity, utilization

FIXTURE = json.loads((Path(__file__).parents[1] / "fixtures" / "metrix.json").read_text())
INPUTS, WANTED = FIXTURE["inputs"], FIXTURE["brute"]["metrics"]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def rows(name, device="cpu"):
    values = INPUTS[name] if name == "Q_test" else INPUTS[name]["embeddings"]
    return torch.tensor(values, dtype=torch.float64, device=device)


@pytest.mark.parametrize("tile", [2, 2048])
@pytest.mark.parametrize("device", DEVICES)
def test_reference_numbers(monkeypatch, tile, device):
    monkeypatch.setattr(geometry, "TILE", tile)
    a, b, q = rows("A", device), rows("B", device), rows("Q_test", device)
    assert utilization(q, a) == pytest.approx(WANTED["utilization_Q_test_vs_A"], abs=1e-10)
    assert utilization(b, a) == pytest.approx(WANTED["utilization_B_vs_A"], abs=1e-10)
    assert alignment(a, INPUTS["A"]["labels"]) == pytest.approx(WANTED["alignment_A"], abs=1e-10)
    assert alignment(b, INPUTS["B"]["labels"]) == pytest.approx(WANTED["alignment_B"], abs=1e-10)
    assert uniformity(a) == pytest.approx(WANTED["uniformity_A_t2"], abs=1e-10)
    assert uniformity(b) == pytest.approx(WANTED["uniformity_B_t2"], abs=1e-10)


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_reference_recall(precision):
    result = evaluate(rows("A"), INPUTS["A"]["labels"], recall_at=(1, 2, 4), precision=precision)
    for k, wanted in WANTED["recall_A_same_set"].items():
        # The reference leaves the singleton in the mean as a miss; the contract excludes and counts it.
        assert result[f"recall@{k}"] * result.counts["evaluated"] / result.counts["queries"] == pytest.approx(wanted)


def test_naive_pairs(monkeypatch):
    monkeypatch.setattr(geometry, "TILE", 9)
    monkeypatch.setattr(geometry, "BLOCK", 4)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 6)), rng.integers(0, 4, size=40).astype(str)
    u = x / np.linalg.norm(x, axis=1, keepdims=True)
    pairs = [(i, j, ((u[i] - u[j]) ** 2).sum()) for i in range(40) for j in range(i + 1, 40)]
    assert alignment(x, y) == pytest.approx(np.mean([d for i, j, d in pairs if y[i] == y[j]]), abs=1e-12)
    assert uniformity(x) == pytest.approx(np.log(np.mean([np.exp(-2 * d) for *_, d in pairs])), abs=1e-12)
    nearest = [min(((u[i] - u[j]) ** 2).sum() for j in range(15)) for i in range(40)]
    assert utilization(x, x[:15]) == pytest.approx(np.mean(nearest), abs=1e-12)


def test_limits():
    same, ends = np.ones((10, 4)), np.array([[1.0, 0.0], [-1.0, 0.0]])
    assert uniformity(same) == pytest.approx(0.0, abs=1e-14)
    assert alignment(same, [0] * 10) == 0.0
    assert utilization(same, same) == pytest.approx(0.0, abs=1e-14)
    assert uniformity(ends) == pytest.approx(-8.0)
    assert alignment(ends, [0, 0]) == pytest.approx(4.0)
    assert utilization(ends[:1], ends[1:]) == pytest.approx(4.0)


def test_a_tight_class_keeps_its_digits():
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(50, 8))
    near = np.eye(8)[[0] * 50] + 1e-7 * noise
    u = near / np.linalg.norm(near, axis=1, keepdims=True)
    wanted = ((u[:, None] - u[None]) ** 2).sum() / (50 * 49)
    assert alignment(near, [0] * 50) == pytest.approx(wanted, rel=1e-6)


def test_bad_input():
    x = np.ones((4, 2))
    with pytest.raises(InputError, match="queries have 2 dimensions and training has 3"):
        utilization(x, np.ones((4, 3)))
    with pytest.raises(InputError, match="training: row 0"):
        utilization(x, np.zeros((4, 2)))
    with pytest.raises(InputError, match="a class with at least two items"):
        alignment(x, [0, 1, 2, 3])
    with pytest.raises(InputError, match="labels has 3 values"):
        alignment(x, [0, 1, 2])
    with pytest.raises(InputError, match="at least two rows"):
        uniformity(x[:1])
