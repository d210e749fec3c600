"""Verification against sorting all pairs, and rejection of unknown queries against a loop."""

import json
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve

from metrixkit.errors import InputError
from metrixkit.retrieval import open_set, verify
from metrixkit.retrieval.exact import pairwise, score_bins

RATES = (0.3, 0.1, 0.013, 1e-3)


def pairs(x, labels, gallery, gallery_labels, own, distance, half):
    x, g = np.asarray(x, dtype=np.float64), np.asarray(gallery, dtype=np.float64)
    if distance == "cosine":
        x, g = (a / np.sqrt((a**2).sum(1, keepdims=True)) for a in (x, g))
    scores, same = [], []
    for i in range(len(x)):
        for j in range(len(g)):
            if j == own[i] or (half and j < i):
                continue
            scores.append(-((x[i] - g[j]) ** 2).sum() if distance == "euclidean" else (x[i] * g[j]).sum())
            same.append(labels[i] == gallery_labels[j])
    return np.round(np.array(scores), 11), np.array(same)  # rounding as ties, far below any real gap


def check(result, scores, same):
    genuine, impostor = np.sort(scores[same]), np.sort(scores[~same])[::-1]
    assert (result.genuine, result.impostors) == (len(genuine), len(impostor))
    assert abs(result.auc - roc_auc_score(same, scores)) <= result.auc_error + 1e-12
    for point in result.points:
        allowed = math.floor(point.false_match_rate * len(impostor) + 1e-9)
        first_too_many = impostor[allowed]
        assert point.true_accept_rate == (genuine > first_too_many).mean()
        assert point.false_matches == (impostor > first_too_many).sum() <= allowed
        assert -1e-11 < point.threshold - first_too_many < 1e-8 * max(1, abs(first_too_many))
    false, true, _ = roc_curve(same, scores, drop_intermediate=False)
    grid = np.linspace(0, 1, 100_001)
    crossing = grid[np.argmax(np.interp(grid, false, true) >= 1 - grid)]
    assert result.eer == pytest.approx(crossing, abs=1.1e-5)
    for threshold, share, accepted in result.roc:
        near = np.abs(scores - threshold).min() < 1e-9
        if not near:
            assert share == pytest.approx((impostor >= threshold).mean(), abs=1e-15)
            assert accepted == pytest.approx((genuine >= threshold).mean(), abs=1e-15)
    assert (np.diff(result.roc[:, 0]) < 0).all()
    assert (np.diff(result.roc[:, 1:], axis=0) >= 0).all()
    assert result.roc[-1, 1] == result.roc[-1, 2] == 1


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(pairwise, "ROWS", 16)
    monkeypatch.setattr(pairwise, "COLUMNS", 32)
    monkeypatch.setattr(score_bins, "BINS", 2**17)


def make(kind, seed=0, count=90):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 9, size=count)
    if kind == "grid":
        rows = rng.integers(-2, 3, size=(count, 3)) + 0.0
        rows[np.abs(rows).sum(1) == 0, 0] = 1.0
    elif kind == "near":  # cosines differ from the fifth digit on
        rows = np.ones((count, 4)) + 2e-3 * (rng.normal(size=(9, 4))[labels] + 0.5 * rng.normal(size=(count, 4)))
    else:
        rows = rng.normal(size=(9, 6))[labels] + rng.normal(size=(count, 6))
    return rows, labels


