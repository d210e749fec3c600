"""The frame settings of a run in one callable, with a cache of what was decoded."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from metrixkit.data.frame_times import Sampling, parse_segment
from metrixkit.data.frames import read_frames
from metrixkit.data.transform_settings import MOST_PIXELS
from metrixkit.errors import InputError, did_you_mean
from metrixkit.files import replacing

# Raise it when frames come out otherwise: caches of older versions are then left alone.
_FORMAT = 1
MOST_FRAMES = 100_000  # of a clip, that saved settings may ask for


class FrameReader:
    """Read clips with settings that stay the same; called with a reference it answers (T, 3, size, size) uint8.

    Args:
        fps: Frames a second.
        max_frames: The most frames of a clip.
        sampling: Which are taken where there are more.
        size: Side of the frames in pixels.
        cache: A folder where decoded frames are kept, one ``.npz`` a clip, not compressed (12 frames of 224 pixels are
            1.8 MB); None decodes each time. An entry belongs to the settings and to the file's size and modification
            time, and appears whole or not at all, so that several processes may fill one folder.

    Raises:
        InputError: A setting out of range, or a cache that cannot be written.
    """

    def __init__(
        self,
        fps: float = 1.0,
        max_frames: int = 12,
        sampling: Sampling = "uniform",
        size: int = 224,
        cache: str | None = None,
    ) -> None:
        if max_frames < 1 or size < 1 or not fps > 0:
            raise InputError(f"frames: fps={fps:g}, max_frames={max_frames} and size={size} must be positive.")
        self.fps, self.max_frames, self.sampling, self.size = fps, max_frames, sampling, size
        self.cache = None if cache is None else Path(cache).expanduser()
        if self.cache is not None:
            try:
                self.cache.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise self._cannot_write(error) from error

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> FrameReader:
        """Return the reader that `config`, as saved with a model, describes. It keeps nothing.

        Raises:
            InputError: A key that is missing or unknown, or a value out of range.
        """
        known = ("fps", "max_frames", "sampling", "size")
        if set(config) != set(known):
            raise InputError(f"frames: expected {', '.join(known)}, got {', '.join(map(str, config)) or 'nothing'}.")
        for key, most in (("fps", 1000), ("max_frames", MOST_FRAMES), ("size", MOST_PIXELS)):
            value = config[key]
            whole = isinstance(value, int) or (key == "fps" and isinstance(value, float))
            if not whole or isinstance(value, bool) or not 0 < value <= most:
                raise InputError(f"frames: {key} is {value!r}; expected a number above 0 and up to {most}.")
        if config["sampling"] not in get_args(Sampling):
            near = did_you_mean(config["sampling"], get_args(Sampling))
            raise InputError(f"frames: sampling is {config['sampling']!r}.{near}")
        return cls(**config)

    def __call__(self, reference: str) -> Tensor:
        """Return the frames of a clip.

        Args:
            reference: What :func:`~metrixkit.data.frames.read_frames` takes.

        Raises:
            InputError: As there.
        """
        place = self._place(reference)
        if place is not None and place.exists():
            try:
                with open(place, "rb") as opened, np.load(opened, allow_pickle=False) as file:
                    return torch.from_numpy(file["frames"])
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                pass  # cut short by a full disk or a power failure: made anew
        clip = read_frames(reference, fps=self.fps, max_frames=self.max_frames, sampling=self.sampling, size=self.size)
        if place is not None:
            self._store(place, clip.frames.numpy(), clip.times)
        return clip.frames

    def _place(self, reference: str) -> Path | None:
        path = parse_segment(reference).path
        if self.cache is None or ".npy#" in path.lower():  # rows of arrays are decoded already
            return None
        try:
            status = os.stat(path)
        except OSError:
            return None
        settings = (self.fps, self.max_frames, self.sampling, self.size)
        key = (_FORMAT, os.path.abspath(path), reference, status.st_size, status.st_mtime_ns, settings)
        digest = hashlib.blake2b(repr(key).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
        return self.cache / digest[:2] / f"{digest}.npz"

    def _store(self, place: Path, frames: np.ndarray, times: np.ndarray) -> None:
        # Not durable: an entry that a power failure cut short is made anew.
        with replacing(place, "frames.cache", durable=False) as file:
            np.savez(file, frames=frames, times=times)

    def _cannot_write(self, error: OSError) -> InputError:
        return InputError(
            f"the cache of frames {self.cache} cannot be written ({error.strerror or error}); choose another folder, "
            "or none."
        )
