"""The reference numbers of tests/fixtures/metrix.json: embedding level and metric losses, values and gradients."""

import json
from pathlib import Path

import pytest
import torch

from metrixkit.losses import LOSSES, PML, Metrix, MultiSimilarity, OfficialContrastive, ProxyAnchor

FIXTURE = json.loads((Path(__file__).parent.parent / "fixtures" / "metrix.json").read_text())
BRUTE, OFFICIAL = FIXTURE["brute"]["A"], FIXTURE["official"]["A"]
ROWS = torch.tensor(FIXTURE["inputs"]["A"]["embeddings"], dtype=torch.float64)
LABELS = torch.tensor(FIXTURE["inputs"]["A"]["labels"])
PROXIES = torch.tensor(FIXTURE["inputs"]["proxies"], dtype=torch.float64)
KINDS = {
    "pos-neg": "positive-negative",
    "anc-neg": "anchor-negative",
    "pos-anc": "positive-anchor",
    "neg-neg": "negative-negative",
    "pos-neg-first": "positive-negative-first",
}
NAMES = ("contrastive", "multi_similarity", "binomial_deviance", "lifted_structure", "nca")
MIXED = [
    (name, entry, *entry.removeprefix("mixed_").rsplit("_", 2))
    for name in NAMES
    for entry in BRUTE[name]
    if entry.startswith("mixed_")
]
CONSTANT = LOSSES["nca"].refused_with_one_ratio  # refused by Metrix; their values are checked through from_similarity
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def near(value, expected, tolerance=1e-10):
    value = value.item() if isinstance(value, torch.Tensor) else value
    return abs(value - expected) <= tolerance * max(1.0, abs(expected))


def near_all(values, expected, tolerance):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    return bool(((values.cpu().double() - expected).abs() <= tolerance * expected.abs().clamp(min=1)).all())


