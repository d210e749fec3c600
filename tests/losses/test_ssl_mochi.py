"""MoCHi on a queue: every synthetic negative formed as oracle, ties, draws, bad input."""

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from metrixkit.errors import InputError
from metrixkit.losses import HarderDraw, draw_harder, info_nce, mochi_loss, mochi_loss_drawn
from metrixkit.losses import denominator as parts
from metrixkit.losses.hardest import hardest_columns


def rows(count, seed=0, dim=6):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def oracle(query, key, queue, hardest, draw, t):
    """Query by query, points formed and brought to length 1; constants detached."""
    q, k, n = (normalize(x, dim=1) for x in (query, key.detach(), queue))
    losses = []
    for i in range(len(q)):
        s = (q[i] @ n.T).tolist()
        hard = sorted(range(len(s)), key=lambda j: (-s[j], j))[:hardest]
        points = [
            float(a) * n[hard[x]] + (1 - float(a)) * n[hard[y]]
            for x, y, a in zip(draw.first[i].tolist(), draw.second[i].tolist(), draw.share[i], strict=True)
        ] + [
            float(b) * q[i].detach() + (1 - float(b)) * n[hard[x]]
            for x, b in zip(draw.third[i].tolist(), draw.query_share[i], strict=True)
        ]
        made = normalize(torch.stack(points), dim=1) if points else n[:0]
        logits = torch.cat([(q[i] @ k[i])[None], n @ q[i], made @ q[i]]) / t
        losses.append(cross_entropy(logits, torch.tensor(0)))
    return torch.stack(losses).mean()


@pytest.mark.parametrize(("synthetic", "harder"), [(9, 4), (9, 0), (0, 4), (0, 0)])
def test_by_forming_every_point(synthetic, harder, monkeypatch):
    monkeypatch.setattr("metrixkit.losses.mochi.numbers_at_once", lambda device: 64)  # several parts
    query, key, queue = rows(5).requires_grad_(), rows(5, 1).requires_grad_(), rows(23, 2) * 3
    draw = draw_harder(5, 7, synthetic, harder, seeded())
    loss = mochi_loss_drawn(query, key, queue, 7, draw, 0.2)
    expected = oracle(query, key, queue, 7, draw, 0.2)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    found = torch.autograd.grad(loss, [query, key], allow_unused=True)
    assert torch.allclose(found[0], torch.autograd.grad(expected, query)[0], rtol=1e-9, atol=1e-12)
    assert found[1] is None
    again = mochi_loss(query, key, queue, 7, synthetic, harder, 0.2, generator=seeded())
    assert again.item() == loss.item()
    if synthetic == harder == 0:
        assert loss.item() == pytest.approx(info_nce(query, key, 0.2, queue).item(), rel=1e-12)


def test_shares_at_their_ends_repeat_negatives():
    query, key, queue = rows(3), rows(3, 1), rows(8, 2)
    places = torch.tensor([[0, 1]]).expand(3, 2)
    none = torch.zeros(3, 0)
    draw = HarderDraw(places, places.flip(1), torch.tensor([[1.0, 0.0]]).expand(3, 2), none.long(), none)
    # Both points are the hardest negative once more.
    hardest = (normalize(query, dim=1) @ normalize(queue, dim=1).T).argmax(1)
    losses = [info_nce(query[i : i + 1], key[i : i + 1], 0.2, torch.cat([queue, queue[[j, j]]]))
              for i, j in enumerate(hardest.tolist())]  # fmt: skip
    loss = mochi_loss_drawn(query, key, queue, 2, draw, 0.2)
    assert loss.item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_ties_go_to_the_first_column(dtype, device):
    scores = torch.randint(-3, 4, (20, 50), generator=seeded()).to(device, dtype) / 3
    scores[0, :5] = torch.tensor([0.0, -0.0, 0.0, -0.0, 0.0])
    for count in (1, 7, 50):
        expected = [sorted(range(50), key=lambda j: (-row[j], j))[:count] for row in scores.tolist()]
        assert hardest_columns(scores, count).tolist() == expected
    real = torch.randn(9, 300, generator=seeded(1)).to(device, dtype)
    assert torch.equal(hardest_columns(real, 40), real.sort(dim=1, descending=True, stable=True).indices[:, :40])


