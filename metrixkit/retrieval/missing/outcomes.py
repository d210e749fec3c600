"""How good predictions are: of numbers (regression) and of classes.

N items.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metrixkit.errors import InputError

REGRESSION = {
    "mae": "Mean absolute error, in the units of the values; lower is better.",
    "pearson": "Pearson correlation of predictions and values, in [-1, 1].",
    "accuracy": "Of the items whose value is not 0, the share whose prediction has the right sign (positive: > 0).",
    "weighted_f1": "Of the same items, F1 of both signs, weighted by how often each is the true one.",
}
CLASSIFICATION = {
    "accuracy": "Share of items whose class is predicted.",
    "macro_f1": "Mean over classes of F1.",
}
LOWER_IS_BETTER = frozenset({"mae"})


def regression_outcome(predicted: Any, values: Any, official: bool = False) -> dict[str, float]:
    """Return mae, pearson, accuracy and weighted_f1 of predicted numbers.

    What the values cannot tell is left out: the pearson correlation where all are equal, accuracy and weighted_f1 of
    the sign where all are of one, which a model that always says so would have perfect.

    Args:
        predicted: (N,) or (N, 1) finite numbers.
        values: (N,) or (N, 1) true ones; 0 is neutral and counts for mae and pearson only.
        official: Weigh F1 by how often each sign is *predicted*, as the released code does by mistake.

    Raises:
        InputError: Lengths that differ, no items, numbers that are not finite, or no value other than 0.

    Source: the protocol of CMU-MOSEI in Poklukar et al., ICML 2022.
    """
    p, v = _numbers(predicted, "predicted"), _numbers(values, "values")
    if p.shape != v.shape or not len(p):
        raise InputError(f"predicted has {len(p)} numbers, values {len(v)}; expected the same count, not 0.")
    signed = v != 0
    if not signed.any():
        raise InputError("all values are 0, so that no sign can be right or wrong.")
    centred = p - p.mean(), v - v.mean()
    lengths = float(np.linalg.norm(centred[0]) * np.linalg.norm(centred[1]))
    truth, guess = v[signed] > 0, p[signed] > 0
    found = {"mae": float(np.abs(p - v).mean())}
    if (v != v[0]).any():
        # A constant prediction tells nothing: it correlates with nothing.
        found["pearson"] = float(centred[0] @ centred[1]) / lengths if lengths > 0 else 0.0
    if truth.any() and not truth.all():
        scores, right = _f1(truth, guess), guess if official else truth
        found["accuracy"] = float((truth == guess).mean())
        found["weighted_f1"] = float(scores[True] * right.mean() + scores[False] * (1 - right.mean()))
    return found


def classification_outcome(predicted: Any, labels: Any) -> dict[str, float]:
    """Return accuracy and macro_f1 of (N,) predicted classes; classes of `labels` or `predicted` alone count.

    Raises:
        InputError: Lengths that differ, no items, or items of one class, which one answer would have all right.
    """
    p, v = np.asarray(predicted), np.asarray(labels)
    if p.shape != v.shape or p.ndim != 1 or not len(p):
        raise InputError(f"predicted has shape {p.shape}, labels {v.shape}; expected the same (N,), not empty.")
    if (v == v[0]).all():
        raise InputError(f"all {len(v)} items are of one class ({str(v[0])!r}); accuracy needs two or more.")
    scores = [_f1(v == name, p == name)[True] for name in np.unique(np.concatenate([p, v]))]
    return {"accuracy": float((p == v).mean()), "macro_f1": float(np.mean(scores))}


def nearest_mean(train: Any, labels: Any) -> Callable[[Any], NDArray]:
    """Return what gives (N, d) embeddings the class whose mean of unit training rows has the greatest cosine."""
    rows, names = _unit(train), np.asarray(labels)
    classes = np.unique(names)
    means = _unit(np.stack([rows[names == name].mean(axis=0) for name in classes]))
    return lambda found: classes[(_unit(found) @ means.T).argmax(axis=1)]


def linear_probe(train: Any, labels: Any, seed: int = 0) -> Callable[[Any], NDArray]:
    """Return a logistic regression on (N, d) training embeddings, standardised by their own mean and deviation."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, random_state=seed))
    model.fit(np.asarray(train, dtype=np.float64), np.asarray(labels))
    return lambda found: np.asarray(model.predict(np.asarray(found, dtype=np.float64)))


def ridge_probe(train: Any, values: Any, strength: float = 1.0) -> Callable[[Any], NDArray]:
    """Return a ridge regression on (N, d) training embeddings, for models that predict no number themselves."""
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), Ridge(alpha=strength))
    model.fit(np.asarray(train, dtype=np.float64), _numbers(values, "values"))
    return lambda found: np.asarray(model.predict(np.asarray(found, dtype=np.float64)))


def _f1(truth: NDArray, guess: NDArray) -> dict[bool, float]:
    found = {}
    for sign in (True, False):
        both = int(((truth == sign) & (guess == sign)).sum())
        total = int((truth == sign).sum() + (guess == sign).sum())
        found[sign] = 2 * both / total if total else 0.0
    return found


def _numbers(values: Any, name: str) -> NDArray[np.float64]:
    try:
        found = np.asarray(values, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: expected numbers ({error}).") from error
    if not np.isfinite(found).all():
        raise InputError(f"{name}: number {int(np.argmax(~np.isfinite(found)))} is not finite.")
    return found


def _unit(rows: Any) -> NDArray[np.float64]:
    found = np.asarray(rows, dtype=np.float64)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
