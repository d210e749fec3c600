"""Scores in low precision with a proved bound on their error: what sorts out the pairs that cannot matter.

Legend of shapes: N rows, d dimensions, b queries of a block, t gallery rows of a tile.

A screen holds rows scaled to length <= 1 (unit rows for cosine; all rows divided by the longest for the dot product)
and rounded once to bfloat16 or float32. A product of two blocks costs a fraction of the float64 one, and its distance
from the true score s = q.g is bounded:

1. Rounding the rows. With q~, g~ the rounded rows, |q.g - q~.g~| <= |q - q~| |g| + |q~| |g - g~|
   <= r + (1 + r) R (Cauchy-Schwarz), where r = |q - q~| is *measured* for each query and R is the largest such
   residual of the gallery. For bfloat16 r is at most 2^-8 |q| (8 significant bits), and near 2^-9.3 where the numbers
   of a row have no pattern.
2. Adding up. The products of bfloat16 numbers are exact in float32. d of them added in float32, in any order, are off
   by at most a d (1 + r)(1 + R) for sum |q~_i g~_i| <= |q~| |g~|, where a = 2^-24 / (1 - d 2^-24) for float32 on a
   processor, a = 2^-23 for its bfloat16 instructions (which may flush and truncate) and a = 2^-22 for tensor cores
   (which align the terms of a block to the largest and truncate). float32 products on CUDA may run in TF32 if somebody
   set the switch for it; both factors are then off by 2^-10 at most, which is always added there.
3. Handing out. The bfloat16 product of a processor is rounded once more, to nearest: by at most 2^-8 |s|. Rounding is
   monotone, so a comparison need not pay for it: if the float32 sum is <= x, its rounding is <= the rounding of x.
   Hence :meth:`ScreenRows.ceiling` and :meth:`ScreenRows.floor` round x + e and x - e the same way, and what lies
   outside of the two is certain.

e, the sum of 1 and 2 with 2^-51 d for what float64 itself may be off, is :meth:`ScreenRows.error`; with 3 it is
:meth:`ScreenRows.total_error`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from metrixkit.errors import InputError, did_you_mean
from metrixkit.retrieval.exact.rows import BLOCK, Rows

Precision = Literal["auto", "bfloat16", "float32", "float64"]

SCREEN_PAYS = 2**18  # pairs from which a screen is faster than float64 alone
KEPT = 2**30  # bytes: a memory map whose rounded rows fit is rounded once, a larger one again for each pass
WIDEST = 2**20  # dimensions; beyond, the bound says nothing


def screen_levels(precision: str, pairs: int, dim: int, device: torch.device) -> tuple[str, ...]:
    """Return the precisions to try in turn, each for what the one before leaves open; the last is "float64".

    Args:
        precision: "auto" takes bfloat16 where the processor multiplies it fast, else float32, and float64 alone below
            :data:`SCREEN_PAYS` pairs. Another precision is taken at its word.
        pairs: Number of query-gallery pairs.
        dim: Dimensions d.
        device: Where the products run.

    Raises:
        InputError: Unknown precision.
    """
    if precision not in get_args(Precision):
        raise InputError(f"precision={precision!r} is not known.{did_you_mean(precision, get_args(Precision))}")
    if precision == "float64" or dim >= WIDEST or (precision == "auto" and pairs < SCREEN_PAYS):
        return ("float64",)
    if precision == "auto":
        precision = "bfloat16" if fast_bfloat16(device) else "float32"
    # On CUDA float32 may mean TF32, no better than bfloat16, and float64 is at home on data-centre GPUs.
    if precision == "float32" or device.type == "cuda":
        return (precision, "float64")
    return ("bfloat16", "float32", "float64")


@cache
def fast_bfloat16(device: torch.device) -> bool:
    """Return whether bfloat16 products run in hardware, with float32 sums, on `device`."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if not torch.backends.mkldnn.is_available():
        return False
    flags = ("avx512_bf16", "amx_bf16")
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is not None:
        known = capabilities()
        return any(known.get(flag, False) for flag in flags)
    try:
        listed = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return any(flag in listed for flag in flags)


