"""The dynamic mixed margin as a criterion: draws, sides, partners, levels, ramp, state, precision, bad input, config."""

import io

import pytest
import torch

from metrixkit import config as configs
from metrixkit.errors import InputError
from metrixkit.losses import (
    BPR,
    PML,
    CMLMinTriplet,
    CMLSumTriplet,
    Contrastive,
    DynamicMixedMargin,
    InfoNCE,
    MaxMargin,
    ProxyAnchor,
    Ramp,
    SymmetricCrossEntropy,
    Triplet,
    max_margin,
)
from metrixkit.methods import MetricLearning
from metrixkit.mixing import mix_inputs
from metrixkit.models import ImageEncoder
from metrixkit.schema import build_node, check_node
from metrixkit.seam import Batch

LABELS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3])
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def rows(count=8, dim=5, seed=0):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(x):
    return torch.nn.functional.normalize(x, dim=-1)


# ---------------------------------------------------------------------------------------------------------- steps


def test_total_is_clean_plus_the_ramp_times_mixed():
    a, b, dmm = rows(seed=1), rows(seed=2), DynamicMixedMargin(MaxMargin(0.3), weight=2.0)
    clean, mixed = max_margin(a, b, 0.3), dmm.mixed_loss(a, b, lam=0.6)
    for epoch, weight in ((0, 0.0), (10, 0.5), (30, 1.0)):
        dmm.set_epoch(epoch)
        assert dmm.current_weight == pytest.approx(weight)
        assert torch.allclose(dmm(a, b, lam=0.6), clean + weight * mixed)
        logs = dmm.logs()
        assert logs["mixed_weight"] == pytest.approx(weight)
        assert logs["clean"] == pytest.approx(clean.item())
        assert ("mixed" in logs) == (weight > 0)
    assert logs["mixed"] == pytest.approx(mixed.item())
    assert logs["lambda"] == 0.6


def test_without_weight_nothing_is_mixed():
    class Watched(MaxMargin):
        calls = 0

        def forward(self, a, b, margin=None):
            self.calls += 1
            return super().forward(a, b, margin)

    host = Watched()
    DynamicMixedMargin(host)(rows(), rows(seed=1))
    assert host.calls == 1


def test_lambda_is_drawn_evenly_between_its_bounds_once_a_step():
    dmm = DynamicMixedMargin(MaxMargin(), seed=3)
    drawn = torch.tensor([dmm.draw(4)[0] for _ in range(2000)])
    assert drawn.min() >= 0.5
    assert drawn.max() < 1
    assert drawn.mean().item() == pytest.approx(0.75, abs=0.01)
    official = DynamicMixedMargin(CMLMinTriplet(), official=True)
    drawn = torch.tensor([official.draw(4)[0] for _ in range(2000)])
    assert drawn.max() < 0.5
    assert drawn.mean().item() == pytest.approx(0.25, abs=0.01)
    drawn = [DynamicMixedMargin(CMLSumTriplet(), official=True, seed=i).draw(4)[0] for i in range(50)]
    assert max(drawn) > 0.9


@pytest.mark.parametrize("ratio_per", ["step", "row"])
def test_equal_seeds_draw_alike_whatever_the_batch(ratio_per):
    one, two = (
        DynamicMixedMargin(MaxMargin(), ratio_per=ratio_per, partner="permutation", ramp=None, seed=5) for _ in "12"
    )
    one(rows(3), rows(3, seed=1))
    two(rows(8), rows(8, seed=1))
    a, b = rows(6), rows(6, seed=1)
    assert one(a, b).item() == two(a, b).item()
    assert DynamicMixedMargin(MaxMargin(), ramp=None, seed=6)(a, b).item() != one(a, b).item()


def test_state_survives_a_kill():
    a, b = rows(), rows(seed=1)

    def made():
        return DynamicMixedMargin(MaxMargin(0.3), ratio_per="row", partner="permutation", seed=7)

    whole, killed = made(), made()
    for dmm in (whole, killed):
        dmm.set_epoch(4)
        dmm(a, b)
    file = io.BytesIO()
    torch.save(killed.state_dict(), file)
    file.seek(0)
    resumed = made()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.current_weight == whole.current_weight > 0
    assert [resumed(a, b).item() for _ in range(3)] == [whole(a, b).item() for _ in range(3)]
    official = DynamicMixedMargin(CMLMinTriplet(1.5), official=True, ramp=None)
    official(a, b, rows(16, seed=3).view(8, 2, 5))
    again = DynamicMixedMargin(CMLMinTriplet(1.5), official=True, ramp=None)
    again.load_state_dict(official.state_dict())
    assert again.official.margin == official.official.margin < 0.75