@pytest.mark.parametrize("kind", ["grid", "near", "normal"])
@pytest.mark.parametrize("distance", ["cosine", "euclidean", "dot"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_every_unordered_pair_counts_once(small_tiles, kind, distance, device):
    rows, labels = make(kind)
    result = verify(torch.from_numpy(rows).to(device), labels, false_match_rates=RATES, distance=distance)
    check(result, *pairs(rows, labels, rows, labels, range(90), distance, half=True))


@pytest.mark.parametrize("shared", [False, True])
def test_queries_against_a_gallery(small_tiles, shared):
    rows, labels = make("grid", 1)
    asked, there = np.arange(50), np.arange(30, 90)
    ids = {"ids": asked, "gallery_ids": there} if shared else {}
    result = verify(rows[asked], labels[asked], rows[there], labels[there], false_match_rates=RATES, **ids)
    own = [q - 30 if shared and q >= 30 else -1 for q in asked]
    check(result, *pairs(rows[asked], labels[asked], rows[there], labels[there], own, "cosine", half=False))


def test_a_model_that_nearly_collapsed_is_told_apart():
    rows, labels = make("near", 2)
    rows = 1 + 1e-2 * (rows - 1)  # cosines within 1e-8 of one
    result = verify(rows, labels, false_match_rates=(0.01,))
    exact = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    scores = -((exact[:, None] - exact) ** 2).sum(2)[np.triu_indices(90, 1)]  # finer than a dot product here
    same = (labels[:, None] == labels)[np.triu_indices(90, 1)]
    assert result.auc_error < 0.02
    assert abs(result.auc - roc_auc_score(same, scores)) < result.auc_error + 0.01
    assert result.auc > 0.7


def test_a_collapsed_model_accepts_nobody():
    for rows in (np.ones((30, 3)), 7.3 * np.ones((30, 512))):
        for distance in ("cosine", "euclidean", "dot"):
            result = verify(rows, np.arange(30) // 3, distance=distance)
            assert [p.true_accept_rate for p in result.points] == [0.0, 0.0, 0.0]
            assert (result.auc, result.eer) == (0.5, 0.5)


def test_a_perfect_model():
    rows = np.repeat(np.eye(5), 4, axis=0)
    result = verify(rows, np.arange(20) // 4)
    assert (result.auc, result.eer) == (1.0, 0.0)
    assert [p.true_accept_rate for p in result.points] == [1.0] * 3
    assert [p.enough for p in result.points] == [False] * 3  # 160 impostor pairs are too few for 1e-2
    assert 0 < result.points[0].threshold < 1


def test_verification_as_a_file():
    rows, labels = make("normal", 3)
    result = verify(rows, labels)
    written = json.loads(json.dumps(result.to_dict()))
    assert written["points"][0]["enough_impostors"] is True
    assert written["points"][2]["enough_impostors"] is False
    assert "chance" in result.definitions()["verify/tar@fmr=0.0001"]
    assert "chance" not in result.definitions()["verify/tar@fmr=0.01"]
    assert result.metrics().keys() == result.definitions().keys()


@pytest.mark.parametrize(
    ("labels", "rates", "message"),
    [
        (["a"] * 4, (0.01,), "there are 6 and 0"),
        (list("abcd"), (0.01,), "there are 0 and 6"),
        (list("aabb"), (1,), "false_match_rates holds 1"),
    ],
)
def test_verification_that_cannot_be(labels, rates, message):
    with pytest.raises(InputError, match=message):
        verify(np.eye(4), labels, false_match_rates=rates)


def rejection(x, labels, gallery, gallery_labels, own, rates, left_out):
    x, g = (a / np.sqrt((a**2).sum(1, keepdims=True)) for a in (x, gallery))
    best, other = [], []
    for q in range(len(x)):
        score = (x[q] * g).sum(1)
        keep = np.arange(len(g)) != own[q]
        mine = np.array(gallery_labels) == labels[q]
        best.append(max(score[keep & mine], default=-np.inf))
        other.append(max(score[keep & ~mine], default=-np.inf))
    best, other = np.array(best), np.array(other)
    known = np.isfinite(best)
    unknown = np.sort(other if left_out else other[~known])[::-1]
    out = []
    for rate in rates:
        limit = unknown[math.floor(rate * len(unknown) + 1e-9)] + 1e-12
        out.append(((known & (best > other + 1e-12) & (best > limit)).sum() / known.sum(), (unknown > limit).sum()))
    return known.sum(), len(unknown), out


@pytest.mark.parametrize("left_out", [False, True])
@pytest.mark.parametrize("kind", ["grid", "normal"])
def test_unknown_queries_are_rejected(small_tiles, left_out, kind):
    rows, labels = make(kind, 4)
    asked = np.arange(50)
    there = np.setdiff1d(np.arange(25, 90), np.flatnonzero(labels < 3))  # three classes are absent
    own = [int(np.flatnonzero(there == q)[0]) if q in there else -1 for q in asked]
    rates = (0.3, 0.1, 0.02)
    result = open_set(
        rows[asked], labels[asked], rows[there], labels[there], asked, there, rates,
        unknown="left-out" if left_out else "absent",
    )  # fmt: skip
    known, unknown, expected = rejection(rows[asked], labels[asked], rows[there], labels[there], own, rates, left_out)
    assert (result.known, result.unknown) == (known, unknown)
    found = [(p.identified, p.false_alarms) for p in result.points]
    assert found == [(pytest.approx(share), alarms) for share, alarms in expected]
    assert json.loads(json.dumps(result.to_dict()))["points"][2]["enough_unknown"] is False
    assert result.metrics().keys() == result.definitions().keys()


def test_open_sets_that_cannot_be():
    rows, labels = np.eye(4), list("aabb")
    with pytest.raises(InputError, match="unknown='left-out' needs no query of an absent class"):
        open_set(rows, labels, unknown="absent")
    with pytest.raises(InputError, match="unknown='absnt' is not known. Did you mean 'absent'"):
        open_set(rows, labels, unknown="absnt")
    with pytest.raises(InputError, match="false_alarm_rates holds 0"):
        open_set(rows, labels, false_alarm_rates=(0,))
    with pytest.raises(InputError, match="a gallery of more than one class"):
        open_set(rows, ["a"] * 4)
