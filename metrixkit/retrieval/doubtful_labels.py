"""Items among whose nearest neighbours nobody bears their label: mislabelled perhaps, or hard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from metrixkit.errors import InputError
from metrixkit.retrieval.exact.nearest import nearest_of
from metrixkit.retrieval.exact.rows import Distance
from metrixkit.retrieval.exact.setting import label_up, pair_up


@dataclass(frozen=True)
class DoubtfulLabels:
    """Items whose k nearest neighbours all bear another label.

    Attributes:
        rows: (M,) int64 positions, the most suspicious first: by how many neighbours agree on one other label, then
            by similarity to the nearest.
        votes: (M,) int64, how many of the neighbours bear that label.
        voted: (M,) int64, position of the nearest item that bears it; its label is the one proposed.
        nearest: (M,) int64, position of the nearest item.
        scores: (M,) float64, similarity to it, higher is nearer.
        alone: Items that nobody shares a label with; they are not judged.
    """

    rows: np.ndarray
    votes: np.ndarray
    voted: np.ndarray
    nearest: np.ndarray
    scores: np.ndarray
    alone: int

    def __len__(self) -> int:
        """Return the number of doubtful items."""
        return len(self.rows)


def doubtful_labels(
    embeddings: Any, labels: Any, k: int = 5, ids: Any = None, distance: Distance = "cosine"
) -> DoubtfulLabels:
    """Return the items whose k nearest others all bear another label than theirs.

    Neighbours are exact (:func:`~metrixkit.retrieval.neighbours`). Whether a label is wrong, somebody has to see.

    Args:
        embeddings: (N, d).
        labels: (N,) integers or strings.
        k: Neighbours looked at; N - 1 where there are fewer.
        ids: (N,) unique ids, for messages; or None.
        distance: "cosine", "dot" or "euclidean".

    Raises:
        InputError: As :func:`~metrixkit.retrieval.evaluate`; k < 1; fewer than two items.
    """
    pair = pair_up(embeddings, None, ids, None, distance)
    codes = label_up(pair, labels, None).query_codes
    if pair.queries.count < 2:
        raise InputError("one item has no neighbours; give two or more.")
    scores, near = nearest_of(pair, k)
    theirs = codes[near]
    shared = np.bincount(codes)[codes] > 1
    rows = np.flatnonzero(shared & (theirs != codes[:, None]).all(1))
    agree = (theirs[rows][:, :, None] == theirs[rows][:, None, :]).sum(2)
    # The first place with the most votes is the nearest item of the winning label; of equal counts the nearer wins.
    place = agree.argmax(1)
    votes, voted = agree[np.arange(len(rows)), place], near[rows, place]
    order = np.lexsort((rows, -scores[rows, 0], -votes))
    return DoubtfulLabels(
        rows[order],
        votes[order],
        voted[order],
        near[rows[order], 0],
        scores[rows[order], 0],
        int((~shared).sum()),
    )
