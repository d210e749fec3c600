"""i-Mix and MoCHi on metric losses: loops as oracles, gradients, limits of lambda, empty sets, state, configs."""

import io
import math

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.reducers import MeanReducer

from metrixkit.errors import InputError
from metrixkit.losses import (
    NCA,
    BinomialDeviance,
    Contrastive,
    IMix,
    LiftedStructure,
    MoCHi,
    MultiSimilarity,
    ProxyAnchor,
    Triplet,
    from_pml,
)
from metrixkit.losses.relations import pair_masks
from metrixkit.losses.unit import cosines

LABELS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3])
PAIR_LOSSES = [Contrastive, MultiSimilarity, BinomialDeviance, LiftedStructure, NCA, Triplet]


def rows(count, dim=5, seed=0):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(x):
    return torch.nn.functional.normalize(x, dim=-1)


# ------------------------------------------------------------------------------------------------------------- i-Mix


def imix_by_loops(mixtures, clean, labels, partner, lam, margin=0.5):
    """lam l(v; class of i) + (1 - lam) l(v; class of j), each the contrastive loss of v against all clean rows."""
    v, z, each = unit(mixtures), unit(clean), []
    for i in range(len(v)):
        loss = 0.0
        for share, own in ((lam[i], labels[i]), (1 - lam[i], labels[partner[i]])):
            for x in range(len(z)):
                s = float(v[i] @ z[x])
                loss += float(share) * (-s if labels[x] == own else max(0.0, s - margin))
        each.append(loss)
    return sum(each) / len(each)


def test_imix_is_the_weighted_sum_of_both_classes_losses():
    mixtures, clean = rows(8, seed=1), rows(8, seed=2)
    partner = torch.tensor([3, 1, 5, 0, 7, 6, 2, 4])
    lam = torch.linspace(0, 1, 8, dtype=torch.float64)
    value = IMix().mixed_loss(mixtures, clean, LABELS, partner, lam)
    assert value.item() == pytest.approx(imix_by_loops(mixtures, clean, LABELS, partner, lam), rel=1e-12)


def test_imix_mixes_the_images_that_it_encodes():
    images, weight = rows(8, 12, seed=3).view(8, 3, 2, 2), rows(12, 5, seed=4)
    seen = []

    def encoder(x):
        seen.append(x)
        return x.flatten(1) @ weight

    criterion = IMix(weight=0.7, clean_weight=0.25, seed=5)
    total = criterion(encoder(images), LABELS, features=images, head=encoder)
    partner = torch.randperm(8, generator=torch.Generator().manual_seed(5))
    # Recover lambda from the mixed pixels themselves.
    other = images[partner]
    lam = ((seen[1] - other) / (images - other).where(images != other, 1)).flatten(1)[:, 0]
    lam = torch.where(partner == torch.arange(8), 0.8, lam)
    mixtures = lam.view(-1, 1, 1, 1) * images + (1 - lam.view(-1, 1, 1, 1)) * other
    assert torch.allclose(mixtures, seen[1])
    assert ((lam >= 0.5) & (lam <= 1)).all()
    mixed = imix_by_loops(encoder(mixtures), encoder(images), LABELS, partner, lam)
    clean = Contrastive()(encoder(images), LABELS).item()
    assert total.item() == pytest.approx(0.25 * clean + 0.7 * mixed, rel=1e-9)
    logs = criterion.logs()
    assert (logs["clean"], logs["mixed"]) == (pytest.approx(clean), pytest.approx(mixed))
    assert 0.5 <= logs["lambda"] <= 1


def test_imix_at_lambda_one_is_the_clean_loss_of_the_other_set():
    x, partner = rows(8), torch.arange(8).roll(1)
    for lam, labels in ((torch.ones(8), LABELS), (torch.zeros(8), LABELS[partner])):
        s = unit(x) @ unit(x).T
        same = labels[:, None] == LABELS
        expected = (torch.where(same, -s, (s - 0.5).clamp(min=0))).sum(1).mean()
        assert torch.allclose(IMix().mixed_loss(x, x, LABELS, partner, lam), expected, rtol=1e-12)


@pytest.mark.parametrize("cls", PAIR_LOSSES)
def test_imix_gradients(cls):
    criterion, labels = IMix(cls()), torch.tensor([0, 0, 1, 2])
    partner, lam = torch.tensor([2, 3, 1, 0]), torch.tensor([0.9, 0.6, 0.5, 0.7])
    mixtures, clean = rows(4, 3, seed=7).requires_grad_(), rows(4, 3, seed=8).requires_grad_()
    assert torch.autograd.gradcheck(lambda m, z: criterion.mixed_loss(m, z, labels, partner, lam), (mixtures, clean))


