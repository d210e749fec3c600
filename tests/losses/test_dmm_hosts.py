"""Every host of the dynamic mixed margin: loops as oracles, what is demanded at each lambda, gradients, refusals."""

import copy
import itertools
import math

import pytest
import torch
from pytorch_metric_learning import distances, reducers
from pytorch_metric_learning import losses as pml_losses

from metrixkit.errors import InputError
from metrixkit.losses import (
    BPR,
    NCA,
    PML,
    BinomialDeviance,
    CMLMinTriplet,
    CMLSumTriplet,
    Contrastive,
    DynamicMixedMargin,
    IMix,
    InfoNCE,
    LiftedStructure,
    M2Mix,
    MaxMargin,
    Metrix,
    MoCHi,
    MultiSimilarity,
    NTXent,
    OfficialContrastive,
    ProxyAnchor,
    ProxyNCA,
    SymmetricCrossEntropy,
    Triplet,
    from_pml,
)

LABELS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3])
MEAN = {"reducer": "mean"}


def rows(count=8, dim=5, seed=0):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(x):
    return torch.nn.functional.normalize(x, dim=-1)


def theirs(cls, *arguments, cosine=True, **settings):
    if cosine:
        settings["distance"] = distances.CosineSimilarity()
    return from_pml(getattr(pml_losses, cls)(*arguments, reducer=reducers.MeanReducer(), **settings))


def wrapped(loss, miner=None, **arguments):
    arguments["reducer"] = reducers.MeanReducer()
    return PML(loss, arguments, miner=miner, num_classes=4, dim=5)


PAIRS = {
    "max_margin": lambda: MaxMargin(0.5),
    "info_nce": lambda: InfoNCE(0.1),
    "info_nce_symmetric": lambda: InfoNCE(0.1, symmetric=True),
    "nt_xent": lambda: NTXent(0.3),
    "symmetric_cross_entropy": lambda: SymmetricCrossEntropy(0.1),
}
TRIPLES = {
    "cml_min_triplet": lambda: CMLMinTriplet(1.0),
    "cml_sum_triplet": lambda: CMLSumTriplet(1.0),
    "bpr": BPR,
}
LABELLED = {
    "contrastive": lambda: Contrastive(0.1),
    "multi_similarity": lambda: MultiSimilarity(2.0, 10.0, 0.3),
    "binomial": lambda: BinomialDeviance(2.0, 10.0, 0.3),
    "lifted": lambda: LiftedStructure(0.5),
    "nca": lambda: NCA(0.5),
    "triplet": lambda: Triplet(0.4),
    "triplet_min": lambda: Triplet(0.4, over="min"),
    "triplet_sum": lambda: Triplet(0.4, over="sum"),
    "proxy_anchor": lambda: ProxyAnchor(4, 5, beta=8.0, delta=0.3),
    "proxy_nca": lambda: ProxyNCA(4, 5, temperature=0.5),
    "from_pml_contrastive": lambda: theirs("ContrastiveLoss", 1.0, 0.1),
    "from_pml_contrastive_distance": lambda: theirs("ContrastiveLoss", 0.0, 1.5, cosine=False),
    "from_pml_lifted_distance": lambda: theirs("GeneralizedLiftedStructureLoss", 1.5, 0.0, cosine=False),
    "from_pml_multi_similarity": lambda: theirs("MultiSimilarityLoss", 2, 10, 0.3),
    "from_pml_triplet": lambda: theirs("TripletMarginLoss", 0.4),
    "from_pml_nca": lambda: theirs("NCALoss", 2),
    "from_pml_proxy_anchor": lambda: theirs("ProxyAnchorLoss", 4, 5, 0.3, 8).double(),
    "pml_triplet": lambda: wrapped("TripletMarginLoss", margin=0.4),
    "pml_contrastive": lambda: wrapped("ContrastiveLoss", neg_margin=1.5),
    "pml_contrastive_cosine": lambda: wrapped(
        "ContrastiveLoss", pos_margin=1.0, neg_margin=0.1, distance=distances.CosineSimilarity()
    ),
    "pml_arcface": lambda: wrapped("ArcFaceLoss", scale=4).double(),
    "pml_cosface": lambda: wrapped("CosFaceLoss", scale=4).double(),
    "pml_proxy_anchor": lambda: PML("ProxyAnchorLoss", {"margin": 0.3}, num_classes=4, dim=5).double(),
    "pml_nt_xent": lambda: wrapped("NTXentLoss"),
    "pml_sup_con": lambda: wrapped("SupConLoss"),
}
HOSTS = {**PAIRS, **TRIPLES, **LABELLED}


