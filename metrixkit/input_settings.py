"""How a run's inputs come from disk: the sections `loader` and `frames` of a config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass
class LoaderSettings:
    """How images come from disk.

    Attributes:
        workers: Processes that decode; null takes the cores less one, at most 8, and none on one or two cores.
        cache: Folder for resized images, or null for none.
        cache_short_side: Short side of the cached images in pixels; null takes what suits the image size
            (384 at 224).
    """

    workers: int | None = None
    cache: str | None = None
    cache_short_side: int | None = None


@dataclass
class FrameSettings:
    """How clips are read, with task=crossmodal.

    Attributes:
        fps: Frames a second.
        max_frames: The most frames of a clip; longer sequences of features are thinned to it, too.
        sampling: Which are taken where there are more.
        size: Side of the frames in pixels; null takes the model's.
        cache: Folder for decoded frames, or null for none.
    """

    fps: float = 1.0
    max_frames: int = 12
    sampling: Literal["uniform", "head", "tail", "segments"] = "uniform"
    size: int | None = None
    cache: str | None = None
