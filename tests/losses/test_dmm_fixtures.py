"""Dynamic mixed margin, its hosts and m2-Mix against the values of tests/fixtures/dmm.json."""

import json
from pathlib import Path

import pytest
import torch

from metrixkit.losses import (
    BPR,
    CMLMinTriplet,
    CMLSumTriplet,
    DynamicMixedMargin,
    M2Mix,
    MaxMargin,
    NTXent,
    Ramp,
    SymmetricCrossEntropy,
    bpr,
    cml_min_triplet,
    cml_sum_triplet,
    info_nce,
    l_mix,
    m2_mix,
    max_margin,
    nt_xent,
    symmetric_cross_entropy,
    v_mix,
    vl_mix,
)
from metrixkit.mixing import mix, mix_inputs, slerp

FIXTURES = json.loads((Path(__file__).parents[1] / "fixtures" / "dmm.json").read_text(encoding="utf-8"))
NORM = torch.nn.functional.normalize


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def near(value, expected, tolerance=1e-8):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    return bool(((value.detach() - expected).abs() <= tolerance * expected.abs().clamp(min=1)).all())


def triples(name):
    inputs = FIXTURES[name]["inputs"]
    return tensor(inputs["user"])[:, 0], tensor(inputs["pos"])[:, 0], tensor(inputs["neg"])


def test_cml_hosts():
    min_ = FIXTURES["cml_min_triplet"]["outputs"]
    u, p, n = triples("cml_min_triplet")
    assert near(cml_min_triplet(u, p, n, 0.2, official=True), min_["official"])
    assert near(cml_min_triplet(u, p, n, 0.2), min_["intended_per_sample"])
    assert near(cml_sum_triplet(*triples("cml_sum_triplet_and_dmm"), 0.2), 0.03060379333)
    assert near(bpr(*triples("bpr")), FIXTURES["bpr"]["outputs"]["official"])
    assert near(BPR()(*triples("bpr")), FIXTURES["bpr"]["outputs"]["official"])


@pytest.mark.parametrize("row", FIXTURES["cml_min_triplet_dmm_fixed_lambda"]["outputs"]["rows"], ids=lambda r: r["lam"])
def test_min_triplet_at_a_given_lambda_with_gradients(row):
    u, p, n = triples("cml_min_triplet_dmm_fixed_lambda")
    u.requires_grad_()
    dmm = DynamicMixedMargin(CMLMinTriplet(0.2))
    value = dmm.mixed_loss(u, p, n, lam=row["lam"])
    value.backward()
    assert near(value.detach(), row["per_sample"])
    assert near(u.grad, row["grad_user_per_sample"])
    mixed = mix(u, u.flip(0), row["lam"]).detach()
    assert near(cml_min_triplet(mixed, p, n, 0.2 * row["lam"], official=True), row["all_pairs"])


def test_min_triplet_of_the_release_loses_its_margin():
    expected = FIXTURES["cml_min_triplet_dmm_official_3calls"]["outputs"]
    parts = triples("cml_min_triplet_dmm_official_3calls")
    release, ours = DynamicMixedMargin(CMLMinTriplet(0.2), official=True), DynamicMixedMargin(CMLMinTriplet(0.2))
    for i, lam in enumerate(expected["lambdas"]):
        assert near(release.mixed_loss(*parts, lam=lam), expected["official"][i])
        assert release.official.margin == pytest.approx(expected["margins_after_call"][i], abs=1e-9)
        assert near(ours.mixed_loss(*parts, lam=lam), expected["intended_per_sample_no_decay"][i])
    release.set_epoch(10)
    clean = FIXTURES["cml_min_triplet"]["outputs"]["official"]
    margin = release.official.margin
    total = release(*parts, lam=0.5)
    mixed = mix(parts[0], parts[0].flip(0), 0.5)
    assert near(total, clean + 0.25 * cml_min_triplet(mixed, *parts[1:], margin / 2, official=True).item())


def test_sum_triplet_of_the_release_mixes_negatives_with_positives():
    expected = FIXTURES["cml_sum_triplet_and_dmm"]["outputs"]
    parts = triples("cml_sum_triplet_and_dmm")
    for row in [{"lam": expected["lam"], "value": expected["official_dmm_first_call"]}, *expected["fixed_lambda_rows"]]:
        release = DynamicMixedMargin(CMLSumTriplet(0.2), official=True)
        assert near(release.mixed_loss(*parts, lam=row["lam"]), row["value"])


def test_ramps():
    expected = FIXTURES["ramp"]["outputs"]
    for epoch, value in expected["coot_cml"]:
        assert Ramp()(epoch) == pytest.approx(value, abs=1e-9)
    for epoch, value in expected["gmc"]:  # counted from 1
        assert Ramp(12, first=1)(epoch - 1) == pytest.approx(value, abs=1e-9)


def coot():
    inputs = FIXTURES["coot_dmm_toy"]["inputs"]
    return tensor(inputs["x"]), tensor(inputs["W"]), tensor(inputs["t"])


@pytest.mark.parametrize("row", FIXTURES["coot_dmm_toy"]["outputs"]["rows"], ids=lambda r: r["lam"])
def test_max_margin_host_on_mixed_inputs(row):
    x, w, t = coot()
    dmm, lam = DynamicMixedMargin(MaxMargin(0.2)), row["lam"]
    v, mixed = NORM(x @ w, dim=1), NORM(mix_inputs(x, lam) @ w, dim=1)
    assert near(dmm.mixed_loss(v, t, lam=lam, mixed_a=mixed), row["align_mixed"])
    cluster = (max_margin(mixed, mixed, 0.2 * lam) + max_margin(t, t, 0.2 * lam)) / 2
    assert near(cluster, row["cluster_mixed"])
    dmm.set_epoch(10)
    assert near(dmm(v, t, lam=lam, mixed_a=mixed), row["total_epoch10"])
    dmm.set_epoch(0)
    assert near(dmm(v, t, lam=lam, mixed_a=mixed), FIXTURES["coot_dmm_toy"]["outputs"]["clean_align"])


