"""Scores between texts and videos, tile by tile: given as a matrix, or computed from embeddings.

Legend of shapes: T texts, V videos, n texts of a tile.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.retrieval.exact.rows import BLOCK, Rows

CACHED = 2**18  # scores of a tile that is only compared: it stays in the processor's cache (measured)
COMPUTED = 2**22  # scores of a tile that a matrix product fills (32 MB)


class Scores(Protocol):
    """Where scores come from.

    Attributes:
        shape: (T, V).
        step: How many texts a tile should hold.
        dtype: The numpy type of a tile's numbers.
        device: Where the tiles lie.
    """

    shape: tuple[int, int]
    step: int
    dtype: np.dtype
    device: torch.device

    def right(self, video_of_text: np.ndarray) -> np.ndarray:
        """Return (T,) float64, the score of each text with its own video."""
        ...

    def tile(self, texts: slice | np.ndarray) -> Tensor:
        """Return a (n, V) tensor of scores, the caller's to overwrite and valid until the next call."""
        ...


class MatrixScores:
    """Scores that somebody computed: a (T, V) tensor, array or memory map, read tile by tile.

    Args:
        similarity: Real numbers; half precision and integers are widened without loss.

    Raises:
        InputError: No matrix of real numbers, or empty. NaN and infinity are found when they are read.
    """

    def __init__(self, similarity: Any) -> None:
        source = similarity.detach() if isinstance(similarity, Tensor) else np.asanyarray(similarity)
        if isinstance(source, Tensor):
            real = not (source.is_complex() or source.is_sparse or source.is_quantized)
            wide = source.dtype not in (torch.float32, torch.float16, torch.bfloat16)
        else:
            real = source.dtype.kind in "fiub"
            wide = source.dtype not in (np.float32, np.float16)
        if not real:
            raise InputError(f"similarity: expected real numbers, found {source.dtype}.")
        if source.ndim != 2 or 0 in source.shape:
            raise InputError(
                f"similarity: expected a matrix (texts, videos) that is not empty, found shape {tuple(source.shape)}."
            )
        self._source = source
        self.shape = (int(source.shape[0]), int(source.shape[1]))
        self.step = max(1, CACHED // self.shape[1])
        self.dtype = np.dtype(np.float64 if wide else np.float32)
        self._kind = torch.float64 if wide else torch.float32
        self.device = source.device if isinstance(source, Tensor) else torch.device("cpu")
        self._buffer = torch.empty(0, self.shape[1])

    def right(self, video_of_text: np.ndarray) -> np.ndarray:
        """Return (T,) float64, the score of each text with its own video.

        Raises:
            InputError: It holds NaN or infinity.
        """
        rows = np.arange(len(video_of_text))
        if isinstance(self._source, Tensor):
            at = (torch.from_numpy(x).to(self.device) for x in (rows, video_of_text))
            right = self._source[tuple(at)].to(self._kind).cpu().double().numpy()
        else:
            right = self._source[rows, video_of_text].astype(np.float64)
        if not np.isfinite(right).all():
            self._refuse()
        return right

    def tile(self, texts: slice | np.ndarray) -> Tensor:
        """Return a (n, V) tensor of scores, valid until the next call.

        Raises:
            InputError: It holds NaN or infinity.
        """
        on_device = isinstance(self._source, Tensor) and isinstance(texts, np.ndarray)
        rows = self._source[torch.from_numpy(texts).to(self.device) if on_device else texts]
        if len(rows) > len(self._buffer):
            self._buffer = torch.empty(len(rows), self.shape[1], dtype=self._kind, device=self.device)
        tile = self._buffer[: len(rows)]
        if isinstance(rows, Tensor):
            tile.copy_(rows)
        else:
            np.copyto(tile.numpy(), rows)
        # A sum is the cheapest look at all; finite numbers may overflow it, so it only calls for a closer one.
        if not tile.sum().isfinite() and not tile.isfinite().all():
            self._refuse()
        return tile

    def _refuse(self) -> None:
        first, total = (-1, -1, 0.0), 0
        for start in range(0, self.shape[0], self.step):
            rows = self._source[start : start + self.step]
            block = torch.as_tensor(rows if isinstance(rows, Tensor) else np.array(rows, dtype=self.dtype))
            bad = (~block.isfinite()).nonzero().cpu()
            if len(bad) and not total:
                row, column = bad[0].tolist()
                first = (start + row, column, float(block[row, column]))
            total += len(bad)
        raise InputError(
            f"similarity: text {first[0]} with video {first[1]} is {first[2]}; {total} of {np.prod(self.shape)} scores "
            "are NaN or infinite. Every score must be finite; none is dropped in silence. Has the model diverged, or "
            "was a mask left in the matrix?"
        )


class EmbeddingScores:
    """Cosines of embeddings, in float64.

    Args:
        text: Rows of the texts.
        video: Rows of the videos, of the same dimension and device.
    """

    def __init__(self, text: Rows, video: Rows) -> None:
        self._text, self._video = text, video
        self.shape = (text.count, video.count)
        self.step = int(np.clip(COMPUTED // video.count, 64, 2048))
        self.dtype = np.dtype(np.float64)
        self.device = text.device

    def right(self, video_of_text: np.ndarray) -> np.ndarray:
        """Return (T,) float64, the score of each text with its own video."""
        blocks = (slice(start, start + BLOCK) for start in range(0, len(video_of_text), BLOCK))
        return np.concatenate(
            [(self._text.take(b) * self._video.take(video_of_text[b])).sum(1).cpu().numpy() for b in blocks]
        )

    def tile(self, texts: slice | np.ndarray) -> Tensor:
        """Return a (n, V) tensor of scores."""
        block = self._text.take(texts)
        tile = block.new_empty(len(block), self.shape[1])
        for start in range(0, self.shape[1], BLOCK):
            columns = slice(start, start + BLOCK)
            torch.mm(block, self._video.take(columns).T, out=tile[:, columns])
        return tile
