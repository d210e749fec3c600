"""The reference numbers of tests/fixtures/metrix.json at levels feature and input."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from metrixkit.losses import LOSSES, Metrix, OfficialContrastive
from metrixkit.losses.pairs import PairLoss
from metrixkit.losses.relations import pair_masks
from metrixkit.losses.similarities import mixture_similarities
from metrixkit.mixing import plan_pairs, unique_mixtures

FIXTURE = json.loads((Path(__file__).parent.parent / "fixtures" / "metrix.json").read_text())
INPUTS, BRUTE, OFFICIAL = FIXTURE["inputs"], FIXTURE["brute"]["levels_A"], FIXTURE["official"]["levels_A"]
LABELS = torch.tensor(INPUTS["A"]["labels"])
NAMES = {"pos-neg": "positive-negative", "anc-neg": "anchor-negative"}
RATIOS = [0.3, 0.7]
LEVELS = ["feature", "input"]


def tensor(name):
    return torch.tensor(INPUTS[name], dtype=torch.float64)


def network(level):
    """Return what is mixed and what encodes it."""
    if level == "input":
        weight = tensor("W_img")
        return tensor("images_A"), lambda x: normalize(x.flatten(1) @ weight.T, dim=1)
    weight, bias = tensor("W_fc"), tensor("b_fc")
    return tensor("features_A"), lambda x: normalize((x.mean((2, 3)) + x.amax((2, 3))) @ weight.T + bias, dim=1)


def near(value, expected, tolerance=1e-10):
    return abs(float(value) - expected) <= tolerance * max(1.0, abs(expected))


def compared(level, short, lam):
    """Return the triples (anchor, first, second) of the release's kind of pairs and the distances of their mixtures."""
    features, head = network(level)
    embeddings = head(features)
    positive, negative = pair_masks(LABELS)
    kind = {"pos-neg": "positive-negative-first", "anc-neg": "anchor-negative-official"}[short]
    hardest = 1 if level == "input" else None
    if level == "input" and short == "pos-neg":
        kind = "positive-negative"  # at input level the release takes each positive
    plan = plan_pairs(kind, positive, negative, embeddings @ embeddings.T, hardest)
    mixtures = unique_mixtures(plan)
    s = mixture_similarities(embeddings, features, head, mixtures, lam, chunk=3)
    first, second = mixtures.first[mixtures.mixture], mixtures.second[mixtures.mixture]
    triples = torch.stack([mixtures.anchor, first, second], 1)
    order = sorted(range(len(triples)), key=lambda t: triples[t].tolist())
    return triples[order], (2 - 2 * s[order]).clamp(min=0).sqrt()