def test_max_margin_host_gradient_by_inputs():
    x, w, t = coot()
    x.requires_grad_()
    dmm = DynamicMixedMargin(MaxMargin(0.2))
    dmm.mixed_loss(x @ w, t, lam=0.75, mixed_a=mix_inputs(x, 0.75) @ w).backward()
    assert near(x.grad, FIXTURES["coot_dmm_toy"]["outputs"]["grad_x_align_mixed_lam0_75"])


def test_gmc_host():
    inputs, expected = (FIXTURES["gmc_supervised_dmm"][key] for key in ("inputs", "outputs"))
    reps, mixed, lam, tau = tensor(inputs["reps"]), tensor(inputs["mixed"]), inputs["lam"], inputs["tau"]
    joint = reps[3]
    nce = sum(nt_xent(joint, z, tau) for z in reps[:3])
    assert near(nce, expected["nce_mean"])
    l1 = (tensor(inputs["pred"]) - tensor(inputs["target"])).abs().mean()
    dmm = DynamicMixedMargin(NTXent(tau), ramp=Ramp(12, first=1), alpha=inputs["init_margin"])
    dmm.set_epoch(inputs["ep"] - 1)
    hinges = [dmm.mixed_loss(z, joint, lam=lam, mixed_a=m) for z, m in zip(reps, mixed, strict=False)]
    assert near(torch.stack(hinges), expected["hinge_per_modality"])
    total = nce + l1 + dmm.current_weight * torch.stack(hinges).mean()
    assert near(total, expected["official_gmc_plus_dmm"])
    # The same through calls with all three modalities, the ramp's weight divided among them.
    dmm.weight = 1 / 3
    called = sum(dmm(z, joint, lam=lam, mixed_a=m) for z, m in zip(reps, mixed, strict=False))
    assert near(called + l1, expected["official_gmc_plus_dmm"])


def clip4clip():
    inputs = FIXTURES["clip4clip_meanP_and_ce"]["inputs"]
    text, frames, mask = (tensor(inputs[key])[:3] for key in ("text", "frames", "mask"))
    return text, frames, mask


def mean_pooled(frames, mask):
    frames = NORM(frames, dim=2) * mask[..., None]
    return NORM(frames.sum(1) / mask.sum(1, keepdim=True).clamp(min=1), dim=1)


def test_symmetric_cross_entropy():
    text, frames, mask = clip4clip()
    expected = FIXTURES["clip4clip_meanP_and_ce"]["outputs"]
    video = mean_pooled(frames, mask)
    assert near(video, expected["video"])
    assert near(symmetric_cross_entropy(text, video, 100.0), expected["ce_symmetric"])
    assert near(SymmetricCrossEntropy(0.01).double()(text, video), expected["ce_symmetric"])
    both = (info_nce(text, video, 0.01) + info_nce(video, text, 0.01)) / 2
    assert near(both, expected["ce_symmetric"])
    # CLIP4Clip's own max-margin loss keeps the diagonal, which adds twice the margin for each of the 3 pairs.
    assert near(max_margin(text, video, 0.1) + 2 * 0.1 / 3, expected["max_margin_ranking_m0_1"])


@pytest.mark.parametrize("row", FIXTURES["dmm_on_crossentropy_host_derived"]["outputs"]["rows"], ids=lambda r: r["lam"])
def test_cross_entropy_host(row):
    text, frames, mask = clip4clip()
    video, lam = mean_pooled(frames, mask), row["lam"]
    mixed = mean_pooled(mix_inputs(frames, lam), mask)
    dmm = DynamicMixedMargin(SymmetricCrossEntropy(0.01).double())
    assert near(dmm.mixed_loss(video, text, lam=lam, mixed_a=mixed), row["hinge"])
    dmm.set_epoch(10)
    assert near(dmm(video, text, lam=lam, mixed_a=mixed), row["total_epoch10"])


def test_m2_mix():
    inputs, expected = (FIXTURES["m2mix"][key] for key in ("inputs", "outputs"))
    x, y, lam = tensor(inputs["image"]), tensor(inputs["text"]), inputs["lam"]
    assert near(symmetric_cross_entropy(x, y, 100), expected["clip"])
    assert near(slerp(x, y, lam), expected["mixed"])
    assert near(m2_mix(x, y, lam), expected["m2"])
    assert near(m2_mix(x, y, lam, temperature=0.07), expected["m2_sep_scale_tau2_0_07"])
    # The reference held its soft targets in float32: 0.3 is 0.3 + 1.2e-8 there. With such targets it agrees to 1e-8.
    target = (lam * torch.eye(4) + (1 - lam) * torch.eye(4).flip(0)).double()
    for name, loss, logits in (
        ("vmix", v_mix, slerp(x, x.flip(0), lam) @ y.T / 0.01),
        ("lmix", l_mix, x @ slerp(y, y.flip(0), lam).T / 0.01),
    ):
        by_hand = [-(target * part.log_softmax(1)).sum(1).mean() for part in (logits, logits.T)]
        assert near(sum(by_hand) / 2, expected[name])
        assert near(loss(x, y, lam), expected[name], 2e-8)
    assert near(vl_mix(x, y, lam), expected["vlmix"])
    assert near(M2Mix(m2=0.0)(x, y), expected["clip"])
