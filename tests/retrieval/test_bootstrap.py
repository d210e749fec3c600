"""Intervals against resampling in a plain loop, and against what theory says of their width."""

import numpy as np
import pytest

from metrixkit.errors import InputError
from metrixkit.retrieval import bootstrap, evaluate
from metrixkit.retrieval.bootstrap import percentile_interval


def loop(values, units, summary, seed, samples=4000):
    """Draw whole units and take the mean or median of all their values."""
    rng = np.random.default_rng(seed)
    groups = [values[units == u] for u in np.unique(units)]
    drawn = [
        summary(np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))]))
        for _ in range(samples)
    ]
    return np.quantile(drawn, [0.025, 0.975])


@pytest.mark.sample(4)
@pytest.mark.parametrize("summary", ["mean", "median"])
@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize("kind", ["hits", "shares"])
def test_intervals_agree_with_a_loop(summary, clustered, kind):
    rng = np.random.default_rng(0)
    classes = np.repeat(np.arange(40), rng.integers(1, 12, size=40))
    values = rng.random(40)[classes] + 0.3 * rng.random(len(classes))
    values = np.round(4 * values) if kind == "hits" else values
    units = classes if clustered else np.arange(len(values))
    low, high = percentile_interval(
        values, samples=4000, seed=1, clusters=classes if clustered else None, summary=summary
    )
    expected = loop(values, units, getattr(np, summary), seed=2)
    spread = expected[1] - expected[0]
    assert np.abs(np.array([low, high]) - expected).max() <= 0.12 * spread + 1e-9


@pytest.mark.parametrize("count", [7, 8])
def test_each_resampled_median_is_numpys(count):
    values = np.random.default_rng(4).random(count)
    drawn = np.concatenate(list(bootstrap._draws(count, 50, 3, count)))
    np.testing.assert_array_equal(bootstrap._medians(values, 50, 3, None), np.median(values[drawn], axis=1))


def test_interval_of_an_evaluation():
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(50), 8)
    # Half of the classes are easy: hits come in whole classes.
    rows = rng.normal(size=(50, 16))[labels] + np.where(labels % 2, 0.2, 3.0)[:, None] * rng.normal(size=(400, 16))
    result = evaluate(rows, labels, recall_at=(1,), metrics=("map@r", "median_rank", "nmi"))
    share = result["recall@1"]
    low, high = result.interval("recall@1", samples=4000)
    wide = 2 * 1.96 * np.sqrt(share * (1 - share) / 400)
    assert low < share < high
    assert high - low == pytest.approx(wide, rel=0.08)
    by_class = result.interval("recall@1", by="class")
    assert by_class[1] - by_class[0] > 1.5 * (high - low)
    assert result.interval("recall@1", level=0.5)[0] > low
    assert result.interval("map@r")[0] < result["map@r"] < result.interval("map@r")[1]
    assert result.interval("recall@1", seed=1) == result.interval("recall@1", seed=1)
    kept = result.intervals()
    assert list(kept) == ["recall@1"]
    assert (kept["recall@1"]["low"], kept["recall@1"]["high"]) == result.interval("recall@1")
    assert kept["recall@1"]["by_class"] == list(by_class)
    for name, message in (("nmi", "no mean over queries"), ("recall@2", "no metric 'recall@2'")):
        with pytest.raises(InputError, match=message):
            result.interval(name)
    with pytest.raises(InputError, match="by='classes'"):
        result.interval("recall@1", by="classes")


def test_an_optimistic_value_has_its_own_interval():
    result = evaluate(np.ones((20, 3)), [i // 4 for i in range(20)], recall_at=(1,), metrics=())
    assert result.interval("recall@1") == (0.0, 0.0)
    assert result.interval("recall@1/optimistic") == (1.0, 1.0)


def test_queries_left_out_are_not_drawn():
    rows = np.array([[1.0, 0], [1, 0.1], [0, 1.0], [0.1, 1]] * 3 + [[-1.0, 0]] * 4)
    labels = ["a", "a", "b", "b"] * 3 + ["w", "x", "y", "z"]
    result = evaluate(rows, labels, recall_at=(1,), metrics=("mean_rank",))
    assert result.counts["without_relevant"] == 4
    assert result.interval("recall@1") == (1.0, 1.0)
    assert result.interval("mean_rank", by="class") == (1.0, 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": []}, "no value"),
        ({"level": 95}, "level=95"),
        ({"samples": 0}, "samples=0"),
        ({"clusters": np.zeros(2)}, "2 clusters for 3 values"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        percentile_interval(**({"values": np.arange(3.0)} | arguments))


@pytest.mark.parametrize("clusters", [None, np.array([0, 0, 1])])
def test_a_summary_that_is_not_known_is_refused(clusters) -> None:
    with pytest.raises(InputError, match=r"no summary is called 'medain'.*median"):
        percentile_interval(np.array([0.0, 1.0, 2.0]), clusters=clusters, summary="medain")
    with pytest.raises(InputError, match="value 1 is nan"):
        percentile_interval(np.array([0.0, np.nan, 2.0]), clusters=clusters)