def parts_of(name, count=8):
    a, b = rows(count, seed=1), rows(count, seed=2)
    if name in PAIRS:
        return a, b
    if name in TRIPLES:
        return a / 4, b / 4, rows(count * 3, seed=3).view(count, 3, 5) / 4
    return a, LABELS[:count]


def host(name):
    loss = HOSTS[name]()
    return loss.double() if any(True for _ in loss.parameters()) else loss


# ---------------------------------------------------------------------------------------------- what is demanded


@pytest.mark.parametrize("schedule", ["lambda", "2lambda-1"])
@pytest.mark.parametrize("name", HOSTS)
def test_the_demanded_gap_falls_with_lambda(name, schedule):
    """The mixed rows are held fixed, so that only what is demanded of them can change with lambda."""
    dmm, parts = DynamicMixedMargin(host(name), schedule=schedule), parts_of(name)
    fixed = rows(seed=9) / (4 if name in TRIPLES else 1)
    values = [dmm.mixed_loss(*parts, lam=lam, mixed_a=fixed).item() for lam in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)]
    assert all(low <= high for low, high in itertools.pairwise(values)), values
    assert values[0] < values[3] < values[5]


@pytest.mark.parametrize("name", HOSTS)
def test_the_same_lambda_gives_the_same_margin_forever(name):
    loss = host(name)
    before = copy.deepcopy(loss.state_dict()), str(vars(loss)), str(vars(getattr(loss, "loss", loss)))
    dmm, parts = DynamicMixedMargin(loss), parts_of(name)
    first = dmm.mixed_loss(*parts, lam=0.6).item()
    for _ in range(20):
        dmm(*parts)
    assert dmm.mixed_loss(*parts, lam=0.6).item() == first
    after = loss.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before[0].items())
    assert (str(vars(loss)), str(vars(getattr(loss, "loss", loss)))) == before[1:]


@pytest.mark.slow
def test_the_margin_at_step_10000_is_that_at_step_1():
    dmm = DynamicMixedMargin(MaxMargin(0.2), ramp=None)
    a, b = torch.eye(2), torch.eye(2)[[1, 0]]  # far from matched: each of 4 terms is margin + 1
    fixed = dmm.mixed_loss(a, b, lam=0.7, mixed_a=a).item()
    assert fixed == pytest.approx(0.7 * 0.2 + 1)
    for _ in range(10_000):
        dmm.draw(2)
        dmm.host.again(a, 0, 0.5, a, b)
    assert dmm.mixed_loss(a, b, lam=0.7, mixed_a=a).item() == fixed


@pytest.mark.parametrize("name", HOSTS)
def test_lambda_one_asks_of_a_mixture_what_is_asked_of_a_clean_row(name):
    """At lambda 1 mixtures are the rows themselves and hosts with a margin repeat their clean loss."""
    dmm, parts = DynamicMixedMargin(host(name), ramp=None), parts_of(name)
    mixed, clean = dmm.mixed_loss(*parts, lam=1.0), dmm.host.clean(*parts)
    if "nce" in name or "xent" in name or name in ("bpr", "nca", "proxy_nca", "symmetric_cross_entropy"):
        mixed, clean = mixed.detach(), torch.zeros(())  # nothing to compare: the added hinge is another loss
        assert mixed > 0
    elif "nca" in name or "sup_con" in name:
        assert mixed > 0
    else:
        assert torch.allclose(mixed, clean, rtol=1e-9)
    assert torch.allclose(dmm(*parts, lam=1.0), dmm.host.clean(*parts) + dmm.mixed_loss(*parts, lam=1.0))


# ---------------------------------------------------------------------------------------------- loops as oracles


