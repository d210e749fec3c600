"""Mixtures of features and inputs: against loops, against finite differences, at their edges, and what they hold."""

import pytest
import torch
from oracle_levels import mixed_loss, proxy_mixed_loss
from torch import nn

from metrixkit.errors import InputError
from metrixkit.losses import LOSSES, Contrastive, Metrix, MultiSimilarity, ProxyAnchor, ProxyNCA, Triplet
from metrixkit.mixing import PAIR_KINDS, plan_pairs, unique_mixtures

NAMES = ("contrastive", "multi_similarity", "binomial_deviance", "lifted_structure")
LABELS = torch.tensor([4, 0, 2, 0, 9, 2, 0, 4])  # classes of 2, 3, 2 and 1 row, shuffled
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def tensor(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


class Plain:
    """A head of pooling and a linear layer, called on mixtures."""

    def __init__(self, pooling="avg+max", dtype=torch.float64, projected=True, device="cpu"):
        self.pooling = pooling
        self.weight = tensor(4, 5, seed=1, dtype=dtype).to(device).requires_grad_() if projected else None
        self.bias = tensor(4, seed=2, dtype=dtype).to(device).requires_grad_() if projected else None
        self.rows = []

    def through(self, x):
        return x if self.weight is None else x @ self.weight.T + self.bias

    def __call__(self, maps):
        self.rows.append(len(maps))
        pooled = maps.mean((2, 3)) if "avg" in self.pooling else 0
        return self.through(pooled + maps.amax((2, 3)) if "max" in self.pooling else pooled)


class Fast(Plain):
    """The same head, telling how it mixes."""

    def parts(self, maps):
        linear = self.through(maps.mean((2, 3)) if "avg" in self.pooling else 0 * maps[:, :, 0, 0])
        if "max" not in self.pooling:
            return linear, None, None
        return linear, maps.flatten(2).permute(2, 0, 1), self.weight


def maps(dtype=torch.float64, device="cpu"):
    return tensor(8, 5, 2, 3, dtype=dtype).to(device)


def kinds_of(name):
    loss = LOSSES[name]()
    return [k for k in PAIR_KINDS if k not in loss.refused and k not in loss.refused_with_one_ratio]


@pytest.mark.sample(20)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("head_class", [Plain, Fast])
@pytest.mark.parametrize(("name", "kind"), [(n, k) for n in NAMES for k in kinds_of(n)])
def test_values_are_those_of_loops(name, kind, head_class, device):
    features, plain = maps(), Plain()
    embeddings = plain(features)
    for options in ({}, {"hardest": 2}, {"positives": 1, "hardest": 1}, {"mean": True}):
        expected = mixed_loss(name, embeddings, features, LABELS, plain, kind, 0.3, **options)
        settings = {k: v for k, v in options.items() if k != "mean"}
        reduction = "mean" if options.get("mean") else "sum"
        criterion = Metrix(LOSSES[name](), level="feature", pairs=kind, reduction=reduction, chunk=3, **settings)
        head = head_class(device=device)
        value = criterion.mixed_loss(
            embeddings.to(device), LABELS.to(device), lam=0.3, features=features.to(device), head=head
        )
        assert value.item() == pytest.approx(expected, rel=1e-10, abs=1e-10), options


@pytest.mark.parametrize("head_class", [Plain, Fast])
@pytest.mark.parametrize("kind", [k for k in kinds_of("multi_similarity") if "first" not in k and "official" not in k])
def test_one_ratio_for_each_pair(kind, head_class):
    features, head = maps(), head_class()
    lam = torch.rand(8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    embeddings = head(features)
    criterion = Metrix(MultiSimilarity(), level="feature", pairs=kind, ratio_per="pair", chunk=4)
    value = criterion.mixed_loss(embeddings, LABELS, lam=lam, features=features, head=head)
    expected = mixed_loss("multi_similarity", embeddings, features, LABELS, Plain(), kind, lam)
    assert value.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("head_class", [Plain, Fast])
@pytest.mark.parametrize("kind", ["positive-negative", "positive-positive", "negative-negative"])
@pytest.mark.parametrize("hardest", [None, 2])
def test_proxies_are_anchors_and_examples_are_mixed(kind, hardest, head_class):
    loss = ProxyAnchor(num_classes=10, dim=4).double()
    features, head = maps(), head_class()
    embeddings = head(features)
    criterion = Metrix(loss, level="feature", pairs=kind, hardest=hardest, chunk=5)
    value = criterion.mixed_loss(embeddings, LABELS, lam=0.3, features=features, head=head)
    value.backward()
    assert loss.proxies.grad.abs().sum() > 0
    expected = proxy_mixed_loss(
        "proxy_anchor", loss.proxies.detach(), features, LABELS, Plain(), kind, 0.3, hardest=hardest
    )
    assert value.item() == pytest.approx(expected, rel=1e-10)


def gradients(criterion, head, lam=0.3, features=None, kind=None):
    """Return value and gradients by features and head, through clean embeddings and mixtures."""
    x = (maps() if features is None else features).clone().requires_grad_()
    value = criterion.mixed_loss(head(x), LABELS, lam=lam, pairs=kind, features=x, head=head)
    value.backward()
    return value.item(), [x.grad, *(p.grad for p in (head.weight, head.bias) if p is not None)]


@pytest.mark.sample(4)
@pytest.mark.parametrize("pooling", ["avg", "max", "avg+max"])
@pytest.mark.parametrize("projected", [True, False])
@pytest.mark.parametrize("per", ["step", "pair"])
def test_the_fast_way_and_every_chunk_are_the_same(pooling, projected, per):
    lam = 0.3 if per == "step" else torch.rand(8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for kind in ("positive-negative", "negative-negative", "positive-anchor"):
        made = [
            gradients(
                Metrix(MultiSimilarity(), level="feature", chunk=chunk),
                cls(pooling, projected=projected),
                lam,
                None,
                kind,
            )
            for cls in (Plain, Fast)
            for chunk in (1, 3, 1000)
        ]
        for value, grads in made[1:]:
            assert value == pytest.approx(made[0][0], rel=1e-12)
            for grad, other in zip(grads, made[0][1], strict=True):
                torch.testing.assert_close(grad, other, rtol=1e-9, atol=1e-12)


@pytest.mark.sample(3)
@pytest.mark.parametrize("head_class", [Plain, Fast])
@pytest.mark.parametrize("name", ["contrastive", "multi_similarity", "lifted_structure", "triplet"])
def test_gradcheck(name, head_class):
    head, labels = head_class(), torch.tensor([0, 1, 0, 1, 2])
    criterion = Metrix(LOSSES[name](), level="feature", chunk=5)
    fixed = tensor(5, 4, seed=9).requires_grad_()  # anchors of their own, so that both ways are seen apart

    def loss(x, anchors, weight, bias):
        head.weight, head.bias = weight, bias
        return criterion.mixed_loss(anchors, labels, lam=0.4, features=x, head=head)

    small = tensor(5, 2, 2, 2).requires_grad_(), fixed, tensor(4, 2, seed=1).requires_grad_(), head.bias
    assert torch.autograd.gradcheck(loss, small, eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("head_class", [Plain, Fast])
def test_ends_of_the_ratio(head_class):
    """At 1 each positive stands |N| times with label 1; at 0 each negative |P| times with label 0."""
    features, head = maps(), head_class()
    embeddings = head(features)
    loss = Contrastive()
    relations = loss.relations(embeddings, LABELS)
    pos, neg = relations.positive.double(), relations.negative.double()
    criterion = Metrix(loss, level="feature")
    valid = pos.any(1) & neg.any(1)
    for lam, w_pos, w_neg in (
        (1.0, pos * neg.sum(1, keepdim=True), 0 * neg),
        (0.0, 0 * pos, neg * pos.sum(1, keepdim=True)),
    ):
        value = criterion.mixed_loss(embeddings, LABELS, lam=lam, features=features, head=head)
        expected = loss.from_similarity(relations.similarity, w_pos, w_neg)[valid].mean()
        assert value.item() == pytest.approx(expected.item(), rel=1e-10)


@pytest.mark.parametrize("head_class", [Plain, Fast])
def test_order_of_the_batch_does_not_matter(head_class):
    features, head = maps(), head_class()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(5))
    values = []
    for x, labels in ((features, LABELS), (features[order], LABELS[order])):
        criterion = Metrix(MultiSimilarity(), level="feature", hardest=2)
        values.append(criterion.mixed_loss(head(x), labels, lam=0.3, features=x, head=head).item())
    assert values[0] == pytest.approx(values[1], rel=1e-12)


@pytest.mark.parametrize("level", ["feature", "input"])
@pytest.mark.parametrize("labels", [torch.arange(8), torch.zeros(8, dtype=torch.long)], ids=["all differ", "one class"])
def test_without_mixtures_zero_with_zero_gradient(level, labels):
    x, head = maps().requires_grad_(), Fast()
    value = Metrix(MultiSimilarity(), level=level).mixed_loss(head(x), labels, features=x, head=head)
    value.backward()
    assert value.item() == 0
    assert not x.grad.any()


def test_each_mixture_is_encoded_once_and_shared_by_its_class():
    features, head = maps(), Plain()
    embeddings = head(features)
    head.rows.clear()
    Metrix(MultiSimilarity(), level="feature").mixed_loss(embeddings, LABELS, lam=0.3, features=features, head=head)
    same = LABELS[:, None] == LABELS
    distinct = int((~same).sum()) - 7  # (p, n) of different classes, but the single row is no positive
    assert sum(head.rows) == distinct
    relations = MultiSimilarity().relations(embeddings, LABELS)
    plan = plan_pairs("positive-negative", relations.positive, relations.negative)
    mixtures = unique_mixtures(plan)
    assert len(mixtures.anchor) == int(plan.counts().sum()) > distinct
    assert torch.equal(torch.bincount(mixtures.anchor, minlength=8), plan.counts())


@pytest.mark.parametrize("kind", list(PAIR_KINDS))
@pytest.mark.parametrize(("hardest", "positives"), [(None, None), (2, None), (1, 1)])
def test_unique_mixtures_list_every_comparison_of_the_plan(kind, hardest, positives):
    relations = MultiSimilarity().relations(tensor(8, 4), LABELS)
    plan = plan_pairs(
        kind, relations.positive, relations.negative, relations.similarity, hardest=hardest, positives=positives
    )
    mixtures = unique_mixtures(plan)
    assert torch.equal(torch.bincount(mixtures.anchor, minlength=8), plan.counts())
    pairs = torch.stack([mixtures.first, mixtures.second], 1).tolist()
    assert len({tuple(pair) for pair in pairs}) == len(pairs)
    blocks = mixtures.blocks(3)
    assert bool(blocks) == bool(pairs)
    if not blocks:
        return
    assert torch.cat([b.anchors[b.row] for b in blocks]).tolist() == mixtures.anchor.tolist()
    assert torch.cat([b.first[b.column] for b in blocks]).tolist() == mixtures.first[mixtures.mixture].tolist()


def test_one_mixture_for_each_image():
    labels = torch.arange(20) % 4
    rows = tensor(20, 6)
    relations = MultiSimilarity().relations(rows, labels)
    plan = plan_pairs(
        "positive-negative", relations.positive, relations.negative, relations.similarity, hardest=1, positives=1
    )
    mixtures = unique_mixtures(plan)
    assert mixtures.first.tolist() == list(range(20))
    assert sorted(mixtures.anchor.tolist()) == list(range(20))
    x = rows[:, :, None, None]
    one = Metrix(MultiSimilarity(), level="feature", hardest=1, positives=1)
    head = Plain("avg", projected=False)
    one(head(x), labels, features=x, head=head)
    assert head.rows == [20, 20]


@pytest.mark.parametrize("chunk", [2, 5])
def test_a_chunk_bounds_what_is_held(chunk):
    """No more mixtures at once than the chunk, forward and again backward; nothing of their size is kept between."""
    x, head = maps().requires_grad_(), Plain()
    embeddings = head(x)
    head.rows.clear()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        value = Metrix(MultiSimilarity(), level="feature", chunk=chunk).mixed_loss(
            embeddings, LABELS, lam=0.3, features=x, head=head
        )
    mixtures = sum(head.rows)
    assert max(head.rows) == chunk
    assert mixtures > 30
    calls = len(head.rows)
    own = {t.data_ptr(): t.numel() for t in kept if t.data_ptr() != x.data_ptr()}
    assert sum(own.values()) < mixtures * 10  # a mixture's map has 30 numbers, and there are several such tensors
    value.backward()
    assert len(head.rows) == 2 * calls
    assert max(head.rows) == chunk


def test_the_fast_way_keeps_nothing_of_the_size_of_mixtures():
    labels = torch.arange(40) % 8
    x = tensor(40, 5, 4, 4).requires_grad_()
    head = Fast()
    embeddings = head(x)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        Metrix(MultiSimilarity(), level="feature").mixed_loss(embeddings, labels, features=x, head=head)
    mixtures, comparisons = 40 * 35, 40 * 4 * 35
    own = {t.data_ptr(): t.numel() for t in kept}
    assert sum(own.values()) < 3 * comparisons + 3 * x.numel() < mixtures * 80


class Normed(nn.Module):
    def __init__(self, drop=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.norm, self.drop = nn.Linear(30, 4), nn.BatchNorm1d(4), nn.Dropout(drop)

    def forward(self, x):
        return self.drop(self.norm(self.layer(x.flatten(1))))


def test_running_statistics_see_mixtures_once():
    counts, means = [], []
    for again in (False, True):
        head = Normed().double()
        x = maps()
        embeddings = head(x)
        value = Metrix(MultiSimilarity(), level="feature", chunk=16).mixed_loss(
            embeddings, LABELS, lam=0.3, features=x, head=head
        )
        if again:
            value.backward()
        counts.append(int(head.norm.num_batches_tracked))
        means.append(head.norm.running_mean.clone())
    assert counts[0] == counts[1] > 2
    assert torch.equal(*means)


def test_chunks_are_exact_with_frozen_batch_norm_and_dropout_repeats_itself_backward():
    for drop in (0.0, 0.5):
        grads = []
        for chunk in (4, 1000):
            head = Normed(drop).double()
            head.norm.eval()
            x = maps().requires_grad_()
            torch.manual_seed(1)
            value = Metrix(MultiSimilarity(), level="feature", chunk=chunk).mixed_loss(
                tensor(8, 4, seed=2), LABELS, lam=0.3, features=x, head=head
            )
            value.backward()
            grads.append(x.grad)
        assert torch.allclose(*grads, rtol=1e-9)


def test_inputs_are_mixed_with_their_hardest_negative_unless_told():
    images = torch.randint(0, 256, (8, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    seen = []

    def encode(x):
        seen.append(x)
        return (x if x.is_floating_point() else x / 255).double().mean(2).flatten(1)

    embeddings = encode(images)
    values = [
        Metrix(MultiSimilarity(), level="input", hardest=hardest)
        .mixed_loss(embeddings, LABELS, lam=0.3, features=images, head=encode)
        .item()
        for hardest in (None, 1, 3)
    ]
    assert values[0] == values[1] != values[2]
    assert len(seen) == 4  # one extra pass each
    assert seen[1].is_floating_point()
    assert 0 <= seen[1].min() <= seen[1].max() <= 1
    expected = mixed_loss(
        "multi_similarity", embeddings, images / 255, LABELS, encode, "positive-negative", 0.3, hardest=1
    )
    assert values[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("head_class", [Plain, Fast])
@pytest.mark.parametrize("device", DEVICES)
def test_bfloat16(head_class, device):
    """Maps in bfloat16 under autocast; cosines and loss stay in float32."""
    exact = gradients(Metrix(MultiSimilarity(), level="feature"), head_class())[0]
    x = maps(torch.bfloat16, device).requires_grad_()
    head = head_class(dtype=torch.float32, device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        call = head if head_class is Fast else lambda m: head(m.float())
        rows = head(x.float())
        value = Metrix(MultiSimilarity(), level="feature", chunk=7).mixed_loss(
            rows, LABELS.to(device), lam=0.3, features=x if head_class is Plain else x.float(), head=call
        )
    value.backward()
    assert value.dtype == torch.float32
    assert torch.isfinite(x.grad.float()).all()
    assert value.item() == pytest.approx(exact, rel=0.05)


def test_levels_are_drawn_and_survive_a_kill():
    x, head = maps(), Fast()
    criterion = Metrix(MultiSimilarity(), level=["embed", "feature"], seed=2)
    drawn = []
    for _ in range(40):
        level = criterion.next_level()
        assert level == criterion.next_level()
        criterion(head(x), LABELS, features=x, head=head)
        assert criterion.last.level == level
        drawn.append((level, criterion.last.ratio))
    assert 8 < sum(level == "feature" for level, _ in drawn) < 32
    resumed = Metrix(MultiSimilarity(), level=["embed", "feature"], seed=9)
    fresh = Metrix(MultiSimilarity(), level=["embed", "feature"], seed=2)
    for step in range(40):
        if step == 20:
            resumed.load_state_dict(fresh.state_dict())
        one = resumed if step >= 20 else fresh
        one(head(x), LABELS, features=x, head=head)
        assert (one.last.level, one.last.ratio) == drawn[step]


@pytest.mark.parametrize("head_class", [Plain, Fast])
@pytest.mark.parametrize("per", ["step", "pair"])
def test_gradient_ratio_is_by_the_features(head_class, per):
    x, head = maps(), head_class()
    criterion = Metrix(MultiSimilarity(), level="feature", ratio_per=per)
    criterion(head(x), LABELS, features=x, head=head)
    before = criterion.generator.get_state()
    with torch.no_grad():
        ratio = criterion.gradient_ratio(head(x), LABELS, features=x, head=head)
    assert torch.equal(before, criterion.generator.get_state())
    assert head.weight.grad is None
    if per == "step":
        norms = []
        for mixed in (True, False):
            y = x.clone().requires_grad_()
            if mixed:
                criterion.mixed_loss(head(y), LABELS, lam=criterion.last.ratio, features=y, head=head).backward()
            else:
                MultiSimilarity()(head(y), LABELS).backward()
            norms.append(y.grad.norm().item())
        assert ratio == pytest.approx(0.4 * norms[0] / norms[1], rel=1e-9)


@pytest.mark.parametrize("proxies", [False, True])
@pytest.mark.parametrize("mixer", ["mixup", "cutmix"])
def test_gradient_ratio_at_the_input_is_by_the_anchors(proxies, mixer):
    g = torch.Generator().manual_seed(3)
    images = torch.rand(len(LABELS), 3, 4, 4, generator=g, dtype=torch.float64)
    weight = torch.randn(48, 5, generator=g, dtype=torch.float64)
    head = lambda x: x.flatten(1) @ weight
    loss = ProxyAnchor(num_classes=int(LABELS.max()) + 1, dim=5).double() if proxies else MultiSimilarity()
    criterion = Metrix(loss, level="input", hardest=2, image_mixer=mixer)
    criterion(head(images), LABELS, features=images, head=head)
    before = criterion.generator.get_state()
    with torch.no_grad():
        ratio = criterion.gradient_ratio(head(images), LABELS, features=images, head=head)
    assert torch.equal(before, criterion.generator.get_state())
    assert ratio > 0
    if mixer == "cutmix":  # boxes are drawn anew
        return
    norms = []
    for mixed in (True, False):
        rows = head(images).requires_grad_()
        by = loss.proxies if proxies else rows
        if mixed:
            still = lambda x: head(x).detach()
            value = criterion.mixed_loss(rows, LABELS, lam=criterion.last.ratio, features=images, head=still)
        else:
            value = loss(rows, LABELS)
        norms.append(torch.autograd.grad(value, by)[0].norm().item())
    assert ratio == pytest.approx(0.4 * norms[0] / norms[1], rel=1e-9)


def test_masks_take_their_number_with_or_without_mixtures():
    """Else a process whose rows hold no mixture would draw other lambdas ever after."""
    images, head = torch.rand(6, 3, 8, 8), lambda x: x.flatten(1)[:, :8]
    states = []
    for labels in (torch.tensor([0, 0, 0, 1, 1, 1]), torch.zeros(6, dtype=torch.long)):
        criterion = Metrix(MultiSimilarity(), level="input", image_mixer="cutmix")
        criterion(head(images), labels, features=images, head=head)
        states.append(criterion.generator.get_state())
    assert torch.equal(*states)


def test_forward_is_clean_plus_weighted_mixed():
    x, head = maps(), Fast()
    for level in ("feature", "input"):
        criterion = Metrix(Triplet(), level=level, weight=0.25)
        total = criterion(head(x), LABELS, features=x, head=head)
        mixed = criterion.mixed_loss(head(x), LABELS, lam=criterion.last.ratio, features=x, head=head)
        assert total.item() == pytest.approx(Triplet()(head(x), LABELS).item() + 0.25 * mixed.item(), rel=1e-12)
        assert set(criterion.logs()) == {"clean", "mixed", "lambda"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Metrix(ProxyNCA(10, 4), level="feature", pairs="negative-negative"), "no maps or pixels"),
        (lambda: Metrix(MultiSimilarity(), level=[]), "level is empty"),
        (lambda: Metrix(MultiSimilarity(), chunk=0), "chunk"),
        (lambda: Metrix(MultiSimilarity(), positives=0), "positives"),
        (lambda: Metrix(MultiSimilarity(), level="feature")(tensor(8, 4), LABELS), "needs features"),
        (lambda: Metrix(MultiSimilarity(), level="input")(tensor(8, 4), LABELS, features=maps()), "whole encoder"),
        (lambda: Metrix(MultiSimilarity(), level="feature")(tensor(8, 4), LABELS, maps()[:3], Plain()), "3 rows"),
        (lambda: Metrix(MultiSimilarity(), level="feature")(tensor(8, 3), LABELS, maps(), Plain()), "4 dimensions"),
        (lambda: Metrix(MultiSimilarity(), level="feature")(tensor(8, 3), LABELS, maps(), Fast()), "4 dimensions"),
        (lambda: Metrix(MultiSimilarity(), level="feature")(tensor(8, 4), LABELS, maps(), lambda x: x), "mixtures, d"),
        (lambda: Metrix(MultiSimilarity(), level="feature")(tensor(8, 4), LABELS, maps(), "head"), "a callable"),
        (lambda: Metrix(MultiSimilarity(), level="feature")(tensor(8, 4), LABELS, maps().long(), Plain()), "floating"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(InputError, match=message):
        make()
