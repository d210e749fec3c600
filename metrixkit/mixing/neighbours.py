"""The k nearest other items of each item: among all, or among those of the cells around it.

Legend of shapes: n items, m cells, b items of this process, k neighbours.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metrixkit._faiss import load_faiss
from metrixkit.mixing.clusters import Clusters
from metrixkit.mixing.nearest import Points, in_order, measured, nearest

_PAD = 8  # rows asked of faiss beyond k and the item itself
_BLOCK = 4096  # queries at a time


def all_neighbours(points: Points, items: Tensor, k: int) -> Tensor:
    """Return (b, k) int64, the k nearest other points of each of `items` (b,), by (distance, index); n b d work."""
    return nearest(points, items, points, k, leave_out_self=True)[1]


@torch.no_grad()
def cell_neighbours(points: Points, items: Tensor, k: int, clusters: Clusters, nprobe: int) -> Tensor:
    """Return the k nearest other points of each item among those of the `nprobe` cells whose centres are nearest to it.

    faiss's inverted file, with the k-means centres as its coarse quantiser and the exact assignment, so that the first
    cell is the item's own: a point of the own cell that is among the k nearest of all points is found at any `nprobe`,
    since fewer rivals cannot push it out. What faiss returns, a few more than k, is measured and put in order in
    float64. Where its float32 could have lost a point of the own cell (many copies of one image), that cell is searched
    again in float64. About b n d nprobe / m multiply-adds and O(n d + n k) memory, on the processor.

    Args:
        points: n points.
        items: (b,) int64, of those the queries.
        k: At most n - 1. Items whose cells hold fewer others look into four times as many, and so on.
        clusters: Of the points.
        nprobe: Cells to look into, >= 1; those without items do not count. From all of them on, every pair is compared.

    Returns:
        (b, k) int64 by (distance, index).
    """
    used = clusters.sizes.nonzero()[:, 0]
    place = torch.empty_like(clusters.sizes)  # of a centre among those used
    place[used] = torch.arange(len(used), device=used.device)
    centres, cell_of = Points(clusters.centres[used]), place[clusters.assignment]
    index = None
    near = items.new_empty(len(items), k)
    open_ = torch.arange(len(items), device=items.device)
    while len(open_):
        if nprobe >= len(used):
            near[open_] = all_neighbours(points, items[open_], k)
            break
        if index is None:
            index = _inverted_file(points, centres, cell_of)
        again = []
        for block in open_.split(_BLOCK):
            near[block], enough = _probed(index, points, items[block], k, centres, cell_of, nprobe)
            again.append(block[~enough])
        open_, nprobe = torch.cat(again), 4 * nprobe
    return near


def _inverted_file(points: Points, centres: Points, cell_of: Tensor) -> Any:
    faiss = load_faiss()
    dim = points.rows.shape[1]
    quantiser = faiss.IndexFlatL2(dim)
    quantiser.add(_array(centres.rows))
    index = faiss.IndexIVFFlat(quantiser, dim, len(centres), faiss.METRIC_L2)
    index.is_trained = True
    rows, cells = _array(points.rows), cell_of.cpu().contiguous().numpy()
    index.add_core(len(points), faiss.swig_ptr(rows), None, faiss.swig_ptr(cells))
    return index


def _probed(
    index: Any, points: Points, items: Tensor, k: int, centres: Points, cell_of: Tensor, nprobe: int
) -> tuple[Tensor, Tensor]:
    """Return neighbours (b, k) and which rows are complete (b,)."""
    width = min(k + 1 + _PAD, len(points))
    to_centre, probes = nearest(points, items, centres, nprobe)
    index.nprobe = nprobe
    rows = _array(points.rows[items])
    found = index.search_preassigned(rows, width, probes.cpu().numpy(), _array(to_centre))
    kept, near = (torch.from_numpy(part).to(items.device) for part in found)
    squares = measured(points, items, points, near.clamp(min=0))
    squares[(near < 0) | (near == items[:, None])] = torch.inf
    squares, near = in_order(squares, near, points.tie)
    enough = squares[:, k - 1].isfinite()
    # Every row faiss left out is at least as far as the last it kept, up to its rounding.
    length, longest = points.squares[items].sqrt(), float(points.squares.max()) ** 0.5
    error = (rows.shape[1] + 6) * 2.0**-23 * (length + longest) ** 2
    doubtful = enough & (kept[:, -1] < 1e38) & (squares[:, k - 1] + points.tie >= kept[:, -1].double() - error)
    if bool(doubtful.any()):
        near[doubtful] = _with_own_cell(points, items[doubtful], cell_of, squares[doubtful], near[doubtful])
    return near[:, :k], enough


def _with_own_cell(points: Points, items: Tensor, cell_of: Tensor, squares: Tensor, near: Tensor) -> Tensor:
    """Return `near` (r, w) in order after adding what is nearest in each item's own cell."""
    result = near.clone()
    for cell in cell_of[items].unique().tolist():
        rows = (cell_of[items] == cell).nonzero()[:, 0]
        members = (cell_of == cell).nonzero()[:, 0]
        width = min(near.shape[1], len(members) - 1)
        if not width:
            continue
        own_squares, own = nearest(points, items[rows], points, width, members, leave_out_self=True)
        twice = (near[rows][:, :, None] == own[:, None, :]).any(2)
        others = squares[rows].masked_fill(twice, torch.inf)
        both = in_order(torch.cat([own_squares, others], 1), torch.cat([own, near[rows]], 1), points.tie)
        result[rows] = both[1][:, : near.shape[1]]
    return result


def _array(rows: Tensor) -> Any:
    return rows.float().cpu().contiguous().numpy()
