"""Losses of pytorch-metric-learning in the generalised form: equal values and gradients, mixtures, refusals."""

import copy
import itertools

import pytest
import torch
from pytorch_metric_learning import distances, losses, miners, reducers, regularizers

from metrixkit.errors import InputError
from metrixkit.losses import LOSSES, Contrastive, Metrix, MultiSimilarity, ProxyAnchor, from_pml
from metrixkit.losses.pml_check import compare

COSINE, LP, SQUARED = distances.CosineSimilarity, distances.LpDistance, lambda: distances.LpDistance(power=2)
MEAN, SUM, EACH = reducers.MeanReducer, reducers.SumReducer, reducers.PerAnchorReducer
LAYOUTS = ([0, 0, 1, 1, 2, 2, 3, 3, 0], [0, 0, 0, 1, 1, 2, 3, 1, 0], [3, 2, 1, 0], [1, 1, 1])
FORMS = {
    "contrastive cosine": lambda d, r: losses.ContrastiveLoss(0.9, 0.3, distance=d(), reducer=r()),
    "multi similarity": lambda d, r: losses.MultiSimilarityLoss(2, 18, 0.6, distance=d(), reducer=r()),
    "lifted": lambda d, r: losses.GeneralizedLiftedStructureLoss(0.7, 0.2, distance=d(), reducer=r()),
    "nca": lambda d, r: losses.NCALoss(3.0, distance=d(), reducer=r()),
    "proxy anchor": lambda d, r: losses.ProxyAnchorLoss(5, 6, 0.2, 8, distance=d(), reducer=r()),
    "proxy nca": lambda d, r: losses.ProxyNCALoss(5, 6, softmax_scale=2.0, distance=d(), reducer=r()),
}
DEFAULTS = {
    "contrastive": lambda: losses.ContrastiveLoss(reducer=MEAN()),
    "multi similarity": losses.MultiSimilarityLoss,
    "lifted": losses.GeneralizedLiftedStructureLoss,
    "nca": losses.NCALoss,
    "triplet": lambda: losses.TripletMarginLoss(0.3, distance=COSINE(), reducer=MEAN()),
    "proxy anchor": lambda: losses.ProxyAnchorLoss(5, 6),
    "proxy nca": lambda: losses.ProxyNCALoss(5, 6),
}


def rows(count, seed=0):
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def value_and_gradients(loss, x, labels, *more):
    x = x.clone().requires_grad_()
    value = loss(x, labels, *more)
    parameters = [p for p in loss.parameters() if p.dtype == torch.float64]
    found = torch.autograd.grad(value, [x, *parameters], allow_unused=True)
    return [
        value.detach(),
        *(torch.zeros_like(p) if g is None else g for p, g in zip([x, *parameters], found, strict=True)),
    ]


def agree(ours, theirs, mine=None, tolerance=1e-6):
    ours, theirs = copy.deepcopy(ours).double(), copy.deepcopy(theirs).double()
    seen = 0
    for seed, layout in enumerate(LAYOUTS, 100):
        labels, x = torch.tensor(layout), rows(len(layout), seed)
        expected = value_and_gradients(theirs, x, labels, *(() if mine is None else (mine(x, labels),)))
        if not expected[0].isfinite():
            continue
        for a, b in zip(value_and_gradients(ours, x, labels), expected, strict=True):
            assert torch.allclose(a, b, rtol=tolerance, atol=tolerance)
        seen += 1
    assert seen >= 2


@pytest.mark.sample(27)
@pytest.mark.parametrize(
    ("name", "distance", "reducer"), list(itertools.product(FORMS, (COSINE, LP, SQUARED), (MEAN, SUM, EACH)))
)
def test_value_and_gradient_are_theirs(name, distance, reducer):
    if name.startswith("contrastive") and distance is not COSINE:
        theirs = losses.ContrastiveLoss(0.3, 1.3, distance=distance(), reducer=reducer())
    else:
        torch.manual_seed(0)
        theirs = FORMS[name](distance, reducer)
    agree(from_pml(theirs), theirs)


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_and_mixing(name):
    torch.manual_seed(0)
    theirs = DEFAULTS[name]()
    ours = from_pml(theirs)
    agree(ours, theirs)
    criterion = Metrix(ours, ratio_per="pair" if "nca" in name else "step")
    x = rows(8).requires_grad_()
    total = criterion(x, torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]))
    total.backward()
    assert total.isfinite()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert criterion.last.mixed.item() != 0


def test_other_powers_and_distances():
    agree(*(lambda t: (from_pml(t), t))(losses.MultiSimilarityLoss(2, 5, 0.6, distance=distances.LpDistance(power=3))))
    agree(*(lambda t: (from_pml(t), t))(losses.MultiSimilarityLoss(distance=distances.DotProductSimilarity())))


