"""Exact ranks on ten thousand cases made to be difficult, for every precision and counting kernel."""

import importlib.util
import itertools

import numpy as np
import pytest
import torch
from rank_reference import ROWS, Case, naive_ranks, random_case, settled

from metrixkit.errors import InputError
from metrixkit.retrieval.exact import ranks, tally, tiles
from metrixkit.retrieval.exact.ranks import rank_blocks, relevant_counts
from metrixkit.retrieval.exact.setting import label_up, pair_up

numba = pytest.param(
    "numba", marks=pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")
)
KERNELS = ["torch", numba]
PRECISIONS = ["bfloat16", "float32", "float64"]


@pytest.fixture
def small_tiles(monkeypatch):
    """Many tiles, groups, handed out blocks and settled heaps even for small data, and no change of precision."""
    monkeypatch.setattr(tiles, "QUERY_BLOCK", 13)
    monkeypatch.setattr(tiles, "GALLERY_TILE", 21)
    monkeypatch.setattr(tiles, "FIRST", 3)
    monkeypatch.setattr(tiles, "OPEN_SHARE", 2.0)
    monkeypatch.setattr(tally, "GROUP", 4)
    monkeypatch.setattr(tally, "OPEN", 64)
    monkeypatch.setattr(ranks, "HANDED_OUT", 40)


def both(case: Case, distance="cosine", device="cpu", **options):
    """Return the ranks of a case, as naive_ranks does, and the pair and labels they are of."""
    move = lambda rows: None if rows is None else torch.from_numpy(rows).to(device) if device != "cpu" else rows
    pair = pair_up(move(case.queries), move(case.gallery), case.ids, case.gallery_ids, distance)
    labels = label_up(pair, case.labels, case.gallery_labels)
    found = [([], [])] * len(case.queries)
    for block in rank_blocks(pair, labels, **options):
        for i, row in enumerate(block.rows):
            assert found[row] == ([], []), "handed out twice"
            sides = (side[i] for side in (block.pessimistic, block.optimistic))
            found[row] = tuple(side[side > 0].tolist() for side in sides)
            assert block.relevant[i] == relevant_counts(pair, labels)[row]
    return found


def capped(found, caps):
    """Return naive ranks as they come out with caps: cap + 1 beyond, at most cap items, the first always exact."""
    return [
        tuple([r if r <= cap or t == 0 else cap + 1 for t, r in enumerate(side[:cap])] for side in sides)
        for sides, cap in zip(found, caps, strict=True)
    ]


def check(seed, ways):
    """Hold every (precision, kernels) against the naive loop on the case of a seed; False where none is right."""
    case = random_case(seed)
    if not settled(case):
        return False
    expected = naive_ranks(case)
    rng = np.random.default_rng(seed)
    options = [{}, {"cap": rng.integers(1, 12, size=len(case.queries))}, {"depth": int(rng.integers(1, 4))}][seed % 3]
    if "cap" in options:
        expected = capped(expected, options["cap"])
    if "depth" in options:
        expected = [tuple(side[: options["depth"]] for side in sides) for sides in expected]
    for precision, kernels in ways:
        found = both(case, precision=precision, kernels=kernels, **options)
        assert found == expected, f"seed {seed}, {case.kind}, {precision}, {kernels}"
    return True


@pytest.mark.sample(4)
@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_difficult_cases_are_the_naive_loop(small_tiles, precision, kernels):
    assert sum(check(seed, [(precision, kernels)]) for seed in range(88)) > 75


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_ten_thousand_difficult_cases(small_tiles, part):
    installed = ["torch", *(["numba"] if importlib.util.find_spec("numba") else [])]
    ways = list(itertools.product(PRECISIONS, installed))
    done, seeds = 0, itertools.count(1000 + 2000 * part)
    while done < 1000:
        done += check(next(seeds), ways)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("precision", [*PRECISIONS, "auto"])
@pytest.mark.parametrize("distance", ["dot", "euclidean"])
def test_other_distances_are_the_naive_loop(small_tiles, distance, precision, kernels):
    rng = np.random.default_rng(3)
    for rows in (ROWS["grid"](rng, 60, 5), ROWS["normal"](rng, 60, 9) * 10.0 ** rng.integers(-4, 3, size=(60, 1))):
        case = Case("", rows, rng.integers(0, 12, size=60))
        assert both(case, distance, precision=precision, kernels=kernels) == naive_ranks(case, distance)
        split = Case("", rows[:20], case.labels[:20], rows[20:], case.labels[20:])
        assert both(split, distance, precision=precision, kernels=kernels) == naive_ranks(split, distance)


@pytest.mark.parametrize("kernels", KERNELS)
def test_too_many_open_pairs_change_the_precision_and_nothing_else(small_tiles, monkeypatch, kernels):
    rng = np.random.default_rng(4)
    case = Case("", ROWS["nearly collapsed"](rng, 150, 16), rng.integers(0, 30, size=150))
    monkeypatch.setattr(tiles, "OPEN_SHARE", 0.01)
    used = []
    original = tiles.Tiles._level
    monkeypatch.setattr(tiles.Tiles, "_level", lambda self, *a: (used.append(self.levels[0]), original(self, *a))[1])
    assert both(case, precision="bfloat16", kernels=kernels) == naive_ranks(case)
    assert used == ["bfloat16", "float32", "float64"]


