"""The losses of self-supervised mixers and their hosts against tests/fixtures/ssl_mixers.json and samix.json."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from metrixkit.losses import (
    HarderDraw,
    byol_loss,
    clim_loss,
    imix_byol_loss,
    imix_moco_loss,
    imix_npair_loss,
    info_nce,
    instance_mixup_loss,
    mixco_moco_loss,
    mixco_simclr_loss,
    mixed_info_nce,
    mochi_loss_drawn,
    nt_xent,
    sinkhorn,
    swav_loss,
    two_hot_cross_entropy,
    unmix_loss,
    unmix_symmetric_loss,
)
from metrixkit.losses.hardest import hardest_columns

FIXTURES = Path(__file__).parents[1] / "fixtures"
SSL = json.loads((FIXTURES / "ssl_mixers.json").read_text(encoding="utf-8"))
SAMIX = json.loads((FIXTURES / "samix.json").read_text(encoding="utf-8"))


def case(name):
    """Inputs and expected numbers of a fixture, arrays as float64 tensors (whole numbers as int64)."""
    inputs = dict(SSL[name]["inputs"])
    if "same_arrays_as" in inputs:
        inputs = SSL[inputs["same_arrays_as"]]["inputs"] | inputs
    return tuple(
        {key: tensor(value) if isinstance(value, list) else value for key, value in part.items()}
        for part in (inputs, SSL[name]["expected"])
    )


def tensor(values):
    found = torch.tensor(values)
    return found if found.dtype == torch.int64 else torch.tensor(values, dtype=torch.float64)


def same(value, expected, tolerance=1e-9):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    assert torch.allclose(value.double(), expected, rtol=tolerance, atol=tolerance), (value, expected)


def unit(rows):
    return normalize(rows, dim=-1)


def gradients_by_unit_rows(loss, *rows):
    """Values and gradients of a loss by rows that are of length 1 already.

    The losses bring rows to length 1 themselves, so theirs is the part of the gradient that is tangent to the sphere.
    """
    leaves = [row.clone().requires_grad_() for row in rows]
    value = loss(*leaves)
    return value, torch.autograd.grad(value, leaves)


def tangent(grad, rows):
    rows = unit(rows)
    return grad - (grad * rows).sum(1, keepdim=True) * rows


def test_mixco_on_moco_end_to_end():
    given, expected = case("mixco_moco_end_to_end")
    share = given["lam"][:, None]
    mixed = share * given["im_q"][:2] + (1 - share) * given["im_q"][2:]
    same(mixed, expected["imgs_mix"])
    arguments = given["im_q"], mixed, given["im_k"], given["queue_rows"], given["lam"], given["T"], given["mix_T"]
    same(info_nce(given["im_q"], given["im_k"], given["T"], given["queue_rows"]), expected["loss_clean"])
    first = torch.arange(2)
    term = mixed_info_nce(
        mixed, given["im_k"], first, first + 2, given["lam"], given["mix_T"], negatives=given["queue_rows"]
    )
    same(term, expected["loss_mix"])
    same(mixco_moco_loss(*arguments), expected["loss_total"])
    # The labels that nobody builds any more, on the logits as they stand.
    logits, labels = expected["logits_mix"], expected["labels_mix"]
    dense = -(labels * logits.log_softmax(1)).sum(1)
    same(two_hot_cross_entropy(logits, first, first + 2, given["lam"]), dense)


@pytest.mark.parametrize("name", ["mixco_moco_embeddings_tiny", "mixco_moco_embeddings_half_weight"])
def test_mixco_on_moco_with_gradients(name):
    given, expected = case(name)

    def loss(q, q_mix):
        return mixco_moco_loss(
            q, q_mix, given["k"], given["queue_rows"], given["lam"], given["T"], given["mix_T"], given["mix_param"]
        )

    value, (by_q, by_mix) = gradients_by_unit_rows(loss, given["q"], given["q_mix"])
    same(value, expected["loss_total"])
    same(by_q, tangent(expected["grad_q"], given["q"]))
    same(by_mix, tangent(expected["grad_q_mix"], given["q_mix"]))


def test_mixco_on_simclr_end_to_end():
    given, expected = case("mixco_simclr_end_to_end")
    w = given["W"].clone().requires_grad_()

    def embed(x):
        return torch.tanh(x @ w.T)

    def mixture(x, lam):
        return lam[:, None] * x[:2] + (1 - lam)[:, None] * x[2:]

    def loss(detach):
        z_i, z_j = embed(given["x_i"]), embed(given["x_j"])
        mixed = [embed(mixture(given[f"x_{s}"], given[f"lam_{s}"])) for s in "ij"]
        targets = (z_i.detach(), z_j.detach()) if detach else (z_i, z_j)
        total = mixco_simclr_loss(z_i, z_j, *mixed, given["lam_i"], given["lam_j"], given["T"], given["mix_T"])
        if detach:
            rows = torch.arange(2)
            total = nt_xent(z_i, z_j, given["T"]) + sum(
                mixed_info_nce(m, t, rows, rows + 2, given[lam], given["mix_T"]) / 2
                for m, t, lam in ((mixed[0], targets[1], "lam_i"), (mixed[1], targets[0], "lam_j"))
            )
        return total

    for detach, name in ((False, "grad_W"), (True, "grad_W_if_targets_detached")):
        total = loss(detach)
        same(total, expected["loss_total"])
        same(torch.autograd.grad(total, w)[0], expected[name])


def test_hosts():
    given, expected = case("nt_xent")
    z1 = given["z1"].clone().requires_grad_()
    for t in (0.1, 0.5, 1.0):
        same(nt_xent(z1, given["z2"], t), expected[f"loss_T{t}"])
    grad = torch.autograd.grad(nt_xent(z1, given["z2"], 0.5), z1)[0]
    same(grad, expected["grad_z1_T0.5_cosine_layer_inside"])
    given, expected = case("moco_infonce")
    for t in (0.07, 0.2):
        same(info_nce(given["q"], given["k"], t, given["queue_rows"]), expected[f"loss_T{t}"])
    given, expected = case("byol")
    one = byol_loss(given["p1"], given["z2_target"])
    same(one, expected["dir12"])
    same(byol_loss(given["p2"], given["z1_target"]), expected["dir21"])
    same(byol_loss(given["p1"], given["z2_target"], given["p2"], given["z1_target"]), expected["loss"])


def test_imix():
    given, expected = case("imix")
    lam, perm, key, t = given["lam"], given["perm"], given["x2"], given["T"]
    mixed = lam[:, None] * given["x1"] + (1 - lam)[:, None] * given["x1"][perm]
    same(unit(mixed), expected["q_mix"])
    same(imix_npair_loss(mixed, key, perm, lam, t), expected["loss_npair"])
    same(imix_npair_loss(given["x1"], key, torch.arange(4), 1.0, t), expected["loss_npair_no_mix"])
    same(imix_moco_loss(mixed, key, given["queue_rows"], perm, lam, t), expected["loss_moco"])
    same(imix_byol_loss(mixed, key, perm, lam), expected["loss_byol"])


def test_unmix():
    given, expected = case("unmix")
    x1, x2, queue, lam, t = (given[name] for name in ("x1", "x2", "queue_rows", "lam", "T"))
    mixed = lam * x1 + (1 - lam) * x1.flip(0)
    same(unit(mixed), unit(expected["mixed"]))
    terms = expected["terms_12"]
    same(info_nce(x1, x2, t, queue), terms["clean"])
    same(clim_loss(mixed, x2, x2, queue, 1.0, t), terms["mix"])
    same(clim_loss(mixed.flip(0), x2, x2, queue, 0.3, t), terms["mix_reversed"])
    same(unmix_loss(x1, mixed, x2, queue, lam, t), expected["loss_asymmetric"])
    same(unmix_symmetric_loss((x1, x2), mixed, (x1, x2), queue, lam, t), expected["loss_symmetric"])


def test_clim():
    given, expected = case("clim_eq4")

    def loss(mixed):
        return clim_loss(mixed, given["k_anchor"], given["k_pos"], given["queue_rows"], given["lam"], given["T"])

    value, (grad,) = gradients_by_unit_rows(loss, given["q_mix"])
    same(value, expected["loss"])
    same(grad, tangent(expected["grad_q_mix"], given["q_mix"]))


def test_numerics():
    given, expected = case("soft_ce_numerics")
    # Rows with shares in columns 0, 1 and in 1, 2.
    rows = torch.tensor([0, 1]), torch.tensor([1, 2]), torch.tensor([0.75, 0.4], dtype=torch.float64)
    same(two_hot_cross_entropy(given["logits"], *rows).mean(), expected["loss"])
    for dtype, least in ((torch.float32, -120.0), (torch.float16, -30.0), (torch.float32, -torch.inf)):
        logits = torch.tensor([[0.0, least]], dtype=dtype, requires_grad=True)
        loss = two_hot_cross_entropy(logits, torch.tensor([0]), torch.tensor([1]), 1.0)
        same(loss, [expected["extreme_loss"]])
        (grad,) = torch.autograd.grad(loss.sum(), logits)
        assert torch.isfinite(grad).all()


def test_swav():
    given, expected = case("swav")
    z1, z2 = given["z1"], given["z2"]
    for z, codes in ((z1, "codes1"), (z2, "codes2")):
        same(sinkhorn(unit(z) @ unit(given["prototypes"]).T, given["eps"], given["iters"]), expected[codes])
    same(swav_loss(z1, z2, given["prototypes"], given["eps"], given["T"], given["iters"]), expected["loss"])


# The fixtures of the second file are rounded to seven digits, and so are their inputs.


def samix_instances():
    given = {k: tensor(v) if isinstance(v, list) else v for k, v in SAMIX["instance_losses"]["inputs"].items()}
    return given | {"queue": given["queue"].T.contiguous()}


def test_samix_instance_losses():
    given = samix_instances()
    expected = SAMIX["instance_losses"]["outputs"]["encoder_infoNCE"]
    mixed = given["mix"].clone().requires_grad_()
    loss = instance_mixup_loss(
        mixed, given["key_k"], given["key_q"], given["perm"], given["queue"], given["lam"], given["T"]
    )
    same(loss, expected["loss"], 1e-5)
    same(torch.autograd.grad(loss, mixed)[0], tensor(expected["grad_wrt_unnormalised_mix"]), 1e-5)
    moco = info_nce(given["query"], given["key_k"], given["T"], given["queue"])
    same(moco, SAMIX["instance_losses"]["outputs"]["moco"], 1e-5)


@pytest.mark.parametrize("generated", [0, 1])
@pytest.mark.parametrize("crossed", [0, 1])
def test_same_view_and_cross_view(generated, crossed):
    given = samix_instances()
    queue = torch.cat([given["queue"], given["queue"][:1]])
    views = {"q": given["key_q"], "k": given["key_k"]}
    lam, perm = given["lam"], given["perm"]
    mixed = lam * views["q"] + (1 - lam) * views["k" if generated else "q"][perm]
    first = {(0, 0): "qq", (0, 1): "kk", (1, 0): "qk", (1, 1): "kq"}[generated, crossed]
    loss = instance_mixup_loss(mixed, views[first[0]], views[first[1]], perm, queue, lam, given["T"])
    same(loss, SAMIX["mocomix_view_settings"]["outputs"][f"gen={generated},ssl={crossed}"], 1e-5)


def test_samix_rivals():
    given = samix_instances()
    lam = tensor(SAMIX["imix_moco"]["inputs"]["lam"])
    loss = imix_moco_loss(given["mix"], given["key_k"], given["queue"], given["perm"], lam, given["T"])
    same(loss, SAMIX["imix_moco"]["outputs"]["loss"], 1e-6)


def test_samix_mochi():
    given, drawn = samix_instances(), SAMIX["mochi"]["inputs"]
    query, queue = given["query"], given["queue"]
    hard = hardest_columns(unit(query) @ unit(queue).T, 3)
    rows, a, b = unit(queue)[hard[0]], tensor(drawn["a"])[:, None], tensor(drawn["b"])[:, None]
    points = torch.cat([a * rows[:2] + (1 - a) * rows[1:], b * unit(query)[:1] + (1 - b) * rows[:2]])
    same(unit(points), tensor(SAMIX["mochi"]["outputs"]["hard_first_row"]), 1e-6)
    draw = HarderDraw(
        torch.tensor([0, 1]).expand(4, 2),
        torch.tensor([1, 2]).expand(4, 2),
        tensor(drawn["a"]).expand(4, 2),
        torch.tensor([0, 1]).expand(4, 2),
        tensor(drawn["b"]).expand(4, 2),
    )
    loss = mochi_loss_drawn(query, given["key_k"], queue, 3, draw, given["T"])
    same(loss, SAMIX["mochi"]["outputs"]["loss"], 1e-6)


def test_samix_hosts():
    z = tensor(SAMIX["simclr_nt_xent"]["inputs"]["z"])
    same(nt_xent(z[::2], z[1::2], 0.1), SAMIX["simclr_nt_xent"]["outputs"]["loss"], 1e-5)
    given = SAMIX["byol"]["inputs"]
    # There without the constant: 2 in each direction.
    both = tensor(given["p"]), tensor(given["t"])
    loss = byol_loss(*both) - 2
    same(loss, SAMIX["byol"]["outputs"]["loss"], 1e-5)
    given = SAMIX["swav_sinkhorn"]["inputs"]
    codes = sinkhorn(tensor(given["scores"]), given["eps"], given["iters"])
    assert torch.allclose(codes, tensor(SAMIX["swav_sinkhorn"]["outputs"]["Q"]), rtol=1e-5, atol=1e-12)
