"""The score below which the answer is "no match", set for a wanted share of false matches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.labels import read_labels
from metrixkit.retrieval.exact.rows import Rows

QUERIES = 1024  # scored at once
ASKED = 1024  # indexed items that are asked for another one of their own label
MOST_REJECTED = 0.5  # of right answers; a threshold above it needs to be forced


@dataclass(frozen=True)
class Threshold:
    """How near is near enough, and where that comes from.

    Attributes:
        value: A score of at least this is a match; float32.
        false_match_rate: Wanted share of queries without a counterpart that are matched all the same.
        source: What the scores were: "scores", "strangers" or "validation".
        impostors: Scores it was set on, of queries without a counterpart.
        measured_false_match_rate: Share of those at `value` or above; at most `false_match_rate`.
        genuine: Scores of queries with one, its right answers; 0 where none were given.
        true_match_rate: Share of those at `value` or above, or None.
        gallery: Items that were searched for the impostors' scores, or None where the caller had the scores. A larger
            gallery offers strangers more chances: set the threshold again when the index has grown much.
    """

    value: float
    false_match_rate: float
    source: str
    impostors: int
    measured_false_match_rate: float
    genuine: int = 0
    true_match_rate: float | None = None
    gallery: int | None = None

    @property
    def false_rejection_rate(self) -> float | None:
        """Share of the right answers it was set on that are rejected; None where none were given."""
        return None if self.true_match_rate is None else 1 - self.true_match_rate

    def refuse_rejecting(self) -> None:
        """Raise InputError where more than half of the right answers would be rejected."""
        rejected = self.false_rejection_rate
        if rejected is not None and rejected > MOST_REJECTED:
            raise InputError(
                f"a threshold of {self.value:.4f} keeps the false matches at {100 * self.false_match_rate:.3g} % and "
                f"rejects {100 * rejected:.1f} % of the {self.genuine} right answers it was set on: most searches for "
                "something that is there would find nothing. Ask for a higher --false-match-rate (Python: "
                "false_match_rate=), train a better model, or store it all the same with --force (Python: force=True)."
            )


def threshold_from_scores(
    false_match_rate: float, impostor: Any, genuine: Any = None, source: str = "scores", gallery: int | None = None
) -> Threshold:
    """Return the lowest threshold at which at most the wanted share of impostor scores match.

    Args:
        false_match_rate: In (0, 1).
        impostor: (n,) best scores of queries without a counterpart; at least 1 / `false_match_rate` of them.
        genuine: (m,) scores of queries with their counterpart, or None.
        source: See :class:`Threshold`.
        gallery: See :class:`Threshold`.

    Raises:
        InputError: A rate outside (0, 1), too few scores to tell it, or scores that are not finite.
    """
    if not 0 < false_match_rate < 1:
        raise InputError(f"false_match_rate={false_match_rate}: expected a share between 0 and 1, such as 0.01.")
    ordered = np.sort(_scores(impostor, "impostor scores"))[::-1]
    allowed = int(np.floor(false_match_rate * len(ordered) + 1e-9))
    if allowed < 1:
        raise InputError(
            f"false_match_rate={false_match_rate:g} cannot be told from {len(ordered)} impostor scores: it takes at "
            f"least {int(np.ceil(1 / false_match_rate - 1e-9))}. Give more of them, or ask for a higher rate."
        )
    # Just above the first score that must not match; scores equal to it do not match either.
    value = np.nextafter(ordered[allowed], np.float32(np.inf))
    mates = None if genuine is None else _scores(genuine, "genuine scores")
    return Threshold(
        float(value),
        float(false_match_rate),
        source,
        len(ordered),
        float((ordered >= value).mean()),
        0 if mates is None else len(mates),
        None if mates is None else float((mates >= value).mean()),
        gallery,
    )


def validation_scores(rows: Rows, labels: Any, euclidean: bool) -> tuple[np.ndarray, np.ndarray]:
    """Search validation items among one another as if the class of each were unknown, and then as if it were known.

    Args:
        rows: (N, d) validation rows.
        labels: (N,) their labels.
        euclidean: Whether scores are negative squared distances, else dot products.

    Returns:
        impostor (N,) float32, the best score of each item with any of another label; genuine (M,) float32, its best
        with another item of its own, for the items that have one.

    Raises:
        InputError: Labels that do not fit, or of one class only.
    """
    names = read_labels(labels, "labels")
    if len(names) != rows.count:
        raise InputError(f"labels has {len(names)} values but there are {rows.count} embeddings.")
    classes, codes = np.unique(names, return_inverse=True)
    if len(classes) < 2:
        raise InputError("labels: all validation items bear one label; there is no impostor among them.")
    impostor, genuine = np.empty(rows.count), np.empty(rows.count)
    gallery = rows.take(slice(None)).cpu()
    for start in range(0, rows.count, QUERIES):
        block = gallery[start : start + QUERIES]
        scores = block @ gallery.T
        if euclidean:
            scores = -(block.square().sum(1)[:, None] + gallery.square().sum(1) - 2 * scores).clamp(min=0)
        table = scores.numpy()
        same = codes[start : start + QUERIES, None] == codes
        piece = slice(start, start + len(block))
        impostor[piece] = np.where(same, -np.inf, table).max(axis=1)
        same[np.arange(len(block)), np.arange(start, start + len(block))] = False
        genuine[piece] = np.where(same, table, -np.inf).max(axis=1)
    return impostor.astype(np.float32), genuine[np.isfinite(genuine)].astype(np.float32)


def scores_within(
    labels: np.ndarray | None, reconstruct: Callable[[np.ndarray], np.ndarray], euclidean: bool, seed: int = 0
) -> np.ndarray | None:
    """Return the best score of indexed items with another one of their own label: right answers that an index knows of.

    Args:
        labels: (N,) of the items, or None.
        reconstruct: (n,) positions among these to their (n, d) float32 vectors.
        euclidean: Whether scores are negative squared distances, else dot products.
        seed: Which items are asked, where more than :data:`ASKED` have another one.

    Returns:
        (m,) float32, m <= :data:`ASKED`; None without labels, or where no two items share one.
    """
    if labels is None:
        return None
    codes, counts = np.unique(labels, return_inverse=True, return_counts=True)[1:]
    having = np.flatnonzero(counts[codes] > 1)
    if not len(having):
        return None
    asked = np.random.default_rng(seed).permutation(having)[:ASKED]
    best = []
    for code in np.unique(codes[asked]):
        members, own = np.flatnonzero(codes == code), asked[codes[asked] == code]
        rows, queries = reconstruct(members), reconstruct(own)
        scores = queries @ rows.T
        if euclidean:
            squares = np.square(queries).sum(1)[:, None] + np.square(rows).sum(1)
            scores = -np.maximum(squares - 2 * scores, 0)
        scores[own[:, None] == members] = -np.inf
        best.append(scores.max(axis=1))
    return np.concatenate(best).astype(np.float32)


def _scores(values: Any, name: str) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu().float().numpy()
    scores = np.asarray(values, dtype=np.float32)
    if scores.ndim != 1 or not len(scores) or not np.isfinite(scores).all():
        raise InputError(f"{name}: expected finite numbers, one a query, found shape {scores.shape}.")
    return scores
