"""Embeddings on their way into faiss: checked, normalised in float64 where asked, float32, in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.retrieval.exact.rows import Rows

BLOCK = 2**16  # rows handed to faiss at once
PIECE = 1024  # rows in float64 at once: they stay in the processor's cache
LONGEST = 1e18  # squared lengths beyond this are infinite in float32


def read_rows(data: Any, name: str, metric: str, ids: np.ndarray | None = None, dim: int | None = None) -> Rows:
    """Check embeddings for an index.

    Args:
        data: (N, d) tensor, array or memory map of numbers.
        name: What the caller calls it, for messages.
        metric: "cosine", "dot" or "euclidean"; "cosine" refuses rows of length 0.
        ids: (N,) ids, to name a bad row by.
        dim: The dimension it must have, or None for any.

    Raises:
        InputError: As :class:`~metrixkit.retrieval.exact.rows.Rows`; another dimension; rows too long for float32.
    """
    rows = Rows(data, name, ids, normalise=metric == "cosine")
    if dim is not None and rows.dim != dim:
        raise InputError(
            f"{name} have {rows.dim} dimensions and the index has {dim}; they must come from the same model."
        )
    if metric != "cosine" and float(rows.lengths.max()) > LONGEST:
        row = int(rows.lengths.argmax())
        raise InputError(
            f"{name}: row {row} has length {float(rows.lengths[row]):.2g}, whose square no float32 holds. Scale the "
            "embeddings, or take metric='cosine'."
        )
    return rows


def take(rows: Rows, where: np.ndarray | None = None) -> np.ndarray:
    """Return the rows at (n,) positions, or all, as (n, d) float32, rounded once from float64."""
    count = rows.count if where is None else len(where)
    taken = np.empty((count, rows.dim), dtype=np.float32)
    for a in range(0, count, PIECE):
        piece = slice(a, a + PIECE)
        taken[piece] = rows.take(piece if where is None else where[piece]).cpu().numpy()
    return taken


def read_queries(data: Any, name: str, metric: str, dim: int) -> np.ndarray:
    """Return queries as (Q, d) float32, checked and normalised as :func:`read_rows` and :func:`take` do, in one pass.

    What is not a plain sound array of floats goes through those two, which know how to read it or what is wrong.

    Raises:
        InputError: As :func:`read_rows`.
    """
    if isinstance(data, Tensor) and data.device.type == "cpu" and data.dtype in (torch.float32, torch.float64):
        data = data.detach().numpy()
    if not (isinstance(data, np.ndarray) and data.dtype.kind == "f" and data.ndim == 2 and data.shape[1] == dim):
        return take(read_rows(data, name, metric, dim=dim))
    taken = np.empty(data.shape, dtype=np.float32)
    least, most = (0.0, np.inf) if metric == "cosine" else (-1.0, LONGEST)
    for start in range(0, len(data), PIECE):
        piece = data[start : start + PIECE].astype(np.float64, order="C")
        lengths = np.sqrt(np.einsum("ij,ij->i", piece, piece))
        if not ((lengths > least) & (lengths < most)).all():
            break
        if metric == "cosine":
            piece /= lengths[:, None]
        taken[start : start + PIECE] = piece
    else:
        if len(data):
            return taken
    return take(read_rows(data, name, metric, dim=dim))


def blocks(rows: Rows) -> Iterator[np.ndarray]:
    """Return all rows in order, as (<= BLOCK, d) float32 arrays. Each is overwritten by the next."""
    block = np.empty((min(BLOCK, rows.count), rows.dim), dtype=np.float32)
    for start in range(0, rows.count, BLOCK):
        stop = min(start + BLOCK, rows.count)
        for a in range(start, stop, PIECE):
            b = min(a + PIECE, stop)
            block[a - start : b - start] = rows.take(slice(a, b)).cpu().numpy()
        yield block[: stop - start]
