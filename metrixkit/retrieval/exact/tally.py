"""How many items stand in front of each relevant one: thresholds, counts, and what is still open.

Legend of shapes: n queries, N items, K_i relevant items followed for query i, P = sum of K_i, b x t a tile of scores, h
scores that count.

A query's relevant items have scores s_1 >= s_2 >= ... . Another item with score x stands in front of the k-th, and of
all later ones, from the first k on with x >= s_k (pessimistic) or x > s_k (optimistic); it is counted once, at that
place. A screened x leaves the places a..b open: before a it is certainly behind, from b on certainly in front. It is
counted at b at once, and moved to its true place when its exact score is computed. A relevant item whose rank has
passed its query's cap is dropped, and with it everything that only matters to it; so most of a tile is merely compared
with the lowest threshold that still counts, and of most of that only the largest of a group.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metrixkit.retrieval.exact.setting import Pair

GROUP = 32  # scores of which first only the largest is looked at
OPEN = 2**20  # open pairs kept before they are computed (16 MB)
PORTION = 2**17  # of them computed at once
NO_CAP = 2**62


@dataclass(frozen=True)
class Thresholds:
    """The relevant scores of all queries as one precision sees them; bfloat16 as ordered 16-bit integers.

    Attributes:
        floor: (P,) below it an item is certainly not in front of the relevant one.
        ceiling: (P,) above it an item certainly is.
        lowest: (n,) floor of the last relevant item of each query that still counts.
        exact: Whether what lies between the two is a tie.
    """

    floor: Tensor
    ceiling: Tensor
    lowest: Tensor
    exact: bool

    @property
    def top(self) -> float:
        """What no score reaches."""
        return 2**15 - 1 if self.floor.dtype == torch.int16 else math.inf


class Tally:
    """Counts for n queries among N items.

    Attributes:
        settled: Number of pairs whose score had to be computed exactly.

    Args:
        pair: Queries and gallery.
        rows: (n,) positions of the queries in `pair`.
        items: (N,) positions of the items in `pair`, in the order in which tiles show them.
        codes: Class codes of `rows` (n,) and of `items` (N,).
        scores: (P,) float64 exact scores of the relevant items, descending within a query.
        followed: (n,) K_i.
        caps: (n,) ranks beyond which nobody asks, save for that of the first relevant item; :data:`NO_CAP` for none.
        compiled: Whether numba counts instead of torch; on a CPU.
    """

    def __init__(
        self,
        pair: Pair,
        rows: np.ndarray,
        items: np.ndarray,
        codes: tuple[np.ndarray, np.ndarray],
        scores: Tensor,
        followed: np.ndarray,
        caps: np.ndarray,
        compiled: bool = False,
    ) -> None:
        device = scores.device
        self.pair, self.rows, self.items, self.scores = pair, rows, items, scores
        self.codes, self.item_codes = (torch.from_numpy(c.astype(np.int32)).to(device) for c in codes)
        self.caps = torch.from_numpy(caps).to(device)
        self.capped = bool((caps < NO_CAP).any() and (followed > 1).any())
        self.start = torch.from_numpy(np.r_[0, np.cumsum(followed)]).to(device)
        self.owner = torch.arange(len(rows), dtype=torch.int32).repeat_interleave(torch.from_numpy(followed)).to(device)
        self.ties = pair.tie(rows)
        self.active = torch.from_numpy(followed.copy()).to(device)
        # One place more than relevant items: in front of none. Query i begins at start[i] + i.
        self.worse = torch.zeros(len(scores) + len(rows), dtype=torch.int32, device=device)
        self.better = torch.zeros_like(self.worse)
        self.opened: list[Tensor] = []
        self.waiting = self.settled = 0
        self.compiled = compiled
        if compiled:
            self.buffer = np.empty((OPEN, 4), dtype=np.int32)
            self.flags = np.zeros(0, dtype=np.uint8)
            self.above = torch.zeros(len(rows), dtype=torch.int64)

    def thresholds(self, floor: Tensor, ceiling: Tensor, exact: bool) -> Thresholds:
        """Return (P,) bounds as :class:`Thresholds`."""
        if floor.dtype == torch.bfloat16:
            floor, ceiling = (ordered_(bound.view(torch.int16)) for bound in (floor, ceiling))
        level = Thresholds(floor, ceiling, floor.new_empty(len(self.rows)), exact)
        self._lower(level, slice(0, len(self.rows)))
        return level

    def add(self, scores: Tensor, level: Thresholds, row: int, column: int, skip: int | None = None) -> None:
        """Count a tile.

        Args:
            scores: (b, t) screened or exact; bfloat16 is changed in place.
            level: Thresholds of their precision.
            row: Number of the first query.
            column: Number of the first item.
            skip: In self-retrieval, where queries and items have the same numbers: the columns from `skip` on also
                count as queries, with the rows as their items.
        """
        queries = slice(row, row + scores.shape[0])
        turned = None if skip is None else slice(column + skip, column + scores.shape[1])
        if scores.dtype == torch.bfloat16:
            scores = scores.view(torch.int16)
            # Positive numbers compare like their bits; below zero the order of the bits must be turned round.
            if any(part is not None and int(level.lowest[part].min()) <= 0 for part in (queries, turned)):
                ordered_(scores)
        if self.compiled:
            self._count_compiled(scores, level, row, column, scores.shape[1] if skip is None else skip)
            return
        if self.waiting > OPEN:
            self.settle()
        self._scan(scores, level, row, column, by_row=True)
        if turned is not None:
            self._scan(scores[:, skip:], level, turned.start, row, by_row=False)
        if self.capped:
            for part in (queries, turned):
                if part is not None:
                    self._drop(level, part)

    def _count_compiled(self, scores: Tensor, level: Thresholds, row: int, column: int, skip: int) -> None:
        from metrixkit.retrieval.exact import _kernels

        if len(self.flags) < scores.shape[1]:
            self.flags = np.zeros(-(-scores.shape[1] // 8) * 8, dtype=np.uint8)
        if len(self.buffer) < 2 * scores.shape[1]:  # a row of a tile must fit
            self.buffer = np.concatenate([self.buffer, np.empty((2 * scores.shape[1], 4), dtype=np.int32)])
        thresholds = _kernels.Level(
            level.floor.numpy(), level.ceiling.numpy(), level.lowest.numpy(), level.top, level.exact
        )
        arrays = (self.start, self.active, self.above, self.caps, self.worse, self.better, self.codes, self.item_codes)
        state = _kernels.State(*(array.numpy() for array in arrays))
        done = 0
        while done < len(scores):
            done, self.waiting = _kernels.count_tile(
                scores.numpy(), done, row, column, skip, thresholds, state, self.buffer, self.waiting, self.flags
            )
            if done < len(scores):
                self.settle()

    def _scan(self, scores: Tensor, level: Thresholds, query: int, item: int, by_row: bool) -> None:
        """Count a tile for the queries of its rows, or for those of its columns, whose items are the rows."""
        axis = 1 if by_row else 0
        least = level.lowest[query : query + scores.shape[1 - axis]].unsqueeze(axis)
        stride = scores.shape[axis] // GROUP
        # A group holds every stride-th score, so that whole lines of memory are compared at once.
        grouped = scores.narrow(axis, 0, stride * GROUP).unflatten(axis, (GROUP, -1))
        if stride:
            found = (grouped.amax(axis) >= least).nonzero()
            asked, group = found[:, 1 - axis], found[:, axis]
            values = grouped[asked, :, group] if by_row else grouped[:, group, asked].T
            which, place = (values >= least.flatten()[asked, None]).nonzero(as_tuple=True)
            items = place * stride + group[which] + item
            self._count(level, asked[which] + query, items, values[which, place])
        rest = scores.narrow(axis, stride * GROUP, scores.shape[axis] - stride * GROUP)
        found = (rest >= least).nonzero()
        score = rest[found[:, 0], found[:, 1]]
        self._count(level, found[:, 1 - axis] + query, found[:, axis] + (item + stride * GROUP), score)

    def _count(self, level: Thresholds, query: Tensor, item: Tensor, score: Tensor) -> None:
        """Count (h,) scores above the lowest threshold of their query."""
        other = self.codes[query] != self.item_codes[item]
        query, item, score = query[other], item[other], score[other]
        if len(query) == 0:
            return
        first = self.start[query]
        last = first + self.active[query]
        begin = _first_beaten(level.floor, first, last, score, torch.ge)
        end = begin.clone()
        unsure = score <= level.ceiling[begin]
        end[unsure] = _first_beaten(level.ceiling, begin[unsure] + 1, last[unsure], score[unsure], torch.gt)
        one = torch.ones(1, dtype=torch.int32, device=query.device).expand(len(query))
        self.worse.index_add_(0, (begin if level.exact else end) + query, one)
        self.better.index_add_(0, end + query, one)
        if not level.exact:
            found = torch.stack([x[unsure].int() for x in (query, item, begin, end)])
            self.opened.append(found)
            self.waiting += found.shape[1]

    def settle(self) -> None:
        """Compute the open pairs that still matter exactly, and move them to their place."""
        if self.waiting == 0:
            return
        opened = torch.from_numpy(self.buffer[: self.waiting]).T if self.compiled else torch.cat(self.opened, dim=1)
        self.opened, self.waiting = [], 0
        for part in opened.split(PORTION, dim=1):
            query, item, begin, end = part.long()
            matter = begin < self.start[query] + self.active[query]
            self._move(query[matter], item[matter], begin[matter], end[matter])

    def _move(self, query: Tensor, item: Tensor, begin: Tensor, end: Tensor) -> None:
        """Move (h,) pairs that were counted at `end` to their true place from `begin` on."""
        score = -self.pair.costs_of(self.rows[query.cpu().numpy()], self.items[item.cpu().numpy()], self.compiled)
        tie = self.ties[query]
        one = torch.ones_like(query, dtype=torch.int32)
        for counts, limit, beats in ((self.worse, score + tie, torch.ge), (self.better, score - tie, torch.gt)):
            counts.index_add_(0, end + query, -one)
            counts.index_add_(0, _first_beaten(self.scores, begin, end, limit, beats) + query, one)
        self.settled += len(query)

    def _drop(self, level: Thresholds, part: slice) -> None:
        """Drop the relevant items of some queries whose rank has passed the cap."""
        ranks, owner, place = self._ranks(part, self.better)
        keep = (ranks <= self.caps[part][owner]) | (place == 0)
        active = torch.zeros(part.stop - part.start, dtype=torch.int64, device=keep.device)
        self.active[part] = torch.minimum(self.active[part], active.index_add_(0, owner, keep.long()))
        self._lower(level, part)

    def _ranks(self, part: slice, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return rank, query (counted from the first of `part`) and place from 0 of each relevant item of `part`."""
        first, last = int(self.start[part.start]), int(self.start[part.stop])
        owner = self.owner[first:last].long()
        place = torch.arange(first, last, device=owner.device) - self.start[owner]
        base = first + part.start
        total = torch.cat([counts.new_zeros(1), counts[base : last + part.stop]]).cumsum(0)
        where = torch.arange(first, last, device=owner.device) + owner - base
        return place + 1 + total[where + 1] - total[where - place], owner - part.start, place

    def _lower(self, level: Thresholds, part: slice) -> None:
        """Bring the lowest thresholds of some queries up to date."""
        active = self.active[part]
        last = (self.start[:-1][part] + active - 1).clamp(min=0)
        level.lowest[part] = level.floor[last].masked_fill_(active == 0, level.top) if len(level.floor) else level.top

    def ranks(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (P,) pessimistic and optimistic ranks of the relevant items; cap + 1 for what is beyond a cap."""
        sides = []
        for counts in (self.worse, self.better):
            ranks, owner, place = self._ranks(slice(0, len(self.rows)), counts)
            caps = self.caps[owner]
            beyond = (place > 0) & ((ranks > caps) | (place >= self.active[owner]))
            sides.append(torch.where(beyond, caps + 1, ranks).cpu().numpy())
        return sides[0], sides[1]


def _first_beaten(
    bounds: Tensor, first: Tensor, last: Tensor, scores: Tensor, beats: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Return (h,) the first place in first..last of the descending bounds that a score beats, else `last`."""
    place = first.clone()
    for power in reversed(range(int((last - first).max()).bit_length() if len(first) else 0)):
        ahead = place + 2**power
        stays = beats(scores, bounds[(ahead - 1).clamp_(max=len(bounds) - 1)]) | (ahead > last)
        place = torch.where(stays, place, ahead)
    return place


def ordered_(bits: Tensor) -> Tensor:
    """Turn the int16 bits of bfloat16 numbers into integers ordered like them, in place."""
    return bits.bitwise_xor_((bits >> 15) & 0x7FFF)
