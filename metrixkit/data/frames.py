"""Frames of a video at wanted times, as uint8 tensors of one size. Decoding is PyAV's, the extra ``video``.

What is decoded depends on the file and the settings alone: frames are named by their presentation time, never by the
rate or the duration that a container claims.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from metrixkit.data.frame_times import Sampling, Segment, choose_frames, parse_segment
from metrixkit.errors import InputError

VIDEO_SUFFIXES: Final = (
    ".mp4",
    ".webm",
    ".mkv",
    ".avi",
    ".mov",
    ".m4v",
    ".mpg",
    ".mpeg",
    ".flv",
    ".wmv",
    ".3gp",
    ".gif",
)
_ARRAY_ROW: Final = re.compile(r"(?P<array>.+\.npy)#(?P<row>\d+)", re.IGNORECASE | re.DOTALL)
# Decoding on is cheaper than a seek until about here: a seek throws away what the decoder holds.
_WORTH_A_SEEK: Final = 30


class Clip(NamedTuple):
    """Frames and when they are shown.

    Attributes:
        frames: (T, 3, H, W) uint8, RGB, T at least 1.
        times: (T,) float64, seconds from the first frame of the file.
        duration: Seconds from the first frame of the file to the start of its last one.
    """

    frames: Tensor
    times: NDArray[np.float64]
    duration: float


def read_frames(
    path: str | Path,
    times: ArrayLike | None = None,
    *,
    count: int | None = None,
    fps: float = 1.0,
    max_frames: int | None = 12,
    sampling: Sampling = "uniform",
    size: int | None = 224,
) -> Clip:
    """Read some frames of a video.

    By default one frame a second, beginning with the first, and 12 of them spread evenly where there are more: the way
    of CLIP4Clip. Turned as the file's display matrix says; transparency (of a GIF) on white. Pixels that are not square
    stay as they are stored.

    Args:
        path: A file; ``video.mp4#t=10,20`` is its stretch from 10 to 20 seconds; ``array.npy#17`` is row 17 of a uint8
            array (N, T, H, W) or (N, T, H, W, 3), whose T frames all count, `max_frames` of them by `sampling`.
        times: Wanted seconds from the start of the stretch; the frame shown at each is taken.
        count: Frames out of all frames of the stretch, chosen by `sampling`.
        fps: Frames a second, where neither `times` nor `count` is given.
        max_frames: The most frames that `fps` may give; None for all.
        sampling: Which are taken where there are more: "uniform", "head", "tail" or "segments"; see
            :func:`~metrixkit.data.frame_times.sample_indices`.
        size: The short side is resized to this (bicubic, antialiased), the centre square cut out, in pixels; None keeps
            the frames as they are.

    Returns:
        The frames, in the order of their times. Fewer than asked for where the video is shorter; at least one.

    Raises:
        InputError: The file is missing, empty, holds no video or cannot be decoded as far as needed; a time lies behind
            the end; PyAV is not installed. Never are there frames of zeros instead.
    """
    if times is not None and count is not None:
        raise InputError("read_frames takes times or count, not both.")
    if size is not None and size < 1:
        raise InputError(f"the size of frames is {size}; expected 1 pixel or more.")
    segment = parse_segment(os.fspath(path))
    row = _ARRAY_ROW.fullmatch(segment.path)
    if row is not None:
        frames = _array_row(row["array"], int(row["row"]))
        shown = np.arange(len(frames), dtype=np.float64)
        # An array has no clock: its frames are a second apart, so that every one of them counts at fps=1.
        chosen = choose_frames(shown, segment, times, count, fps, max_frames, sampling)
        return Clip(_sized(frames[torch.from_numpy(chosen)], size), shown[chosen], float(shown[-1]))
    av = _pyav()
    if not os.path.isfile(segment.path):
        raise InputError(f"{segment.path}: no such video.")
    if os.path.getsize(segment.path) == 0:
        raise InputError(f"{segment.path}: the video is empty (0 bytes).")
    try:
        shown, stamps, keys = _timeline(av, segment.path)
        chosen = choose_frames(shown, segment, times, count, fps, max_frames, sampling)
        needed = np.unique(chosen)
        found = {index: _sized(frame, size) for index, frame in _decode(av, segment.path, needed, stamps, keys)}
    except (av.error.FFmpegError, OSError, EOFError) as error:
        raise InputError(f"{segment.path}: cannot be decoded as a video ({error}).") from error
    lost = [index for index in needed.tolist() if index not in found]
    if lost:
        raise InputError(
            f"{segment.path}: cannot be decoded as a video beyond {shown[max(lost[0] - 1, 0)]:.2f} s; "
            f"{len(lost)} of {len(needed)} wanted frames are missing. Is the file cut short?"
        )
    return Clip(torch.stack([found[int(index)] for index in chosen]), shown[chosen], float(shown[-1]))


def _pyav() -> ModuleType:
    try:
        import av
        import av.error
        import av.stream
    except ImportError as error:
        raise InputError(f"reading videos needs PyAV ({error}): pip install 'metrixkit[video]'.") from error
    return av


def _open(av: ModuleType, path: str) -> tuple[Any, Any]:
    """Return an open container and its first stream of moving pictures; cover art of a song is a still, and none."""
    container = av.open(path)
    still = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & still]
    if not streams:
        covers = len(container.streams.video)
        container.close()
        raise InputError(
            f"{path}: holds no video stream" + (" but a still picture (cover art)." if covers else ", or is cut short.")
        )
    # One thread a video: loader workers share the cores, and the order of errors does not depend on timing.
    streams[0].codec_context.thread_count = 1
    return container, streams[0]


def _timeline(av: ModuleType, path: str) -> tuple[NDArray[np.float64], list[int] | None, list[int]]:
    """Return when each frame starts (seconds from the first), the frames' stamps and those of the key frames.

    The packets are read, not decoded. Where they lack stamps (raw streams), or carry the order of decoding instead
    (AVI), everything is decoded once and the stamps are None.
    """
    container, stream = _open(av, path)
    with container:
        packets = [packet for packet in container.demux(stream) if packet.size and not packet.is_discard]
        stamps = sorted({packet.pts for packet in packets if packet.pts is not None})
        keys = sorted({packet.pts for packet in packets if packet.is_keyframe and packet.pts is not None})
        unit = float(stream.time_base)
        complete = bool(packets) and all(packet.pts is not None for packet in packets)
        complete = complete and container.format.name != "avi"
        declared = stream.frames
        if complete and stream.codec_context.name != "gif" and len(packets) < declared // 2:
            raise InputError(f"{path}: is cut short, {len(packets)} of {declared} frames are there.")
    if complete:
        return (np.array(stamps) - stamps[0]) * unit, stamps, keys
    container, stream = _open(av, path)
    with container:
        rate = float(stream.average_rate or 25)
        seen = [frame.time for frame in container.decode(stream)]
    if not seen:
        raise InputError(f"{path}: holds no frames.")
    known = all(time is not None for time in seen) and all(a < b for a, b in itertools.pairwise(seen))
    return (np.array(seen) - seen[0] if known else np.arange(len(seen)) / rate), None, []


def _decode(
    av: ModuleType, path: str, needed: NDArray[np.int64], stamps: list[int] | None, keys: list[int]
) -> Iterator[tuple[int, Tensor]]:
    """Decode the frames with these ascending indices; skips from key frame to key frame where that saves much."""
    container, stream = _open(av, path)
    with container:
        if stamps is None:
            wanted = set(needed.tolist())
            for index, frame in enumerate(container.decode(stream)):
                if index in wanted:
                    yield index, _tensor(frame)
            return
        place = {stamp: index for index, stamp in enumerate(stamps)}
        starts = np.array([place[key] for key in keys if key in place], dtype=np.int64)
        position, frames = -1, container.decode(stream)  # `position` is the last frame that was decoded
        for index in needed.tolist():
            before = starts[starts <= index]
            if len(before) and before[-1] - position > _WORTH_A_SEEK:
                container.seek(stamps[before[-1]], stream=stream, backward=True, any_frame=False)
                frames = container.decode(stream)
            for frame in frames:
                # A frame that is never shown (alternate reference, lost at an open start) yields to the next one.
                if frame.pts is not None and frame.pts >= stamps[index]:
                    position = place.get(frame.pts, index)
                    yield index, _tensor(frame)
                    break


def _tensor(frame: Any) -> Tensor:
    """Return a decoded frame as (3, H, W) uint8, turned and on white."""
    if any(component.is_alpha for component in frame.format.components):
        pixels = frame.to_ndarray(format="rgba").astype(np.uint16)
        alpha = pixels[..., 3:]
        pixels = ((pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    else:
        pixels = frame.to_ndarray(format="rgb24")
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return torch.from_numpy(np.ascontiguousarray(np.rot90(pixels, turns))).permute(2, 0, 1)


def _sized(frames: Tensor, size: int | None) -> Tensor:
    if size is None or tuple(frames.shape[-2:]) == (size, size):
        return frames.contiguous()
    from torchvision.transforms.v2 import functional as F  # seconds to import; only decoded clips need it

    frames = F.resize(frames, [size], interpolation=F.InterpolationMode.BICUBIC, antialias=True)
    return F.center_crop(frames, [size, size]).contiguous()


def _array_row(path: str, row: int) -> Tensor:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as an array of clips ({error}).") from error
    if array.dtype != np.uint8 or array.ndim not in (4, 5) or (array.ndim == 5 and array.shape[-1] != 3):
        raise InputError(f"{path}: expected uint8 (N, T, H, W) or (N, T, H, W, 3), got {array.dtype} {array.shape}.")
    if row >= len(array) or array.shape[1] == 0:
        raise InputError(f"{path}#{row}: the array holds {len(array)} clips of {array.shape[1]} frames.")
    frames = torch.from_numpy(np.array(array[row]))
    return frames[:, None].expand(-1, 3, -1, -1) if frames.ndim == 3 else frames.permute(0, 3, 1, 2)


__all__ = ["VIDEO_SUFFIXES", "Clip", "Segment", "read_frames"]