def mixtures(x, lam):
    return [lam * x[i] + (1 - lam) * x[len(x) - 1 - i] for i in range(len(x))]


def hinge_by_loops(a, b, margin):
    s = [[float(unit(x) @ unit(y)) for y in b] for x in a]
    n, total = len(s), 0.0
    for i in range(n):
        for j in range(n):
            if i != j:
                total += max(0.0, margin[i] + s[i][j] - s[i][i]) + max(0.0, margin[j] + s[i][j] - s[j][j])
    return total / n**2


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("lam", [0.5, 0.73, 1.0])
def test_pairs_by_loops(name, count, lam):
    a, b = rows(count, seed=1), rows(count, seed=2)
    expected = hinge_by_loops(mixtures(unit(a), lam), b, [lam * (0.5 if name == "max_margin" else 0.2)] * count)
    assert DynamicMixedMargin(host(name)).mixed_loss(a, b, lam=lam).item() == pytest.approx(expected, abs=1e-12)


def test_a_lambda_for_each_row():
    a, b, lam = rows(5, seed=1), rows(5, seed=2), torch.tensor([0.5, 0.6, 0.7, 0.85, 1.0], dtype=torch.float64)
    mixed = [lam[i] * unit(a)[i] + (1 - lam[i]) * unit(a)[4 - i] for i in range(5)]
    expected = hinge_by_loops(mixed, b, (0.5 * lam).tolist())
    dmm = DynamicMixedMargin(MaxMargin(0.5), ratio_per="row")
    assert dmm.mixed_loss(a, b, lam=lam).item() == pytest.approx(expected, abs=1e-12)
    drawn, partner = dmm.draw(5)
    assert drawn.shape == (5,)
    assert ((drawn >= 0.5) & (drawn < 1)).all()
    assert partner.tolist() == [4, 3, 2, 1, 0]


LOSSES_BY_HAND = {  # name: (margin at lambda, loss of one anchor from lists of similarities)
    "contrastive": (lambda lam: 1 - lam * 0.9, lambda p, n, m: sum(max(0.0, s - m) for s in n) - sum(p)),
    "multi_similarity": (
        lambda lam: 1 - lam * 0.7,
        lambda p, n, m: (
            math.log1p(sum(math.exp(-2 * (s - 0.3)) for s in p)) / 2
            + math.log1p(sum(math.exp(10 * (s - m)) for s in n)) / 10
        ),
    ),
    "binomial": (
        lambda lam: 1 - lam * 0.7,
        lambda p, n, m: (
            sum(math.log1p(math.exp(-2 * (s - 0.3))) for s in p) + sum(math.log1p(math.exp(10 * (s - m))) for s in n)
        ),
    ),
    "lifted": (
        lambda lam: 1 - lam * 0.5,
        lambda p, n, m: (
            max(0.0, math.log(sum(math.exp(-s) for s in p)) + math.log(sum(math.exp(s - m) for s in n)))
            if p and n
            else None
        ),
    ),
    "triplet": (
        lambda lam: 0.4 * lam,
        lambda p, n, m: sum(max(0.0, m - s + t) for s in p for t in n) / (len(p) * len(n)) if p and n else None,
    ),
    "triplet_min": (
        lambda lam: 0.4 * lam,
        lambda p, n, m: sum(max(0.0, m - s + max(n)) for s in p) / len(p) if p and n else None,
    ),
    "triplet_sum": (
        lambda lam: 0.4 * lam,
        lambda p, n, m: sum(max(0.0, m - s + t) for s in p for t in n) if p and n else None,
    ),
    "nca": (
        lambda lam: 0.2 * lam,
        lambda p, n, m: sum(max(0.0, m - s + t) for s in p for t in n) / (len(p) * len(n)) if p and n else None,
    ),
}