def test_the_same_as_our_own_classes_mixtures_included():
    labels, x = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3]), rows(8)
    ours = Metrix(from_pml(losses.MultiSimilarityLoss(18, 75, 0.77)))
    assert torch.allclose(
        ours.mixed_loss(x, labels, lam=0.3),
        Metrix(MultiSimilarity(18, 75, 0.77)).mixed_loss(x, labels, lam=0.3),
        rtol=1e-12,
    )
    own = ProxyAnchor(5, 6, 32, 0.1).double()
    theirs = losses.ProxyAnchorLoss(5, 6, 0.1, 32).double()
    theirs.proxies.data.copy_(own.proxies.data)
    a, b = (Metrix(loss).mixed_loss(x, labels, lam=0.3) for loss in (from_pml(theirs), own))
    assert torch.allclose(a, b, rtol=1e-12)
    # With a margin that every positive violates, the pull differs from the form of the paper by a constant.
    theirs = losses.ContrastiveLoss(1, 0.5, distance=COSINE(), reducer=SUM())
    mixed = Metrix(from_pml(theirs)).mixed_loss(x, labels, lam=0.3)
    count = 3 * 2 * 5 + 4 * 1 * 6
    own = Metrix(Contrastive(0.5)).mixed_loss(x, labels, lam=0.3) * 7  # seven anchors have mixtures
    assert torch.allclose(mixed, own + 0.3 * count, rtol=1e-12)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("kind", ["positive-negative", "negative-negative", "positive-positive"])
def test_mixtures_on_distances_by_loops(power, kind):
    """lam [d - m+]_+ and (1 - lam) [m- - d]_+ at |a - mix|, averaged within each anchor, then over anchors."""
    near, far, lam = 0.4, 1.5, 0.3
    theirs = losses.ContrastiveLoss(near, far, distance=distances.LpDistance(power=power), reducer=MEAN())
    labels, x = torch.tensor([0, 0, 0, 1, 1, 2]), rows(6, 3)
    z, each = torch.nn.functional.normalize(x, dim=1), []
    for a in range(6):
        pos = [j for j in range(6) if labels[j] == labels[a] and j != a]
        neg = [j for j in range(6) if labels[j] != labels[a]]
        pools = {"positive-negative": (pos, neg), "negative-negative": (neg, neg), "positive-positive": (pos, pos)}[
            kind
        ]
        y = {"positive-negative": lam, "negative-negative": 0.0, "positive-positive": 1.0}[kind]
        found = []
        for i in pools[0]:
            for j in pools[1]:
                if i != j:
                    v = torch.nn.functional.normalize(lam * z[i] + (1 - lam) * z[j], dim=0)
                    d = float((z[a] - v).norm()) ** power
                    found.append(y * max(0.0, d - near) + (1 - y) * max(0.0, far - d))
        if found:
            each.append(sum(found) / len(found))
    mixed = Metrix(from_pml(theirs), pairs=kind).mixed_loss(x, labels, lam=lam)
    assert mixed.item() == pytest.approx(sum(each) / len(each), rel=1e-9)