@pytest.mark.parametrize("kernels", KERNELS)
def test_sets_of_queries_are_counted_one_after_the_other(small_tiles, monkeypatch, kernels):
    rng = np.random.default_rng(5)
    labels = np.minimum(rng.geometric(0.3, size=90), 7)
    case = Case("", ROWS["grid"](rng, 90, 6), labels)
    monkeypatch.setattr(ranks, "THRESHOLDS", 100)  # a class alone may have more
    assert both(case, precision="bfloat16", kernels=kernels) == naive_ranks(case)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int64", ">f4"])
def test_any_number_format(small_tiles, kernels, dtype):
    rng = np.random.default_rng(6)
    rows, labels = ROWS["grid"](rng, 60, 6), rng.integers(0, 12, size=60)
    data = torch.from_numpy(rows).bfloat16() if dtype == "bfloat16" else rows.astype(dtype)
    pair = pair_up(data, None, None, None, "cosine")
    expected = naive_ranks(Case("", rows, labels))
    for block in rank_blocks(pair, label_up(pair, labels, None), precision="bfloat16", kernels=kernels):
        for row, worse in zip(block.rows, block.pessimistic, strict=True):
            assert worse[worse > 0].tolist() == expected[row][0]


@pytest.mark.parametrize("size", [1e-30, 1e30, 1e-140, 1e140])
def test_any_length_of_rows(small_tiles, size):
    rng = np.random.default_rng(7)
    rows, labels = ROWS["grid"](rng, 60, 6), rng.integers(0, 12, size=60)
    scale = size * 2.0 ** rng.integers(-9, 9, size=(60, 1))
    found = both(Case("", rows * scale, labels), precision="bfloat16")
    assert found == naive_ranks(Case("", rows, labels))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", [*PRECISIONS, "auto"])
def test_cuda_gives_the_same_ranks(monkeypatch, precision):
    monkeypatch.setattr(tally, "GROUP", 4)
    monkeypatch.setattr(tally, "OPEN", 64)
    for seed in range(99):
        case = random_case(seed)
        if settled(case):
            assert both(case, device="cuda", precision=precision) == naive_ranks(case), f"seed {seed}"


def test_inputs_are_left_as_they_are(small_tiles):
    case = random_case(0)
    rows = torch.from_numpy(np.array(case.queries, dtype=np.float64))
    before = rows.clone()
    for distance, precision in itertools.product(("cosine", "dot", "euclidean"), PRECISIONS):
        both(Case("", rows.numpy(), case.labels), distance, precision=precision)
    assert torch.equal(rows, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "bfloat"}, "precision='bfloat'.*bfloat16"),
        ({"kernels": "numbaa"}, "kernels='numbaa'.*numba"),
        ({"depth": 0}, "depth=0"),
        ({"cap": 0}, "cap holds 0"),
        ({"cap": np.ones(3, dtype=int)}, r"cap has shape \(3,\)"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(InputError, match=message):
        both(random_case(0), **options)


def test_numba_asked_for_and_missing_is_an_error(monkeypatch):
    monkeypatch.setattr(ranks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"metrixkit\[fast\]"):
        both(random_case(0), kernels="numba")
    assert both(random_case(0)) == naive_ranks(random_case(0))


@pytest.mark.slow
def test_twenty_thousand_rows():
    rng = np.random.default_rng(8)
    labels = rng.integers(0, 4000, size=20_000)
    rows = (rng.normal(size=(4000, 64))[labels] + 1.2 * rng.normal(size=(20_000, 64))).astype(np.float32)
    rows[::50] = rows[7]  # a crowd of equals in many classes
    exact = torch.from_numpy(rows).double()
    exact /= exact.norm(dim=1, keepdim=True)
    order = np.argsort(labels, kind="stable")
    expected = {}
    for some in np.array_split(order, 100):
        score = exact[some] @ exact.T
        for q, line in zip(some, score, strict=True):
            relevant = torch.from_numpy(labels == labels[q])
            relevant_scores = torch.cat([line[:q][relevant[:q]], line[q + 1 :][relevant[q + 1 :]]]).sort(
                descending=True
            )
            others = line[~relevant].sort().values
            place = torch.arange(1, len(relevant_scores.values) + 1)
            worse = len(others) - torch.searchsorted(others, relevant_scores.values - 1e-12)
            better = len(others) - torch.searchsorted(others, relevant_scores.values + 1e-12, right=True)
            expected[int(q)] = ((place + worse).tolist(), (place + better).tolist())
    case = Case("", rows, labels)
    for precision, kernels in itertools.product(PRECISIONS, ["torch", "auto"]):
        found = both(case, precision=precision, kernels=kernels)
        assert all(found[q] == sides for q, sides in expected.items()), (precision, kernels)