# ----------------------------------------------------------------------------------------------- sides and partners


def test_sides():
    a, b, lam = rows(5, seed=1), rows(5, seed=2), 0.7
    ua, ub = mix_inputs(unit(a), lam), mix_inputs(unit(b), lam)
    by_side = {"a": max_margin(ua, b, 0.7 * 0.3), "b": max_margin(a, ub, 0.7 * 0.3)}
    by_side["both"] = (by_side["a"] + by_side["b"]) / 2
    for side, expected in by_side.items():
        dmm = DynamicMixedMargin(MaxMargin(0.3), side=side)
        assert torch.allclose(dmm.mixed_loss(a, b, lam=lam), expected)
    both = DynamicMixedMargin(MaxMargin(0.3), side="both")
    assert torch.allclose(both.mixed_loss(a, b, lam=lam, mixed_a=ua, mixed_b=3 * ub), by_side["both"])
    user, item, others = rows(4), rows(4, seed=1), rows(8, seed=2).view(4, 2, 5)
    value = DynamicMixedMargin(CMLSumTriplet(1.0), side="b").mixed_loss(user, item, others, lam=lam)
    assert torch.allclose(value, CMLSumTriplet(0.7)(user, mix_inputs(item, lam), others))


def test_rows_of_losses_on_cosines_are_mixed_at_length_one():
    a, b, scale = rows(6), rows(6, seed=1), torch.logspace(-3, 3, 6, dtype=torch.float64)[:, None]
    for loss in (MaxMargin(0.3), InfoNCE(), SymmetricCrossEntropy().double()):
        dmm = DynamicMixedMargin(loss)
        assert torch.allclose(dmm.mixed_loss(a, b, lam=0.6), dmm.mixed_loss(scale * a, b / scale, lam=0.6))


def test_partners():
    a, b = rows(6), rows(6, seed=1)
    dmm = DynamicMixedMargin(MaxMargin(0.3), partner="permutation", seed=2)
    lam, partner = dmm.draw(6)
    assert sorted(partner.tolist()) == list(range(6))
    expected = max_margin(mix_inputs(unit(a), lam, partner), b, lam * 0.3)
    assert torch.allclose(DynamicMixedMargin(MaxMargin(0.3), partner="permutation", seed=2).mixed_loss(a, b), expected)
    assert torch.allclose(DynamicMixedMargin(MaxMargin(0.3)).mixed_loss(a, b, lam=lam, partner=partner), expected)


@pytest.mark.parametrize("make", [lambda: MaxMargin(0.3), lambda: InfoNCE(0.1)])
def test_the_order_of_pairs_does_not_matter_where_partners_move_along(make):
    a, b, order = rows(7), rows(7, seed=1), torch.tensor([3, 0, 6, 5, 2, 1, 4])
    partner = torch.tensor([6, 5, 4, 3, 2, 1, 0])
    dmm, place = DynamicMixedMargin(make()), order.argsort()
    value = dmm.mixed_loss(a, b, lam=0.7)
    assert torch.allclose(dmm.mixed_loss(a[order], b[order], lam=0.7, partner=place[partner[order]]), value)
    # Reversing the batch keeps who is mixed with whom.
    assert torch.allclose(dmm.mixed_loss(a.flip(0), b.flip(0), lam=0.7), value)
    labelled, x, labels = DynamicMixedMargin(Triplet(0.3)), rows(7), LABELS[:7]
    moved = labelled.mixed_loss(x[order], labels[order], lam=0.7, partner=place[partner[order]])
    assert torch.allclose(moved, labelled.mixed_loss(x, labels, lam=0.7))


def test_the_middle_row_of_an_odd_batch_meets_itself_at_the_smaller_margin():
    a, b = rows(3), rows(3, seed=1)
    dmm, moved = DynamicMixedMargin(MaxMargin(0.5)), a.clone()
    mixed = unit(moved).clone()
    mixed[0], mixed[2] = 0.6 * unit(a)[0] + 0.4 * unit(a)[2], 0.6 * unit(a)[2] + 0.4 * unit(a)[0]
    assert torch.allclose(dmm.mixed_loss(a, b, lam=0.6), max_margin(mixed, b, 0.6 * 0.5))