@pytest.mark.parametrize("level", LEVELS)
def test_clean(level):
    features, head = network(level)
    embeddings = head(features)
    expected = torch.tensor(BRUTE[level]["clean_embeddings"], dtype=torch.float64)
    assert (embeddings - expected).abs().max() < 1e-12
    assert near(OfficialContrastive()(embeddings, LABELS), BRUTE[level]["contrastive_distance_clean"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("lam", RATIOS)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["contrastive", "multi_similarity"])
def test_paper_form(name, level, lam, dtype):
    """Also by anchor: the mean of those with mixtures, where labels of the others are made unique."""
    features, head = network(level)
    expected = BRUTE[level][f"paper_form_pos-neg_lam{lam}_per_anchor"][name]
    kept = [value for value in expected if value is not None]
    encode = lambda x: head(x.double()).to(dtype)
    criterion = Metrix(LOSSES[name](), level=level, hardest=8)  # all negatives, at input level too
    value = criterion.mixed_loss(head(features).to(dtype), LABELS, lam=lam, features=features.to(dtype), head=encode)
    assert value.dtype == dtype
    assert near(value, sum(kept) / len(kept), 1e-10 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("lam", RATIOS)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["contrastive", "multi_similarity"])
def test_paper_form_of_each_anchor(name, level, lam):
    features, head = network(level)
    expected = BRUTE[level][f"paper_form_pos-neg_lam{lam}_per_anchor"][name]
    for anchor in range(8):

        class One(type(LOSSES[name]())):
            def batch_weights(self, relations, valid, anchor=anchor):
                weights = torch.zeros(8, dtype=torch.float64)
                weights[anchor] = 1
                return weights, weights

        value = Metrix(One(), level=level, hardest=8).mixed_loss(
            head(features), LABELS, lam=lam, features=features, head=head
        )
        assert isinstance(One(), PairLoss)
        assert near(value, expected[anchor] or 0.0)


@pytest.mark.parametrize("lam", RATIOS)
@pytest.mark.parametrize("short", NAMES)
@pytest.mark.parametrize("level", LEVELS)
def test_triples_and_distances(level, short, lam):
    """The mixtures themselves, with the right hard negatives; the release repeats the first positive |P(a)| times."""
    expected = BRUTE[level][f"{short}_lam{lam}"]
    triples, distances = compared(level, short, lam)
    wanted = dict(zip(map(tuple, expected["triplets"]), expected["distances"], strict=True))
    assert {tuple(t) for t in triples.tolist()} == set(wanted)
    for triple, distance in zip(triples.tolist(), distances, strict=True):
        assert near(distance, wanted[tuple(triple)])


def in_official_form(level, triples, distances, repeats, lam, weight=0.4):
    """The release's total: means of non-zero distances and hinges over all triples."""
    mean = lambda x: (x * repeats).sum() / (repeats * (x > 0)).sum().clamp(min=1)
    mixed = lam * mean(distances) + (1 - lam) * mean((0.5 - distances).clamp(min=0))
    features, head = network(level)
    return OfficialContrastive()(head(features), LABELS) + weight * mixed


@pytest.mark.parametrize("lam", RATIOS)
@pytest.mark.parametrize(("level", "short"), [("feature", "pos-neg"), ("feature", "anc-neg"), ("input", "anc-neg")])
def test_released_totals_where_the_release_is_right(level, short, lam):
    triples, distances = compared(level, short, lam)
    repeats = torch.ones(len(triples))
    if (level, short) == ("feature", "pos-neg"):
        repeats = pair_masks(LABELS)[0].sum(1)[triples[:, 0]]
    total = in_official_form(level, triples, distances, repeats, lam)
    assert near(total, OFFICIAL[f"contrastive_{level}_{short}_lam{lam}"]["total"])
    assert near(total, BRUTE[level][f"{short}_lam{lam}"]["total"])


@pytest.mark.parametrize("lam", RATIOS)
def test_released_input_totals_come_from_wrong_negatives(lam):
    """Its hard negatives are indices of one list used in another; with them, and only with them, its total is met."""
    triples, distances = compared("input", "pos-neg", lam)
    released = OFFICIAL["input_selected_triplets"]
    theirs = torch.tensor([released["anchor"], released["pos"], released["neg"]]).T
    assert not torch.equal(triples, theirs)
    assert any(LABELS[a] == LABELS[n] for a, _, n in theirs.tolist())  # even a member of the anchor's own class
    total = in_official_form("input", triples, distances, torch.ones(len(triples)), lam)
    assert near(total, BRUTE["input"][f"pos-neg_lam{lam}"]["total"])
    assert abs(float(total) - OFFICIAL[f"contrastive_input_pos-neg_lam{lam}"]["total"]) > 0.01
    images, head = network("input")
    a, p, n = theirs.T
    wrong = (head(images)[a] - head(lam * images[p] + (1 - lam) * images[n])).norm(dim=1)
    total = in_official_form("input", theirs, wrong, torch.ones(len(theirs)), lam)
    assert near(total, OFFICIAL[f"contrastive_input_pos-neg_lam{lam}"]["total"])
