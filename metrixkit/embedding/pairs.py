"""A trained model of texts and videos as one object: either in, embeddings of one space out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metrixkit.data.features import pad_features, read_features
from metrixkit.data.frame_reader import FrameReader
from metrixkit.errors import InputError
from metrixkit.models.pair_export import PairModel

VideoLike = str | Path | Tensor | np.ndarray


class PairEmbeddingModel:
    """Both towers, with the way of reading clips that they were measured with.

    Args:
        model: The model; moved to `device` and put into evaluation mode.
        frames: How clips are read: fps, max_frames, sampling, size.
        device: Where to compute; None leaves the model where it is.

    Attributes:
        model: The model.
        frames: (T, 3, size, size) uint8 of a path.
        frames_config: Its settings as JSON can hold them.
        device: Where embeddings are computed.

    Example:
        >>> model = load_model("runs/glyphs_video_text")                     # doctest: +SKIP
        >>> texts = model.embed_text(["latin small letter a, moving right"]) # doctest: +SKIP
        >>> scores = texts @ model.embed_video(["a.mp4", "b.webm"]).T        # doctest: +SKIP
    """

    def __init__(self, model: PairModel, frames: Mapping[str, Any], device: str | torch.device | None = None) -> None:
        self.device = torch.device(device) if device is not None else next(model.parameters()).device
        self.model: PairModel = model.to(self.device).eval()
        self.frames_config = dict(frames)
        self.frames = FrameReader.from_config(self.frames_config)

    @property
    def embedding_dim(self) -> int:
        """Length of an embedding."""
        return self.model.embedding_dim

    @property
    def fingerprint(self) -> str:
        """64 hexadecimal digits that change with whatever changes an embedding: weights, vocabulary, frames."""
        digest = hashlib.sha256()
        for name, value in sorted(self.model.state_dict().items()):
            if isinstance(value, Tensor):
                digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
                digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
            else:
                digest.update(json.dumps(value, sort_keys=True).encode())
        settings = {k: v for k, v in self.model.settings().items() if k not in ("backbone", "clip_lr", "train")}
        digest.update(json.dumps([settings, self.frames_config], sort_keys=True).encode())
        return digest.hexdigest()

    def embed_text(self, texts: str | Sequence[Any] | Tensor, batch_size: int = 256) -> Tensor:
        """Return one embedding for each text.

        Args:
            texts: Texts, or one; where the model takes features of texts, (T, D) arrays or paths of such.
            batch_size: Texts encoded at a time; the result does not depend on it beyond rounding.

        Returns:
            (N, d) float32 unit rows on the CPU.

        Raises:
            InputError: An empty text, or texts instead of features or the reverse.
        """
        items: list[Any] = [texts] if isinstance(texts, str) else list(texts)
        features = self.model.inputs.text_dim is not None
        rows = [torch.empty(0, self.embedding_dim)]
        for start in _steps(len(items), batch_size):
            some = items[start : start + batch_size]
            with torch.inference_mode():
                if features:
                    padded, mask = pad_features([_features(item) for item in some])
                    found = self.model.embed_text(padded.to(self.device), mask.to(self.device))
                else:
                    found = self.model.embed_text([str(text) for text in some])
                rows.append(found.float().cpu())
        # Out of inference mode: the caller may well use these rows in a graph of their own.
        return torch.cat(rows)

    def embed_video(self, videos: VideoLike | Sequence[VideoLike], batch_size: int = 16) -> Tensor:
        """Return one embedding for each clip.

        Args:
            videos: Paths (``video.mp4``, ``video.mp4#t=10,20``), or (T, 3, H, W) uint8 tensors; where the model takes
                features, (T, D) arrays or what :func:`~metrixkit.data.features.read_features` takes. Or a single path.
            batch_size: Clips that are decoded and encoded at a time.

        Returns:
            (N, d) float32 unit rows on the CPU.

        Raises:
            InputError: A clip that cannot be read, or something that is none; its position is named.
        """
        items: list[Any] = [videos] if isinstance(videos, (str, Path)) else list(videos)
        rows = [torch.empty(0, self.embedding_dim)]
        for start in _steps(len(items), batch_size):
            clips = [self._clip(item, i) for i, item in enumerate(items[start : start + batch_size], start)]
            padded, mask = pad_features(clips, self.frames_config["max_frames"])
            with torch.inference_mode():
                rows.append(self.model.embed_video(padded.to(self.device), mask.to(self.device)).float().cpu())
        return torch.cat(rows)

    def _clip(self, item: Any, position: int) -> Tensor:
        if self.model.inputs.video_dim is not None:
            return _features(item)
        if isinstance(item, (str, Path)):
            return self.frames(str(item))
        frames = torch.as_tensor(item)
        if frames.ndim != 4 or frames.shape[1] != 3 or frames.dtype != torch.uint8 or not len(frames):
            raise InputError(
                f"video {position} is {frames.dtype} {tuple(frames.shape)}: expected a path, or uint8 (T, 3, H, W)."
            )
        return frames


def _features(item: Any) -> Tensor:
    found = torch.from_numpy(read_features(str(item))) if isinstance(item, (str, Path)) else torch.as_tensor(item)
    return (found[None] if found.ndim == 1 else found).float()


def _steps(count: int, batch_size: int) -> range:
    if batch_size < 1:
        raise InputError(f"batch_size {batch_size}: expected at least 1.")
    return range(0, count, batch_size)
