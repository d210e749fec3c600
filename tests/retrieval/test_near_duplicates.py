"""Near-duplicates and doubtful labels against plain loops."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from metrixkit.errors import InputError
from metrixkit.retrieval import doubtful_labels, near_duplicates

module = sys.modules["metrixkit.retrieval.near_duplicates"]  # the package's name is the function


def some(count: int, dim: int, seed: int, copies: int = 40, near: float = 1e-2) -> np.ndarray:
    """Random rows of any length; some are others again, give or take a little."""
    draw = np.random.default_rng(seed)
    rows = draw.normal(size=(count, dim)) * draw.uniform(0.1, 10, (count, 1))
    a, b = draw.permutation(count)[: 2 * copies].reshape(2, copies)
    rows[b] = rows[a] * 3 + near * draw.normal(size=(copies, dim)) * draw.integers(0, 40, (copies, 1))
    return rows


def by_loop(rows: np.ndarray, threshold: float) -> tuple[set[tuple[int, int]], list[int]]:
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = unit @ unit.T
    pairs = {(int(i), int(j)) for i, j in np.argwhere(cosines >= threshold - 1e-12) if i < j}
    group = list(range(len(rows)))
    changed = True
    while changed:
        changed = False
        for i, j in pairs:
            low = min(group[i], group[j])
            changed |= group[i] != low or group[j] != low
            group[i] = group[j] = low
    return pairs, group


@pytest.mark.parametrize("precision", ["auto", "float64", "float32", "bfloat16"])
@pytest.mark.parametrize("threshold", [0.98, 0.5, 1.0])
def test_all_pairs_as_by_a_loop(monkeypatch: pytest.MonkeyPatch, precision: str, threshold: float) -> None:
    monkeypatch.setattr(module, "ROWS", 64)
    monkeypatch.setattr(module, "COLUMNS", 96)
    for seed in range(3):
        rows = some(300, 6, seed)
        rows[7] = rows[250]
        found = near_duplicates(rows, threshold, precision=precision)
        pairs, group = by_loop(rows, threshold)
        assert set(zip(found.first.tolist(), found.second.tolist(), strict=True)) == pairs
        assert found.group.tolist() == group
        assert (7, 250) in pairs
        assert list(zip(found.first, found.second, strict=True)) == sorted(zip(found.first, found.second, strict=True))


def test_the_screen_never_decides_at_the_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cosines 1e-7 and 1e-13 off the threshold, where bfloat16 and float32 cannot tell."""
    monkeypatch.setattr(module, "ROWS", 4)
    off = np.array([1e-7, -1e-7, 1e-13, -1e-13, 1e-10, -1e-10])
    cosines = 0.98 + off
    rows = np.concatenate([[[1.0, 0.0]], np.stack([cosines, np.sqrt(1 - cosines**2)], 1)])
    for precision in ("bfloat16", "float32", "float64"):
        found = near_duplicates(rows, 0.98, precision=precision)  # type: ignore[arg-type]
        assert found.second[found.first == 0].tolist() == [1, 3, 4, 5]


def test_no_pair_and_a_memory_map(tmp_path) -> None:
    np.save(tmp_path / "e.npy", np.eye(5, dtype=np.float32))
    found = near_duplicates(np.load(tmp_path / "e.npy", mmap_mode="r"))
    assert len(found) == 0
    assert found.group.tolist() == [0, 1, 2, 3, 4]


def test_duplicates_refuse_what_makes_no_sense() -> None:
    with pytest.raises(InputError, match="threshold=1.2"):
        near_duplicates(np.eye(3), 1.2)
    with pytest.raises(InputError, match="row 1 .* holds NaN"):
        near_duplicates(np.array([[1.0, 2.0], [np.nan, 1.0]]), ids=["a", "b"])
    with pytest.raises(InputError, match="more than 10 pairs among 20 items .* collapsed"):
        near_duplicates(np.ones((20, 3)), most=10)


def test_many_equal_items_are_one_group_of_few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HELD", 500)
    monkeypatch.setattr(module, "ROWS", 64)
    monkeypatch.setattr(module, "COLUMNS", 96)
    rows = np.concatenate([np.ones((70, 3)), some(90, 3, 0)])
    every = near_duplicates(rows, 0.999)
    few = near_duplicates(rows, 0.999, per_item=4)
    assert few.total == every.total == len(every) > 70 * 69 / 2
    assert len(few) <= 4 * 160
    assert few.group.tolist() == every.group.tolist()
    # Of each pair one item has it among its four best; of equal ones those with the lowest positions.
    pairs = list(zip(every.first.tolist(), every.second.tolist(), every.scores.tolist(), strict=True))
    wanted = set()
    for item in range(160):
        own = sorted((-score, a + b - item, a, b) for a, b, score in pairs if item in (a, b))
        wanted |= {(a, b) for _, _, a, b in own[:4]}
    assert set(zip(few.first.tolist(), few.second.tolist(), strict=True)) == wanted
    with pytest.raises(InputError, match="per_item=0"):
        near_duplicates(rows, per_item=0)


def test_doubtful_labels_as_by_a_loop() -> None:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 8, 120)
    rows = np.eye(8)[labels] + 0.25 * draw.normal(size=(120, 8))
    named = np.array([f"c{label}" for label in labels])
    wrong = [3, 50, 99]
    named[wrong] = [f"c{(labels[i] + 1) % 8}" for i in wrong]
    named[100] = "only one"
    found = doubtful_labels(rows, named, k=4)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -9)
    near = np.argsort(-cosines, axis=1, kind="stable")[:, :4]
    expected = {i for i in range(120) if i != 100 and all(named[j] != named[i] for j in near[i])}
    assert set(found.rows.tolist()) == expected >= set(wrong)
    assert found.alone == 1
    for row, votes, voted, nearest, score in zip(
        found.rows, found.votes, found.voted, found.nearest, found.scores, strict=True
    ):
        counts = {label: list(named[near[row]]).count(label) for label in named[near[row]]}
        assert votes == max(counts.values()) == counts[named[voted]]
        assert nearest == near[row, 0]
        assert score == pytest.approx(cosines[row, nearest], abs=1e-12)


def test_the_most_suspicious_come_first() -> None:
    draw = np.random.default_rng(1)
    labels = draw.integers(0, 6, 150)
    rows = np.eye(6)[labels] + 0.5 * draw.normal(size=(150, 6))
    found = doubtful_labels(rows, labels, k=3)
    keys = list(zip(-found.votes, -found.scores, strict=True))
    assert keys == sorted(keys)
    assert set(found.votes) >= {1, 2, 3}


def test_doubtful_labels_refuse_nonsense() -> None:
    with pytest.raises(InputError, match="k=0"):
        doubtful_labels(np.eye(3), [0, 0, 1], k=0)
    with pytest.raises(InputError, match="two or more"):
        doubtful_labels(np.eye(1), [0])