class ScreenRows:
    """Rows in low precision, with what that costs in exactness.

    In-memory rows are rounded once and kept: N d 2 bytes in bfloat16. A memory map whose rounded rows would not fit in
    :data:`KEPT` bytes is read and rounded again block by block, so that memory stays that of a block.

    Args:
        rows: The rows.
        precision: "bfloat16" or "float32".
        scale: None divides each row by its own length; a number multiplies all rows, which must bring every length to
            1 or less.
        order: (N,) positions: row i here is row order[i] of `rows`. None takes all rows as they come.

    Attributes:
        count: N.
        dim: d.
        device: Where blocks lie.
        dtype: torch.bfloat16 or torch.float32.
        kept: Whether the rounded rows are held in memory.
        residuals: (N,) float64 CPU tensor, an upper bound on |x - x~| for each row.
    """

    def __init__(self, rows: Rows, precision: str, scale: float | None = None, order: np.ndarray | None = None) -> None:
        self._rows, self._scale, self._order = rows, scale, order
        self.count = rows.count if order is None else len(order)
        self.dim, self.device = rows.dim, rows.device
        self.dtype = {"bfloat16": torch.bfloat16, "float32": torch.float32}[precision]
        self.residuals = torch.empty(self.count, dtype=torch.float64)
        self.kept = not rows.mapped or self.count * self.dim * self.dtype.itemsize <= KEPT
        self._kept = torch.empty(self.count, self.dim, dtype=self.dtype, device=self.device) if self.kept else None
        for start in range(0, self.count, BLOCK):
            stop = min(start + BLOCK, self.count)
            near = self._scaled(start, stop)
            low = near.to(self.dtype)
            # 2^-22 for `near` being float32 itself, 1 in 10^3 for the float32 norm of their exact difference.
            self.residuals[start:stop] = torch.linalg.vector_norm(near - low, dim=1).cpu().double() * 1.001 + 2.0**-22
            if self._kept is not None:
                self._kept[start:stop] = low

    def block(self, start: int, stop: int) -> Tensor:
        """Return rows start..stop as (n, d) of :attr:`dtype` on :attr:`device`."""
        if self._kept is not None:
            return self._kept[start:stop]
        return self._scaled(start, min(stop, self.count)).to(self.dtype)

    def error(self, gallery: ScreenRows) -> Tensor:
        """Return (N,) float64: how far a sum with any row of `gallery` can be from the true score, before rounding."""
        dim, widest = self.dim, float(gallery.residuals.max())
        relative = 0.0
        if self.device.type == "cuda":
            unit = 2.0**-22
            relative = 2.0**-9 + 2.0**-20 if self.dtype == torch.float32 else 0.0
        else:
            unit = 2.0**-23 if self.dtype == torch.bfloat16 else 2.0**-24 / (1 - dim * 2.0**-24)
        longest = (1 + self.residuals) * (1 + widest)
        rounded = self.residuals + (1 + self.residuals) * widest
        return (rounded + longest * (dim * unit + relative)) * (1 + 1e-9) + dim * 2.0**-51 + 1e-30

    def total_error(self, gallery: ScreenRows) -> Tensor:
        """Return (N,) float64: how far a number of :func:`products` can be from the true score."""
        error = self.error(gallery)
        if self.product_dtype == torch.float32:
            return error
        # Sums up to 1 are rounded by half a unit of [0.5, 1); larger ones below 1 + 2^-8 back to 1, and so nearer.
        return error + torch.where(error < 2.0**-8, torch.full_like(error, 2.0**-9), 2.0**-8 * (1 + error))

    def floor(self, scores: Tensor, error: Tensor) -> Tensor:
        """Return the least number :func:`products` can give for a pair whose true score is at least `scores`.

        Args:
            scores: float64 true scores of scaled rows, any shape.
            error: :meth:`error` of the queries concerned, to broadcast with `scores`.

        Returns:
            Of the dtype of :func:`products`: a product below it means a true score below `scores`.
        """
        return (scores - error).to(self.product_dtype)

    def ceiling(self, scores: Tensor, error: Tensor) -> Tensor:
        """Return the largest number :func:`products` can give for a pair whose true score is at most `scores`."""
        return (scores + error).to(self.product_dtype)

    @property
    def product_dtype(self) -> torch.dtype:
        """The dtype of :func:`products` of these rows: bfloat16 on a processor, else float32."""
        return torch.float32 if self.device.type == "cuda" else self.dtype

    def _scaled(self, start: int, stop: int) -> Tensor:
        index = slice(start, stop) if self._order is None else self._order[start:stop]
        return self._rows.scaled(index, self._scale)


def products(queries: Tensor, gallery: Tensor, out: Tensor | None = None) -> Tensor:
    """Return the (b, t) screened scores of two blocks of :meth:`ScreenRows.block`.

    Args:
        queries: (b, d) bfloat16 or float32.
        gallery: (t, d) likewise.
        out: (b, t) contiguous tensor of the right dtype to write into, on a CPU.

    Returns:
        bfloat16 or float32 as the rows on a CPU, float32 on CUDA.
    """
    if queries.device.type == "cuda":
        if queries.dtype == torch.float32:
            return queries @ gallery.T
        try:
            # Into float32: a bfloat16 result may be put together from bfloat16 partial sums.
            return torch.mm(queries, gallery.T, out_dtype=torch.float32)
        except TypeError:  # torch < 2.8; bfloat16 numbers are exact in TF32 as well
            return queries.float() @ gallery.float().T
    if queries.dtype == torch.bfloat16:
        return torch.mm(queries, gallery.T) if out is None else torch.mm(queries, gallery.T, out=out)
    # numpy's product: torch's may run in bfloat16 if somebody set the switch for it.
    if out is None:
        out = torch.empty(len(queries), len(gallery))
    np.matmul(queries.numpy(), gallery.numpy().T, out=out.numpy())
    return out