def test_one_class_one_row_one_pair():
    x = rows(4).requires_grad_()
    for loss in (Triplet(0.3), Contrastive(0.2)):
        value = DynamicMixedMargin(loss, ramp=None)(x, torch.zeros(4, dtype=torch.long))
        assert torch.isfinite(value)
        value.backward()
        assert torch.isfinite(x.grad).all()
    assert DynamicMixedMargin(Triplet(0.3)).mixed_loss(x[:1], LABELS[:1], lam=0.5).item() == 0
    assert DynamicMixedMargin(MaxMargin(0.3)).mixed_loss(x[:1], x[:1], lam=0.5).item() == 0


# ---------------------------------------------------------------------------------------------------------- levels


@pytest.mark.parametrize("level", ["feature", "input"])
def test_levels_encode_the_mixtures(level):
    maps, weight = rows(8, 12, seed=3).view(8, 3, 4), rows(12, 5, seed=4)
    seen = []

    def head(x):
        seen.append(x)
        return x.flatten(1) @ weight

    dmm, x = DynamicMixedMargin(Triplet(0.3), level=level, ramp=None, seed=2), maps.flatten(1) @ weight
    lam, _ = DynamicMixedMargin(Triplet(0.3), seed=2).draw(8)
    total = dmm(x, LABELS, features=maps, head=head)
    assert torch.allclose(seen[0], lam * maps + (1 - lam) * maps.flip(0))
    mixed = DynamicMixedMargin(Triplet(0.3)).mixed_loss(x, LABELS, lam=lam, mixed_a=head(seen[0]))
    expected = Triplet(0.3)(x, LABELS) + mixed
    assert torch.allclose(total, expected)


