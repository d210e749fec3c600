"""crossmodal() against naive float64 loops, reference numbers of CLIP4Clip's definitions, and refused input."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from metrixkit.errors import InputError
from metrixkit.retrieval import crossmodal
from metrixkit.retrieval.exact import crossranks, crossscores

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
CUTOFFS = (1, 2, 5)


def naive(scores, own, grouped):
    """The definitions, word by word: {(direction, side): ranks}, videos without text as None."""
    scores = np.asarray(scores, dtype=np.float64)
    texts, videos = scores.shape
    ranks = {(d, side): [] for d in ("t2v", "v2t") for side in (0, 1)}
    for t in range(texts):
        s = scores[t, own[t]]
        others = [scores[t, v] for v in range(videos) if v != own[t]]
        ranks["t2v", 0].append(1 + sum(o >= s - 1e-12 for o in others))
        ranks["t2v", 1].append(1 + sum(o > s + 1e-12 for o in others))
    for v in range(videos):
        mine = [scores[t, v] for t in range(texts) if own[t] == v]
        if not mine:
            ranks["v2t", 0].append(None), ranks["v2t", 1].append(None)
            continue
        if grouped:
            others = [max(scores[t, v] for t in range(texts) if own[t] == c) for c in set(own) - {v}]
        else:
            others = [scores[t, v] for t in range(texts) if own[t] != v]
        ranks["v2t", 0].append(1 + sum(o >= max(mine) - 1e-12 for o in others))
        ranks["v2t", 1].append(1 + sum(o > max(mine) + 1e-12 for o in others))
    return ranks


def check(result, ranks):
    for direction in ("t2v", "v2t"):
        rows = result.per_query[result.per_query["direction"] == direction]
        for side, column in enumerate(("rank", "rank_optimistic")):
            wanted = pd.array(ranks[direction, side], dtype="Int64")
            pd.testing.assert_extension_array_equal(rows[column].array, wanted)
        worst, best = (np.array([r for r in ranks[direction, side] if r is not None]) for side in (0, 1))
        functions = {f"recall@{k}": lambda r, k=k: (r <= k).mean() for k in CUTOFFS}
        functions |= {"median_rank": np.median, "mean_rank": np.mean, "mrr": lambda r: (1 / r).mean()}
        for name, function in functions.items():
            name = f"{direction}/{name}"
            assert result[name] == pytest.approx(function(worst), abs=1e-12), name
            assert result.get(f"{name}/optimistic", result[name]) == pytest.approx(function(best), abs=1e-12), name
            assert (f"{name}/optimistic" in result) == (abs(function(worst) - function(best)) > 1e-12), name
        assert result.counts[f"{direction}/tied"] == (worst != best).sum()


def assign(rng, texts, videos, kind):
    if kind == "one":
        return rng.permutation(videos)
    if kind == "sorted":
        return np.sort(rng.integers(0, videos, size=texts))
    return np.minimum(rng.geometric(0.2, size=texts) - 1, videos - 1)  # unbalanced, shuffled, some without text


def random_case(seed):
    rng = np.random.default_rng(seed)
    videos = int(rng.integers(1, 12))
    kind = ("one", "sorted", "unbalanced")[seed % 3]
    texts = videos if kind == "one" else int(rng.integers(1, 40))
    return rng, texts, videos, assign(rng, texts, videos, kind)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", range(45))
def test_scores_with_ties_are_the_naive_loop(monkeypatch, seed, device):
    rng, texts, videos, own = random_case(seed)
    monkeypatch.setattr(crossscores, "CACHED", int(rng.integers(1, 60)))
    base = rng.integers(-3, 4, size=(texts, videos)).astype(np.float64)
    dtype = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64)[seed % 5]
    if dtype == torch.float64:
        base += rng.choice([0.0, 5e-13, 2e-12, -2e-12], size=base.shape)  # inside and outside of a tie
    scores = torch.from_numpy(base).to(device, dtype)
    given = [None, "video"][seed % 2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        result = crossmodal(similarity=scores, video_of_text=own, recall_at=CUTOFFS, group_by=given)
    check(result, naive(base, own.tolist(), given == "video"))


def test_compiled_comparison_is_the_same(monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.setattr(crossscores, "CACHED", 50)
    for seed in range(30):
        rng, texts, videos, own = random_case(seed)
        scores = rng.integers(-2, 3, size=(texts, videos)).astype([np.float32, np.float64][seed % 2])
        for grouped in (False, True):
            ranks = [
                crossranks.cross_ranks(crossscores.MatrixScores(scores), own, grouped, compiled)
                for compiled in (False, True)
            ]
            np.testing.assert_array_equal(ranks[0].texts, ranks[1].texts)
            np.testing.assert_array_equal(ranks[0].videos, ranks[1].videos)


def test_large_matrices_are_compared_by_numba(monkeypatch):
    pytest.importorskip("numba")
    called = []
    monkeypatch.setattr(crossranks, "_Compiled", lambda *args: called.append(1) or crossranks._Compared(*args))
    crossmodal(similarity=np.eye(6), recall_at=(1,))
    monkeypatch.setattr(crossranks, "COMPILED_PAYS", 36)
    crossmodal(similarity=np.eye(6), recall_at=(1,))
    assert called == [1]


@pytest.mark.parametrize("value", [1.0, 1e-7, 1e6])
def test_float32_scores_tie_by_their_own_values(value):
    # 1e-12 is less than a float32 step at 1 and more than one at 1e-7; both are judged in float64.
    near, far = np.float32(value), np.float32(value + (5e-13 if value == 1e-7 else 0))
    scores = np.array([[near, far], [-1, near]], dtype=np.float32)
    result = crossmodal(similarity=scores, recall_at=(1,))
    assert result.per_query["rank"].tolist() == [2, 1, 1, 2]
    above = np.array([[near, np.nextafter(near, np.float32(2e6))], [-1, near]], dtype=np.float32)
    assert crossmodal(similarity=above, recall_at=(1,)).counts["t2v/tied"] == (value == 1e-7)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", range(24))
def test_embeddings_are_the_naive_loop(monkeypatch, seed, device):
    rng, texts, videos, own = random_case(seed)
    monkeypatch.setattr(crossscores, "BLOCK", 5)
    monkeypatch.setattr(crossscores, "COMPUTED", 1)
    text, video = (rng.integers(-2, 3, size=(n, 3)).astype(float) for n in (texts, videos))
    for rows in (text, video):
        rows[np.abs(rows).sum(1) == 0] = 1.0
        rows += [0, 1e-5][seed % 2] * rng.normal(size=rows.shape)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (text, video)]
    given = [None, "video"][seed // 2 % 2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        result = crossmodal(torch.from_numpy(text).to(device), video, own, recall_at=CUTOFFS, group_by=given)
    scores = np.array([[float(np.dot(t, v)) for v in unit[1]] for t in unit[0]])
    check(result, naive(scores, own.tolist(), given == "video"))
    assert result.counts["dimensions"] == 3


def clip4clip(scores, own):
    """That repository's way, from its description: sorted rows against the diagonal; best text of each video."""

    def summarise(ranks, median):
        found = {f"recall@{k}": float((ranks < k).mean()) for k in CUTOFFS}
        return found | {"median_rank": float(median(ranks)) + 1, "mean_rank": float(ranks.mean()) + 1}

    def by_diagonal(square):
        ordered = np.sort(-square, axis=1)
        return np.where(ordered - np.diag(-square)[:, None] == 0)[1]

    if len(own) == scores.shape[1]:
        t2v, median = by_diagonal(scores), np.median
    else:  # several texts a video: places in the sorted row, and the lower median of torch
        t2v = np.argsort(np.argsort(-scores, axis=1), axis=1)[np.arange(len(own)), own]
        median = lambda ranks: torch.from_numpy(ranks).median()
    best = np.stack([scores[own == c].max(0) for c in range(scores.shape[1])])
    found = {f"t2v/{name}": value for name, value in summarise(t2v, median).items()}
    return found | {f"v2t/{name}": value for name, value in summarise(by_diagonal(best.T), np.median).items()}


