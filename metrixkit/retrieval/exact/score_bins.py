"""How many genuine and how many impostor scores lie where: counted tile by tile, so that no score is kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from metrixkit.retrieval.exact.pairwise import Pairs, all_pairs
from metrixkit.retrieval.exact.setting import TIE, Labels, Pair

BINS, SPLITS = 2**21, 2**20
NARROW = 256  # scores in so small a part of the range are counted again on that part alone


def binned(pair: Pair, labels: Labels) -> tuple[Bins, np.ndarray]:
    """Return bins that suit the scores of all pairs, and (2, number) int64: genuine and impostor scores in each.

    Scores that crowd in a small part of the possible range (a model that is nearly collapsed) are counted again on that
    part alone.
    """
    bins = Bins(*_range(pair), float(pair.tie(slice(None)).max()))
    counts = bins.count(pair, labels)
    while (narrower := bins.narrower(counts)) is not None:
        bins = narrower
        counts = bins.count(pair, labels)
    return bins, counts


class Bins:
    """Equal bins of scores from `low` to `high`, none narrower than a tie; each can be split into equal parts."""

    def __init__(self, low: float, high: float, tie: float) -> None:
        self.low, self.tie = low, tie
        self.number = int(min(BINS, max(1, (high - low) // tie)))
        self.scale = self.number / (high - low)
        self.splits = int(min(SPLITS, max(1, 1 / self.scale // tie)))

    def edge(self, bin_: int, part: int = 0) -> float:
        """Return the score at which a part of a bin begins."""
        return self.low + (bin_ + part / self.splits) / self.scale

    def count(self, pair: Pair, labels: Labels) -> np.ndarray:
        """Return (2, number) int64: genuine and impostor scores in each bin."""
        total = torch.zeros(2, self.number + 1, dtype=torch.int64, device=pair.queries.device)
        for tile in all_pairs(pair, labels, unordered=pair.gallery is pair.queries):
            bins = self._position(tile).long()
            total[0] += torch.bincount(bins[tile.same], minlength=self.number + 1)
            total[1] += torch.bincount(bins.flatten(), minlength=self.number + 1)
        total[1] -= total[0]
        return total[:, 1:].cpu().numpy()

    def split(self, pair: Pair, labels: Labels, chosen: Sequence[int]) -> dict[int, np.ndarray]:
        """Return for each chosen bin (2, splits) int64: genuine and impostor scores in each of its parts."""
        device = pair.queries.device
        found = {bin_: torch.zeros(2, self.splits, dtype=torch.int64, device=device) for bin_ in chosen}
        for tile in all_pairs(pair, labels, unordered=pair.gallery is pair.queries):
            position = self._position(tile) - 1
            for bin_, counts in found.items():
                inside = (position >= bin_) & (position < bin_ + 1)
                part = ((position[inside] - bin_) * self.splits).long().clamp_(max=self.splits - 1)
                other = (~tile.same[inside]).long()
                counts.view(-1).scatter_add_(0, other * self.splits + part, torch.ones_like(part))
        return {bin_: counts.cpu().numpy() for bin_, counts in found.items()}

    def narrower(self, counts: np.ndarray) -> Bins | None:
        """Return bins of the part of the range that holds all scores, where that is small; else None."""
        held = np.flatnonzero(counts.sum(0))
        first, last = int(held[0]), int(held[-1])
        if self.splits == 1 or (last - first + 1) * NARROW > self.number:
            return None
        return Bins(self.edge(first), self.edge(last + 1), self.tie)

    def _position(self, tile: Pairs) -> Tensor:
        """Return where each score lies, 1.0 being the lower edge of the first bin; pairs that do not count at 0."""
        position = tile.scores.sub_(self.low).mul_(self.scale).clamp_(0, self.number - 1e-6).add_(1)
        return position if tile.absent is None else position.masked_fill_(tile.absent, 0.0)


def _range(pair: Pair) -> tuple[float, float]:
    """Return bounds that no score passes."""
    longest, other = float(pair.queries.lengths.max()), float(pair.gallery.lengths.max())
    if pair.distance == "euclidean":
        low, high = -((longest + other) ** 2), 0.0
    else:
        high = 1.0 if pair.distance == "cosine" else longest * other
        low = -high
    spare = 1e-6 * max(high - low, TIE)
    return low - spare, high + spare
