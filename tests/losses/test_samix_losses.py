"""SAMix' losses: fixtures of the release, loops as oracles, the split, lambda's ends, gradients, bad input."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from metrixkit.errors import InputError
from metrixkit.losses import (
    cluster_losses,
    cluster_weights,
    eta_instance_loss,
    eta_loss,
    extend_positives,
    mask_loss,
    same_label,
)

FIXTURES = json.loads((Path(__file__).resolve().parents[1] / "fixtures" / "samix.json").read_text())


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Classes

MODES = ["softmax_split", "sigmoid_neg", "official", "decoupled"]
CLASSES = FIXTURES["eta_class_losses"]["inputs"]


def check_class(name, mode, eta):
    logits = double(CLASSES["logits"]).requires_grad_()
    expected = FIXTURES["eta_class_losses"]["outputs"][name]
    labels = [torch.tensor(CLASSES[y]) for y in ("y_a", "y_b")]
    loss = eta_loss(logits, *labels, CLASSES["lam"], eta, mode)
    loss.backward()
    tol = FIXTURES["eta_class_losses"]["tol"]
    assert loss.item() == pytest.approx(expected["loss"], rel=tol, abs=tol)
    assert torch.allclose(logits.grad, double(expected["grad"]), atol=tol)


@pytest.mark.parametrize(
    ("name", "mode", "eta"),
    [
        ("mixup_ce", "softmax_split", 1.0),
        ("mixup_ce", "official", 0.5),
        ("soft_ce_neg_weight_0p5", "official", 0.5),
        ("soft_ce_neg_weight_0", "official", 0.0),
        ("sigmoid_bce_neg_weight_1", "sigmoid_neg", 1.0),
        ("sigmoid_bce_neg_weight_0p5", "sigmoid_neg", 0.5),
        ("sigmoid_bce_neg_weight_0", "sigmoid_neg", 0.0),
        ("decoupled_eta_0p1", "decoupled", 0.1),
    ],
)
def test_released_class_losses(name, mode, eta):
    check_class(name, mode, eta)


@pytest.mark.parametrize("eta", [0.0, 0.1, 0.5, 1.0])
def test_the_split_of_the_fixture(eta):
    entry = FIXTURES["eta_decomposed_softmax"]
    labels = [torch.tensor(CLASSES[y]) for y in ("y_a", "y_b")]
    loss = eta_loss(double(CLASSES["logits"]), *labels, CLASSES["lam"], eta)
    expected = entry["outputs"][f"eta={eta}"]
    assert loss.item() == pytest.approx(expected["total"], rel=entry["tol"])
    local = eta_loss(double(CLASSES["logits"]), *labels, CLASSES["lam"], 0.0)
    assert local.item() == pytest.approx(expected["local"], rel=entry["tol"])


def class_oracle(z, a, b, lam, eta, mode):
    total = 0.0
    for row, i, j, l in zip(z.tolist(), a.tolist(), b.tolist(), lam, strict=True):
        p = [math.exp(v) / sum(math.exp(u) for u in row) for v in row]
        plain = -l * math.log(p[i]) - (1 - l) * math.log(p[j])
        if mode == "softmax_split":
            if i == j:
                total += -eta * math.log(p[i])
            else:
                two = p[i] + p[j]
                total += -l * math.log(p[i] / two) - (1 - l) * math.log(p[j] / two) - eta * math.log(two)
        elif mode == "sigmoid_neg":
            for c, v in enumerate(row):
                y = l * (c == i) + (1 - l) * (c == j)
                q = 1 / (1 + math.exp(-v))
                total -= (1 if c in (i, j) else eta) * (y * math.log(q) + (1 - y) * math.log(1 - q))
        else:
            total += plain
            if mode == "decoupled" and i != j and l != 0.5:
                total -= eta * (math.log(p[i] / (1 - p[j])) + math.log(p[j] / (1 - p[i])))
    return total / len(z)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("lam", [0.0, 0.3, 0.5, 1.0, "each"])
def test_class_losses_by_loops(mode, lam):
    z, a, b = normal(6, 5), torch.tensor([0, 1, 2, 3, 4, 0]), torch.tensor([1, 1, 0, 4, 4, 3])
    shares = [0.0, 0.2, 0.5, 1.0, 0.9, 0.4] if lam == "each" else [lam] * 6
    given = double(shares) if lam == "each" else lam
    for eta in (0.0, 0.5, 1.0):
        loss = eta_loss(z, a, b, given, eta, mode)
        assert loss.item() == pytest.approx(class_oracle(z, a, b, shares, eta, mode), rel=1e-12)
        if lam != "each":
            assert torch.allclose(eta_loss(z, a, b, double(shares), eta, mode), loss, rtol=1e-14)
    assert torch.autograd.gradcheck(lambda x: eta_loss(x, a, b, given, 0.3, mode), z.requires_grad_())


def test_eta_of_one_is_the_cross_entropy_of_mixup():
    z, a, b, lam = normal(32, 9) * 30, torch.arange(32) % 9, torch.arange(32) % 5, torch.rand(32).double()
    plain = (lam * F.cross_entropy(z, a, reduction="none") + (1 - lam) * F.cross_entropy(z, b, reduction="none")).mean()
    assert eta_loss(z, a, b, lam, 1.0).item() == pytest.approx(plain.item(), rel=1e-13)
    swapped = eta_loss(z, b, a, 1 - lam, 0.5)
    assert swapped.item() == pytest.approx(eta_loss(z, a, b, lam, 0.5).item(), rel=1e-13)


@pytest.mark.parametrize("mode", MODES)
def test_class_losses_in_float32_whatever_the_logits(mode):
    z, a, b = normal(4, 5), torch.tensor([0, 1, 2, 3]), torch.tensor([1, 1, 0, 4])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = eta_loss(z.bfloat16(), a, b, 0.3, 0.5, mode)
    assert loss.dtype == torch.float32
    huge = (z.float() * 1e4).requires_grad_()
    eta_loss(huge, a, b, 0.3, 0.5, mode).backward()
    assert bool(torch.isfinite(huge.grad).all())


# Instances


def instances(**changes):
    inputs = FIXTURES["instance_losses"]["inputs"]
    perm = torch.tensor(inputs["perm"])
    given = {
        "mixed": double(inputs["mix"]),
        "key_first": double(inputs["key_k"]),
        "key_second": double(inputs["key_q"])[perm],
        "queue": double(inputs["queue"]).T,
        "lam": inputs["lam"],
        "temperature": inputs["T"],
    }
    return {**given, **changes}


@pytest.mark.parametrize(
    ("name", "mode", "eta"),
    [
        ("encoder_infoNCE", "official", 0.0),
        ("mixer_infoNCE", "split", 1.0),
        ("mixer_BCE", "official_local", 0.0),
        ("mixer_BCE", "joint", 0.0),
        ("mixer_BCE", "split", 0.0),
        ("mixer_infoNCE_plus_0p5_BCE", "official", 0.5),
        ("mixer_BCE_plus_0p5_infoNCE", "official_local", 0.5),
    ],
)
def test_released_instance_losses(name, mode, eta):
    expected, tol = FIXTURES["instance_losses"]["outputs"][name], FIXTURES["instance_losses"]["tol"]
    given = instances()
    given["mixed"].requires_grad_()
    loss = eta_instance_loss(**given, eta=eta, mode=mode)
    loss.backward()
    assert loss.item() == pytest.approx(expected["loss"], rel=tol)
    assert torch.allclose(given["mixed"].grad, double(expected["grad_wrt_unnormalised_mix"]), atol=tol)


def test_released_view_settings():
    """Handcrafted mixup in the same pipeline: which views are mixed, and which are targets."""
    inputs, entry = FIXTURES["instance_losses"]["inputs"], FIXTURES["mocomix_view_settings"]
    perm, lam = torch.tensor(inputs["perm"]), inputs["lam"]
    views = {"q": double(inputs["key_q"]), "k": double(inputs["key_k"])}
    queue = torch.cat([double(inputs["queue"]), double(inputs["queue"])[:, :1]], 1).T
    targets = {"00": "qq", "01": "kk", "10": "qk", "11": "kq"}
    for setting, (first, second) in targets.items():
        partner = views["k" if setting[0] == "1" else "q"][perm]
        mixed = lam * views["q"] + (1 - lam) * partner
        loss = eta_instance_loss(mixed, views[first], views[second][perm], queue, lam, 0.0, inputs["T"], "official")
        expected = entry["outputs"][f"gen={setting[0]},ssl={setting[1]}"]
        assert loss.item() == pytest.approx(expected, rel=entry["tol"]), setting


def instance_oracle(mixed, key_first, key_second, queue, lam, temperature, eta, mode, ignore=None, extended=None):
    def cosine(x, y):
        return float(x @ y / (x.norm() * y.norm())) / temperature

    def cross(*logits):
        return math.log(sum(math.exp(v) for v in logits)) - logits[0]

    total = 0.0
    for n in range(len(mixed)):
        l = float(lam[n]) if isinstance(lam, torch.Tensor) else lam
        kept = [k for k in range(len(queue)) if ignore is None or not ignore[n, k]]
        rest = [cosine(mixed[n], queue[k]) for k in kept]

        def terms(x, y, n=n, l=l, rest=rest):
            a, b = cosine(mixed[n], x[n]), cosine(mixed[n], y[n])
            return (
                l * cross(a, b) + (1 - l) * cross(b, a),
                l * cross(a, *rest) + (1 - l) * cross(b, *rest),
                l * cross(a, b, *rest) + (1 - l) * cross(b, a, *rest),
            )

        local, contrast, joint = terms(key_first, key_second)
        far_local, far_contrast, _ = terms(*(extended or (key_first, key_second)))
        total += {
            "joint": local + eta * (joint - local),
            "split": local + eta * (contrast - local),
            "official": contrast + eta * far_local,
            "official_local": local + eta * far_contrast,
        }[mode]
    return total / len(mixed)


INSTANCE_MODES = ["joint", "split", "official", "official_local"]


@pytest.mark.parametrize("mode", INSTANCE_MODES)
@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0, "each"])
def test_instance_losses_by_loops(mode, lam):
    lam = double([0.0, 0.4, 0.9, 1.0]) if lam == "each" else lam
    ignore = torch.rand(4, 7, generator=torch.Generator().manual_seed(3)) < 0.4
    for more in ({}, {"ignore": ignore}):
        given = instances(lam=lam, **more)
        for eta in (0.0, 0.5, 1.0):
            loss = eta_instance_loss(**given, eta=eta, mode=mode)
            assert loss.item() == pytest.approx(instance_oracle(**given, eta=eta, mode=mode), rel=1e-12)
    given = instances(lam=lam)
    rows = given.pop("mixed").requires_grad_()
    assert torch.autograd.gradcheck(lambda x: eta_instance_loss(x, **given, eta=0.3, mode=mode), rows)
    if not isinstance(lam, torch.Tensor):
        one = eta_instance_loss(rows, **given, mode=mode)
        given["lam"] = torch.full((4,), lam, dtype=torch.float64)
        assert torch.allclose(eta_instance_loss(rows, **given, mode=mode), one, rtol=1e-14)


def test_every_negative_ignored_leaves_the_local_loss():
    ignore = torch.ones(4, 7, dtype=torch.bool)
    given = instances(ignore=ignore)
    given["mixed"].requires_grad_()
    loss = eta_instance_loss(**given, eta=1.0)
    assert loss.item() == pytest.approx(eta_instance_loss(**instances(), eta=0.0).item(), rel=1e-12)
    loss.backward()
    assert bool(torch.isfinite(given["mixed"].grad).all())
    none = instances(ignore=ignore)
    none["mixed"].requires_grad_()
    eta_instance_loss(**none, eta=0.5, mode="official").backward()
    assert bool(torch.isfinite(none["mixed"].grad).all())


def test_keys_and_queue_take_no_gradient():
    given = instances()
    for name in ("mixed", "key_first", "key_second", "queue"):
        given[name].requires_grad_()
    eta_instance_loss(**given).backward()
    assert given["mixed"].grad is not None
    assert given["key_first"].grad is given["key_second"].grad is given["queue"].grad is None


def test_negatives_of_the_same_label():
    out = same_label(torch.tensor([0, 1]), torch.tensor([2, 1]), torch.tensor([2, 1, -1, 0]))
    assert out.tolist() == [[True, False, False, True], [False, True, False, False]]
    assert not bool(same_label(torch.tensor([-1]), torch.tensor([-1]), torch.tensor([-1])).any())


def test_extended_positives():
    a, b = normal(6, 4), normal(6, 4, seed=1)
    unit = F.normalize
    kinds = {}
    for how in ("interpolation", "extrapolation", "both"):
        seen = set()
        for seed in range(12):
            first, second = extend_positives(a, b, torch.Generator().manual_seed(seed), how)
            again = extend_positives(a, b, torch.Generator().manual_seed(seed), how)
            assert torch.equal(first, again[0])
            assert torch.allclose(first.norm(dim=1), torch.ones(6).double())
            inside = extend_positives(a, b, torch.Generator().manual_seed(seed), "interpolation")
            seen.add(bool(torch.equal(first, inside[0])))
            if how == "interpolation":
                # The shares of both directions add to one before rows are brought to length 1.
                low, high = torch.minimum(unit(a), unit(b)), torch.maximum(unit(a), unit(b))
                assert bool(((first.sign() == low.sign()) | (first.sign() == high.sign())).all())
        kinds[how] = seen
    assert kinds == {"interpolation": {True}, "extrapolation": {False}, "both": {True, False}}
    # Without anything to mix there is nothing to extend.
    first, second = extend_positives(a, a, torch.Generator().manual_seed(0), "extrapolation")
    assert torch.allclose(first, unit(a))
    assert torch.allclose(second, unit(a))
    extended = (normal(4, 5, seed=5), normal(4, 5, seed=6))
    for mode in ("official", "official_local"):
        loss = eta_instance_loss(**instances(extended=extended), mode=mode)
        expected = instance_oracle(**instances(extended=extended), eta=0.5, mode=mode)
        assert loss.item() == pytest.approx(expected, rel=1e-12)
    with pytest.raises(InputError, match="second term"):
        eta_instance_loss(**instances(extended=extended))


# Masks


@pytest.mark.parametrize("name", FIXTURES["mask_loss"]["outputs"])
def test_released_mask_losses(name):
    entry = FIXTURES["mask_loss"]
    second = double(entry["inputs"]["mask1"]).requires_grad_()
    kind, lam = name.split("|lam=")
    loss = mask_loss(1 - second[:, None], float(lam), kind.lower(), entry["inputs"]["margin"])
    loss.backward()
    expected = entry["outputs"][name]
    assert loss.item() == pytest.approx(expected["loss"], abs=entry["tol"])
    assert float(second.grad.sum()) == pytest.approx(expected["grad_mask1_sum"], abs=entry["tol"])


KINDS = ["l1+variance", "l1", "l2+variance", "sparsity"]


def mask_oracle(rows, lam, kind, margin):
    values = [v for row in rows for v in row]
    mu = sum(values) / len(values)
    var = sum((v - mu) ** 2 for v in values) / len(values)
    if kind == "sparsity":
        return max(sum(v * (1 - v) for v in values) / len(values) - margin, 0)
    if kind == "l2+variance":
        return max((mu - lam) ** 2 - margin**2, 0) - 2 * var
    return max(abs(mu - lam) - margin, 0) - (2 * var if "variance" in kind else 0)


@pytest.mark.parametrize("kind", KINDS)
def test_mask_losses_by_loops(kind):
    mask = torch.rand(3, 1, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = mask ** double([0.3, 1, 4]).view(3, 1, 1, 1)
    rows = mask.flatten(1).tolist()
    lams = [0.0, 0.35, 1.0]
    for margin in (0.0, 0.1):
        for lam in lams:
            assert mask_loss(mask, lam, kind, margin).item() == pytest.approx(mask_oracle(rows, lam, kind, margin))
            equal = torch.full((3,), lam, dtype=torch.float64)
            for per in ("batch", "sample"):
                assert torch.equal(mask_loss(mask, equal, kind, margin, per), mask_loss(mask, lam, kind, margin, per))
            swapped = mask_loss(1 - mask, 1 - lam, kind, margin)
            assert swapped.item() == pytest.approx(mask_loss(mask, lam, kind, margin).item(), abs=1e-14)
        each = sum(mask_oracle([row], lam, kind, margin) for row, lam in zip(rows, lams, strict=True)) / 3
        assert mask_loss(mask, double(lams), kind, margin, "sample").item() == pytest.approx(each)
    lam = double([0.2, 0.6, 0.7])
    given = mask.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda m: mask_loss(m, lam, kind, per="sample"), given)
    assert torch.autograd.gradcheck(lambda m: mask_loss(m, 0.8, kind), given)


def test_mask_loss_spreads_masks():
    mask = (0.5 + 0.01 * normal(2, 1, 6, 6)).requires_grad_()
    spread = mask.detach().std()
    for _ in range(50):
        (grad,) = torch.autograd.grad(mask_loss(mask, 0.5), mask)
        mask = (mask - 5 * grad).clamp(0, 1).detach().requires_grad_()
    assert float(mask.detach().std()) > 5 * float(spread)


# Clusters


def clusters(seed=0):
    torch.manual_seed(seed)
    head = torch.nn.Linear(5, 4).double()
    return {
        "mixed": normal(6, 5, seed=1).requires_grad_(),
        "clean": normal(3, 5, seed=2).requires_grad_(),
        "head": head,
        "first": torch.tensor([0, 1, 2, 3, 0, 1]),
        "second": torch.tensor([1, 1, 0, 2, 3, 0]),
        "clusters": torch.tensor([0, 2, 3]),
        "lam": double([0.0, 0.3, 0.5, 1.0, 0.8, 0.2]),
    }


def test_cluster_losses_by_definition():
    given, weight = clusters(), double([0.5, 2.0, 1.0, 0.7])
    head, lam, a, b = given["head"], given["lam"], given["first"], given["second"]
    log_p = head(given["mixed"]).log_softmax(1)
    plain = 0.0
    for n in range(6):
        plain -= lam[n] * weight[a[n]] * log_p[n, a[n]] + (1 - lam[n]) * weight[b[n]] * log_p[n, b[n]]
    own = -sum(
        weight[c] * row[c] for c, row in zip(given["clusters"], head(given["clean"]).log_softmax(1), strict=True)
    )
    out = cluster_losses(**given, eta=1.0, weight=weight)
    assert out.mixer.item() == pytest.approx(plain.item() / 6, rel=1e-12)
    assert out.head.item() == pytest.approx(plain.item() / 6 + own.item() / 3, rel=1e-12)
    balanced = cluster_losses(**given, eta=0.4)
    assert balanced.mixer.item() == pytest.approx(eta_loss(head(given["mixed"]), a, b, lam, 0.4).item(), rel=1e-12)


def test_cluster_losses_have_disjoint_gradients():
    given = clusters()
    out = cluster_losses(**given)
    (alone,) = torch.autograd.grad(out.mixer, given["mixed"], retain_graph=True)
    (out.head + out.mixer).backward()
    assert torch.allclose(given["mixed"].grad, alone)
    assert given["clean"].grad is None
    expected = [p.grad.clone() for p in given["head"].parameters()]
    again = clusters()
    cluster_losses(**again).head.backward()
    for theirs, p in zip(expected, again["head"].parameters(), strict=True):
        assert torch.allclose(p.grad, theirs)
    leak = clusters()
    out = cluster_losses(**leak, official=True)
    (once,) = torch.autograd.grad(out.mixer, leak["mixed"], retain_graph=True)
    (out.head + out.mixer).backward()
    assert torch.allclose(leak["mixed"].grad, 2 * once)


def test_weights_of_clusters():
    entry = FIXTURES["odc_reweight"]
    counts = double(entry["inputs"]["counts"])
    assert torch.allclose(cluster_weights(counts, official=True), double(entry["outputs"]["weight"]), atol=entry["tol"])
    own = cluster_weights(torch.tensor([4, 0, 16]))
    assert torch.allclose(own, torch.tensor([4 / 3, 0, 2 / 3]))


# Input


def test_bad_input():
    z, a = normal(4, 5), torch.tensor([0, 1, 2, 3])
    mask = torch.rand(2, 1, 3, 3)
    for call, message in [
        (lambda: eta_loss(z, a, a, 0.5, mode="softmax"), "Did you mean 'softmax_split'"),
        (lambda: eta_loss(z, a, a, 0.5, eta=-1), "eta is -1"),
        (lambda: eta_loss(z, a, a, 1.5), "lam is 1.5"),
        (lambda: eta_loss(z, a, a[:2], 0.5), "second: got"),
        (lambda: eta_loss(z, a + 2, a, 0.5), "first holds targets"),
        (lambda: eta_loss(z[0], a, a, 0.5), "logits: got"),
        (lambda: eta_instance_loss(**instances(mixed=normal(3, 5))), "mixed has shape"),
        (lambda: eta_instance_loss(**instances(queue=normal(5, 7))), "expected .negatives, 5."),
        (lambda: eta_instance_loss(**instances(temperature=0)), "temperature is 0"),
        (lambda: eta_instance_loss(**instances(ignore=torch.ones(4, 7))), "ignore: got"),
        (lambda: eta_instance_loss(**instances(), mode="both"), "mode='both'"),
        (lambda: mask_loss(mask, 0.5, "l1+var"), "Did you mean 'l1.variance'"),
        (lambda: mask_loss(mask, torch.tensor([0.1, 0.9])), "take per='sample'"),
        (lambda: mask_loss(mask[:, 0], 0.5), "masks of the first images"),
        (lambda: mask_loss(mask, 0.5, margin=2), "margin=2"),
        (lambda: cluster_weights(torch.zeros(3)), "not all 0"),
        (lambda: cluster_losses(**clusters(), weight=torch.ones(3)), "one a cluster"),
        (lambda: same_label(a, a[:2], a), "expected as many"),
    ]:
        with pytest.raises(InputError, match=message):
            call()


@pytest.mark.gpu
@pytest.mark.parametrize("lam", [0.3, "each"])
def test_on_cuda(lam):
    def everything(device):
        g = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in instances().items()}
        share = double([0.1, 0.5, 0.7, 1.0]) if lam == "each" else lam
        g["lam"] = share
        z, a = normal(4, 5).to(device), torch.tensor([0, 1, 2, 3], device=device)
        mask = normal(4, 1, 3, 3).sigmoid().to(device)
        yield from (eta_loss(z, a, a.flip(0), share, 0.5, mode) for mode in MODES)
        yield from (eta_instance_loss(**g, mode=mode) for mode in INSTANCE_MODES)
        yield from (mask_loss(mask, share, kind, per="sample") for kind in KINDS)

    for here, there in zip(everything("cpu"), everything("cuda"), strict=True):
        assert torch.allclose(here, there.cpu(), rtol=1e-10)