def test_nca_with_a_ratio_for_each_pair_by_loops():
    theirs, labels, x = losses.NCALoss(1.0, distance=COSINE()), torch.tensor([0, 0, 1, 1, 2]), rows(5, 4)
    lam = torch.rand(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z, each = torch.nn.functional.normalize(x, dim=1), []
    for a in range(4):
        p = a ^ 1
        top = bottom = 0.0
        for n in (j for j in range(5) if labels[j] != labels[a]):
            v = torch.nn.functional.normalize(lam[p, n] * z[p] + (1 - lam[p, n]) * z[n], dim=0)
            e = float((z[a] @ v).exp())
            top, bottom = top + float(lam[p, n]) * e, bottom + e
        each.append(-torch.tensor(top / bottom).log().item())
    mixed = Metrix(from_pml(theirs), ratio_per="pair").mixed_loss(x, labels, lam=lam)
    assert mixed.item() == pytest.approx(sum(each) / 4, rel=1e-6)


@pytest.mark.parametrize("name", ["contrastive", "lifted", "nca", "proxy nca"])
def test_gradient_of_mixtures(name):
    torch.manual_seed(0)
    theirs = DEFAULTS[name]()
    criterion = Metrix(from_pml(theirs).double(), ratio_per="pair")
    labels = torch.tensor([0, 0, 1, 1, 2])
    lam = torch.rand(5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = rows(5, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: criterion.mixed_loss(x, labels, lam=lam), x)


def test_equal_rows_stand_still():
    x = rows(4)
    x[1] = x[0]
    x.requires_grad_()
    value = from_pml(losses.ContrastiveLoss(reducer=MEAN()))(x, torch.tensor([0, 0, 0, 1]))
    value.backward()
    assert value.isfinite()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_proxies_are_shared_and_keep_their_type():
    theirs = losses.ProxyAnchorLoss(5, 6)
    before = theirs.proxies.detach().clone()
    ours = from_pml(theirs)
    assert ours.proxies is theirs.proxies
    assert torch.equal(theirs.proxies, before)
    assert theirs.proxies.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        Metrix(ours)(rows(4).bfloat16().requires_grad_(), torch.tensor([0, 0, 1, 1])).backward()
    assert theirs.proxies.grad is not None
    assert theirs.proxies.dtype == torch.float32


@pytest.mark.parametrize(
    "miner", [miners.MultiSimilarityMiner(0.2), miners.PairMarginMiner(0.9, 1.1), miners.HDCMiner(0.6)]
)
def test_miners_of_pairs(miner):
    for theirs in (losses.MultiSimilarityLoss(), losses.ContrastiveLoss(0.2, 1.2, reducer=SUM())):
        ours = from_pml(theirs, miner)
        labels, x = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2]), rows(8, 5)
        expected = value_and_gradients(theirs, x, labels, miner(x, labels))
        for a, b in zip(value_and_gradients(ours, x, labels), expected, strict=True):
            assert torch.allclose(a, b, rtol=1e-6, atol=1e-6)
    plain = from_pml(losses.MultiSimilarityLoss())
    mined = from_pml(losses.MultiSimilarityLoss(), miners.MultiSimilarityMiner(0.0))
    assert mined(x, labels) < plain(x, labels)
    assert Metrix(mined).mixed_loss(x, labels, lam=0.5) != Metrix(plain).mixed_loss(x, labels, lam=0.5)


