"""The mixed term: against loops, against finite differences, and at its edges."""

import pytest
import torch
from oracle_losses import KINDS, clean_loss, mixed_loss, mixed_terms, unit

import metrixkit.losses.mixture as mixture
from metrixkit.errors import InputError
from metrixkit.losses import LOSSES, NCA, Contrastive, Metrix, MultiSimilarity, ProxyAnchor, ProxyNCA, Triplet

NAMES = ("contrastive", "multi_similarity", "binomial_deviance", "lifted_structure", "nca")
ALL_KINDS = (*KINDS, "positive-negative-first", "anchor-negative-official")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
LABELS = torch.tensor([4, 0, 2, 0, 9, 2, 0, 4, 4])  # classes of 3, 3, 2 and 1 row, shuffled


def rows(count=9, dim=4, seed=0, dtype=torch.float64):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def allowed(name, kind, one_ratio=True):
    loss = LOSSES[name]()
    return kind not in loss.refused and not (one_ratio and kind in loss.refused_with_one_ratio)


CASES = [(n, k) for n in NAMES for k in ALL_KINDS if allowed(n, k)]
PAIR_CASES = [(n, k) for n in NAMES for k in ALL_KINDS if allowed(n, k, one_ratio=False)]


def same(value, expected, tolerance=1e-10):
    return abs(value.item() - expected) <= tolerance * max(1.0, abs(expected))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_values_are_those_of_loops(name, kind, reduction, device):
    x = rows()
    for lam in (0.0, 0.3, 1.0):
        for renormalize in (True, False):
            criterion = Metrix(LOSSES[name](), pairs=kind, renormalize=renormalize, reduction=reduction)
            value = criterion.mixed_loss(x.to(device), LABELS.to(device), lam=lam)
            expected = mixed_loss(
                name, x, LABELS.tolist(), kind, lam, renormalize=renormalize, mean=reduction == "mean"
            )
            if name == "lifted_structure" and lam in (0.0, 1.0):
                expected = 0.0  # the logarithm of 0 on one side
            assert same(value, expected), (lam, renormalize)