def similarities_of_mixtures(kind, lam, renormalize):
    """(A, V) similarities, labels and a mask, one by one: for `from_similarity`."""
    z = torch.nn.functional.normalize(ROWS, dim=1)
    everything = []
    for a in range(len(z)):
        pos = [j for j in range(len(z)) if LABELS[j] == LABELS[a] and j != a]
        neg = [j for j in range(len(z)) if LABELS[j] != LABELS[a]]
        first = {"positive-negative": pos, "positive-negative-first": pos[:1], "anchor-negative": [a]}[kind]
        v = [lam * z[i] + (1 - lam) * z[n] for i in first for n in neg]
        everything.append([float(z[a] @ (x / x.norm() if renormalize else x)) for x in v])
    width = max(len(row) for row in everything)
    s = torch.tensor([row + [0.0] * (width - len(row)) for row in everything], dtype=torch.float64)
    there = torch.tensor([[1.0] * len(row) + [0.0] * (width - len(row)) for row in everything], dtype=torch.float64)
    return s, there


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("name", "entry", "kind", "lam", "length"), [m for m in MIXED if m[0] != "nca" or KINDS[m[2]] not in CONSTANT]
)
def test_mixed_values(name, entry, kind, lam, length, dtype, device):
    expected, lam = BRUTE[name][entry], float(lam.removeprefix("lam"))
    criterion = Metrix(LOSSES[name](), renormalize=length == "renorm").to(device)
    value = criterion.mixed_loss(ROWS.to(device, dtype), LABELS.to(device), lam=lam, pairs=KINDS[kind])
    assert value.dtype == dtype
    assert near(value, expected["mean_over_nonempty"], 1e-10 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize(
    ("name", "entry", "kind", "lam", "length"), [m for m in MIXED if m[2] in ("pos-neg", "pos-neg-first", "anc-neg")]
)
def test_mixed_per_anchor_through_from_similarity(name, entry, kind, lam, length):
    lam = float(lam.removeprefix("lam"))
    s, there = similarities_of_mixtures(KINDS[kind], lam, length == "renorm")
    values = LOSSES[name]().from_similarity(s, lam * there, (1 - lam) * there)
    for value, expected in zip(values, BRUTE[name][entry]["per_anchor"], strict=True):
        assert expected is None or near(value, expected)


@pytest.mark.parametrize("name", NAMES)
def test_clean(name):
    loss, expected = LOSSES[name](), BRUTE[name]
    of_all = expected["clean_mean_over_all_anchors"]
    wanted = of_all if of_all is not None and not loss.needs_both else expected["clean_mean_over_anchors_with_positive"]
    assert near(loss(ROWS, LABELS), wanted)
    assert near(loss(ROWS.float(), LABELS), wanted, 1e-5)
    relations = loss.relations(ROWS, LABELS)
    for value, one in zip(
        loss.from_similarity(relations.similarity, relations.positive, relations.negative),
        expected["clean_per_anchor"],
        strict=True,
    ):
        assert one is None or near(value, one)


@pytest.mark.parametrize("name", ["contrastive", "multi_similarity"])
def test_gradients_against_finite_differences(name):
    entry = next(v for k, v in BRUTE["grad_fd_raw"].items() if k.startswith(name))
    for dtype, tolerance in ((torch.float64, 1e-7), (torch.float32, 1e-5)):
        x = ROWS.to(dtype, copy=True).requires_grad_()
        loss = LOSSES[name]()
        total = loss(x, LABELS) + 0.4 * Metrix(loss).mixed_loss(x, LABELS, lam=0.3)
        total.backward()
        assert near(total, entry["value"], 1e-10 if dtype == torch.float64 else 1e-5)
        assert near_all(x.grad, entry["grad"], tolerance)


def test_mined_pairs_as_weights():
    pos, neg = torch.zeros(8, 8), torch.zeros(8, 8)
    mined = BRUTE["multi_similarity"]["mined_eps0.39_pairs"]
    loss = MultiSimilarity()
    miner = PML("MultiSimilarityLoss", miner="MultiSimilarityMiner", miner_arguments={"epsilon": 0.39}).miner
    a, p, b, n = miner(ROWS, LABELS)
    pos[a, p], neg[b, n] = 1, 1
    value = loss.from_similarity(loss.relations(ROWS, LABELS).similarity, pos, neg).mean()
    assert mined
    assert near(value, BRUTE["multi_similarity"]["clean_mined_mean_over_all_anchors"])


def test_pooling_inside_the_logarithm_is_a_matter_of_weights():
    z = torch.nn.functional.normalize(ROWS, dim=1)
    same = LABELS[:, None] == LABELS
    positive, negative = (same & ~torch.eye(8, dtype=torch.bool)).double(), (~same).double()
    for lam in (0.3, 0.7):
        s, there = similarities_of_mixtures("positive-negative", lam, True)
        values = MultiSimilarity().from_similarity(
            torch.cat([z @ z.T, s], 1),
            torch.cat([positive, 0.4 * lam * there], 1),
            torch.cat([negative, 0.4 * (1 - lam) * there], 1),
        )
        expected = BRUTE["multi_similarity"][f"joint_inside_sigma_pos-neg_lam{lam}_w0.4"]
        assert near_all(values, expected["per_anchor"], 1e-10)


def proxy_anchor():
    loss = ProxyAnchor(num_classes=4, dim=5).double()
    loss.proxies.data.copy_(PROXIES)
    return loss


def test_proxy_anchor():
    expected, loss = BRUTE["proxy_anchor"], proxy_anchor()
    x = ROWS.clone().requires_grad_()
    value = loss(x, LABELS)
    value.backward()
    assert near(value, expected["clean"]["total"])
    assert near(value, OFFICIAL["pa_clean"])
    assert near_all(x.grad, OFFICIAL["pa_clean_grad_raw"], 1e-10)
    for lam in (0.3, 0.7):
        for length in ("renorm", "raw"):
            mixed = Metrix(loss, renormalize=length == "renorm").mixed_loss(ROWS, LABELS, lam=lam)
            assert near(mixed, expected[f"mixed_pos-neg_lam{lam}_{length}"]["total"])


@pytest.mark.parametrize("lam", [0.3, 0.7])
def test_proxy_anchor_with_mixtures_of_other_classes(lam):
    """Mixtures of two other classes as further negatives of a proxy: the fixture's second variant, by soft weights."""
    z, c = torch.nn.functional.normalize(ROWS, dim=1), torch.nn.functional.normalize(PROXIES, dim=1)
    # Ordered as the clean positive-negative mixtures are: each (p, n) with labels c, c'.
    pairs = [(i, j) for i in range(8) for j in range(8) if LABELS[i] != LABELS[j]]
    v = torch.stack([torch.nn.functional.normalize(lam * z[i] + (1 - lam) * z[j], dim=0) for i, j in pairs])
    own = torch.tensor([[float(LABELS[i] == k) for i, _ in pairs] for k in range(4)], dtype=torch.float64)
    other = torch.tensor(
        [[float(LABELS[i] != k and LABELS[j] != k) for i, j in pairs] for k in range(4)], dtype=torch.float64
    )
    pos, neg = proxy_anchor().form.terms(c @ v.T, lam * own, (1 - lam) * own + other)
    expected = BRUTE["proxy_anchor"][f"mixed_pos-neg_plus_other-class_negatives_lam{lam}"]
    assert near(pos.mean(), expected["pos"])
    assert near(neg.mean(), expected["neg"])


@pytest.mark.parametrize("lam", [0.3, 0.7])
@pytest.mark.parametrize(
    ("short", "kind", "weight"), [("pos-neg", "positive-negative", 0.4), ("anc-neg", "anchor-negative", 0.3)]
)
def test_official_contrastive(short, kind, weight, lam):
    loss = OfficialContrastive(margin=0.5)
    x = ROWS.clone().requires_grad_()
    mixed = loss.mixed_loss(x, LABELS, lam=lam, pairs=kind)
    total = loss(x, LABELS) + weight * mixed
    total.backward()
    expected = OFFICIAL[f"contrastive_embed_{short}_lam{lam}"]
    assert near(mixed, BRUTE["contrastive_distance_form"][f"mixed_{short}_lam{lam}"]["mixed"])
    assert near(total, expected["total"])
    assert near_all(x.grad, expected["grad_raw"], 1e-10)


def test_official_clean():
    x = ROWS.clone().requires_grad_()
    OfficialContrastive()(x, LABELS).backward()
    assert near_all(x.grad, OFFICIAL["contrastive_clean_grad_raw"], 1e-10)
    assert near(MultiSimilarity()(ROWS, LABELS), OFFICIAL["ms_clean_allpairs"])


def test_released_multi_similarity_is_not_the_papers():
    for lam in (0.3, 0.7):
        released = BRUTE["multi_similarity"][f"released_as_executed_lam{lam}"]
        assert near(released, OFFICIAL[f"ms_embed_lam{lam}"]["total"])
        loss = MultiSimilarity()
        total = loss(ROWS, LABELS) + 0.4 * Metrix(loss).mixed_loss(ROWS, LABELS, lam=lam)
        assert total > 4 * OFFICIAL[f"ms_embed_lam{lam}"]["total"]


@pytest.mark.parametrize("lam", [0.3, 0.7])
@pytest.mark.parametrize(("sign", "entry"), [(1, "as_executed_flipped_sign"), (-1, "with_intended_sign")])
def test_proxy_anchor_of_the_course_repository_is_not_the_papers(lam, sign, entry):
    """The first author's course code, written out: all other proxies are negatives of a mixture, its second parent's
    too, and the exponent of positives has the wrong sign as executed.
    """
    z, c = (torch.nn.functional.normalize(x, dim=1) for x in (ROWS, PROXIES))
    paper = ProxyAnchor(num_classes=4, dim=5).double()
    paper.proxies.data.copy_(PROXIES)
    mixtures, owner = [], []
    for a in range(len(z)):
        positives = [j for j in range(len(z)) if LABELS[j] == LABELS[a] and j != a]
        for _ in positives:  # the first positive again and again, as the release does
            for n in (LABELS[a] != LABELS).nonzero()[:, 0].tolist():
                mixtures.append(lam * z[positives[0]] + (1 - lam) * z[n])
                owner.append(int(LABELS[a]))
    s = c @ torch.nn.functional.normalize(torch.stack(mixtures), dim=1).T
    own = torch.arange(4)[:, None] == torch.tensor(owner)
    pulled = torch.log1p((lam * torch.exp(sign * 32 * (s - 0.1)) * own).sum(1)).sum() / own.any(1).sum()
    pushed = torch.log1p(((1 - lam) * torch.exp(32 * (s + 0.1)) * ~own).sum(1)).sum() / 4
    expected = BRUTE["proxy_anchor"][f"course_repo_style_lam{lam}"][entry]
    assert near(pulled + pushed, expected)
    assert not near(Metrix(paper).mixed_loss(ROWS, LABELS, lam=lam), expected, 1e-3)


def test_pml_with_miner_reproduces_the_release():
    loss = PML(
        "MultiSimilarityLoss",
        {"alpha": 17.97, "beta": 75.66, "base": 0.77},
        miner="MultiSimilarityMiner",
        miner_arguments={"epsilon": 0.39},
    )
    x = ROWS.clone().requires_grad_()
    value = loss(x, LABELS)
    value.backward()
    assert near(value, OFFICIAL["ms_clean_mined"])
    assert near_all(x.grad, OFFICIAL["ms_clean_mined_grad_raw"], 1e-10)
