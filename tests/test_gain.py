"""The change by training against a plain loop, its words, its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metrixkit.errors import InputError
from metrixkit.gain import PerQuery, gain_of, in_words, load_per_query, run_gain, save_per_query
from metrixkit.report.sentence import how_sure, nothing_judged, verdict


def per_query(values: np.ndarray, classes: int = 10, order: np.ndarray | None = None) -> PerQuery:
    ids = np.array([f"q{i}" for i in range(len(values))])
    names = np.array([f"c{i % classes}" for i in range(len(values))])
    order = np.arange(len(values)) if order is None else order
    return PerQuery("recall@1", ids[order], names[order], np.asarray(values, dtype=np.float64)[order])


def drawn(share: float, seed: int, count: int = 400) -> np.ndarray:
    return (np.random.default_rng(seed).random(count) < share).astype(float)


def test_the_interval_is_of_pairs() -> None:
    before = drawn(0.5, 0)
    after = before.copy()
    after[np.flatnonzero(before == 0)[:20]] = 1
    found = gain_of(per_query(before), per_query(after, order=np.random.default_rng(3).permutation(400)))
    assert found["change"] == pytest.approx(0.05)
    draw = np.random.default_rng(9)
    gaps = after - before
    loop = np.quantile([gaps[draw.integers(400, size=400)].mean() for _ in range(4000)], [0.025, 0.975])
    assert (found["low"], found["high"]) == pytest.approx(loop, abs=0.004)
    # Two independent samples of these shares would be far wider, and hold zero.
    assert found["high"] - found["low"] < 0.05
    assert not found["may_be_chance"]


def test_a_gain_of_one_class_may_be_chance_though_its_queries_are_many() -> None:
    before, after = np.zeros(400), np.zeros(400)
    after[::10] = 1  # one class of ten
    found = gain_of(per_query(before), per_query(after))
    assert found["low"] > 0
    assert found["by_class"][0] == 0
    assert found["may_be_chance"]
    assert gain_of(per_query(before, 1), per_query(after, 1))["by_class"] is None
    assert gain_of(per_query(before, 400), per_query(after, 400))["by_class"] is None


def test_changes_that_cannot_be_told() -> None:
    some = per_query(drawn(0.5, 0))
    with pytest.raises(InputError, match="other queries"):
        gain_of(per_query(drawn(0.5, 0, 399)), some)
    with pytest.raises(InputError, match="cannot be compared"):
        gain_of(PerQuery("map@r", some.ids, some.classes, some.values), some)
    with pytest.raises(InputError, match="finite"):
        per_query(np.array([0.0, np.nan]))


def test_the_file_and_what_is_said_without_it(tmp_path: Path) -> None:
    some = per_query(drawn(0.5, 0))
    assert "is missing" in run_gain(tmp_path, some)["none"]
    save_per_query(tmp_path / "before.npz", some)
    kept = load_per_query(tmp_path / "before.npz")
    assert kept.metric == some.metric
    assert all((getattr(kept, name) == getattr(some, name)).all() for name in ("ids", "classes", "values"))
    assert run_gain(tmp_path, some)["change"] == 0
    assert "no mean over queries" in run_gain(tmp_path, None)["none"]
    (tmp_path / "before.npz").write_bytes((tmp_path / "before.npz").read_bytes()[:60])
    assert "cannot be read" in run_gain(tmp_path, some)["none"]


def test_words() -> None:
    results = {
        "metrics": {"recall@1": 0.634},
        "before": {"recall@1": 0.609},
        "gain": {"metric": "recall@1", "low": -0.01, "high": 0.06, "by_class": [-0.04, 0.09], "level": 0.95,
                 "may_be_chance": True},
    }  # fmt: skip
    assert in_words(results["gain"]) == "-1.0 to +6.0 with 95 % confidence, -4.0 to +9.0 drawing whole classes"
    assert verdict(results) == (
        "recall@1 rose from 60.9 % before training to 63.4 % (+2.5 points) (-1.0 to +6.0 with 95 % confidence, -4.0 to "
        "+9.0 drawing whole classes), which may be chance.",
        False,
    )
    sure = {**results, "gain": {**results["gain"], "low": 0.01, "by_class": None, "may_be_chance": False}}
    assert how_sure(sure) == " (+1.0 to +6.0 with 95 % confidence)"
    assert verdict(sure)[1]
    # Result files of earlier versions, and torn ones.
    for gain in (None, {"none": "why"}, {"metric": "recall@1", "low": "x", "high": 1, "level": 0.95}, [1]):
        assert how_sure({**results, "gain": gain}) == ""
    chosen = {"metric": "validation/recall@1", "best": 0.875}
    assert "87.5 %, which is the best of several" in nothing_judged({"validation": chosen})