@pytest.mark.parametrize(("name", "kind"), PAIR_CASES)
def test_one_ratio_for_each_pair(name, kind):
    x, lam = rows(), torch.rand(9, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    # The matrix holds the weight of the first of (first, second) as the kind names them, so (p, a) for positive-anchor.
    value = Metrix(LOSSES[name](), pairs=kind, ratio_per="pair").mixed_loss(x, LABELS, lam=lam)
    assert same(value, mixed_loss(name, x, LABELS.tolist(), kind, lam.tolist()))


@pytest.mark.parametrize("kind", [k for k in KINDS if "negative" in k])
@pytest.mark.parametrize("hardest", [1, 2, 5, 50])
def test_hardest_negatives(kind, hardest):
    x = rows(seed=3)
    for name in ("contrastive", "multi_similarity"):
        criterion = Metrix(LOSSES[name](), pairs=kind, hardest=hardest)
        assert same(
            criterion.mixed_loss(x, LABELS, lam=0.3), mixed_loss(name, x, LABELS.tolist(), kind, 0.3, hardest=hardest)
        )


@pytest.mark.sample(14)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_gradients(name, kind, reduction, monkeypatch):
    monkeypatch.setattr(mixture, "_CPU_ELEMENTS", 40)  # many chunks
    x = rows(6, 3, seed=5).requires_grad_()
    labels = torch.tensor([1, 0, 1, 0, 1, 2])
    for lam in (0.0, 0.3, 1.0):
        for renormalize in (True, False):
            criterion = Metrix(LOSSES[name](), pairs=kind, renormalize=renormalize, reduction=reduction)
            assert torch.autograd.gradcheck(
                lambda z, c=criterion, r=lam: c.mixed_loss(z, labels, lam=r), (x,), atol=1e-5
            )


@pytest.mark.sample(16)
@pytest.mark.parametrize(("name", "kind", "hardest"), [(n, k, h) for n, k in PAIR_CASES for h in (None, 2)])
def test_gradients_with_one_ratio_for_each_pair(name, kind, hardest):
    x, lam = rows(6, 3, seed=5).requires_grad_(), torch.rand(6, 6, generator=torch.Generator().manual_seed(2)).double()
    criterion = Metrix(LOSSES[name](), pairs=kind, ratio_per="pair", hardest=hardest)
    labels = torch.tensor([1, 0, 1, 0, 1, 2])
    assert torch.autograd.gradcheck(lambda z: criterion.mixed_loss(z, labels, lam=lam), (x,), atol=1e-5)


@pytest.mark.parametrize("name", [*NAMES, "triplet"])
def test_gradients_of_clean_losses(name):
    loss, x = LOSSES[name](), rows(7, 3, seed=6).requires_grad_()
    labels = torch.tensor([1, 0, 1, 0, 1, 2, 3])
    assert torch.autograd.gradcheck(lambda z: loss(z, labels), (x,), atol=1e-5)
    if name != "triplet":
        assert same(loss(x, labels), clean_loss(name, x.detach(), labels.tolist()))


@pytest.mark.parametrize("name", ["multi_similarity", "contrastive", "binomial_deviance"])
def test_chunks_do_not_matter(name, monkeypatch):
    x, labels = rows(40, 8, seed=1), torch.arange(40) % 7
    whole = Metrix(LOSSES[name]()).mixed_loss(x, labels, lam=0.4)
    for elements in (1, 300, 5000):
        monkeypatch.setattr(mixture, "_CPU_ELEMENTS", elements)
        assert same(Metrix(LOSSES[name]()).mixed_loss(x, labels, lam=0.4), whole.item(), 1e-13)


def test_factorised_sums_equal_the_general_path(monkeypatch):
    x, labels = rows(12, 4), torch.tensor([0, 1, 2] * 4)
    results = []
    for factorise in (True, False):
        if not factorise:
            monkeypatch.setattr(mixture, "_factorises", lambda mixtures: False)
        for name in ("multi_similarity", "lifted_structure"):
            z = x.clone().requires_grad_()
            Metrix(LOSSES[name](), renormalize=False).mixed_loss(z, labels, lam=0.35).backward()
            results.append(z.grad)
    for one, other in zip(results[:2], results[2:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


def test_limits_of_the_ratio():
    """At lambda 1 every positive counts |N| times and no negative; at 0 every negative |P| times and no positive."""
    x, labels = rows(8, 4, seed=2), torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    loss = MultiSimilarity()
    relations = loss.relations(x, labels)
    s, positive, negative = relations.similarity, relations.positive.double(), relations.negative.double()
    none = torch.zeros_like(positive)
    criterion = Metrix(loss)
    assert same(criterion.mixed_loss(x, labels, lam=1.0), loss.from_similarity(s, positive * 6, none).mean().item())
    assert same(criterion.mixed_loss(x, labels, lam=0.0), loss.from_similarity(s, none, negative).mean().item())


@pytest.mark.parametrize("name", ["multi_similarity", "contrastive", "binomial_deviance", "lifted_structure"])
def test_order_of_the_batch_does_not_matter(name):
    x, order = rows(), torch.randperm(9, generator=torch.Generator().manual_seed(3))
    for kind in KINDS:
        if allowed(name, kind):
            criterion = Metrix(LOSSES[name](), pairs=kind)
            value = criterion.mixed_loss(x, LABELS, lam=0.3)
            assert same(criterion.mixed_loss(x[order], LABELS[order], lam=0.3), value.item(), 1e-12)


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [5, 5, 5, 5], [0, 0, 0, 0]])
@pytest.mark.parametrize("kind", KINDS)
def test_empty_mixtures_are_exactly_zero(labels, kind):
    labels = torch.tensor(labels)
    one_class = len(labels.unique()) == 1
    if kind in (("positive-anchor", "positive-positive") if one_class else ("anchor-negative", "negative-negative")):
        return  # these kinds have mixtures here; their values are checked against the loops
    for loss in (MultiSimilarity(), Contrastive()):
        for ratio_per in ("step", "pair"):
            for hardest in (None, 1):
                x = rows(4, 3).requires_grad_()
                value = Metrix(loss, pairs=kind, ratio_per=ratio_per, hardest=hardest).mixed_loss(x, labels)
                value.backward()
                assert value.item() == 0
                assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("name", [*NAMES, "triplet"])
def test_batches_without_comparisons(name):
    for labels in (torch.tensor([3]), torch.tensor([1, 1, 1]), torch.tensor([0, 1, 2])):
        x = rows(len(labels), 3).requires_grad_()
        value = LOSSES[name]()(x, labels)
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(x.grad).all()
        if LOSSES[name].needs_both or len(labels) == 1:
            assert value.item() == 0
            assert not x.grad.any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["multi_similarity", "contrastive", "binomial_deviance"])
