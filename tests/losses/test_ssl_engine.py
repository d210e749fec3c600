"""The cross-entropy with two right answers: dense labels as oracle, gradients, extremes, bad input."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from metrixkit.errors import InputError
from metrixkit.losses import (
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
    two_hot_cross_entropy,
    unmix_loss,
    unmix_symmetric_loss,
)
from metrixkit.losses.denominator import log_denominator
from metrixkit.losses.unit import products

FIRST, SECOND = torch.tensor([0, 3, 2, 5]), torch.tensor([1, 3, 0, 4])
LAM = torch.tensor([0.3, 0.8, 1.0, 0.0], dtype=torch.float64)


def rows(count=4, seed=0, dim=5):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(x):
    return normalize(x, dim=-1)


def share(lam, count=4):
    return lam.tolist() if isinstance(lam, torch.Tensor) else [lam] * count


def dense(logits, labels):
    """Soft cross-entropy of a row, in loops over the whole label."""
    top = max(logits)
    total = top + math.log(sum(math.exp(x - top) for x in logits))
    return sum(y * (total - x) for x, y in zip(logits, labels, strict=True) if y)


def nce(logits):
    return dense(logits, [1.0] + [0.0] * (len(logits) - 1))


def oracle(mixed, targets, first, second, lam, t, negatives, candidates):
    """By loops over mixtures and candidates, labels written out."""
    m, u = unit(mixed), unit(targets)
    s = (m @ u.T / t).tolist()
    n = [[] for _ in m] if negatives is None else (m @ unit(negatives).T / t).tolist()
    total = 0.0
    for i, (a, b, x) in enumerate(zip(first.tolist(), second.tolist(), share(lam, len(m)), strict=True)):
        if candidates == "joint":
            label = [0.0] * (len(s[i]) + len(n[i]))
            label[a] += x
            label[b] += 1 - x
            total += dense(s[i] + n[i], label)
        else:
            others = n[i] if negatives is not None else [s[i][j] for j in range(len(s[i])) if j not in (a, b)]
            total += x * nce([s[i][a], *others]) + (1 - x) * nce([s[i][b], *others])
    return total / len(m)


CASES = [(candidates, with_queue) for candidates in ("joint", "split") for with_queue in (True, False)]


@pytest.mark.parametrize(("candidates", "with_queue"), CASES)
@pytest.mark.parametrize("lam", [0.0, 0.35, 1.0, LAM])
def test_by_loops(candidates, with_queue, lam):
    queue = rows(9, 3) * 7 if with_queue else None
    arguments = rows(), rows(6, 1), FIRST, SECOND, lam, 0.2, queue, candidates
    assert mixed_info_nce(*arguments).item() == pytest.approx(oracle(*arguments), rel=1e-12)


@pytest.mark.parametrize(("candidates", "with_queue"), CASES)
def test_gradients(candidates, with_queue):
    queue = rows(9, 3) if with_queue else None

    def loss(mixed, targets):
        return mixed_info_nce(mixed, targets, FIRST, SECOND, LAM, 0.3, queue, candidates)

    leaves = rows().requires_grad_(), rows(6, 1).requires_grad_()
    assert torch.autograd.gradcheck(loss, leaves)
    if with_queue:  # negatives that learn take another way to the same numbers
        learned = queue.clone().requires_grad_()
        both = mixed_info_nce(*leaves, FIRST, SECOND, LAM, 0.3, learned, candidates)
        assert both.item() == pytest.approx(loss(*leaves).item(), rel=1e-12)
        expected = torch.autograd.grad(loss(*leaves), leaves)
        found = torch.autograd.grad(both, [*leaves, learned])
        assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(found, expected, strict=False))
        assert found[2].abs().sum() > 0


def test_streaming_is_the_plain_sum(monkeypatch):
    # More negatives than are held at a time, raw, the largest logits at the end, so that earlier sums are rescaled.
    monkeypatch.setattr("metrixkit.losses.denominator.numbers_at_once", lambda device: 1)
    q, n = unit(rows(3)), torch.cat([rows(700, 5), rows(3) + 0.01])
    q.requires_grad_()
    for t in (0.005, 0.2, 10.0):
        streamed = log_denominator(q, n, t)
        plain = (q @ unit(n).T / t).logsumexp(1)
        assert torch.allclose(streamed, plain, rtol=1e-12)
        weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
        expected = torch.autograd.grad(plain @ weights, q)[0]
        assert torch.allclose(torch.autograd.grad(streamed @ weights, q)[0], expected, rtol=1e-10)
    few = q.detach().float(), n.bfloat16()
    assert torch.allclose(log_denominator(*few, 0.1), log_denominator(few[0], few[1].float(), 0.1), rtol=1e-6)


def test_products_with_one_side_that_learns():
    a, b = rows(3), rows(4, 1).requires_grad_()
    assert torch.allclose(torch.autograd.grad(products(a, b).square().sum(), b)[0], 2 * b @ a.T @ a)
    assert torch.allclose(torch.autograd.grad(products(b, a).square().sum(), b)[0], 2 * b @ a.T @ a)


def test_the_queue_may_change_before_the_backward_pass():
    q, queue = rows().requires_grad_(), rows(9, 3)
    arguments = rows(4, 2), 0.2, queue
    expected = torch.autograd.grad(info_nce(q, *arguments), q)[0]
    loss = info_nce(q, *arguments)
    queue.zero_()
    assert torch.equal(torch.autograd.grad(loss, q)[0], expected)


def test_lambda_at_its_ends_is_plain_contrast():
    m, key, queue = rows(), rows(4, 1), rows(9, 3)
    own, other = torch.arange(4), torch.tensor([2, 0, 3, 1])
    for lam, target in ((1.0, own), (0.0, other)):
        plain = info_nce(m, key[target], 0.2, queue)
        split = mixed_info_nce(m, key, own, other, lam, 0.2, queue, "split")
        assert split.item() == pytest.approx(plain.item(), rel=1e-12)
        joint = mixed_info_nce(m, key, own, other, lam, 0.2)
        assert joint.item() == pytest.approx(info_nce(m, key[target], 0.2).item(), rel=1e-12)
        assert clim_loss(m, key, key[other], queue, lam, 0.2).item() == pytest.approx(plain.item(), rel=1e-12)
    # Partners that are the image itself: lambda plays no part.
    for candidates in ("joint", "split"):
        values = {round(mixed_info_nce(m, key, own, own, x, 0.2, queue, candidates).item(), 12) for x in (0.0, 0.4, 1)}
        assert len(values) == 1


def test_order_plays_no_part():
    order = torch.tensor([2, 0, 3, 1])
    m, key, queue, partner = rows(), rows(4, 1), rows(9, 3), torch.tensor([1, 2, 3, 0])
    moved = torch.argsort(order)[partner[order]]  # a permutation of rows renames the partners
    loss = imix_moco_loss(m, key, queue, partner, LAM, 0.2)
    again = imix_moco_loss(m[order], key[order], queue.flip(0), moved, LAM[order], 0.2)
    assert again.item() == pytest.approx(loss.item(), rel=1e-12)
    both = instance_mixup_loss(m, key, rows(4, 5), partner, queue, LAM)
    again = instance_mixup_loss(m[order], key[order], rows(4, 5)[order], moved, queue, LAM[order])
    assert again.item() == pytest.approx(both.item(), rel=1e-12)


def test_several_processes_only_move_the_rows():
    m, key, queue, partner = rows(2), rows(4, 1), rows(9, 3), torch.tensor([1, 0])
    # Ranks 0 and 1 each know all keys; the mean over them is that of one process with all mixtures.
    parts = [imix_moco_loss(x, key, queue, partner, 0.7, 0.2, offset=o) for x, o in ((m, 0), (m + 1, 2))]
    whole = imix_moco_loss(torch.cat([m, m + 1]), key, queue, torch.tensor([1, 0, 3, 2]), 0.7, 0.2)
    assert (sum(parts) / 2).item() == pytest.approx(whole.item(), rel=1e-12)


def test_two_right_answers():
    logits = rows(4, 0, 6) * 5
    expected = [
        dense(row, [x * (j == a) + (1 - x) * (j == b) for j in range(6)])
        for row, a, b, x in zip(logits.tolist(), FIRST.tolist(), SECOND.tolist(), LAM.tolist(), strict=True)
    ]
    assert two_hot_cross_entropy(logits, FIRST, SECOND, LAM).tolist() == pytest.approx(expected, rel=1e-12)
    more = torch.randn(4, 3, dtype=torch.float64)
    assert torch.allclose(
        two_hot_cross_entropy(logits, FIRST, SECOND, LAM, rest=more.logsumexp(1)),
        two_hot_cross_entropy(torch.cat([logits, more], 1), FIRST, SECOND, LAM),
    )
    assert torch.autograd.gradcheck(
        lambda x: two_hot_cross_entropy(x, FIRST, SECOND, LAM), logits.clone().requires_grad_()
    )
    # A candidate that is ruled out, and one without a share that is.
    logits[:, 4] = -torch.inf
    logits.requires_grad_()
    losses = two_hot_cross_entropy(logits, FIRST, SECOND, torch.tensor([0.3, 0.8, 0.5, 1.0]))
    assert torch.isfinite(losses).all()
    assert torch.isfinite(torch.autograd.grad(losses.sum(), logits)[0]).all()


NAMED = {
    "mixco-moco": lambda m, k, n: mixco_moco_loss(m, m[:2], k, n, 0.3, 0.01, 0.01),
    "mixco-simclr": lambda m, k, n: mixco_simclr_loss(m, k, m[:2], k[2:], 0.0, 1.0, 0.01, 0.01),
    "imix-npair": lambda m, k, n: imix_npair_loss(m, k, torch.arange(4).flip(0), 0.7, 0.01),
    "imix-moco": lambda m, k, n: imix_moco_loss(m, k, n, torch.arange(4).flip(0), 0.7, 0.01),
    "imix-byol": lambda m, k, n: imix_byol_loss(m, k, torch.arange(4).flip(0), 0.7),
    "unmix": lambda m, k, n: unmix_loss(m, m, k, n, 0.4, 0.01),
    "unmix-symmetric": lambda m, k, n: unmix_symmetric_loss((m, m), m, (k, k), n, 0.4, 0.01),
    "clim": lambda m, k, n: clim_loss(m, k, k.flip(0), n, 0.4, 0.01),
    "instance-mixup": lambda m, k, n: instance_mixup_loss(m, k, k, torch.arange(4).flip(0), n, 0.4, 0.01),
    "byol": lambda m, k, n: byol_loss(m, k),
    "split without a queue": lambda m, k, n: mixed_info_nce(
        m[:2], k[:2], torch.arange(2), torch.arange(2).flip(0), 0.4, 0.01, None, "split"
    ),
}


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_extremes_and_half_precision(name, device):
    loss = NAMED[name]
    hot = torch.eye(5, device=device)[:4].requires_grad_()
    for key in (hot.detach(), -hot.detach(), hot.detach().flip(0)):
        value = loss(hot, key, -key)
        assert torch.isfinite(value)
        assert torch.isfinite(torch.autograd.grad(value, hot)[0]).all()
    halves = [x.to(device).bfloat16() for x in (rows(), rows(4, 1), rows(9, 3))]
    halves[0].requires_grad_()
    with torch.autocast(device, dtype=torch.bfloat16):
        value = loss(*halves)
    assert value.dtype == torch.float32
    assert torch.allclose(value, loss(*(half.detach().float() for half in halves)), rtol=1e-5, atol=1e-6)
    value.backward()
    assert torch.isfinite(halves[0].grad).all()


LEARNED_TARGETS = ("mixco-simclr", "imix-npair", "split without a queue")


@pytest.mark.parametrize("name", sorted(set(NAMED) - set(LEARNED_TARGETS)))
def test_momentum_keys_get_no_gradient(name):
    m, k, n = rows(), rows(4, 1).requires_grad_(), rows(9, 3)
    value = NAMED[name](m.requires_grad_(), k, n)
    assert torch.autograd.grad(value, [m, k], allow_unused=True)[1] is None


@pytest.mark.parametrize("name", LEARNED_TARGETS)
def test_targets_learn_where_both_sides_do(name):
    m, k = rows().requires_grad_(), rows(4, 1).requires_grad_()
    value = (
        NAMED[name](m, k, rows(9, 3))
        if name != "split without a queue"
        else mixed_info_nce(m, k, torch.arange(4), torch.arange(4).flip(0), 0.4, 0.2, None, "split")
    )
    assert torch.autograd.grad(value, k)[0].abs().sum() > 0


def engine(lam=0.5, t=0.2, negatives=None, candidates="joint", first=FIRST, mixed=None, targets=None):
    mixed = rows() if mixed is None else mixed
    targets = rows(6, 1) if targets is None else targets
    return mixed_info_nce(mixed, targets, first, SECOND, lam, t, negatives, candidates)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: engine(lam=1.5), "lam is 1.5"),
        (lambda: engine(lam=torch.tensor([0.1, 0.2, 0.3, -0.1])), r"all in \[0, 1\]"),
        (lambda: engine(lam=torch.tensor([0.1, 0.2])), r"shape \(2,\)"),
        (lambda: engine(t=0.0), "temperature is 0.0"),
        (lambda: engine(t=float("nan")), "temperature is nan"),
        (lambda: engine(first=FIRST + 3), "first holds targets from 3 to 8, expected rows of the 6"),
        (lambda: engine(first=FIRST - 1), "first holds targets from -1"),
        (lambda: engine(first=FIRST[:3]), r"int64 of shape \(4,\)"),
        (lambda: engine(first=FIRST.float()), "got torch.float32"),
        (lambda: engine(candidates="joined"), "Did you mean 'joint'"),
        (lambda: engine(negatives=rows(0)), "negatives is empty"),
        (lambda: engine(negatives=rows(9).T), "must be transposed"),
        (lambda: engine(negatives=[1.0]), "got list"),
        (lambda: engine(mixed=rows(0)), "not empty"),
        (lambda: engine(targets=rows(6, 1, 4)), "4 dimensions"),
        (lambda: engine(targets=torch.ones(6, 5).long()), "got torch.int64"),
        (lambda: two_hot_cross_entropy(rows()[0], FIRST, SECOND, 0.5), r"\(rows, candidates\)"),
        (lambda: two_hot_cross_entropy(rows(4, 0, 6), FIRST, SECOND, 0.5, rows()[0]), r"rest has shape \(5,\)"),
        (lambda: mixco_moco_loss(rows(3), rows(1), rows(3), rows(9), 0.5), "N must be even"),
        (lambda: mixco_moco_loss(rows(), rows(4), rows(), rows(9), 0.5), "4 mixtures of 4 images"),
        (lambda: mixco_moco_loss(rows(), rows(2), rows(), rows(0), 0.5), "negatives is empty"),
        (lambda: mixco_simclr_loss(rows(), rows(), rows(2), rows(1), 0.5, 0.5), "1 mixtures of 4"),
        (lambda: imix_npair_loss(rows(), rows(5), FIRST % 4, 0.5), r"expected \(5, 5\), as key"),
        (lambda: imix_moco_loss(rows(), rows(), rows(9), FIRST, 0.5), "partner holds targets from 0 to 5"),
        (lambda: imix_moco_loss(rows(), rows(), rows(9), FIRST % 4, 0.5, offset=1), "offset is 1"),
        (lambda: imix_byol_loss(rows(), rows(4, 0, 3), FIRST % 4, 0.5), "dimensions"),
        (lambda: unmix_loss(rows(), rows(3), rows(), rows(9), 0.5), "as query"),
        (lambda: unmix_loss(rows(), rows(), rows(3), rows(9), 0.5), "row i of one"),
        (lambda: clim_loss(rows(), rows(), rows(3), rows(9), 0.5), "partner_key has shape"),
        (lambda: instance_mixup_loss(rows(), rows(), rows(3), FIRST, rows(9), 0.5), "rows of the 3"),
        (lambda: byol_loss(rows(), rows(), rows()), "z1|p2"),
        (lambda: byol_loss(rows(), rows(3)), "p1 has shape"),
        (lambda: info_nce(rows(), rows(), 0.2, rows(0)), "negatives is empty"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()