@pytest.mark.parametrize("level", ["embed", "feature", "input"])
def test_the_method_trains_with_it(level):
    torch.manual_seed(0)
    model = ImageEncoder("small", image_size=32, dim=16)
    method = MetricLearning(model, DynamicMixedMargin(Contrastive(0.5), level=level))
    images = torch.randint(0, 256, (8, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    batch = Batch([str(i) for i in range(8)], LABELS, [images])
    for epoch in (0, 5):
        method.before_epoch(epoch, lambda: torch.empty(0))
        output = method(batch)
        output.losses["total"].backward()
        assert output.logs()["loss/mixed_weight"] == pytest.approx(epoch / (epoch + 30))
    assert output.logs()["loss/mixed"] != 0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


# ------------------------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("make", "labelled"),
    [
        (lambda: MaxMargin(0.3), False),
        (lambda: InfoNCE(0.07), False),
        (lambda: SymmetricCrossEntropy(0.01), False),
        (lambda: Contrastive(0.3), True),
        (lambda: ProxyAnchor(4, 5), True),
        (lambda: PML("ArcFaceLoss", num_classes=4, dim=5), True),
    ],
)
def test_half_precision_is_computed_in_float32(make, labelled, device):
    torch.manual_seed(0)
    dmm = DynamicMixedMargin(make(), ramp=None).to(device)
    x, y = rows().to(device, torch.bfloat16), LABELS.to(device) if labelled else rows(seed=1).to(device, torch.bfloat16)
    with torch.autocast(device, dtype=torch.bfloat16):
        half = dmm(x.requires_grad_(), y, lam=0.6)
    half.backward()
    whole = dmm(x.detach().float(), y if labelled else y.float(), lam=0.6)
    assert half.dtype == torch.float32
    assert torch.allclose(half, whole, rtol=1e-5)
    assert all(p.dtype == torch.float32 for p in dmm.parameters())


@pytest.mark.parametrize("make", [lambda: CMLMinTriplet(0.5), lambda: CMLSumTriplet(0.5), BPR])
def test_recommender_losses_in_half_precision(make):
    dmm = DynamicMixedMargin(make(), ramp=None)
    parts = [part.bfloat16() for part in (rows(), rows(seed=1), rows(16, seed=2).view(8, 2, 5))]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = dmm(*parts, lam=0.6)
    assert half.dtype == torch.float32
    assert torch.allclose(half, dmm(*(part.float() for part in parts), lam=0.6), rtol=1e-6)


# ------------------------------------------------------------------------------------------------------- bad input


def made(**settings):
    return DynamicMixedMargin(MaxMargin(), ramp=None, **settings)


A = torch.ones(4, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: made(schedule="lamda"), "Did you mean 'lambda'"),
        (lambda: made(low=0.9, high=0.6), "low=0.9"),
        (lambda: made(low=0.2, schedule="2lambda-1"), "negative below"),
        (lambda: made(weight=-1), "weight is -1"),
        (lambda: made(alpha=3), r"alpha=3: expected a gap in \[0, 2\]"),
        (lambda: made(partner="flipped"), "Did you mean 'flip'"),
        (lambda: made(side="c"), "side='c'"),
        (lambda: made(level="input"), "pass their embeddings as mixed_a"),
        (lambda: made(official=True), "CML hosts"),
        (lambda: DynamicMixedMargin(Triplet(), side="both"), "one side only"),
        (lambda: DynamicMixedMargin(CMLMinTriplet(), official=True, low=0.0), "leave schedule, low"),
        (lambda: MaxMargin(-0.1), "margin=-0.1"),
        (lambda: CMLMinTriplet(-0.1), "margin=-0.1"),
        (lambda: Ramp(-1), "offset=-1"),
        (lambda: Ramp(0), "not both 0"),
        (lambda: made()(A, torch.ones(3, 3)), r"\(4, 3\) and b \(3, 3\)"),
        (lambda: made()(A, torch.tensor([0, 0, 1, 1])), "not embeddings with labels"),
        (lambda: made()(A[:0], A[:0]), "at least one pair"),
        (lambda: made()(A, A, A[:, None]), r"MaxMargin is called with \(a, b\)"),
        (lambda: DynamicMixedMargin(BPR())(A, A), r"\(user, positive, negatives\)"),
        (lambda: DynamicMixedMargin(BPR(), ramp=None)(A, A, A), r"\(4, negatives of each user >= 1, 3\)"),
        (lambda: DynamicMixedMargin(BPR(), ramp=None)(A, A, torch.ones(3, 2, 3)), r"expected \(4, K, 3\)"),
        (lambda: DynamicMixedMargin(Triplet())(A, A), "integer tensor"),
        (lambda: made()(A, A, lam=1.2), "lam is 1.2"),
        (lambda: made()(A, A, lam=torch.tensor([0.5, 0.5])), r"or shape \(4,\)"),
        (lambda: made(schedule="2lambda-1")(A, A, lam=0.3), "negative below"),
        (lambda: made()(A, A, mixed_a=A), "at which lambda they were mixed"),
        (lambda: made()(A, A, mixed_a=A[:2], lam=0.5), "mixed_a has shape"),
        (lambda: made()(A, A, mixed_b=A, lam=0.5), "side='a' does not mix that side"),
        (lambda: made()(A, A, features=A, head=lambda x: x), "this one is 'embed'"),
        (lambda: DynamicMixedMargin(Triplet(), level="input", ramp=None)(A, LABELS[:4]), "needs features"),
        (lambda: max_margin(A, A, torch.ones(3)), "one a pair"),
        (
            lambda: DynamicMixedMargin(CMLMinTriplet(), official=True, ramp=None)(A, A, A[:, None], mixed_a=A, lam=0.5),
            "mixes embeddings by itself",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()


# ---------------------------------------------------------------------------------------------------------- config


def built(node):
    checked = check_node(node, configs.FAMILIES, "loss", "loss")
    return build_node(checked, configs.FAMILIES, "loss", "loss", {"num_classes": 4, "dim": 5, "seed": 9})


def test_from_a_config():
    dmm = built({"name": "dmm", "loss": "contrastive"})
    assert isinstance(dmm.loss, Contrastive)
    assert dmm.ramp == Ramp(30.0, 0)
    gmc = built({"name": "dmm", "loss": {"name": "nt_xent", "temperature": 0.3}, "ramp": {"offset": 12, "first": 1}})
    assert gmc.ramp == Ramp(12.0, 1)
    assert built({"name": "dmm", "loss": "proxy_anchor", "ramp": None}).current_weight == 1
    assert isinstance(built({"name": "m2_mix", "uni": 0.05}).temperature, float)
    with pytest.raises(InputError, match=r"loss.ramp.ofset is not a setting"):
        built({"name": "dmm", "loss": "contrastive", "ramp": {"ofset": 12}})
    with pytest.raises(InputError, match=r"loss.loss is missing"):
        built({"name": "dmm"})


def test_the_released_margin_decays_before_its_loss_has_a_weight():
    official = DynamicMixedMargin(CMLMinTriplet(1.5), official=True)  # the ramp gives epoch 0 the weight 0
    again = DynamicMixedMargin(CMLMinTriplet(1.5), official=True, ramp=None)
    a, b, c = rows(8), rows(8, seed=2), rows(16, seed=3).view(8, 2, 5)
    for _ in range(3):
        assert official.current_weight == 0
        official(a, b, c)
        again(a, b, c)
    assert official.official.margin == again.official.margin < 0.2
    assert official.logs()["clean"] > 0