def test_float32_with_near_duplicate_and_opposite_rows(name, device):
    base = rows(8, 16, seed=4)
    x = torch.cat([base, base * 2, base + 1e-7, -base[:4]]).float().to(device)
    labels = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7] * 3 + [7, 6, 5, 4], device=device)
    for lam in (0.0, 0.3, 0.5, 1.0):
        z = x.clone().requires_grad_()
        value = Metrix(LOSSES[name]()).mixed_loss(z, labels, lam=lam)
        value.backward()
        expected = Metrix(LOSSES[name]()).mixed_loss(x.double(), labels, lam=lam).item()
        assert torch.isfinite(z.grad).all()
        # Half and half of opposite rows has no direction: float32 gives noise there, which must stay small and finite.
        assert same(value, expected, 1e-2 if lam == 0.5 else 1e-5)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("lam", [1e-3, 1e-6, 1e-9, 1e-12])
def test_sharp_losses_at_small_ratios(reduction, lam):
    """The largest exponent is found without lambda, beside which 1 and the sum are then both small."""
    x, labels = rows(40, 16), torch.arange(40) // 5
    found = []
    for dtype in (torch.float64, torch.float32):
        z = x.detach().to(dtype).requires_grad_()
        value = Metrix(ProxyAnchor(8, 16, beta=64.0), reduction=reduction).mixed_loss(z, labels, lam=lam)
        value.backward()
        found.append((value.item(), z.grad.double()))
    (wide, expected), (narrow, gradient) = found
    assert narrow == pytest.approx(wide, rel=1e-5)
    assert (gradient - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize("sharp", [100.0, 400.0])
def test_exponents_beyond_float32(sharp):
    """With these settings exp(sharp * s) overflows; the value still is that of float64, also where labels differ by pair."""
    x, labels = torch.nn.functional.normalize(rows(10, 3)), torch.arange(10) % 3
    loss, nca = MultiSimilarity(sharp, sharp, 0.0), NCA(temperature=1 / sharp)
    for lam in (0.3, torch.rand(10, 10, generator=torch.Generator().manual_seed(0))):
        criterion = Metrix(loss, ratio_per="pair")
        for make in (
            lambda z, c=criterion, r=lam: c.mixed_loss(z, labels, lam=r),
            lambda z: loss(z, labels),
            lambda z: nca(z, labels),
        ):
            z = x.float().requires_grad_()
            value = make(z)
            value.backward()
            assert torch.isfinite(z.grad).all()
            assert same(value, make(x).item(), 1e-4)
    relations = loss.relations(x, labels)
    assert same(
        loss(x, labels),
        loss.from_similarity(relations.similarity, relations.positive, relations.negative).mean().item(),
    )


@pytest.mark.parametrize("device", DEVICES)
def test_autocast_is_kept_out(device):
    x, labels = rows(12, 16, dtype=torch.float32).to(device), (torch.arange(12) % 4).to(device)
    for loss in (MultiSimilarity(), ProxyAnchor(4, 16).to(device)):
        results = []
        for enabled in (False, True):
            z = x.clone().requires_grad_()
            with torch.autocast(device, dtype=torch.bfloat16, enabled=enabled):
                value = loss(z, labels) + Metrix(loss).mixed_loss(z, labels, lam=0.3)
                value.backward()
            results.append((value.detach(), z.grad))
        assert results[1][0].dtype == torch.float32
        torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
        half = loss(x.bfloat16().requires_grad_(), labels)
        assert half.dtype == torch.float32


def test_proxy_anchor_mixes_examples_and_moves_proxies():
    loss, x = ProxyAnchor(6, 4, seed=1).double(), rows().requires_grad_()
    labels = torch.tensor([4, 0, 2, 0, 5, 2, 0, 4, 4])
    for reduction, kind in (("sum", "positive-negative"), ("mean", "positive-negative"), ("sum", "positive-positive")):
        criterion = Metrix(loss, reduction=reduction, pairs=kind)
        positive = [[labels[j] == c for j in range(9)] for c in range(6)]
        negative = [[labels[j] != c for j in range(9)] for c in range(6)]
        terms = mixed_terms(
            "proxy_anchor",
            unit(loss.proxies.detach()),
            unit(x.detach()),
            positive,
            negative,
            kind,
            0.3,
            mean=reduction == "mean",
        )
        expected = sum(p for p, _, _ in terms) / 4 + sum(n for _, n, _ in terms) / 6
        assert same(criterion.mixed_loss(x, labels, lam=0.3), expected)
        assert torch.autograd.gradcheck(
            lambda z, _p, c=criterion: c.mixed_loss(z, labels, lam=0.3), (x, loss.proxies), atol=1e-5
        )
    assert torch.autograd.gradcheck(lambda z, _p: loss(z, labels), (x, loss.proxies), atol=1e-5)


@pytest.mark.parametrize("kind", ["positive-negative", "anchor-negative", "positive-anchor", "negative-negative"])
@pytest.mark.parametrize("hardest", [None, 2])
def test_proxy_nca_mixes_proxies(kind, hardest):
    # 7 proxies, two of which are among the batch's classes: rows of the Gram matrix are narrowed.
    loss, x, labels = (
        ProxyNCA(7, 4, temperature=0.5, seed=1).double(),
        rows(3).requires_grad_(),
        torch.tensor([5, 2, 5]),
    )
    criterion = Metrix(loss, pairs=kind, ratio_per="pair", hardest=hardest)
    mean = criterion.mixed_loss(x, labels, lam=None)
    assert torch.isfinite(mean)
    if kind in ("positive-anchor", "negative-negative"):
        positive = [[labels[a] == c for c in range(7)] for a in range(3)]
        negative = [[labels[a] != c for c in range(7)] for a in range(3)]
        terms = mixed_terms(
            "nca",
            unit(x.detach()),
            unit(loss.proxies.detach()),
            positive,
            negative,
            kind,
            0.3,
            hardest=hardest,
            temperature=0.5,
        )
        value = criterion.mixed_loss(x, labels, lam=0.3)
        assert same(value, sum(p + n for p, n, _ in terms) / 3)
    width = {
        "positive-negative": (2, 7),
        "anchor-negative": (3, 7),
        "positive-anchor": (3, 7),
        "negative-negative": (7, 7),
    }[kind]
    if kind == "positive-anchor":
        width = width[::-1]  # (positive, anchor)
    if kind == "negative-negative" and hardest:
        width = (4, 7)  # proxies that are among the hardest of some row
    lam = torch.rand(width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda z, _p: criterion.mixed_loss(z, labels, lam=lam), (x, loss.proxies), atol=1e-5
    )


def test_triplet_extension():
    x, loss, lam = rows(), Triplet(margin=0.2), 0.3
    z = unit(x)
    each = []
    for a in range(9):
        values = []
        for p in range(9):
            for n in range(9):
                if p != a and LABELS[p] == LABELS[a] != LABELS[n]:
                    v = lam * z[p] + (1 - lam) * z[n]
                    values.append(max(0.0, 0.2 + (1 - 2 * lam) * float(z[a] @ v) / float((v @ v) ** 0.5)))
        if values:
            each.append(sum(values) / len(values))
    assert same(Metrix(loss).mixed_loss(x, LABELS, lam=lam), sum(each) / len(each))
    z = x.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda r: Metrix(loss).mixed_loss(r, LABELS, lam=lam), (z,), atol=1e-5)


def test_one_backward_only():
    x = rows().requires_grad_()
    value = Metrix(MultiSimilarity()).mixed_loss(x, LABELS, lam=0.3)
    (grad,) = torch.autograd.grad(value, x, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        grad.sum().backward()


def test_too_many_mixtures_for_one_anchor(monkeypatch):
    monkeypatch.setattr(mixture, "_CPU_ELEMENTS", 1)
    monkeypatch.setattr(mixture, "_LARGEST_ANCHOR", 10)
    with pytest.raises(InputError, match="hardest=K"):
        Metrix(MultiSimilarity(), pairs="negative-negative").mixed_loss(rows(), LABELS, lam=0.3)
