"""Rows of embeddings as the evaluation sees them: checked once, handed out in float64 blocks, never copied whole."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from metrixkit.errors import InputError, did_you_mean

Distance = Literal["cosine", "euclidean", "dot"]
BLOCK = 4096  # rows a pass over the data converts at once


def check_distance(distance: str) -> None:
    """Raise InputError unless `distance` is one of "cosine", "euclidean" and "dot"."""
    if distance not in get_args(Distance):
        raise InputError(f"distance={distance!r} is not known.{did_you_mean(distance, get_args(Distance))}")


class Rows:
    """(N, d) embeddings of any origin, read block by block.

    Args:
        data: (N, d) tensor (any device), array, memory map or nested list of numbers.
        name: What the caller calls it, for messages ("queries").
        ids: (N,) ids for messages, or None.
        normalise: Whether rows are divided by their Euclidean length (in float64); zero rows are then an error.
        device: Where blocks are computed; by default where `data` lies if that is a CUDA device, else the CPU.

    Raises:
        InputError: Not a matrix of numbers, empty, or a row with NaN, infinity or (where normalised) of length zero.
            The message names the first such row and its id and says how many there are. Nothing is ever dropped.

    Attributes:
        count: N.
        dim: d.
        device: Where :meth:`take` puts its blocks.
        lengths: (N,) float64 CPU tensor, Euclidean length of each row before any normalisation.
        mapped: Whether the data is a memory map, which may be larger than memory.
    """

    def __init__(
        self,
        data: Any,
        name: str,
        ids: np.ndarray | None = None,
        normalise: bool = True,
        device: torch.device | None = None,
    ) -> None:
        self._source = _as_source(data, name)
        self._normalise = normalise
        self.count, self.dim = int(self._source.shape[0]), int(self._source.shape[1])
        self.mapped = isinstance(self._source, np.memmap)
        self._narrow = str(self._source.dtype).removeprefix("torch.") in ("float16", "bfloat16", "float32")
        own = self._source.device if isinstance(self._source, Tensor) else torch.device("cpu")
        # Devices without float64 (MPS) are read from, not computed on.
        self.device = device or (own if own.type == "cuda" else torch.device("cpu"))
        self.lengths = torch.cat(
            [
                torch.linalg.vector_norm(self._raw(slice(start, start + BLOCK)), dim=1).cpu()
                for start in range(0, self.count, BLOCK)
            ]
        )
        self._check(name, ids)
        self._tame = bool(((self.lengths == 0) | (self.lengths > 1e-100) & (self.lengths < 1e100)).all())

    def take(self, index: slice | np.ndarray) -> Tensor:
        """Return the rows at `index` as a (n, d) float64 tensor on :attr:`device`, normalised where asked."""
        block = self._raw(index)
        if self._normalise:
            block = block / torch.linalg.vector_norm(block, dim=1, keepdim=True)
        return block

    def scaled(self, index: slice | np.ndarray, scale: float | None = None) -> Tensor:
        """Return the rows at `index`, divided by their lengths or multiplied by `scale`, as (n, d) float32.

        Each row is within 2^-22 of its length of the exact one. Rows of 32 bits or less never see float64.
        """
        lengths = self.lengths[index]
        factors = 1 / lengths if scale is None else torch.full_like(lengths, scale)
        plain = self._narrow and bool(((factors > 2.0**-60) & (factors < 2.0**60)).all())
        if not plain:
            return (self._raw(index) * factors.to(self.device)[:, None]).float()
        return self._raw(index, torch.float32) * factors.to(self.device, torch.float32)[:, None]

    def plain(self) -> np.ndarray | None:
        """Return the data as a C-ordered float32 or float64 array of this machine if it is one, for compiled loops.

        None as well where products of such rows could leave the range of float64.
        """
        source = self._source
        if isinstance(source, Tensor):
            if source.device.type != "cpu" or source.dtype not in (torch.float32, torch.float64):
                return None
            source = source.numpy()
        fit = source.dtype in (np.float32, np.float64) and source.dtype.isnative and source.flags.c_contiguous
        return source if fit and self._tame else None

    def _raw(self, index: slice | np.ndarray, dtype: torch.dtype = torch.float64) -> Tensor:
        if isinstance(self._source, Tensor):
            where = torch.from_numpy(index).to(self._source.device) if isinstance(index, np.ndarray) else index
            block = self._source[where]
            if block.device.type not in ("cpu", "cuda"):
                block = block.cpu()
            return block.to(self.device, dtype)
        kind = np.float64 if dtype == torch.float64 else np.float32
        return torch.from_numpy(self._source[index].astype(kind, copy=True)).to(self.device)

    def _check(self, name: str, ids: np.ndarray | None) -> None:
        bad = ~torch.isfinite(self.lengths)
        if self._normalise:
            bad |= self.lengths == 0
        if not bad.any():
            return
        row = int(bad.nonzero()[0])
        length = float(self.lengths[row])
        what = (
            "is all zero, so it has no direction" if length == 0 else "holds NaN" if length != length else "is infinite"
        )
        known = "" if ids is None else f" (id {str(ids[row])!r})"
        total = int(bad.sum())
        raise InputError(
            f"{name}: row {row}{known} {what}; {total} of {self.count} rows are NaN, infinite or zero. "
            "Every row must be finite"
            + (" and non-zero for cosine." if self._normalise else ".")
            + " They are never dropped in silence: mend the embedding (a diverged model, a broken image, an empty "
            "file?)."
        )


def _as_source(data: Any, name: str) -> np.ndarray | Tensor:
    if isinstance(data, Tensor):
        source: np.ndarray | Tensor = data.detach()
        numeric = not (data.is_complex() or data.is_sparse or data.is_quantized)
        kind = str(data.dtype)
    else:
        try:
            source = data if isinstance(data, np.ndarray) else np.asarray(data)
        except ValueError as error:
            raise InputError(f"{name}: cannot be read as a matrix of numbers ({error}).") from error
        numeric = source.dtype.kind in "fiub"
        kind = str(source.dtype)
    if not numeric:
        raise InputError(f"{name}: expected real numbers, found {kind}.")
    if source.ndim != 2:
        raise InputError(f"{name}: expected a matrix (items, dimensions), found shape {tuple(source.shape)}.")
    if source.shape[0] == 0 or source.shape[1] == 0:
        raise InputError(f"{name}: is empty (shape {tuple(source.shape)}); there is nothing to evaluate.")
    return source