def test_draws():
    generator = seeded(4)
    draw = draw_harder(50, 6, 40, 30, generator)
    assert torch.equal(torch.rand(1, generator=generator), torch.rand(1, generator=_after_one()))
    assert (draw.first != draw.second).all()
    pairs = torch.bincount((draw.first * 6 + draw.second).flatten(), minlength=36).view(6, 6).float()
    expected = 2000 / 30
    assert (pairs.diagonal() == 0).all()
    chi = ((pairs - expected) ** 2 / expected)[~torch.eye(6, dtype=torch.bool)].sum()
    assert chi < 60  # 29 degrees of freedom; 60 is beyond the 99.9th percentile
    assert draw.share.min() >= 0
    assert draw.share.max() < 1
    assert draw.share.mean().item() == pytest.approx(0.5, abs=0.03)
    assert draw.query_share.max() < 0.5
    assert draw.query_share.mean().item() == pytest.approx(0.25, abs=0.02)
    assert torch.equal(draw_harder(50, 6, 40, 30, seeded(4)).first, draw.first)


def _after_one():
    generator = seeded(4)
    torch.randint(2**63 - 1, (), generator=generator)
    return generator


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_extremes_and_half_precision(device):
    query = torch.eye(6, device=device)[:4].requires_grad_()
    for key, queue in ((query.detach(), -query.detach()), (-query.detach(), query.detach().repeat(2, 1))):
        opposite = torch.cat([queue, -queue])  # pairs that cancel have no direction
        loss = mochi_loss(query, key, opposite, len(opposite), 50, 20, 0.01, generator=seeded())
        assert torch.isfinite(loss)
        assert torch.isfinite(torch.autograd.grad(loss, query)[0]).all()
    places = torch.zeros(4, 1, dtype=torch.long)
    half = HarderDraw(places, places + 1, torch.full((4, 1), 0.5), places, torch.full((4, 1), 0.5))
    pair = torch.cat([query.detach()[:1], -query.detach()[:1]])
    loss = mochi_loss_drawn(query, query.detach(), pair, 2, half, 0.01)
    assert torch.isfinite(torch.autograd.grad(loss, query)[0]).all()
    halves = [x.to(device).bfloat16() for x in (rows(4), rows(4, 1), rows(9, 2))]
    halves[0].requires_grad_()
    with torch.autocast(device, dtype=torch.bfloat16):
        value = mochi_loss(*halves, 5, 6, 3, generator=seeded())
    assert value.dtype == torch.float32
    full = mochi_loss(*(x.detach().float() for x in halves), 5, 6, 3, generator=seeded())
    assert torch.allclose(value, full, rtol=1e-5)
    value.backward()
    assert torch.isfinite(halves[0].grad).all()


def test_without_gradient():
    with torch.no_grad():
        loss = mochi_loss(rows(3).requires_grad_(), rows(3, 1), rows(9, 2), 5, 4, 2, generator=seeded())
    assert not loss.requires_grad
    assert loss.item() == mochi_loss(rows(3), rows(3, 1), rows(9, 2), 5, 4, 2, generator=seeded()).item()
    assert parts.numbers_at_once(torch.device("cuda")) > parts.numbers_at_once(torch.device("cpu"))


def call(hardest=5, synthetic=4, harder=2, t=0.2, queue=None, key=None):
    queue = rows(9, 2) if queue is None else queue
    key = rows(3, 1) if key is None else key
    return mochi_loss(rows(3), key, queue, hardest, synthetic, harder, t, generator=seeded())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"hardest": 10}, "hardest is 10 with 9 rows in the queue; expected 1 to 9"),
        ({"hardest": 1}, "hardest is 1, expected at least 2"),
        ({"hardest": 0, "synthetic": 0}, "hardest is 0, expected at least 1"),
        ({"synthetic": -1}, "synthetic is -1"),
        ({"harder": -1}, "harder is -1"),
        ({"t": 0.0}, "temperature is 0.0"),
        ({"queue": rows(0)}, "queue is empty"),
        ({"queue": rows(9, 2, 4)}, r"expected \(queue, 6\)"),
        ({"key": rows(2)}, "query has shape"),
    ],
)
def test_bad_input(bad, message):
    with pytest.raises(InputError, match=message):
        call(**bad)


def test_bad_draws():
    draw = draw_harder(3, 5, 4, 2, seeded())
    with pytest.raises(InputError, match=r"draw.first: places from \d to \d of 3"):
        mochi_loss_drawn(rows(3), rows(3, 1), rows(9, 2), 3, draw)
    with pytest.raises(InputError, match="expected one shape"):
        mochi_loss_drawn(rows(4), rows(4, 1), rows(9, 2), 5, draw)