@pytest.mark.parametrize("captions", [1, 4])
def test_clip4clip_without_ties(captions):
    rng = np.random.default_rng(captions)
    own = np.repeat(np.arange(30), captions)
    scores = rng.normal(size=(len(own), 30)) + 1.5 * (own[:, None] == np.arange(30))
    result = crossmodal(similarity=scores, video_of_text=own, recall_at=CUTOFFS, compat="clip4clip")
    expected = clip4clip(scores, own)
    assert {name: result[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert "group_by=video" in result.definitions["convention"]
    assert "compat=clip4clip" in result.definitions["convention"]
    ours = crossmodal(similarity=scores, video_of_text=own, recall_at=CUTOFFS)
    assert (ours["v2t/mean_rank"] > result["v2t/mean_rank"]) == (captions > 1)
    assert (ours["t2v/median_rank"] - result["t2v/median_rank"]) in (0.0, 0.5)


def test_the_lower_median_is_asked_for_only_by_compat():
    own, scores = [0, 0, 1, 1], np.array([[3.0, 2.0], [3.0, 4.0], [5.0, 4.0], [0.0, 1.0]])  # ranks 1, 2, 2, 1
    assert crossmodal(similarity=scores, video_of_text=own, recall_at=(1,))["t2v/median_rank"] == 1.5
    result = crossmodal(similarity=scores, video_of_text=own, recall_at=(1,), compat="clip4clip")
    assert result["t2v/median_rank"] == 1.0
    assert "lower of two" in result.definitions["t2v/median_rank"]
    assert "mean of two" in result.definitions["v2t/median_rank"]


def test_reference_numbers_of_clip4clip():
    scores = np.array(
        [
            [0.198, -1.324, -0.248, 0.42, 1.136, 0.11, -0.553, -0.785],
            [0.749, 2.635, 0.273, -1.233, -0.958, 1.6, 0.203, -1.732],
            [-0.084, -1.163, 0.371, -0.488, -0.713, 0.553, -0.063, -0.589],
            [0.41, 0.83, -1.643, 0.743, -0.981, -0.173, -1.289, 0.021],
            [-0.038, -0.304, -1.048, -0.396, -0.091, -1.355, 0.225, -1.109],
            [1.17, 0.717, -1.998, 0.272, -1.102, 1.033, 0.044, -1.988],
            [-0.233, -0.256, 0.962, -1.181, 0.738, -1.099, 0.669, -0.84],
            [1.449, 0.568, 2.432, 0.642, 0.845, 0.841, -0.607, 0.93],
        ]
    )
    for compat in (None, "clip4clip"):
        with pytest.warns(UserWarning, match=r"recall@10 asks for more than the 8 items"):
            result = crossmodal(similarity=scores, compat=compat)
        assert (result.per_query["rank"] - 1).tolist() == [2, 0, 1, 1, 2, 1, 2, 2, 4, 0, 2, 0, 3, 1, 0, 0]
        assert [result[f"t2v/{n}"] for n in ("recall@1", "median_rank", "mean_rank")] == [0.125, 2.5, 2.375]
        assert [result[f"v2t/{n}"] for n in ("recall@1", "median_rank", "mean_rank")] == [0.5, 1.5, 2.25]
    ties = np.array([[2.0, 1, 2, 0], [3, 1, 0, 1], [5, 4, 4, 4], [0, 1, 2, 3]])
    tied = crossmodal(similarity=ties, recall_at=(1,))
    assert (tied["t2v/recall@1"], tied["t2v/recall@1/optimistic"]) == (0.25, 0.5)  # never 2 of 8, never a row twice


def test_a_collapsed_model_finds_nothing():
    own = np.repeat(np.arange(4), 3)
    for group_by, last in ((None, 10), ("video", 4)):
        result = crossmodal(np.ones((12, 5)), np.ones((4, 5)), own, recall_at=(1,), group_by=group_by)
        assert result["t2v/recall@1"] == result["v2t/recall@1"] == 0.0
        assert (result["t2v/mean_rank"], result["v2t/mean_rank"]) == (4, last)
        assert result["v2t/recall@1/optimistic"] == 1.0


def test_ids_tables_and_files(tmp_path):
    rng = np.random.default_rng(5)
    scores = rng.normal(size=(6, 4)).astype(np.float32)
    names, right = ["a", "b", "c", "d"], ["c", "a", "a", "d", "c", "c"]
    plain = crossmodal(similarity=scores, video_of_text=[2, 0, 0, 3, 2, 2], recall_at=(1,))
    ids = [f"caption {i}" for i in range(6)]
    result = crossmodal(
        similarity=scores, video_of_text=np.array(right, dtype=object), video_ids=names, text_ids=ids, recall_at=(1,)
    )
    assert dict(result) == dict(plain)
    table = result.per_query
    assert table["id"].tolist() == [*ids, *names]
    assert table["video"].tolist() == [*right, *names]
    assert table["relevant"].tolist() == [1] * 6 + [2, 0, 3, 1]
    assert table["rank"].isna().tolist() == [False] * 7 + [True, False, False]
    assert result.counts == {
        "texts": 6, "videos": 4, "most_texts": 3, "t2v/evaluated": 6, "t2v/without_relevant": 0, "t2v/tied": 0,
        "v2t/evaluated": 3, "v2t/without_relevant": 1, "v2t/tied": 0,
    }  # fmt: skip
    assert set(result.to_dict()["definitions"]) == {*result, "convention"}
    mapped = np.lib.format.open_memmap(tmp_path / "s.npy", mode="w+", dtype=np.float32, shape=scores.shape)
    mapped[:] = scores
    for given in (mapped, scores.tolist(), torch.from_numpy(scores), scores.astype(">f4"), np.asfortranarray(scores)):
        before = np.asarray(given).copy()
        same = crossmodal(similarity=given, video_of_text=[2, 0, 0, 3, 2, 2], recall_at=(1,), group_by=None)
        assert dict(same) == pytest.approx(dict(plain))
        np.testing.assert_array_equal(np.asarray(given), before)  # the caller's scores stay as they are


@pytest.mark.parametrize("start", [1.2e-6, -1.2e-6])
def test_ties_between_two_float32_numbers(start):
    # Here 1e-12 is 8.8 float32 steps: 8 are a tie and 9 are not, whichever way a bound would be rounded.
    rng, own = np.random.default_rng(9), np.arange(12)
    steps = rng.integers(-10, 11, size=(12, 12))
    scores = (np.float32(start) + np.float32(2.0**-43) * steps.astype(np.float32)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        check(crossmodal(similarity=scores, recall_at=CUTOFFS), naive(scores, own.tolist(), False))


def test_intervals_hold_their_metric():
    rng = np.random.default_rng(6)
    own = np.repeat(np.arange(40), 3)
    easy = rng.choice([0, 5], size=40)  # all texts of a video or none
    scores = rng.normal(size=(120, 40)) + easy * (own[:, None] == np.arange(40))
    result = crossmodal(similarity=scores.round(1), video_of_text=own, recall_at=(1, 5))
    for name, value in result.items():
        low, high = result.interval(name)
        assert low <= value <= high, name
    low, high = result.interval("t2v/recall@1")
    share = result["t2v/recall@1"]
    assert (high - low) / 2 == pytest.approx(1.96 * (share * (1 - share) / 120) ** 0.5, rel=0.15)
    wide = result.interval("t2v/recall@1", by="class")
    assert wide[1] - wide[0] > 1.4 * (high - low)
    with pytest.raises(InputError, match="no metric 't2v/recall@2' was computed"):
        result.interval("t2v/recall@2")
    with pytest.raises(InputError, match="by='video' is not known"):
        result.interval("t2v/recall@1", by="video")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("compat", [None, "clip4clip"])
@pytest.mark.parametrize("own", [True, False])
def test_scores_that_are_no_numbers_raise(monkeypatch, value, compat, own):
    monkeypatch.setattr(crossscores, "CACHED", 10)
    scores = np.eye(5)
    scores[3, 3 if own else 1] = value
    scores[4, 2] = np.nan
    with pytest.raises(InputError, match=rf"text 3 with video {3 if own else 1} is {value}; 2 of 25 scores"):
        crossmodal(similarity=scores, recall_at=(1,), compat=compat)


def test_huge_finite_scores_are_fine():
    scores = np.full((3, 3), -3e38, dtype=np.float32)
    np.fill_diagonal(scores, 3e38)
    assert crossmodal(similarity=-scores, recall_at=(1,))["t2v/mean_rank"] == 3
    assert crossmodal(similarity=scores, recall_at=(1,))["t2v/recall@1"] == 1


GOOD = np.ones((3, 2))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "text and video are missing"),
        ({"text": GOOD}, "video is missing"),
        ({"video": GOOD}, "text is missing"),
        ({"text": GOOD, "video": GOOD, "similarity": np.eye(3)}, "both similarity and embeddings"),
        ({"similarity": np.eye(3), "video": GOOD}, "both similarity and embeddings"),
        ({"text": GOOD, "video": np.ones((3, 4))}, "text has 2 dimensions and video has 4"),
        ({"text": GOOD * np.nan, "video": GOOD}, "text: row 0 holds NaN"),
        ({"text": GOOD, "video": GOOD * 0, "video_ids": list("abc")}, r"video: row 0 \(id 'a'\) is all zero"),
        ({"similarity": np.ones(3)}, r"expected a matrix \(texts, videos\)"),
        ({"similarity": np.ones((0, 3))}, "not empty"),
        ({"similarity": np.eye(3) * 1j}, "expected real numbers"),
        ({"similarity": [["a"]]}, "expected real numbers"),
        ({"similarity": np.ones((4, 3))}, "4 texts and 3 videos: say by video_of_text"),
        (
            {"similarity": np.ones((4, 3)), "video_of_text": [0, 1, 2]},
            "video_of_text has 3 values but there are 4 texts",
        ),
        (
            {"similarity": np.ones((2, 3)), "video_of_text": [0, 3]},
            r"text '1' \(row 1\) belongs to video '3', but posi",
        ),
        ({"similarity": np.ones((2, 3)), "video_of_text": [-1, 0]}, "positions go from 0 to 2"),
        ({"similarity": np.eye(2), "video_of_text": ["a", "b"]}, "give video_ids too"),
        ({"similarity": np.eye(2), "video_of_text": ["a", "b"], "video_ids": ["a", "c"]}, "'b', but it is not among"),
        ({"similarity": np.eye(2), "video_ids": ["a", "a"]}, "video_ids: 'a' stands at positions 0 and 1"),
        ({"similarity": np.eye(2), "text_ids": [1, 1]}, "text_ids: '1' stands at positions 0 and 1"),
        ({"similarity": np.eye(2), "text_ids": [1]}, "text_ids has 1 values but there are 2 texts"),
        ({"similarity": np.eye(2), "compat": "clip2clip"}, "did you mean|Did you mean"),
        ({"similarity": np.eye(2), "group_by": "text"}, "group_by='text' is not known"),
        ({"similarity": np.eye(2), "recall_at": (0,)}, "whole numbers >= 1"),
    ],
)
def test_bad_input(given, message):
    with pytest.raises(InputError, match=message):
        crossmodal(**({"recall_at": (1,)} | given))