def labelled_by_loops(name, x, labels, lam):
    margin, loss = LOSSES_BY_HAND[name]
    z, each = unit(x), []
    for i, v in enumerate(mixtures(z, 1.0)):
        v = lam[i] * v + (1 - lam[i]) * z[len(z) - 1 - i]
        s = [float(unit(v) @ other) for other in z]
        p = [s[j] for j in range(len(z)) if labels[j] == labels[i] and j != i]
        n = [s[j] for j in range(len(z)) if labels[j] != labels[i]]
        each.append(loss(p, n, margin(lam[i])))
    there = [value for value in each if value is not None]
    return sum(there) / max(len(there), 1)


@pytest.mark.parametrize("name", LOSSES_BY_HAND)
@pytest.mark.parametrize("labels", [LABELS, LABELS[[3, 0, 7, 1, 5, 6, 2]], torch.zeros(4, dtype=torch.long)], ids=len)
def test_labels_by_loops(name, labels):
    x = rows(len(labels), seed=4) * torch.linspace(0.2, 3, len(labels), dtype=torch.float64)[:, None]
    dmm = DynamicMixedMargin(LABELLED[name]())
    for lam in (0.5, 0.8, 1.0):
        expected = labelled_by_loops(name, x, labels, [lam] * len(x))
        assert dmm.mixed_loss(x, labels, lam=lam).item() == pytest.approx(expected, abs=1e-10)
    lam = torch.linspace(0.5, 1, len(x), dtype=torch.float64)
    expected = labelled_by_loops(name, x, labels, lam.tolist())
    assert dmm.mixed_loss(x, labels, lam=lam).item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("lam", [0.5, 0.8, torch.linspace(0.5, 1, 8, dtype=torch.float64)], ids=str)
def test_proxy_anchor_compares_mixtures_with_proxies(lam):
    loss = ProxyAnchor(5, 5, beta=8.0, delta=0.3).double()
    x, z = rows(seed=4), unit(rows(seed=4))
    each = [lam] * 8 if isinstance(lam, float) else lam.tolist()
    s = torch.stack([unit(each[i] * z[i] + (1 - each[i]) * z[7 - i]) for i in range(8)]) @ unit(loss.proxies).T
    positive, negative = [], []
    for c in range(5):
        up = sum(math.exp(-8 * (s[i, c].item() - 0.3 * each[i])) for i in range(8) if LABELS[i] == c)
        down = sum(math.exp(8 * (s[i, c].item() + 0.3 * each[i])) for i in range(8) if LABELS[i] != c)
        positive.append(math.log1p(up))
        negative.append(math.log1p(down))
    expected = sum(positive) / 4 + sum(negative) / 5
    assert DynamicMixedMargin(loss).mixed_loss(x, LABELS, lam=lam).item() == pytest.approx(expected, rel=1e-10)


