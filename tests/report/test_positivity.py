"""Positivity: shares against loops, the theoretical curve against its fixture, the picture, the script."""

import json
import math
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from PIL import Image

from metrixkit.errors import InputError
from metrixkit.losses import NCA, BinomialDeviance, Contrastive, Metrix, MultiSimilarity, ProxyAnchor, Triplet
from metrixkit.report import training_curves
from metrixkit.report.positivity import pool_positivity, positivity, positivity_plot, positivity_threshold

FIXTURE = json.loads((Path(__file__).parent.parent / "fixtures" / "metrix.json").read_text())
LABELS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3])
X = torch.randn(8, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("lam", ["0.1", "0.3", "0.5", "0.7", "0.9"])
def test_threshold_of_multi_similarity(lam):
    expected = FIXTURE["brute"]["metrics"]["positivity_threshold_ms_lam"][lam]
    assert positivity_threshold(MultiSimilarity(18, 75, 0.77), [float(lam)])[0] == pytest.approx(expected, rel=1e-12)
    exact = 0.77 + math.log(float(lam) / (1 - float(lam))) / (17.97 + 75.66)
    assert positivity_threshold(MultiSimilarity(), [float(lam)])[0] == pytest.approx(exact, rel=1e-12)


def share_by_autograd(loss, lam, renormalize=True, mean=False):
    """The derivative of each anchor's mixed loss by each similarity, with mixtures formed one by one."""
    z = torch.nn.functional.normalize(X, dim=1)
    pulled = total = 0
    for a in range(8):
        pos = [j for j in range(8) if LABELS[j] == LABELS[a] and j != a]
        neg = [j for j in range(8) if LABELS[j] != LABELS[a]]
        v = [lam * z[p] + (1 - lam) * z[n] for p in pos for n in neg]
        if not v:
            continue
        s = torch.stack([z[a] @ (x / x.norm() if renormalize else x) for x in v])[None].requires_grad_()
        share = 1 / len(v) if mean else 1.0
        w = torch.full_like(s, share).detach()
        (grad,) = torch.autograd.grad(loss.from_similarity(s, lam * w, (1 - lam) * w).sum(), s)
        pulled, total = pulled + int((grad <= 0).sum()), total + len(v)
    return pulled / total, total


@pytest.mark.parametrize("loss", [MultiSimilarity(2, 10, 0.5), Contrastive(0.1), BinomialDeviance(2, 5, 0.3)])
@pytest.mark.parametrize(("renormalize", "reduction"), [(True, "sum"), (False, "sum"), (True, "mean")])
def test_share_against_autograd(loss, renormalize, reduction):
    criterion = Metrix(loss, renormalize=renormalize, reduction=reduction)
    lambdas = [0.1, 0.3, 0.45, 0.55, 0.8]
    table = positivity(criterion, X, LABELS, lambdas)
    expected = [share_by_autograd(loss, lam, renormalize, reduction == "mean") for lam in lambdas]
    assert table["positivity"].tolist() == [share for share, _ in expected]
    assert set(table["mixtures"]) == {expected[0][1]}
    assert table["positivity"].nunique() > 1


def test_theory_is_the_distribution_at_the_threshold():
    loss, lam = MultiSimilarity(2, 10, 0.3), 0.4
    z = torch.nn.functional.normalize(X, dim=1)
    limit, found = 0.3 + math.log(0.4 / 0.6) / 12, []
    for a in range(8):
        for p in range(8):
            for n in range(8):
                if a != p and LABELS[a] == LABELS[p] and LABELS[n] != LABELS[a]:
                    v = torch.nn.functional.normalize(lam * z[p] + (1 - lam) * z[n], dim=0)
                    found.append(float(z[a] @ v) <= limit)
    assert 0 < np.mean(found) < 1
    assert positivity(loss, X, LABELS, [lam])["theory"][0] == pytest.approx(np.mean(found))


def test_limits_and_exact_theory():
    table = positivity(Metrix(MultiSimilarity()), X, LABELS, [0.0, 0.5, 1.0])
    assert (table["positivity"][0], table["positivity"][2]) == (0, 1)
    assert (table["theory"][0], table["theory"][2]) == (0, 1)
    table = positivity(Contrastive(0.2), X, LABELS)
    assert table["theory"].tolist() == table["positivity"].tolist()
    assert 0 < table["positivity"][5] < table["positivity"][10] == 1
    assert positivity(BinomialDeviance(), X, LABELS)["theory"].isna().all()
    assert positivity(Triplet(), X, LABELS, [0.2, 0.8])["positivity"].tolist()[1] == 1
    with_proxies = positivity(Metrix(ProxyAnchor(4, 5)), X, LABELS, [0.1, 0.9])
    assert with_proxies["mixtures"][0] == 3 * 5 + 2 * 6 + 2 * 6 + 1 * 7
    assert with_proxies["positivity"].between(0, 1).all()


def test_only_the_mixtures_that_the_criterion_makes_count():
    loss = MultiSimilarity(2, 10, 0.5)
    table = positivity(Metrix(loss, hardest=2, positives=1), X, LABELS, [0.4])
    assert table["mixtures"][0] == 7 * 1 * 2
    hard = positivity(Metrix(Contrastive(0.2), hardest=1), X, LABELS, [0.4])
    assert hard["positivity"][0] <= positivity(Contrastive(0.2), X, LABELS, [0.4])["positivity"][0]


def test_level_input_mixes_the_nearest_negative_of_each_anchor():
    loss = MultiSimilarity(2, 10, 0.5)
    table = positivity(Metrix(loss, level="input"), X, LABELS, [0.4])
    assert table.equals(positivity(Metrix(loss, hardest=1), X, LABELS, [0.4]))


def test_batches_are_pooled_by_their_mixtures():
    loss = MultiSimilarity(2, 10, 0.5)
    one, two = positivity(loss, X, LABELS), positivity(loss, X[:5], LABELS[:5])
    pooled = pool_positivity([one, two])
    a, b = one["mixtures"][0], two["mixtures"][0]
    assert pooled["mixtures"][0] == a + b
    assert np.allclose(pooled["positivity"], (a * one["positivity"] + b * two["positivity"]) / (a + b))


def test_refusals():
    with pytest.raises(InputError, match="constant"):
        positivity(NCA(), X, LABELS)
    with pytest.raises(InputError, match="Linear is not in the generalised form"):
        positivity(torch.nn.Linear(2, 2), X, LABELS)
    with pytest.raises(InputError, match=r"lambdas are \[1.5\]"):
        positivity(Contrastive(), X, LABELS, [1.5])
    with pytest.raises(InputError, match="no anchor with a positive and a negative"):
        positivity(Contrastive(), X[:3], LABELS[:3])
    with pytest.raises(InputError, match="no tables"):
        pool_positivity([])


def test_picture(tmp_path):
    table = positivity(MultiSimilarity(), X, LABELS)
    one = positivity_plot(tmp_path / "new" / "a.png", table)
    two = positivity_plot(tmp_path / "b.png", {"clean": table, "mixed": positivity(Contrastive(), X, LABELS)})
    with Image.open(one) as first, Image.open(two) as second:
        assert first.size[0] > 500
        assert first.width == second.width
        assert first.height < second.height  # room for the names
    assert one.read_bytes() != two.read_bytes()


# ------------------------------------------------------------------------------------------- geometry over training


def test_geometry_has_a_panel_of_its_own(tmp_path, monkeypatch):
    titles, drawn = [], []
    original, plot = Axes.set_title, Axes.plot
    monkeypatch.setattr(Axes, "set_title", lambda self, t, **k: (titles.append(t), original(self, t, **k))[1])
    monkeypatch.setattr(
        Axes, "plot", lambda self, x, y, **k: (drawn.append((k["label"], list(y))), plot(self, x, y, **k))[1]
    )
    entries = [
        {"step": i, "epoch": i, "validation/recall@1": 0.5, "validation/utilization": 0.9 - i / 100,
         "validation/alignment": 0.8, "validation/uniformity": -2.5 - i / 10}
        for i in range(4)
    ]  # fmt: skip
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join(json.dumps(e) for e in entries) + "\n")
    assert training_curves(path, tmp_path / "c.png") is not None
    assert titles == ["retrieval, %", "how embeddings lie (lower is better)"]
    values = dict(drawn)
    assert values["validation/utilization"] == pytest.approx([0.9, 0.89, 0.88, 0.87])  # no percent
    assert any(name.startswith("validation/uniformity") for name in values)
    titles.clear()
    path.write_text(json.dumps({"step": 1, "validation/utilization": 0.3}) + "\n")
    training_curves(path, tmp_path / "d.png")
    assert titles == ["how embeddings lie (lower is better)"]


@pytest.mark.slow
def test_script_draws_a_finished_run(tmp_path, monkeypatch, capsys, repository):
    from metrixkit.config import load
    from metrixkit.experiment import train

    run = tmp_path / "run"
    config = load(
        repository / "configs" / "glyphs_metrix.yaml",
        ["data.train_classes=10", "data.test_classes=5", "sampler.batch_size=20", "sampler.m=4", "model.dim=16",
         "training.epochs=2", "training.accelerator=cpu", "evaluation.geometry_every=1", "training.tensorboard=false",
         "loader.workers=0"],
    )  # fmt: skip
    train(config, run)
    monkeypatch.setattr(sys, "argv", ["positivity.py", str(run), "--batches", "2"])
    runpy.run_path(str(repository / "benchmarks" / "positivity.py"), run_name="__main__")
    assert "positivity.png" in capsys.readouterr().out
    assert (run / "pictures" / "positivity.png").is_file()
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    epochs = [entry["epoch"] for entry in logged if "validation/utilization" in entry]
    assert epochs == [0, 1, 2]
