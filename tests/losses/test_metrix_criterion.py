"""Metrix as a criterion: draws, state, refusals, logs; losses as modules; other people's losses."""

import io

import pytest
import torch
from pytorch_metric_learning import losses as pml

from metrixkit.errors import InputError
from metrixkit.losses import (
    LOSSES,
    NCA,
    PML,
    Contrastive,
    LiftedStructure,
    Metrix,
    MultiSimilarity,
    OfficialContrastive,
    ProxyAnchor,
    ProxyNCA,
    Triplet,
)
from metrixkit.mixing import PAIR_KINDS, draw_ratio, plan_pairs

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
MIXED_KINDS = ["positive-negative", "anchor-negative"]


def steps(criterion, count):
    drawn = []
    for _ in range(count):
        criterion(X, LABELS)
        drawn.append((criterion.last.ratio, criterion.last.pairs))
    return drawn


@pytest.mark.parametrize("ratio_per", ["step", "pair"])
def test_total_is_clean_plus_weighted_mixed(ratio_per):
    criterion = Metrix(MultiSimilarity(), weight=0.25, ratio_per=ratio_per)
    total = criterion(X, LABELS)
    assert total.item() == pytest.approx(criterion.last.clean.item() + 0.25 * criterion.last.mixed.item(), rel=1e-6)
    assert criterion.last.clean.item() == pytest.approx(MultiSimilarity()(X, LABELS).item(), rel=1e-6)
    if ratio_per == "step":
        mixed = criterion.mixed_loss(X, LABELS, lam=criterion.last.ratio)
        assert mixed.item() == pytest.approx(criterion.last.mixed.item(), rel=1e-6)
    assert set(criterion.logs()) == {"clean", "mixed", "lambda"}


def test_a_hinge_that_is_exactly_met_has_no_gradient():
    """Lifted structure of rows that stand at right angles: log e^0 + log e^0 - 0 = 0, the corner of its outer function."""
    rows = torch.eye(3).requires_grad_()
    loss = LiftedStructure(margin=0.0)(rows[:3], torch.tensor([0, 0, 1]))
    loss.backward()
    assert loss.item() == 0
    assert rows.grad.abs().max() == 0


def test_equal_seeds_draw_alike_whatever_the_batch():
    one, two = (Metrix(Contrastive(), pairs=MIXED_KINDS, seed=3) for _ in range(2))
    for size in (8, 6, 4):
        one(X, LABELS)
        two(X[:size], LABELS[:size])
        assert (one.last.ratio, one.last.pairs) == (two.last.ratio, two.last.pairs)
    assert steps(one, 5) != steps(Metrix(Contrastive(), pairs=MIXED_KINDS, seed=4), 5)


def test_kinds_are_drawn_evenly_and_ratios_from_beta():
    drawn = steps(Metrix(Contrastive(), pairs=MIXED_KINDS), 200)
    assert 60 < sum(kind == "anchor-negative" for _, kind in drawn) < 140
    ratios = draw_ratio(2.0, torch.Generator().manual_seed(0), (20000,))
    assert ratios.mean().item() == pytest.approx(0.5, abs=0.01)
    assert ratios.var().item() == pytest.approx(0.05, abs=0.002)  # Beta(2, 2)
    with pytest.raises(InputError, match="alpha"):
        draw_ratio(0.0, torch.Generator())


def test_state_survives_a_kill():
    criterion = Metrix(ProxyAnchor(4, 6), pairs="positive-negative", seed=1)
    steps(criterion, 3)
    handle = io.BytesIO()
    torch.save(criterion.state_dict(), handle)
    handle.seek(0)
    expected = steps(criterion, 4)
    resumed = Metrix(ProxyAnchor(4, 6, seed=9), pairs="positive-negative", seed=7)
    resumed.load_state_dict(torch.load(handle, weights_only=True))
    assert steps(resumed, 4) == expected
    assert torch.equal(resumed.loss.proxies, criterion.loss.proxies)


@pytest.mark.parametrize("ratio_per", ["step", "pair"])
def test_gradient_ratio(ratio_per):
    criterion = Metrix(MultiSimilarity(), weight=0.4, ratio_per=ratio_per)
    criterion(X, LABELS)
    before = criterion.generator.get_state()
    with torch.no_grad():
        ratio = criterion.gradient_ratio(X, LABELS)
    assert torch.equal(before, criterion.generator.get_state())
    if ratio_per == "step":
        norms = []
        for value in (
            lambda x: criterion.mixed_loss(x, LABELS, lam=criterion.last.ratio),
            lambda x: MultiSimilarity()(x, LABELS),
        ):
            x = X.clone().requires_grad_()
            value(x).backward()
            norms.append(x.grad.norm().item())
        assert ratio == pytest.approx(0.4 * norms[0] / norms[1], rel=1e-5)
    assert Metrix(MultiSimilarity()).gradient_ratio(X[:1], LABELS[:1]) == 0.0