SAME = {  # ours or from_pml on the left, pytorch-metric-learning itself with the smaller margin on the right
    "triplet": (lambda: theirs("TripletMarginLoss", 0.4), lambda: wrapped("TripletMarginLoss", margin=0.4, distance=distances.CosineSimilarity())),
    "contrastive": (lambda: theirs("ContrastiveLoss", 1.0, 0.1), LABELLED["pml_contrastive_cosine"]),
    "contrastive_distance": (LABELLED["from_pml_contrastive_distance"], LABELLED["pml_contrastive"]),
    "lifted_distance": (LABELLED["from_pml_lifted_distance"], lambda: wrapped("GeneralizedLiftedStructureLoss", neg_margin=1.5)),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("lam", [0.5, 0.77, 1.0])
def test_shifted_similarities_are_smaller_margins(name, lam):
    shifted, remade = (DynamicMixedMargin(make()) for make in SAME[name])
    x = rows(seed=5)
    value = shifted.mixed_loss(x, LABELS, lam=lam).item()
    assert value == pytest.approx(remade.mixed_loss(x, LABELS, lam=lam).item(), rel=1e-9)
    assert value > 0


def test_a_miner_sees_mixtures_against_clean_rows():
    loss = wrapped("TripletMarginLoss", miner="TripletMarginMiner", margin=0.4)
    dmm, x = DynamicMixedMargin(loss), rows(seed=5)
    value = dmm.mixed_loss(x, LABELS, lam=0.7)
    v, z = unit(torch.stack(mixtures(unit(x), 0.7))), unit(x)
    gaps = [
        (v[i] - z[p]).norm() - (v[i] - z[n]).norm()
        for i in range(8)
        for p in range(8)
        for n in range(8)
        if LABELS[p] == LABELS[i] and p != i and LABELS[n] != LABELS[i]
    ]
    mined = [max(0.0, 0.28 + float(gap)) for gap in gaps if -float(gap) <= 0.2]  # the miner's own margin stays
    assert value.item() == pytest.approx(sum(mined) / len(mined), rel=1e-9)


# ------------------------------------------------------------------------------------------------------ gradients


@pytest.mark.sample(8)
@pytest.mark.parametrize("name", [n for n in HOSTS if not n.startswith("pml_")])
@pytest.mark.parametrize(
    "lam", [pytest.param(0.5, marks=pytest.mark.slow), 0.8, pytest.param(1.0, marks=pytest.mark.slow)]
)
def test_gradients(name, lam):
    dmm = DynamicMixedMargin(host(name), ramp=None)
    first, *rest = parts_of(name, 5)
    assert torch.autograd.gradcheck(lambda x: dmm(x, *rest, lam=lam), first.requires_grad_())
    if name in PAIRS or name in TRIPLES:
        rest = [part.requires_grad_() for part in rest]
        assert torch.autograd.gradcheck(lambda *parts: dmm(first.detach(), *parts, lam=lam), tuple(rest))


def test_the_margin_passes_no_gradient():
    lam = torch.tensor([0.6, 0.7, 0.8], dtype=torch.float64, requires_grad=True)
    a = rows(3).requires_grad_()
    DynamicMixedMargin(MaxMargin(1.0)).mixed_loss(a, rows(3, seed=2), lam=lam).backward()
    assert lam.grad is None
    assert a.grad.abs().sum() > 0


# ------------------------------------------------------------------------------------------------------- refusals


class OwnWithMargin(torch.nn.Module):
    margin = 0.3

    def forward(self, embeddings, labels):
        return embeddings.sum()


class OwnPairs(OwnWithMargin):
    takes = "pairs"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Metrix(Contrastive()), "mixes examples itself"),
        (IMix, "mixes examples itself"),
        (MoCHi, "mixes examples itself"),
        (OfficialContrastive, "take Contrastive"),
        (OwnWithMargin, "nothing tells how to ask it at a smaller one"),
        (OwnPairs, r"forward\(\) takes no margin"),
        (lambda: Contrastive(1.5), "out of the range"),
        (lambda: Triplet(-0.1), "out of the range"),
        (lambda: ProxyAnchor(4, 5, delta=-0.1), "out of the range"),
        (lambda: PML("CircleLoss"), "which of its numbers is a margin"),
        (lambda: wrapped("TripletMarginLoss", margin=-0.1), "only from >= 0"),
        (lambda: PML("MultiSimilarityLoss"), "take from_pml of it"),
        (
            lambda: wrapped("ContrastiveLoss", neg_margin=1.2, distance=distances.CosineSimilarity()),
            "above every similarity",
        ),
    ],
)
def test_hosts_whose_margin_cannot_shrink(make, message):
    with pytest.raises(InputError, match=message):
        DynamicMixedMargin(make())


def test_a_margin_for_each_row_is_refused_where_there_is_one_for_all():
    dmm = DynamicMixedMargin(LABELLED["pml_triplet"](), ratio_per="row", ramp=None)
    with pytest.raises(InputError, match="ratio_per='step', or loss.loss=from_pml"):
        dmm(rows(), LABELS)


def test_own_hosts():
    class Pulled(torch.nn.Module):
        takes = "pairs"

        def __init__(self):
            super().__init__()
            self.margin, self.asked = 0.4, []

        def forward(self, a, b, margin=None):
            self.asked.append(margin)
            return (a - b).square().mean()

    own = Pulled()
    DynamicMixedMargin(own, ramp=None)(rows(), rows(), lam=0.75)
    assert own.asked == [None, pytest.approx(0.3)]


def test_a_loss_that_mixes_by_itself_is_refused():
    with pytest.raises(InputError, match="M2Mix mixes examples itself"):
        DynamicMixedMargin(M2Mix())