REFUSED = {
    "AvgNonZeroReducer.*MeanReducer": lambda: losses.ContrastiveLoss(),
    "ThresholdReducer": lambda: losses.MultiSimilarityLoss(reducer=reducers.ThresholdReducer(low=0.1)),
    "reducer ClassWeightedReducer": lambda: losses.MultiSimilarityLoss(
        reducer=reducers.ClassWeightedReducer(torch.ones(4))
    ),
    "reducer DivisorReducer": lambda: losses.ContrastiveLoss(reducer=reducers.DivisorReducer()),
    "reducer MultipleReducers": lambda: losses.ContrastiveLoss(
        reducer=reducers.MultipleReducers({"pos_loss": MEAN(), "neg_loss": SUM()})
    ),
    "distance SNRDistance": lambda: losses.MultiSimilarityLoss(distance=distances.SNRDistance()),
    "normalize_embeddings=False": lambda: losses.NCALoss(distance=distances.LpDistance(normalize_embeddings=False)),
    "p=1": lambda: losses.NCALoss(distance=distances.LpDistance(p=1)),
    "power=2": lambda: losses.MultiSimilarityLoss(distance=distances.CosineSimilarity(power=2)),
    "NTXentLoss.*NCALoss": losses.NTXentLoss,
    "SupConLoss.*NCALoss": losses.SupConLoss,
    "LiftedStructureLoss.*Generalized": losses.LiftedStructureLoss,
    "CircleLoss.*MultiSimilarityLoss": losses.CircleLoss,
    "LpDistance with TripletMarginLoss": lambda: losses.TripletMarginLoss(reducer=MEAN()),
    "swap=False": lambda: losses.TripletMarginLoss(swap=True, distance=COSINE(), reducer=MEAN()),
    "SumReducer with TripletMarginLoss": lambda: losses.TripletMarginLoss(distance=COSINE(), reducer=SUM()),
    "embedding_regularizer": lambda: losses.NCALoss(embedding_regularizer=regularizers.LpRegularizer()),
    "not one derived": lambda: type("Own", (losses.ContrastiveLoss,), {"__module__": "mine"})(reducer=MEAN()),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_has_no_form_is_refused_by_name(message):
    with pytest.raises(InputError, match=message):
        from_pml(REFUSED[message]())


@pytest.mark.parametrize(
    ("loss", "miner", "message"),
    [
        (losses.MultiSimilarityLoss(), miners.TripletMarginMiner(), "miner TripletMarginMiner.*triplets"),
        (losses.MultiSimilarityLoss(), miners.BatchHardMiner(), "miner BatchHardMiner"),
        (losses.NCALoss(), miners.MultiSimilarityMiner(), "miner MultiSimilarityMiner with NCALoss"),
        (
            losses.ProxyAnchorLoss(4, 6),
            miners.MultiSimilarityMiner(),
            "miner MultiSimilarityMiner with ProxyAnchorLoss",
        ),
    ],
)
def test_miners_without_a_form_are_refused(loss, miner, message):
    with pytest.raises(InputError, match=message):
        from_pml(loss, miner)


class Coin(miners.BaseMiner):
    def mine(self, embeddings, labels, ref_emb, ref_labels):
        a, p = torch.where((labels[:, None] == labels) & (torch.rand(len(labels), len(labels)) > 0.5))
        return a, p, a[:0], p[:0]


def test_the_comparison_finds_what_a_class_name_hides():
    theirs = losses.ContrastiveLoss(reducer=MEAN())
    theirs.neg_calc = lambda d, m: torch.relu(m - d) ** 2  # type: ignore[method-assign]
    with pytest.raises(InputError, match=r"value on labels .* is off by .* something else"):
        from_pml(theirs)
    with pytest.raises(InputError, match="draws at random"):
        from_pml(losses.MultiSimilarityLoss(), Coin())
    with pytest.raises(InputError, match="off by"):
        compare(MultiSimilarity(2.0, 50.0, 0.51), losses.MultiSimilarityLoss(2, 50, 0.5))
    # The same value and another gradient: a factor of 1 that is not constant.
    theirs = losses.MultiSimilarityLoss()
    original = theirs.compute_loss
    theirs.compute_loss = lambda e, *rest: {  # type: ignore[method-assign]
        k: {**v, "losses": v["losses"] * (1 + e.sum() - e.sum().detach())} for k, v in original(e, *rest).items()
    }
    with pytest.raises(InputError, match="its gradient"):
        compare(MultiSimilarity(2.0, 50.0, 0.5), theirs)


def test_constant_mixtures_are_refused():
    with pytest.raises(InputError, match="ratio_per"):
        Metrix(from_pml(losses.NCALoss()))
    with pytest.raises(InputError, match="no gradient"):
        Metrix(from_pml(losses.NCALoss()), pairs="positive-positive", ratio_per="pair")


def test_by_name_as_in_a_config():
    from metrixkit.config import FAMILIES
    from metrixkit.schema import build_node, check_node

    node = check_node(
        {
            "name": "metrix",
            "loss": {
                "name": "from_pml", "loss": "ContrastiveLoss", "arguments": {"pos_margin": 1, "neg_margin": 0.5},
                "distance": "CosineSimilarity", "reducer": "SumReducer", "miner": "MultiSimilarityMiner",
            },
        },
        FAMILIES, "loss", "loss",
    )  # fmt: skip
    criterion = build_node(node, FAMILIES, "loss", "loss", {"num_classes": 4, "dim": 6, "seed": 0})
    assert isinstance(criterion, Metrix)
    assert type(criterion.loss.miner).__name__ == "MultiSimilarityMiner"
    build = LOSSES["from_pml"]
    assert build("ProxyAnchorLoss", num_classes=4, dim=6).proxies.shape == (4, 6)
    assert isinstance(build("NCALoss", distance="LpDistance", distance_arguments={"power": 1}).form.power, float)
    with pytest.raises(InputError, match="no reducer called 'MeanReducr'.*MeanReducer"):
        build("ContrastiveLoss", reducer="MeanReducr")
    with pytest.raises(InputError, match="without a distance"):
        build("NCALoss", distance_arguments={"power": 1})
    with pytest.raises(InputError, match="AvgNonZeroReducer"):
        build("ContrastiveLoss")


@pytest.mark.parametrize("name", DEFAULTS)
def test_level_feature_with_an_identity_head_is_level_embed(name):
    if name == "proxy nca":
        with pytest.raises(InputError, match="proxies"):
            Metrix(from_pml(DEFAULTS[name]()), level="feature", ratio_per="pair")
        return
    torch.manual_seed(0)
    loss = from_pml(DEFAULTS[name]()).double()
    labels, x = torch.tensor([0, 0, 0, 1, 1, 2, 3]), rows(7, 6)
    lam = torch.rand(7, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = []
    for level in ("embed", "feature"):
        criterion, y = Metrix(loss, level=level, ratio_per="pair"), x.clone().requires_grad_()
        z = torch.nn.functional.normalize(y, dim=1)
        more = {"features": z, "head": torch.nn.Identity()} if level == "feature" else {}
        value = criterion.mixed_loss(z, labels, lam=lam, **more)
        found.append((value, torch.autograd.grad(value, y)[0]))
    (a, of_a), (b, of_b) = found
    assert torch.allclose(a, b, rtol=1e-10)
    assert torch.allclose(of_a, of_b, atol=1e-9)
