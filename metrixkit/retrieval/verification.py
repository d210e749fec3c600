"""Verification: are two items of one class? Decided by a threshold on their score, over all pairs, exactly.

Two passes over the scores. The first counts genuine and impostor scores in some two million bins. A false-match rate is
settled by one impostor score, so the second pass splits the bin that holds it (and the bin of the equal error rate)
another million times: to about 1e-12, where scores are equal by docs/definitions.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from metrixkit.errors import InputError
from metrixkit.retrieval.exact.rows import Distance
from metrixkit.retrieval.exact.score_bins import Bins, binned
from metrixkit.retrieval.exact.setting import Labels, Pair, label_up, pair_up

ROC_POINTS = 100  # along each axis, at most
ENOUGH = 10  # false matches that a rate should rest on


@dataclass(frozen=True)
class OperatingPoint:
    """What a threshold for a wanted false-match rate gives. A pair matches where its score is >= the threshold.

    Attributes:
        false_match_rate: Wanted at most.
        threshold: The lowest that keeps it, in scores (cosine, dot product or negative squared distance).
        true_accept_rate: Share of the genuine pairs that match.
        false_matches: Impostor pairs that match.
        impostors: Impostor pairs there are.
    """

    false_match_rate: float
    threshold: float
    true_accept_rate: float
    false_matches: int
    impostors: int

    @property
    def enough(self) -> bool:
        """Whether ten false matches or more could stand behind the rate; with fewer it is chance."""
        return self.impostors * self.false_match_rate >= ENOUGH * (1 - 1e-9)


@dataclass(frozen=True)
class Verification:
    """How well a threshold tells pairs of one class from pairs of two.

    Attributes:
        genuine: Pairs of one class.
        impostors: Pairs of two classes.
        auc: Area under the ROC: the share of (genuine, impostor) couples in order, equal ones half.
        auc_error: How far `auc` can be off, from couples that share a bin.
        eer: Equal error rate, where false matches and false non-matches are the same share.
        eer_threshold: The threshold there.
        points: One for each wanted false-match rate.
        roc: (P, 3) float64, P <= about 200 points of the ROC from the strictest on: threshold, false-match rate, true
            accept rate.
        distance: Of the scores.
    """

    genuine: int
    impostors: int
    auc: float
    auc_error: float
    eer: float
    eer_threshold: float
    points: tuple[OperatingPoint, ...]
    roc: np.ndarray = field(repr=False)
    distance: str

    def metrics(self) -> dict[str, float]:
        """Return the shares by name: verify/auc, verify/eer, verify/tar@fmr=RATE."""
        rates = {f"verify/tar@fmr={p.false_match_rate:g}": p.true_accept_rate for p in self.points}
        return {"verify/auc": self.auc, "verify/eer": self.eer, **rates}

    def definitions(self) -> dict[str, str]:
        """Return one sentence for each of :meth:`metrics`."""
        over = f"over {self.genuine} pairs of one class and {self.impostors} pairs of two; ties count against the model"
        rates = {
            f"verify/tar@fmr={p.false_match_rate:g}": f"Share of the pairs of one class that match at the lowest "
            f"threshold at which at most {p.false_match_rate:g} of the pairs of two classes match, {over}."
            + ("" if p.enough else " Too few pairs of two classes stand behind this rate: chance.")
            for p in self.points
        }
        return {
            "verify/auc": f"Share of couples of a pair of one class and one of two that score in that order, {over}.",
            "verify/eer": f"Rate at which false matches and false non-matches are the same share, {over}.",
            **rates,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers and strings, for a JSON file."""
        return {
            "genuine_pairs": self.genuine,
            "impostor_pairs": self.impostors,
            "auc": self.auc,
            "auc_error": self.auc_error,
            "eer": self.eer,
            "eer_threshold": self.eer_threshold,
            "points": [{**vars(p), "enough_impostors": p.enough} for p in self.points],
            "roc": {
                name: self.roc[:, i].tolist()
                for i, name in enumerate(("threshold", "false_match_rate", "true_accept_rate"))
            },
            "distance": self.distance,
            "rule": "a pair matches where its score is >= the threshold",
        }


