"""Exact ranks of relevant items by counting, tile by tile.

The scores of the relevant items come first, class by class, in float64. Then each tile of scores is computed in low
precision (``screen.py``), and what may stand in front of a relevant item is counted
(``tally.py``): at once where the proved bound of the error decides, else after the score of that
pair has been computed in float64. Where too many pairs stay open, the following tiles take the next precision. Nothing
is sorted but the relevant scores, and no more than one tile exists at a time. In self-retrieval each tile serves the
queries of its rows and those of its columns.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

from metrixkit.distributed import rank, world_size
from metrixkit.errors import InputError, did_you_mean
from metrixkit.retrieval.exact.progress import Progress
from metrixkit.retrieval.exact.relevant import members_of, relevant_scores
from metrixkit.retrieval.exact.screen import Precision, screen_levels
from metrixkit.retrieval.exact.setting import Labels, Pair
from metrixkit.retrieval.exact.tally import NO_CAP, Tally
from metrixkit.retrieval.exact.tiles import Tiles, unit_of

__all__ = ["Precision", "RankBlock", "rank_blocks", "relevant_counts"]

KERNELS = ("auto", "numba", "torch")
BFLOAT16_PAYS = 2**26  # pairs; below, what it leaves open costs torch more than its products save
COMPILING_PAYS = 2**24  # pairs; to load the compiled code takes half a second
THRESHOLDS = 2**23  # relevant items followed at once (some 250 MB)
HANDED_OUT = 2**21  # ranks in a RankBlock, unless a single query has more


@dataclass(frozen=True)
class RankBlock:
    """Ranks of some queries that have a relevant item.

    Attributes:
        rows: (b,) positions of the queries.
        relevant: (b,) number of relevant items of each, >= 1.
        pessimistic: (b, K) int64 ranks, 1-based, of the 1st..K-th relevant item; cap + 1 where the rank is beyond the
            cap of the query; 0 beyond the last item followed.
        optimistic: (b, K) int64 likewise.
    """

    rows: np.ndarray
    relevant: np.ndarray
    pessimistic: np.ndarray
    optimistic: np.ndarray


def relevant_counts(pair: Pair, labels: Labels) -> np.ndarray:
    """Return (Q,) int64, how many relevant items each query has: items of its class in the gallery but itself."""
    return members_of(pair, labels).counts


def rank_blocks(
    pair: Pair,
    labels: Labels,
    depth: int | None = None,
    precision: str = "auto",
    cap: np.ndarray | int | None = None,
    kernels: str = "auto",
    processes: bool = False,
    progress: bool | None = None,
) -> Iterator[RankBlock]:
    """Yield the exact ranks of the relevant items of every query that has one, in blocks.

    Args:
        pair: Queries and gallery.
        labels: Their labels.
        depth: Follow only this many relevant items of each query (1 is enough for recall); None follows all.
        precision: What screens the tiles, "auto", "bfloat16", "float32" or "float64"; the ranks are the same for each.
            Euclidean distances are always computed in float64.
        cap: Rank beyond which nobody asks, one for all or (Q,) one for each query: what is beyond comes as cap + 1, and
            much less is counted. At most `cap` relevant items are followed. The rank of the first relevant item is
            exact in any case. None counts to the end.
        kernels: What counts, "numba" or "torch"; the ranks are the same. "auto" takes numba on a CPU where it is
            installed and there is enough to count, see :data:`COMPILING_PAYS`.
        processes: Share the queries among the processes of the default group. Each must hold all data and call this;
            each yields all ranks.
        progress: Show a bar on stderr; None does so for work of more than some ten seconds on a terminal.

    Raises:
        InputError: Unknown precision or kernels; depth or cap below 1; caps that are not one a query; numba asked for
            and not installed, or for a GPU.
    """
    share = (rank(), world_size()) if processes else (0, 1)
    pairs = pair.queries.count * pair.gallery.count
    compiled = _is_compiled(kernels, pairs, pair.queries.device)
    blocks = _rank_share(
        pair,
        labels,
        _followed_at_most(depth),
        _levels(pair, precision, pairs, compiled),
        _caps(cap, pair.queries.count),
        compiled,
        share,
        progress,
    )
    return blocks if share[1] == 1 else _gathered(list(blocks), share[1])


@torch.no_grad()
def _rank_share(
    pair: Pair,
    labels: Labels,
    depth: int,
    levels: tuple[str, ...],
    caps: np.ndarray,
    compiled: bool,
    share: tuple[int, int],
    progress: bool | None,
) -> Iterator[RankBlock]:
    """Yield the ranks of the queries of the i-th of n shares."""
    unit = unit_of(pair)
    members = members_of(pair, labels)
    followed = np.minimum(members.counts, np.minimum(caps, depth))
    items = _spread(pair.gallery.count, pair.gallery.mapped)
    itself = pair.gallery is pair.queries and share[1] == 1 and followed.sum() <= THRESHOLDS
    asked = pair.queries.count / share[1] / (2 if itself else 1)
    with Progress(asked * pair.gallery.count, "ranks", progress) as bar:
        tiles = Tiles(pair, items, levels if unit is not None else ("float64",), unit, bar)
        for rows in [items] if itself else _portions(pair, followed, share):
            scores = relevant_scores(pair, labels, members, rows, followed[rows])
            codes = labels.query_codes[rows], labels.gallery_codes[items]
            tally = Tally(pair, rows, items, codes, scores, followed[rows], caps[rows], compiled)
            tiles.count(tally, itself)
            yield from _hand_out(tally, rows, members.counts[rows], followed[rows])


def _gathered(blocks: list[RankBlock], world: int) -> Iterator[RankBlock]:
    """Yield the blocks of all processes, in the order of the processes."""
    parts: list[list[RankBlock]] = [[] for _ in range(world)]
    dist.all_gather_object(parts, blocks)
    return itertools.chain.from_iterable(parts)


def _is_compiled(kernels: str, pairs: int, device: torch.device) -> bool:
    if kernels not in KERNELS:
        raise InputError(f"kernels={kernels!r} is not known.{did_you_mean(kernels, KERNELS)}")
    installed = importlib.util.find_spec("numba") is not None
    if kernels == "numba" and not (installed and device.type == "cpu"):
        raise InputError(
            "kernels='numba' counts on a CPU and needs numba: pip install 'metrixkit[fast]'. kernels='torch' needs "
            f"nothing (numba is {'' if installed else 'not '}installed, the data is on {device})."
        )
    return kernels == "numba" or (kernels == "auto" and installed and device.type == "cpu" and pairs >= COMPILING_PAYS)


def _followed_at_most(depth: int | None) -> int:
    if depth is None:
        return NO_CAP
    if depth < 1:
        raise InputError(f"depth={depth}: expected a whole number >= 1.")
    return depth


def _levels(pair: Pair, precision: str, pairs: int, compiled: bool) -> tuple[str, ...]:
    """Return the precisions to try: those of any search, save that torch counts fewer pairs better after float32."""
    device = pair.queries.device
    levels = screen_levels(precision, pairs, pair.queries.dim, device)
    few = pairs < BFLOAT16_PAYS and not compiled
    if precision == "auto" and device.type == "cpu" and few and "float32" in levels:
        return levels[levels.index("float32") :]
    return levels


def _caps(cap: np.ndarray | int | None, count: int) -> np.ndarray:
    caps = np.full(count, NO_CAP if cap is None else cap) if cap is None or np.ndim(cap) == 0 else np.asarray(cap)
    if caps.shape != (count,):
        raise InputError(f"cap has shape {caps.shape}; expected one number, or one for each of the {count} queries.")
    if count and caps.min() < 1:
        raise InputError(f"cap holds {caps.min()}: expected whole numbers >= 1.")
    return caps.astype(np.int64)


def _spread(count: int, mapped: bool) -> np.ndarray:
    """Return all positions in an order that shows each tile a bit of everything; a memory map is read as it lies."""
    if mapped:
        return np.arange(count)
    step = max(1, round(count * (math.sqrt(5) - 1) / 2))
    while math.gcd(step, count) != 1:
        step += 1
    return np.arange(count, dtype=np.int64) * step % count


def _portions(pair: Pair, followed: np.ndarray, share: tuple[int, int]) -> Iterator[np.ndarray]:
    """Yield positions of queries with relevant items, as many at once as thresholds may be held."""
    queue = _spread(pair.queries.count, pair.queries.mapped)
    queue = queue[followed[queue] > 0][share[0] :: share[1]]
    total = np.cumsum(followed[queue])
    start = 0
    while start < len(queue):
        before = total[start] - followed[queue[start]]
        stop = max(start + 1, int(np.searchsorted(total, before + THRESHOLDS, "right")))
        yield queue[start:stop]
        start = stop


def _hand_out(tally: Tally, rows: np.ndarray, relevant: np.ndarray, followed: np.ndarray) -> Iterator[RankBlock]:
    """Yield the ranks of a tally, queries with alike numbers of relevant items together: little padding."""
    worse, better = tally.ranks()
    start = np.cumsum(followed) - followed
    queue = np.argsort(followed, kind="stable")
    queue = queue[followed[queue] > 0]
    position = 0
    while position < len(queue):
        some = queue[position : position + HANDED_OUT // int(followed[queue[position]]) + 1]
        # Sorted, so the last is the widest; halve until the block is small enough.
        while len(some) > 1 and len(some) * int(followed[some[-1]]) > HANDED_OUT:
            some = some[: len(some) // 2]
        position += len(some)
        place = np.arange(int(followed[some[-1]]))
        there = place < followed[some][:, None]
        where = np.minimum(start[some][:, None] + place, len(worse) - 1)
        sides = (np.where(there, ranks[where], 0) for ranks in (worse, better))
        yield RankBlock(rows[some], relevant[some], *sides)
