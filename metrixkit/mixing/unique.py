"""The mixtures of a plan, each once, and the anchors that are compared with them.

A mixture that has to be encoded costs far more than a comparison, and the anchors of a class share theirs.

A anchors, K candidates (rows of the batch), U mixtures, T comparisons.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metrixkit.mixing.pairs import PairPlan

# Elements of the largest mask that is held while comparisons are listed.
_ELEMENTS = 2**24


@dataclass(frozen=True)
class Block:
    """Consecutive mixtures with what is compared with them; u mixtures, a anchors, t comparisons.

    Attributes:
        first: (u,) first elements.
        second: (u,) second elements.
        mixtures: Where these stand among all.
        comparisons: Where the block's comparisons stand among all.
        anchors: (a,) the anchors that take part.
        row: (t,) position in `anchors` of each comparison.
        column: (t,) position in `first` of each comparison.
    """

    first: Tensor
    second: Tensor
    mixtures: slice
    comparisons: slice
    anchors: Tensor
    row: Tensor
    column: Tensor


@dataclass(frozen=True)
class UniqueMixtures:
    """Each mixture of a step once, and who is compared with it.

    Attributes:
        first: (U,) row of the batch, ascending; its weight is the plan's.
        second: (U,) row of the batch.
        anchor: (T,) the anchor of each comparison.
        mixture: (T,) its mixture, ascending.
    """

    first: Tensor
    second: Tensor
    anchor: Tensor
    mixture: Tensor

    def __len__(self) -> int:
        return len(self.first)

    def blocks(self, size: int) -> list[Block]:
        """Cut into blocks of at most `size` mixtures."""
        starts = list(range(0, len(self), size))
        edges = torch.tensor([*starts, len(self)], device=self.mixture.device)
        ends = torch.searchsorted(self.mixture, edges).tolist()
        blocks = []
        for i, start in enumerate(starts):
            mixtures, comparisons = slice(start, min(start + size, len(self))), slice(ends[i], ends[i + 1])
            anchors, row = self.anchor[comparisons].unique(return_inverse=True)
            column = self.mixture[comparisons] - start
            blocks.append(
                Block(self.first[mixtures], self.second[mixtures], mixtures, comparisons, anchors, row, column)
            )
        return blocks


def unique_mixtures(plan: PairPlan) -> UniqueMixtures:
    """List the mixtures of a plan whose elements are rows of the batch, whatever its anchors are.

    Memory is O(K^2 + T).
    """
    rows = torch.zeros_like(plan.allowed)
    rows[plan.anchor, plan.first] = True
    columns = plan.allowed
    if plan.columns is not None:
        columns = torch.zeros_like(columns).scatter_(1, plan.columns, True) & columns
    used = rows.float().T @ columns.float() > 0  # counts of anchors, exact or at least of the right sign
    if plan.distinct:
        used.fill_diagonal_(False)
    first, second = used.nonzero(as_tuple=True)
    step = max(1, _ELEMENTS // max(1, len(rows)))
    anchors, mixtures = [plan.anchor[:0]], [plan.anchor[:0]]
    for start in range(0, len(first), step):
        part = slice(start, start + step)
        mixture, anchor = (rows[:, first[part]] & columns[:, second[part]]).T.nonzero(as_tuple=True)
        anchors.append(anchor)
        mixtures.append(mixture + start)
    return UniqueMixtures(first, second, torch.cat(anchors), torch.cat(mixtures))


def mix(first: Tensor, second: Tensor, weight: float | Tensor) -> Tensor:
    """Return ``weight * first + (1 - weight) * second``, exactly one of them at weight 1 and 0.

    Args:
        first: (u, ...) floating.
        second: (u, ...).
        weight: A number, or (u,).
    """
    if isinstance(weight, Tensor):
        weight = weight.to(first.dtype).view(-1, *[1] * (first.ndim - 1))
    return torch.lerp(second, first, weight)