@torch.no_grad()
def verify(
    embeddings: Any,
    labels: Any,
    gallery: Any = None,
    gallery_labels: Any = None,
    ids: Any = None,
    gallery_ids: Any = None,
    false_match_rates: Sequence[float] = (1e-2, 1e-3, 1e-4),
    distance: Distance = "cosine",
) -> Verification:
    """Return how well a threshold on the score decides whether two items are of one class.

    Without a gallery every unordered pair of different items counts once; with one, every pair of a query and a gallery
    item but itself. A pair weighs as a pair, so a large class weighs more. The threshold of a false-match rate f is
    the lowest for which at most f times the impostor pairs match; scores equal to the first that must not match do not
    match either, so ties count against the model.

    Args:
        embeddings: (Q, d) tensor, array or memory map.
        labels: (Q,) integers or strings.
        gallery: (N, d), or None.
        gallery_labels: (N,), with a gallery.
        ids: (Q,) unique, or None.
        gallery_ids: (N,) unique; ids that also stand in `ids` are the same item.
        false_match_rates: In (0, 1).
        distance: "cosine", "dot" or "euclidean".

    Raises:
        InputError: As :func:`~metrixkit.retrieval.evaluate`; a rate outside (0, 1); no genuine or no impostor pair.

    Source:
        ISO/IEC 19795-1, Biometric performance testing and reporting: false match and true accept rates.
    """
    for rate in false_match_rates:
        if not 0 < rate < 1:
            raise InputError(f"false_match_rates holds {rate!r}; expected rates between 0 and 1, such as 0.001.")
    pair = pair_up(embeddings, gallery, ids, gallery_ids, distance)
    coded = label_up(pair, labels, gallery_labels)
    genuine, impostors = _pair_counts(pair, coded)
    if not genuine or not impostors:
        raise InputError(
            f"verification needs pairs of one class and pairs of two; there are {genuine} and {impostors}. Does any "
            "class have two items, and are there two classes?"
        )
    bins, counts = binned(pair, coded)
    above = np.cumsum(counts[:, ::-1], axis=1)  # matches at the lower edge of the bins, from the top
    allowed = [min(math.floor(rate * impostors * (1 + 1e-12)), impostors - 1) for rate in false_match_rates]
    crossing = bins.number - 1 - _crossing(above, genuine, impostors)
    critical = [bins.number - 1 - int(np.searchsorted(above[1], m, side="right")) for m in allowed]
    split = bins.split(pair, coded, sorted({crossing, *critical}))
    points = []
    for rate, m, bin_ in zip(false_match_rates, allowed, critical, strict=True):
        matches = _matches(above, split[bin_], bins.number - 1 - bin_)
        place = int(np.searchsorted(matches[1], m, side="right")) - 1  # the last that is not too many
        accepted, wrong = (int(count) for count in matches[:, place])
        points.append(
            OperatingPoint(float(rate), bins.edge(bin_, bins.splits - place), accepted / genuine, wrong, impostors)
        )
    matches = _matches(above, split[crossing], bins.number - 1 - crossing)
    place = _crossing(matches, genuine, impostors)
    eer, threshold = _equal_error(matches, place, genuine, impostors), bins.edge(crossing, bins.splits - place)
    auc, error = _area(counts, genuine, impostors)
    return Verification(
        genuine, impostors, auc, error, eer, threshold, tuple(points), _roc(bins, above, genuine, impostors), distance
    )


def _pair_counts(pair: Pair, labels: Labels) -> tuple[int, int]:
    """Return how many genuine and impostor pairs there are."""
    classes = int(max(labels.query_codes.max(), labels.gallery_codes.max())) + 1
    asked, there = (np.bincount(codes, minlength=classes) for codes in (labels.query_codes, labels.gallery_codes))
    own = int((pair.own >= 0).sum())
    genuine = int((asked * there).sum()) - own
    total = pair.queries.count * pair.gallery.count - own
    return (genuine // 2, (total - genuine) // 2) if pair.gallery is pair.queries else (genuine, total - genuine)


def _matches(above: np.ndarray, parts: np.ndarray, place: int) -> np.ndarray:
    """Return (2, splits + 1) matches at the edges of the parts of the bin at `place`, all from the top."""
    before = above[:, place - 1 : place] if place else np.zeros((2, 1), dtype=np.int64)
    return np.concatenate([before, parts[:, ::-1].cumsum(axis=1) + before], axis=1)


def _crossing(matches: np.ndarray, genuine: int, impostors: int) -> int:
    """Return the first place at which false matches are at least as large a share as false non-matches."""
    return int(np.argmax(matches[1] / impostors >= 1 - matches[0] / genuine))


def _equal_error(matches: np.ndarray, place: int, genuine: int, impostors: int) -> float:
    """Return where the two rates meet, on the line that the ROC draws from the place before to this one."""
    (missed, reached), (wrong, more) = (
        1 - matches[0, [place - 1, place]] / genuine,
        matches[1, [place - 1, place]] / impostors,
    )
    gap, other = missed - wrong, more - reached
    return float(wrong + gap / (gap + other) * (more - wrong))


def _area(counts: np.ndarray, genuine: int, impostors: int) -> tuple[float, float]:
    right, wrong = counts.astype(np.float64)
    below = np.cumsum(wrong) - wrong
    together = float((right * wrong).sum()) / (2 * genuine * impostors)
    return float((right * below).sum()) / (genuine * impostors) + together, together


def _roc(bins: Bins, above: np.ndarray, genuine: int, impostors: int) -> np.ndarray:
    """Return points of the ROC, even in the logarithm of the false-match rate and in the true accept rate."""
    false, true = above[1] / impostors, above[0] / genuine
    wanted = np.searchsorted(false, np.geomspace(1 / impostors, 1, ROC_POINTS) * (1 - 1e-12))
    places = np.unique(
        np.concatenate([wanted, np.searchsorted(true, np.linspace(0, 1, ROC_POINTS)), [bins.number - 1]])
    )
    places = places[places < bins.number]
    thresholds = [bins.edge(bins.number - 1 - int(place)) for place in places]
    return np.stack([thresholds, false[places], true[places]], axis=1)
