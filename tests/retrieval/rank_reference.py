"""The ranks of the contract by naive loops, and cases that are made to be difficult."""

from dataclasses import dataclass

import numpy as np

TIE = 1e-12


@dataclass
class Case:
    """Queries and gallery (None: each query among the others) with labels, and ids where some are shared."""

    kind: str
    queries: np.ndarray
    labels: np.ndarray
    gallery: np.ndarray | None = None
    gallery_labels: np.ndarray | None = None
    ids: np.ndarray | None = None
    gallery_ids: np.ndarray | None = None

    @property
    def own(self) -> np.ndarray:
        if self.gallery is None:
            return np.arange(len(self.queries))
        if self.ids is None:
            return np.full(len(self.queries), -1)
        where = {name: place for place, name in enumerate(self.gallery_ids.tolist())}
        return np.array([where.get(name, -1) for name in self.ids.tolist()])


def naive_ranks(case: Case, distance: str = "cosine") -> list[tuple[list[int], list[int]]]:
    """Return, for each query, the pessimistic and optimistic ranks of its relevant items; word by word."""
    x = np.asarray(case.queries, dtype=np.float64)
    g = x if case.gallery is None else np.asarray(case.gallery, dtype=np.float64)
    labels = case.labels if case.gallery is None else case.gallery_labels
    if distance == "cosine":
        x, g = (rows / np.sqrt((rows**2).sum(1, keepdims=True)) for rows in (x, g))
    found = []
    for q, own in enumerate(case.own):
        score = -((x[q] - g) ** 2).sum(1) if distance == "euclidean" else (g * x[q]).sum(1)
        relevant = labels == case.labels[q]
        others = score[~relevant]
        if own >= 0:
            relevant[own] = False
        nearest = np.sort(score[relevant])[::-1]
        worse = [t + int((others >= s - TIE).sum()) for t, s in enumerate(nearest, 1)]
        better = [t + int((others > s + TIE).sum()) for t, s in enumerate(nearest, 1)]
        found.append((worse, better))
    return found


def _grid(rng, n, d):  # many exact ties and duplicates, of either sign
    rows = rng.integers(-2, 3, size=(n, d)).astype(np.float64)
    rows[np.abs(rows).sum(1) == 0, 0] = 1.0
    return rows


def _duplicates(rng, n, d):
    return rng.normal(size=(max(2, n // 4), d)).astype(np.float32)[rng.integers(0, max(2, n // 4), size=n)]


def _scaled_duplicates(rng, n, d):
    return _duplicates(rng, n, d).astype(np.float64) * 2.0 ** rng.integers(-3, 4, size=(n, 1))


def _near(scale):
    def rows(rng, n, d):  # scores apart by about `scale`, far from the rounding of float64 but below lower precision
        base = rng.normal(size=(max(2, n // 6), d))[rng.integers(0, max(2, n // 6), size=n)]
        return base + scale * rng.integers(-3, 4, size=(n, d))

    return rows


def _near_1e12(rng, n, d):
    # On the circle through two axes the score with the first axis is cos(angle): steps of 3e-13, 2e-12 and more.
    d = max(2, d)
    rows = np.zeros((n, d))
    angle = np.pi / 3 + rng.choice([0, 0.35e-12, 2.5e-12, 1e-11, 1e-9], size=n) * rng.choice([-1, 1], size=n)
    rows[:, 0], rows[:, 1] = np.cos(angle), np.sin(angle)
    rows[rng.random(n) < 0.4] = np.eye(d)[0]
    return rows


def _collapsed(rng, n, d):
    return np.repeat(rng.normal(size=(1, d)), n, axis=0)


def _nearly_collapsed(rng, n, d):
    return np.ones((1, d)) + 1e-4 * rng.normal(size=(n, d))


def _opposite(rng, n, d):  # most scores negative
    rows = rng.normal(size=(n, d)) + 2
    return rows * rng.choice([-1, 1], size=(n, 1))


def _bfloat16(rng, n, d):  # exact in bfloat16, scores often just beside its steps
    rows = (np.round(rng.normal(size=(n, d)) * 8) / 8 + 0.125).astype(np.float32)
    rows[np.abs(rows).sum(1) == 0, 0] = 1.0
    return rows


def _normal(rng, n, d):
    return rng.normal(size=(n, d)).astype(np.float32)


ROWS = {
    "grid": _grid,
    "duplicates": _duplicates,
    "scaled duplicates": _scaled_duplicates,
    "near 1e-3": _near(1e-3),
    "near 1e-7": _near(1e-7),
    "near 1e-12": _near_1e12,
    "collapsed": _collapsed,
    "nearly collapsed": _nearly_collapsed,
    "opposite": _opposite,
    "bfloat16": _bfloat16,
    "normal": _normal,
}


def _labels(rng, n):
    how = rng.integers(0, 4)
    if how == 0:
        return np.zeros(n, dtype=np.int64)  # one class
    if how == 1:
        return np.minimum(rng.geometric(0.4, size=n), 6)  # unbalanced
    return rng.integers(0, max(2, n // (2 if how == 2 else 5)), size=n)


def random_case(seed: int, most: int = 70) -> Case:
    """Return the case of a seed: 3 to `most` rows in 2 to 40 dimensions."""
    rng = np.random.default_rng(seed)
    kind = list(ROWS)[seed % len(ROWS)]
    n, d = int(rng.integers(3, most)), int(rng.integers(2, 41))
    rows, labels = ROWS[kind](rng, n, d), _labels(rng, n)
    setting = rng.integers(0, 3)
    if setting == 0 or n < 6:
        return Case(kind, rows, labels)
    split = int(rng.integers(2, n - 2))
    if setting == 1:
        return Case(kind, rows[:split], labels[:split], rows[split:], labels[split:])
    # Some items are queries and gallery; the gallery has an order of its own.
    start = int(rng.integers(0, split))
    there = rng.permutation(np.arange(start, n))
    names = np.array([f"img/{i}" for i in range(n)])
    return Case(kind, rows[:split], labels[:split], rows[there], labels[there], names[:split], names[there])


def settled(case: Case) -> bool:
    """Return whether float64 decides the case: no two scores of a query apart by 1e-12 give or take its rounding."""
    x = np.asarray(case.queries, dtype=np.float64)
    g = x if case.gallery is None else np.asarray(case.gallery, dtype=np.float64)
    x, g = (rows / np.sqrt((rows**2).sum(1, keepdims=True)) for rows in (x, g))
    score = x @ g.T
    gaps = np.abs(score[:, :, None] - score[:, None, :])
    return not bool((np.abs(gaps - TIE) < 2e-15).any())
