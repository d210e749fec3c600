"""Open-set identification: find the class of a known query, and answer "unknown" to the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from metrixkit.errors import InputError, did_you_mean
from metrixkit.retrieval.exact.pairwise import all_pairs
from metrixkit.retrieval.exact.rows import Distance
from metrixkit.retrieval.exact.setting import label_up, pair_up

Unknown = Literal["absent", "left-out"]
UNKNOWN = {
    "absent": "unknown are the queries whose class the gallery lacks",
    "left-out": "unknown are all queries, each with its own class left out of the gallery",
}


@dataclass(frozen=True)
class Rejection:
    """What a threshold for a wanted false-alarm rate gives. A query is answered where its best score is >= it.

    Attributes:
        false_alarm_rate: Share of unknown queries that may be answered, wanted at most.
        threshold: The lowest that keeps it.
        identified: Detection and identification rate: share of the known queries that are answered and whose nearest
            item is of their class.
        false_alarms: Unknown queries that are answered.
        unknown: Unknown queries there are.
    """

    false_alarm_rate: float
    threshold: float
    identified: float
    false_alarms: int
    unknown: int

    @property
    def enough(self) -> bool:
        """Whether ten false alarms or more could stand behind the rate; with fewer it is chance."""
        return self.unknown * self.false_alarm_rate >= 10 * (1 - 1e-9)


@dataclass(frozen=True)
class OpenSet:
    """Open-set identification.

    Attributes:
        known: Queries whose class the gallery holds.
        unknown: Queries that must be rejected.
        identified: Share of the known queries whose nearest item is of their class, when every query is answered.
        points: One for each wanted false-alarm rate.
        definition: Which queries are unknown.
    """

    known: int
    unknown: int
    identified: float
    points: tuple[Rejection, ...]
    definition: str

    def metrics(self) -> dict[str, float]:
        """Return the shares by name: open_set/dir@far=RATE."""
        return {f"open_set/dir@far={p.false_alarm_rate:g}": p.identified for p in self.points}

    def definitions(self) -> dict[str, str]:
        """Return one sentence for each of :meth:`metrics`."""
        return {
            f"open_set/dir@far={p.false_alarm_rate:g}": f"Share of the {self.known} known queries whose nearest item "
            f"is of their class and scores at least the lowest threshold at which at most {p.false_alarm_rate:g} of "
            f"the {self.unknown} unknown queries are answered; {self.definition}; the threshold is chosen on "
            "these queries." + ("" if p.enough else " Too few unknown queries stand behind this rate: chance.")
            for p in self.points
        }

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers and strings, for a JSON file."""
        return {
            "known": self.known,
            "unknown": self.unknown,
            "identified_without_threshold": self.identified,
            "points": [{**vars(p), "enough_unknown": p.enough} for p in self.points],
            "definition": self.definition,
            "rule": "a query is answered where its best score is >= the threshold",
        }


@torch.no_grad()
def open_set(
    queries: Any,
    query_labels: Any,
    gallery: Any = None,
    gallery_labels: Any = None,
    query_ids: Any = None,
    gallery_ids: Any = None,
    false_alarm_rates: Sequence[float] = (1e-1, 1e-2, 1e-3),
    distance: Distance = "cosine",
    unknown: Unknown = "left-out",
) -> OpenSet:
    """Return how many known queries are identified while unknown ones are rejected.

    The threshold of a false-alarm rate f is the lowest at which at most f times the unknown queries are answered. It is
    chosen on the queries given; on others the rate will be another one, so set it on validation queries and take the
    numbers here for what it can reach. A known query is identified where an item of its class scores better than every
    other item (a tie counts against it) and at least the threshold.

    Args:
        queries: As all up to `gallery_ids` in :func:`~metrixkit.retrieval.evaluate`.
        query_labels: (Q,).
        gallery: (N, d) or None.
        gallery_labels: (N,) or None.
        query_ids: (Q,) or None.
        gallery_ids: (N,) or None.
        false_alarm_rates: In (0, 1).
        distance: "cosine", "dot" or "euclidean".
        unknown: "absent" takes the queries whose class the gallery lacks (the query itself does not count).
            "left-out" asks every query twice: once as it is, and once as an unknown with its own class left out of the
            gallery; so nothing has to be held back, and all queries count on both sides.

    Raises:
        InputError: As :func:`~metrixkit.retrieval.evaluate`; a rate outside (0, 1); no known or no unknown query.

    Source:
        Phillips, Grother and Micheals, Evaluation Methods in Face Recognition (Handbook of Face Recognition, 2011):
        detection and identification rate at a false alarm rate.
    """
    if unknown not in UNKNOWN:
        raise InputError(f"unknown={unknown!r} is not known.{did_you_mean(unknown, UNKNOWN)}")
    for rate in false_alarm_rates:
        if not 0 < rate < 1:
            raise InputError(f"false_alarm_rates holds {rate!r}; expected rates between 0 and 1, such as 0.01.")
    pair = pair_up(queries, gallery, query_ids, gallery_ids, distance)
    labels = label_up(pair, query_labels, gallery_labels)
    own_class, others = (torch.full((pair.queries.count,), -torch.inf, dtype=torch.float64) for _ in range(2))
    for tile in all_pairs(pair, labels):
        scores = tile.scores if tile.absent is None else tile.scores.masked_fill_(tile.absent, -torch.inf)
        for best, hidden in ((own_class, ~tile.same), (others, tile.same)):
            found = scores.masked_fill(hidden, -torch.inf).amax(1).cpu()
            best[tile.rows] = torch.maximum(best[tile.rows], found)
    known = own_class.isfinite()
    rejected = (others if unknown == "left-out" else others[~known]).sort(descending=True).values
    if not known.any() or not rejected.isfinite().any():
        raise InputError(
            f"open set needs known and unknown queries; {int(known.sum())} and {len(rejected)} are there "
            f"({UNKNOWN[unknown]}), and a gallery of more than one class."
            + (" unknown='left-out' needs no query of an absent class." if unknown == "absent" else "")
        )
    tie = pair.tie(slice(None)).cpu()
    right = known & (own_class > others + tie)
    points = []
    for rate in false_alarm_rates:
        allowed = min(math.floor(rate * len(rejected) * (1 + 1e-12)), len(rejected) - 1)
        # Just above the first that must not be answered, and whatever equals it.
        threshold = float(np.nextafter(float(rejected[allowed]) + float(tie.max()), np.inf))
        answered = int((rejected >= threshold).sum())
        identified = int((right & (own_class >= threshold)).sum()) / int(known.sum())
        points.append(Rejection(float(rate), threshold, identified, answered, len(rejected)))
    share = int(right.sum()) / int(known.sum())
    return OpenSet(int(known.sum()), len(rejected), share, tuple(points), UNKNOWN[unknown])