def test_imix_takes_bytes_and_lambda_as_it_falls():
    images = torch.randint(0, 256, (8, 3, 2, 2), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    seen = []

    def encoder(x):
        seen.append(x)
        return x.float().flatten(1)

    draws = []
    for dominant in (True, False):
        criterion = IMix(alpha=0.5, dominant=dominant, seed=1)
        for _ in range(40):
            criterion(encoder(images / 255), LABELS, features=images, head=encoder)
            draws.append(criterion.logs()["lambda"])
    assert max(float(x.max()) for x in seen) <= 1
    assert sum(draws[:40]) / 40 > 0.75
    assert sum(draws[40:]) / 40 == pytest.approx(0.5, abs=0.05)


def test_imix_without_images_says_what_it_needs():
    with pytest.raises(InputError, match="features=images, head=encoder"):
        IMix()(rows(8), LABELS)
    with pytest.raises(InputError, match="features have 7 rows, embeddings 8"):
        IMix()(rows(8), LABELS, features=rows(7), head=lambda x: x)
    for settings, message in (
        ({"weight": -1}, "weight"),
        ({"clean_weight": -1}, "clean_weight"),
        ({"alpha": 0}, "alpha"),
    ):
        with pytest.raises(InputError, match=message):
            IMix(**settings)


# ------------------------------------------------------------------------------------------------------------- MoCHi


def replay(seed, shape):
    """The draws of a criterion's first step."""
    inner = int(torch.randint(2**63 - 1, (), generator=torch.Generator().manual_seed(seed)))
    return torch.rand(3, *shape, generator=torch.Generator().manual_seed(inner), dtype=torch.float64)


def mochi_by_loops(x, constants, labels, seed, pool, s, extra, rho_neg, rho_pos):
    """Mean over anchors of SUM rho+ + SUM rho- with the harder points formed as vectors out of `constants`."""
    z, fixed = unit(x), unit(constants)
    u, v, b = replay(seed, (len(z), s + extra))
    each, points = [], []
    for a in range(len(z)):
        neg = [j for j in range(len(z)) if labels[j] != labels[a]]
        loss = sum(rho_pos(z[a] @ z[j]) for j in range(len(z)) if labels[j] == labels[a] and j != a)
        loss = loss + sum(rho_neg(z[a] @ z[j]) for j in neg)
        hard = sorted(neg, key=lambda j: -float(fixed[a] @ fixed[j]))[:pool]
        for k in range(s + extra):
            if len(hard) < (2 if k < s else 1):
                continue
            i = int(u[a, k] * len(hard))
            if k < s:
                j = (i + 1 + int(v[a, k] * (len(hard) - 1))) % len(hard)
                h = b[a, k] * fixed[hard[i]] + (1 - b[a, k]) * fixed[hard[j]]
                assert i != j
            else:
                h = b[a, k] / 2 * fixed[a] + (1 - b[a, k] / 2) * fixed[hard[i]]
            points.append((a, k))
            loss = loss + rho_neg(z[a] @ unit(h))
        each.append(loss)
    return sum(each) / len(each), points


FORMS = {
    "contrastive": (Contrastive(-0.2), lambda s: (s + 0.2).clamp(min=0), lambda s: -s),
    "binomial": (
        BinomialDeviance(2, 10, 0.5),
        lambda s: (1 + (10 * (s - 0.5)).exp()).log(),
        lambda s: (1 + (-2 * (s - 0.5)).exp()).log(),
    ),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(("pool", "s", "extra"), [(3, 6, 4), (100, 5, 0), (1, 4, 3), (2, 0, 5)])
def test_mochi_against_points_formed_one_by_one(name, pool, s, extra):
    loss, rho_neg, rho_pos = FORMS[name]
    criterion = MoCHi(loss, pool=pool, negative_negative=s, anchor_negative=extra, seed=11)
    x = rows(8).requires_grad_()
    y = x.detach().clone().requires_grad_()
    value = criterion(x, LABELS)
    expected, points = mochi_by_loops(y, y.detach(), LABELS, 11, pool, s, extra, rho_neg, rho_pos)
    assert len(points) == 8 * (s * (pool > 1) + extra)
    assert value.item() == pytest.approx(expected.item(), rel=1e-10)
    value.backward()
    expected.backward()
    # Points are constants: no gradient reaches what they are made of.
    assert torch.allclose(x.grad, y.grad, atol=1e-10)


def test_mochi_harder_points_are_harder():
    x = rows(8)
    positive, negative = pair_masks(LABELS)
    from metrixkit.losses.relations import Relations

    z = cosines(x)
    relations = Relations(z, positive, negative, lambda rows: z, True, lambda: z)
    criterion = MoCHi(pool=2, negative_negative=200, anchor_negative=200)
    made, there = criterion.harder(relations, z)
    assert there.all()
    assert (made <= 1 + 1e-12).all()
    nearest = z.masked_fill(~negative, -2).topk(2, dim=1).values
    # A point between the anchor and a negative is nearer than that negative, which is one of the two nearest.
    assert (made[:, 200:] >= nearest[:, 1:] - 1e-12).all()
    assert (made[:, 200:].mean(1) > nearest.mean(1)).all()


@pytest.mark.parametrize("cls", PAIR_LOSSES)
def test_mochi_without_points_is_the_loss_itself(cls):
    x = rows(8).requires_grad_()
    plain = cls()(x, LABELS)
    value = MoCHi(cls(), negative_negative=0, anchor_negative=0)(x, LABELS)
    assert torch.allclose(value, plain, rtol=1e-12)
    a, b = torch.autograd.grad(value, x, retain_graph=True), torch.autograd.grad(plain, x)
    assert torch.allclose(a[0], b[0], atol=1e-12)
    with_points = MoCHi(cls(), seed=2)
    assert with_points(x, LABELS) > plain
    assert with_points.logs()["clean"] == pytest.approx(plain.item())


@pytest.mark.parametrize("make", [lambda: MoCHi(MultiSimilarity()), lambda: IMix(MultiSimilarity())])
@pytest.mark.parametrize("labels", [[0], [0, 0, 0], [0, 1], [0, 1, 2, 3], [0, 0, 0, 1]])
def test_empty_sets(make, labels):
    x = rows(len(labels)).requires_grad_()
    more = {"features": rows(len(labels)), "head": lambda images: images} if isinstance(make(), IMix) else {}
    value = make()(x, torch.tensor(labels), **more)
    value.backward()
    assert value.isfinite()
    assert x.grad.isfinite().all()
    if not more and len(set(labels)) == 1:
        assert value.item() == pytest.approx(MultiSimilarity()(x, torch.tensor(labels)).item())


def test_a_collapsed_batch_and_half_precision():
    x = torch.ones(6, 4, requires_grad=True)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    value = MoCHi(MultiSimilarity())(x, labels)
    value.backward()
    assert value.isfinite()
    assert x.grad.isfinite().all()
    with torch.autocast("cpu", torch.bfloat16):
        half = MoCHi()(rows(8).bfloat16(), LABELS)
        images = IMix()(rows(8).bfloat16(), LABELS, features=rows(8).float(), head=lambda x: x.bfloat16())
    assert half.dtype == images.dtype == torch.float32


@pytest.mark.parametrize("make", [MoCHi, IMix])
def test_state_survives_a_kill(make):
    def steps(criterion, count):
        more = {"features": rows(8), "head": lambda images: images} if make is IMix else {}
        return [criterion(rows(8), LABELS, **more).item() for _ in range(count)]

    criterion = make(seed=3)
    first = steps(criterion, 2)
    handle = io.BytesIO()
    torch.save(criterion.state_dict(), handle)
    handle.seek(0)
    expected = steps(criterion, 3)
    assert len({*first, *expected}) == 5
    resumed = make(seed=8)
    resumed.load_state_dict(torch.load(handle, weights_only=True))
    assert steps(resumed, 3) == expected
    assert steps(make(seed=3), 2) == first


@pytest.mark.parametrize("count", [1, 5])
def test_cosines_take_gradients_in_any_layout(count):
    x = rows(count).requires_grad_()
    weight = torch.randn(count, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.autograd.grad((unit(x) @ unit(x).T * weight).sum(), x)[0]
    for laid in (weight.clone(), weight.T.contiguous().T):
        kept = laid.clone()
        found = torch.autograd.grad(cosines(x), x, laid)[0]
        assert torch.allclose(found, expected, atol=1e-12)
        assert torch.equal(laid, kept)


def test_one_draw_a_step_whatever_the_batch():
    one, two = MoCHi(seed=1), MoCHi(seed=1, negative_negative=3)
    one(rows(8), LABELS)
    two(rows(4), LABELS[:4])
    assert torch.equal(one.generator.get_state(), two.generator.get_state())


def test_refusals_and_names_in_configs():
    from metrixkit.config import FAMILIES
    from metrixkit.schema import build_node, check_node

    for rival, wrong in ((IMix, ProxyAnchor(4, 5)), (MoCHi, ProxyAnchor(4, 5)), (MoCHi, torch.nn.Linear(2, 2))):
        with pytest.raises(InputError, match=type(wrong).__name__):
            rival(wrong)
    pairs = pml_losses.ContrastiveLoss(1, 0.5, distance=CosineSimilarity(), reducer=MeanReducer())
    for rival in (IMix, MoCHi):
        with pytest.raises(InputError, match="averages over anchors"):
            rival(from_pml(pairs))
        rival(from_pml(pml_losses.MultiSimilarityLoss()))
    for settings in ({"pool": 0}, {"negative_negative": -1}, {"anchor_negative": -2}):
        with pytest.raises(InputError, match=next(iter(settings))):
            MoCHi(**settings)
    for name, more in (("mochi", {"pool": 4}), ("imix", {"alpha": 0.5})):
        node = check_node(
            {"name": name, "loss": {"name": "contrastive", "margin": 0.4}, **more}, FAMILIES, "loss", "loss"
        )
        built = build_node(node, FAMILIES, "loss", "loss", {"num_classes": 4, "dim": 6, "seed": 7})
        assert built.loss.form.margin == 0.4
        assert built.generator.initial_seed() == 7
    assert (IMix.level, MoCHi.level) == ("input", "embed")
    assert math.isclose(IMix().weight, 0.4)
