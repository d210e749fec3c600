"""The exact nearest points of points: screened in float32, decided in float64.

Legend of shapes: n points, d dimensions, b queries of a block, t candidates, k nearest.

With s = x.y - |y|^2 / 2 the squared distance is |x|^2 - 2 s, so the nearest candidates have the largest s. One float32
product of (x, 1) with (y, -|y|^2 / 2) screens a block; a few more than k candidates are kept and measured in float64.
A float32 sum of d + 1 products of numbers rounded once is off by at most e = (d + 6) 2^-24 (|x| |y| + |y|^2) (and
2^-9 of the same where CUDA multiplies in TF32). Where the last candidate kept is not worse than the k-th by more than e
the query is measured against all candidates in float64, so what is returned never depends on the screen.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

TIE = 1e-12  # squared distances of unit rows this close are equal; the lower index comes first
_PAD = 8  # candidates kept beyond k
_BLOCK = 2**24  # scores of a block on a processor (64 MB); 16 times as many on CUDA
_MEASURED = 2**20  # float64 numbers measured at a time (8 MB: larger pieces are fetched from the system anew each time)
_FLOOR = -1e38  # the score of a column that is no candidate


class Points:
    """Rows with what the screen needs of them; O(n d) memory.

    Args:
        rows: (n, d) float32 or float64, finite.

    Attributes:
        rows: As given.
        squares: (n,) float64, |y|^2.
        screen: (n, d + 1) float32, the rows and -|y|^2 / 2.
        tie: Squared distances this close are equal: 1e-12, or that share of the largest |y|^2 above 1.
    """

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows
        self.squares = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64) ** 2
        self.screen = torch.cat([rows.float(), -0.5 * self.squares.float()[:, None]], dim=1)
        self.tie = TIE * max(1.0, float(self.squares.max()))

    def __len__(self) -> int:
        return len(self.rows)


@torch.no_grad()
def nearest(
    queries: Points,
    asked: Tensor,
    points: Points,
    k: int,
    among: Tensor | None = None,
    leave_out_self: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the k nearest of `points` for some of `queries`, by (squared distance, index).

    Args:
        queries: Where the queries are.
        asked: (b,) int64, which of them.
        points: The candidates, on the same device.
        k: How many, 1 <= k <= candidates (one less where a query leaves itself out).
        among: (t,) int64 ascending, the only candidates; None takes all points.
        leave_out_self: Whether query i never finds point i; `among` then holds every query.

    Returns:
        Squared distances (b, k) float64 and indices (b, k) int64 into `points`.
    """
    count = len(points) if among is None else len(among)
    own = None
    if leave_out_self:
        own = asked if among is None else torch.searchsorted(among, asked)
    width = min(k + _PAD, count - leave_out_self)
    fold = _fold(count, width)
    screen = _padded(points.screen if among is None else points.screen[among], fold)
    on_cuda = screen.is_cuda
    block = max(64, min(_BLOCK * (16 if on_cuda else 1) // len(screen), 4096))
    space = None if on_cuda else np.empty((min(block, len(asked)), len(screen)), dtype=np.float32)
    longest = float(points.squares.max()) ** 0.5
    found = []
    for part in range(0, len(asked), block):
        ids = asked[part : part + block]
        mine = None if own is None else own[part : part + block]
        seen = queries.screen[ids]
        seen[:, -1] = 1
        scores = _product(seen, screen, space)
        if mine is not None:
            scores[torch.arange(len(ids), device=ids.device), mine] = _FLOOR
        kept, place = _largest(scores, width, fold)
        index = place if among is None else among[place]
        squares = measured(queries, ids, points, index)
        squares, index = in_order(squares, index, points.tie)
        if width < count - leave_out_self:
            length = queries.squares[ids].sqrt()
            error = (screen.shape[1] + 5) * 2.0**-24 * 1.01 + (2.0**-9 if on_cuda and _short_factors() else 0.0)
            outside = queries.squares[ids] - 2 * (kept[:, -1].double() + error * longest * (length + longest))
            open_ = (squares[:, k - 1] + points.tie >= outside).nonzero()[:, 0]
            if len(open_):
                again = _against_all(queries, ids[open_], points, k, among, None if mine is None else mine[open_])
                squares[open_, :k], index[open_, :k] = again
        found.append((squares[:, :k], index[:, :k]))
    if not found:
        return queries.squares.new_empty(0, k), asked.new_empty(0, k)
    return torch.cat([s for s, _ in found]), torch.cat([i for _, i in found])


def _short_factors() -> bool:
    # Whether somebody allowed CUDA to round the factors of float32 products.
    return torch.get_float32_matmul_precision() != "highest"


def _fold(count: int, width: int) -> int:
    # Columns to take the maximum of together: the best `width` lie within the best `width` such groups. About
    # sqrt(count / width) makes both steps equally long.
    power = int((count / width) ** 0.5).bit_length() - 1
    return 2**power if power >= 3 else 1


def _padded(screen: Tensor, fold: int) -> Tensor:
    missing = -len(screen) % fold
    if not missing:
        return screen
    rest = screen.new_zeros(missing, screen.shape[1])
    rest[:, -1] = _FLOOR
    return torch.cat([screen, rest])


def _product(seen: Tensor, screen: Tensor, space: np.ndarray | None) -> Tensor:
    if space is None:
        with torch.autocast("cuda", enabled=False):
            return seen @ screen.T
    # numpy's product: torch's may run in bfloat16 if somebody set the switch for it.
    return torch.from_numpy(np.matmul(seen.numpy(), screen.numpy().T, out=space[: len(seen)]))


def _largest(scores: Tensor, width: int, fold: int) -> tuple[Tensor, Tensor]:
    """Return the `width` largest of each row and their columns, largest first."""
    if fold == 1:
        return scores.topk(width, dim=1)
    groups = scores.view(len(scores), -1, fold)
    best = groups.amax(2).topk(width, dim=1).indices
    inside = groups.gather(1, best[:, :, None].expand(-1, -1, fold)).flatten(1)
    kept, place = inside.topk(width, dim=1)
    return kept, best.gather(1, place // fold) * fold + place % fold


def measured(queries: Points, ids: Tensor, points: Points, index: Tensor) -> Tensor:
    """Return (b, w) float64 squared distances of queries `ids` (b,) to points `index` (b, w)."""
    squares = queries.squares[ids][:, None] + points.squares[index]
    block = max(1, _MEASURED * (64 if index.is_cuda else 1) // (index.shape[1] * points.rows.shape[1]))
    for part in range(0, len(ids), block):
        some = slice(part, part + block)
        rows = points.rows[index[some]].double()
        squares[some] -= 2 * torch.bmm(rows, queries.rows[ids[some]].double()[:, :, None])[:, :, 0]
    return squares.clamp_(min=0)


def _against_all(
    queries: Points, ids: Tensor, points: Points, k: int, among: Tensor | None, own: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return what :func:`nearest` does, from float64 distances to every candidate."""
    rows, norms = (points.rows, points.squares) if among is None else (points.rows[among], points.squares[among])
    rows = rows.double()
    block = max(1, _BLOCK // 4 // len(rows))
    found = []
    for part in range(0, len(ids), block):
        some = ids[part : part + block]
        squares = queries.squares[some][:, None] + norms - 2 * (queries.rows[some].double() @ rows.T)
        squares.clamp_(min=0)
        if own is not None:
            squares[torch.arange(len(some), device=some.device), own[part : part + block]] = torch.inf
        last = squares.kthvalue(k, dim=1, keepdim=True).values
        ahead = squares < last - points.tie
        level = (squares <= last + points.tie) & ~ahead
        level &= level.cumsum(1) <= k - ahead.sum(1, keepdim=True)
        place = (ahead | level).nonzero()[:, 1].view(len(some), k)
        index = place if among is None else among[place]
        found.append(in_order(squares.gather(1, place), index, points.tie))
    return torch.cat([s for s, _ in found]), torch.cat([i for _, i in found])


def in_order(squares: Tensor, index: Tensor, tie: float) -> tuple[Tensor, Tensor]:
    """Sort (b, w) by squared distance, and runs of equal ones by index."""
    squares, place = squares.sort(dim=1)
    index = index.gather(1, place)
    new = torch.zeros_like(index, dtype=torch.bool)
    new[:, 1:] = squares[:, 1:] - squares[:, :-1] > tie
    if bool(new[:, 1:].all()):
        return squares, index
    place = (new.cumsum(1) * (int(index.max()) + 1) + index).argsort(dim=1)
    return squares.gather(1, place), index.gather(1, place)