def test_mean_reduction_keeps_identity_sums_in_bounds():
    x = torch.randn(100, 32, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(100) % 20
    summed, averaged = (Metrix(Contrastive(), reduction=r).gradient_ratio(x, labels) for r in ("sum", "mean"))
    assert summed > 5
    assert averaged < 1


@pytest.mark.parametrize("kind", ["positive-negative", "anchor-negative", "positive-negative-first"])
@pytest.mark.parametrize("loss", [NCA(), ProxyNCA(4, 6)], ids=["nca", "proxy-nca"])
def test_constant_mixtures_are_refused(loss, kind):
    with pytest.raises(InputError, match="constant"):
        Metrix(loss, pairs=kind)
    Metrix(loss, pairs=kind, ratio_per="pair")
    with pytest.raises(InputError, match="constant"):
        Metrix(loss, pairs="negative-negative").mixed_loss(X, LABELS, lam=0.3, pairs=kind)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Metrix(MultiSimilarity(), level="featur"), "Did you mean 'feature'"),
        (lambda: Metrix(MultiSimilarity(), pairs="positive-negatives"), "Did you mean 'positive-negative'"),
        (lambda: Metrix(MultiSimilarity(), pairs=[]), "empty"),
        (lambda: Metrix(MultiSimilarity(), weight=-1), "weight"),
        (lambda: Metrix(MultiSimilarity(), weight=float("nan")), "weight"),
        (lambda: Metrix(MultiSimilarity(), alpha=0), "alpha"),
        (lambda: Metrix(MultiSimilarity(), hardest=0), "hardest"),
        (lambda: Metrix(MultiSimilarity(), reduction="means"), "Did you mean 'mean'"),
        (lambda: Metrix(MultiSimilarity(), ratio_per="batch"), "ratio_per"),
        (lambda: Metrix(torch.nn.Identity()), "generalised form"),
        (lambda: Metrix(PML("ContrastiveLoss")), "generalised form"),
        (lambda: Metrix(ProxyAnchor(4, 6), pairs="anchor-negative"), "never mixed"),
        (lambda: Metrix(ProxyNCA(4, 6), pairs="positive-positive"), "single proxy"),
        (lambda: Metrix(LiftedStructure(), pairs="positive-positive"), "always 0"),
        (lambda: Metrix(Triplet(), pairs="negative-negative"), "together"),
        (lambda: Metrix(MultiSimilarity())(X, LABELS, features=X), "this one is 'embed'"),
        (lambda: Metrix(MultiSimilarity()).mixed_loss(X, LABELS, lam=1.5), r"\[0, 1\]"),
        (lambda: Metrix(MultiSimilarity()).mixed_loss(X, LABELS, lam=torch.rand(3, 3)), r"shape \(8, 8\)"),
        (lambda: MultiSimilarity(beta=0), "beta"),
        (lambda: NCA(temperature=-1), "temperature"),
        (lambda: ProxyAnchor(0, 6), "num_classes"),
        (lambda: ProxyAnchor(3, 6)(X, LABELS), "0 to 2"),
        (lambda: ProxyAnchor(4, 5)(X, LABELS), "dimensions"),
        (lambda: Contrastive()(X[0], LABELS), "shape"),
        (lambda: Contrastive()(X, LABELS[:3]), "one for each embedding"),
        (lambda: Contrastive()(X, LABELS.float()), "integer"),
        (lambda: Contrastive()(X, ["a"] * 8), "integer"),
        (lambda: Contrastive()(X.long(), LABELS), "floating"),
        (lambda: OfficialContrastive().mixed_loss(X, LABELS, 0.3, pairs="negative-negative"), "release"),
        (lambda: plan_pairs("all", LABELS > 0, LABELS > 0), "Known"),
        (lambda: PML("ProxyAnchorLos"), "Did you mean 'ProxyAnchorLoss'"),
        (lambda: PML("ProxyAnchorLoss", {"margn": 0.1}, num_classes=4, dim=6), "Did you mean 'margin'"),
        (lambda: PML("ProxyAnchorLoss", num_classes=4), "needs embedding_size"),
        (lambda: PML("ContrastiveLoss", miner="MultiSimilarityMine"), "Did you mean 'MultiSimilarityMiner'"),
        (lambda: PML("ContrastiveLoss", miner_arguments={"epsilon": 0.1}), "without a miner"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_every_kind_is_described_and_planned():
    positive = torch.tensor([[False, True, False], [True, False, False], [False, False, False]])
    for kind in PAIR_KINDS:
        plan = plan_pairs(kind, positive, ~positive & ~torch.eye(3, dtype=torch.bool))
        assert plan.counts().shape == (3,)
        assert (plan.anchor.diff() >= 0).all()
    official = plan_pairs("anchor-negative-official", positive, ~positive & ~torch.eye(3, dtype=torch.bool))
    assert official.anchor.tolist() == [2]


def test_every_loss_is_built_by_name():
    for name, cls in LOSSES.items():
        given = {"loss": Contrastive()} if name in ("metrix", "dmm") else {}
        loss = cls(num_classes=4, dim=6) if name.startswith("proxy") else cls(**given)
        images = {"features": X, "head": torch.nn.Identity()} if name == "imix" else {}
        taken = {"pairs": (X, X.flip(0)), "triples": (X, X.flip(0), X[:, None]), "values": (X[:, 0], X[:, 1])}
        value = loss(*taken.get(getattr(loss, "takes", "labels"), (X, LABELS)), **images)
        assert value.shape == ()
        assert torch.isfinite(value)


def test_numbers_of_pytorch_metric_learning():
    ours, theirs = MultiSimilarity(2.0, 50.0, 0.5), pml.MultiSimilarityLoss(2.0, 50.0, 0.5)
    assert ours(X, LABELS).item() == pytest.approx(theirs(X, LABELS).item(), rel=1e-5)
    ours, theirs = ProxyAnchor(4, 6), pml.ProxyAnchorLoss(4, 6)
    theirs.proxies.data.copy_(ours.proxies.data)
    assert ours(X, LABELS).item() == pytest.approx(theirs(X, LABELS).item(), rel=1e-5)


def test_triplet_against_loops():
    z = torch.nn.functional.normalize(X.double(), dim=1)
    s, each = z @ z.T, []
    for a in range(8):
        gaps = [
            max(0.0, 0.3 - s[a, p].item() + s[a, n].item())
            for p in range(8)
            for n in range(8)
            if p != a and LABELS[p] == LABELS[a] != LABELS[n]
        ]
        each.append(sum(gaps) / len(gaps))
    assert Triplet(0.3)(X.double(), LABELS).item() == pytest.approx(sum(each) / 8, rel=1e-12)


def test_proxy_nca_against_its_formula():
    loss = ProxyNCA(4, 6, temperature=0.5).double()
    z, p = (torch.nn.functional.normalize(t, dim=1) for t in (X.double(), loss.proxies.detach()))
    s = z @ p.T / 0.5
    own = torch.nn.functional.one_hot(LABELS, 4).bool()
    expected = (-s[own] + s.masked_fill(own, -torch.inf).logsumexp(1)).mean()
    assert loss(X.double(), LABELS).item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("name", ["ProxyAnchorLoss", "ProxyNCALoss", "ArcFaceLoss"])
def test_a_bfloat16_batch_leaves_the_wrapped_proxies_alone(name):
    loss = PML(name, num_classes=4, dim=6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(X.bfloat16().requires_grad_(), LABELS)
        value.backward()
    assert value.dtype == torch.float32
    assert {p.dtype for p in loss.parameters()} == {torch.float32}
    assert loss.proxies is next(loss.parameters())
    assert loss.proxies.grad.dtype == torch.float32
    assert PML("ContrastiveLoss").proxies is None


def test_proxies_stay_in_float32_and_start_from_their_seed():
    loss = ProxyAnchor(4, 6, seed=5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        Metrix(loss)(X.bfloat16(), LABELS).backward()
    assert loss.proxies.dtype == loss.proxies.grad.dtype == torch.float32
    assert torch.equal(loss.proxies, ProxyAnchor(4, 6, seed=5).proxies)
    assert not torch.equal(loss.proxies, ProxyAnchor(4, 6, seed=6).proxies)


def test_a_zero_row_has_no_gradient():
    x = X.clone()
    x[0] = 0
    x.requires_grad_()
    Metrix(MultiSimilarity())(x, LABELS).backward()
    assert torch.isfinite(x.grad).all()
    assert not x.grad[0].any()


def test_example_of_the_docstring():
    import doctest

    import metrixkit.losses.metrix
    import metrixkit.losses.pml

    for module in (metrixkit.losses.metrix, metrixkit.losses.pml):
        result = doctest.testmod(module)
        assert result.attempted
        assert not result.failed
