"""Adjusting masks: fixtures of the release, a loop as oracle, lambda's ends, gradients, bad input."""

import json
from pathlib import Path

import pytest
import torch

from metrixkit.errors import InputError
from metrixkit.losses import mask_loss
from metrixkit.mixing import MaskPair, adjust_mask, mask_from_pair
from metrixkit.mixing.images.mixed import with_mask
from metrixkit.mixing.mixer import auto_label, lam_margin

FIXTURES = json.loads((Path(__file__).resolve().parents[2] / "fixtures" / "samix.json").read_text())


def masks(count=5, height=4, width=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(count, 1, height, width, generator=g, dtype=torch.float64) ** torch.linspace(0.2, 4, count).view(
        -1, 1, 1, 1
    )


def pair_of(second):
    second = torch.tensor(second, dtype=torch.float64)[:, None]
    return MaskPair(1 - second, second, second, second)


@pytest.mark.parametrize("official", [False, True])
def test_released_adjusting(official):
    entry = FIXTURES["mask_adjust"]
    mask = torch.tensor(entry["inputs"]["mask0"], dtype=torch.float64)[:, None]
    means = torch.tensor(entry["inputs"]["mean0"], dtype=torch.float64)
    assert torch.allclose(mask.mean((1, 2, 3)), means, atol=entry["tol"])
    for name, lam, margin in [
        ("auto_margin0.1_lam=0.3", 0.3, 0.1),
        ("auto_margin0.1_lam=0.6", 0.6, 0.1),
        ("always_lam=0.6", 0.6, 0.0),
    ]:
        expected = torch.tensor(entry["outputs"][name], dtype=torch.float64)
        assert torch.allclose(adjust_mask(mask, lam, margin, official)[:, 0], expected, atol=entry["tol"]), name


def test_released_supervised_mixing():
    entry = FIXTURES["supervised_pixel_mixup"]
    inputs, outputs, tol = entry["inputs"], entry["outputs"], entry["tol"]
    x = torch.tensor(inputs["x"], dtype=torch.float64)
    lam_mb, lam_bb = inputs["lam"]
    mb, bb = pair_of(inputs["mask1_mb"]), pair_of(inputs["mask1_bb"])
    partner_mb, partner_bb = x[torch.tensor(inputs["idx_mb"])], x[torch.tensor(inputs["idx_bb"])]

    def close(images, expected):
        return torch.allclose(images[:, 0], torch.tensor(expected, dtype=torch.float64), atol=tol)

    assert close(with_mask(x, partner_mb, mb.first), outputs["plain"]["img_mix_mb"])
    plain = mask_from_pair(bb, lam_bb, adjust=None, least=0.08)
    assert close(with_mask(x, partner_bb, plain), outputs["plain"]["img_mix_bb"])
    loss = 0.1 * mask_loss(mb.first, lam_mb)
    assert float(loss) == pytest.approx(outputs["plain"]["mask_loss"], abs=tol)
    slip = mask_from_pair(bb, lam_mb, adjust=1e-8, official=True)  # the release takes the Mixer's lambda here
    assert close(with_mask(x, partner_bb, slip), outputs["adjusted_official_bug_lam0"])
    mixup = mask_from_pair(bb, 0.95, adjust=None, least=0.08)
    assert close(with_mask(x, partner_bb, mixup), outputs["margin_lam_bb_0p95"])


@pytest.mark.parametrize("margin", [0.0, 0.1])
@pytest.mark.parametrize("lam", [0.0, 0.25, 0.5, 1.0, "each"])
def test_adjusting_by_loops(lam, margin):
    given = masks()
    share = torch.tensor([0.9, 0.0, 0.3, 1.0, 0.5], dtype=torch.float64) if lam == "each" else lam
    adjusted = adjust_mask(given, share, margin)
    for n, (before, after) in enumerate(zip(given, adjusted, strict=True)):
        l = float(share[n]) if lam == "each" else lam
        values = before.flatten().tolist()
        mean = sum(values) / len(values)
        if mean > l + margin:
            values = [v * l / mean for v in values]
        elif mean < l - margin:
            values = [1 - (1 - v) * (1 - l) / (1 - mean) for v in values]
        assert torch.allclose(after.flatten(), torch.tensor(values, dtype=torch.float64), atol=1e-14)
        assert float(after.mean()) == pytest.approx(l, abs=max(margin, 1e-12))
    assert 0 <= float(adjusted.min()) <= float(adjusted.max()) <= 1


def test_masks_that_are_all_one_image():
    flat = torch.cat([torch.zeros(1, 1, 2, 3), torch.ones(1, 1, 2, 3)]).double().requires_grad_()
    for lam in (0.0, 0.3, 1.0):
        adjusted = adjust_mask(flat, lam)
        assert torch.allclose(adjusted, torch.full_like(flat, lam), atol=1e-15)
        (grad,) = torch.autograd.grad(adjusted.square().sum(), flat)
        assert bool(torch.isfinite(grad).all())


def test_precision_and_gradient():
    single = masks(3, 56, 56).float()
    adjusted = adjust_mask(single, 0.4)
    assert adjusted.dtype == torch.float32
    assert torch.allclose(adjusted.mean((1, 2, 3)), torch.full((3,), 0.4), atol=1e-6)
    assert adjust_mask(single.bfloat16(), 0.4).dtype == torch.float32
    lam = torch.tensor([0.9, 0.1, 0.3, 0.7, 0.5], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda m: adjust_mask(m, lam), masks().requires_grad_())


def test_each_lambda_is_one_for_all():
    given = masks()
    for rule in (adjust_mask, lambda m, lam: lam_margin(m, lam, 0.3)):
        for value in (0.0, 0.2, 0.7):
            each = rule(given, torch.full((5,), value, dtype=torch.float64))
            assert torch.equal(each, rule(given, value))


def test_margin_of_lambda():
    given = masks(4)
    lam = torch.tensor([0.08, 0.5, 0.95, 0.09], dtype=torch.float64)
    out = lam_margin(given, lam, 0.08)
    assert torch.equal(out[[1, 3]], given[[1, 3]])
    assert torch.equal(out[[0, 2]], lam[[0, 2]].view(2, 1, 1, 1).expand_as(out[[0, 2]]))
    assert torch.equal(lam_margin(given, 0.0, -1.0), given)
    assert torch.equal(lam_margin(given, 0.0, 0.0), torch.zeros_like(given))


def test_pairs_of_one_label_become_mixup():
    given = masks(3)
    same = torch.tensor([True, False, True])
    out = auto_label(given, 0.3, same)
    assert torch.equal(out[1], given[1])
    assert torch.equal(out[[0, 2]], torch.full_like(given[[0, 2]], 0.3))
    pair = MaskPair(given.requires_grad_(), 1 - given, given, given)
    whole = mask_from_pair(pair, 0.3, adjust=0.1, same=same)
    assert not whole.requires_grad
    assert torch.allclose(whole, adjust_mask(out, 0.3, 0.1))
    assert torch.equal(mask_from_pair(pair, 0.3, adjust=None), given.detach())
    assert torch.allclose(mask_from_pair(pair, 0.3).mean((1, 2, 3)), torch.full((3,), 0.3, dtype=torch.float64))


def test_bad_input():
    given = masks()
    for call, message in [
        (lambda: adjust_mask(given[:, 0], 0.5), r"expected floating \(B, 1, H, W\)"),
        (lambda: adjust_mask(given[:0], 0.5), "mask is empty"),
        (lambda: adjust_mask(given, 1.2), "lam is 1.2"),
        (lambda: adjust_mask(given, torch.tensor([0.5, 0.5])), "lam has shape"),
        (lambda: adjust_mask(given, 0.5, -0.1), "margin=-0.1"),
        (lambda: lam_margin(given, 0.5, 0.5), "expected less than 0.5"),
        (lambda: auto_label(given, 0.5, torch.ones(5)), "expected .5,. bool"),
    ]:
        with pytest.raises(InputError, match=message):
            call()
