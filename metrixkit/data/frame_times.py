"""Which frames are taken: rules on times and indices, without any decoding."""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metrixkit.errors import InputError, did_you_mean

Sampling = Literal["uniform", "head", "tail", "segments"]
SAMPLINGS: Final = ("uniform", "head", "tail", "segments")
_SEGMENT: Final = re.compile(r"(?P<path>.+)#t=(?P<start>\d+(?:\.\d+)?)?(?:,(?P<stop>\d+(?:\.\d+)?))?", re.DOTALL)


class Segment(NamedTuple):
    """A stretch of a video in seconds; `stop` None is its end."""

    path: str
    start: float = 0.0
    stop: float | None = None


def parse_segment(reference: str) -> Segment:
    """Split ``video.mp4#t=10,20`` (the form of media fragments: from 10 to 20 seconds) into its parts.

    Args:
        reference: A path, with ``#t=start,stop``, ``#t=start`` or ``#t=,stop`` behind it, or without.

    Raises:
        InputError: A segment that ends where it starts, or before.
    """
    match = _SEGMENT.fullmatch(reference)
    if match is None:
        return Segment(reference)
    start = float(match["start"] or 0.0)
    stop = None if match["stop"] is None else float(match["stop"])
    if stop is not None and stop <= start:
        raise InputError(f"{reference}: the segment ends at {stop:g} s, which is not after its start at {start:g} s.")
    return Segment(match["path"], start, stop)


def sample_indices(available: int, count: int, sampling: Sampling = "uniform") -> NDArray[np.int64]:
    """Choose `count` of `available` frames.

    Args:
        available: Frames there are, 1 or more.
        count: Frames wanted, 1 or more; with fewer available all of them are taken, each once.
        sampling: ``uniform`` is linspace(0, available - 1, count) cut to whole numbers, first and last included (the
            default of CLIP4Clip, ``slice_framepos 2``); ``head`` and ``tail`` take the first and the last ones;
            ``segments`` takes the middle of `count` equal stretches, floor(i n / count + n / (2 count)) (COOT at
            evaluation).

    Returns:
        (min(count, available),) ascending.

    Raises:
        InputError: A count below 1, or no such rule.
    """
    if available < 1 or count < 1:
        raise InputError(f"cannot take {count} of {available} frames; both must be 1 or more.")
    if sampling not in SAMPLINGS:
        raise InputError(f"no frame sampling is called {sampling!r}.{did_you_mean(sampling, SAMPLINGS)}")
    if available <= count:
        return np.arange(available)
    if sampling == "head":
        return np.arange(count)
    if sampling == "tail":
        return np.arange(available - count, available)
    if sampling == "segments":
        # In whole numbers, so that no rounding of a quotient moves a frame: i n / k + n / 2k = (2 i + 1) n / 2k.
        return (2 * np.arange(count) + 1) * available // (2 * count)
    return np.linspace(0, available - 1, count).astype(np.int64)


def choose_frames(
    shown: NDArray[np.float64],
    segment: Segment,
    times: ArrayLike | None,
    count: int | None,
    fps: float,
    max_frames: int | None,
    sampling: Sampling,
) -> NDArray[np.int64]:
    """Choose frames of a timeline. The frame at a time is the one shown then: the last that starts at or before it.

    Args:
        shown: (N,) seconds at which each frame starts, ascending, the first 0.
        segment: The stretch that counts; a stop beyond the end is the end.
        times: Wanted seconds from the start of the segment; everything below is then without effect.
        count: Frames wanted out of all frames of the segment, by `sampling`; then `fps` and `max_frames` are without
            effect.
        fps: Frames a second, the first at the start of the segment.
        max_frames: Of more than these, `sampling` chooses; None takes all.
        sampling: As in :func:`sample_indices`.

    Returns:
        Indices into `shown`, at least one.

    Raises:
        InputError: The segment or a time begins behind the end, a rate or count that is not positive.
    """
    step = float(shown[-1]) / (len(shown) - 1) if len(shown) > 1 else 1.0
    last = float(shown[-1])
    if segment.start > last + step:
        raise InputError(f"{segment.path}: the segment starts at {segment.start:g} s, the last frame is at {last:g} s.")
    end = last if segment.stop is None else min(segment.stop, last)
    if times is not None:
        wanted = segment.start + np.atleast_1d(np.asarray(times, dtype=np.float64))
        if wanted.size == 0 or not np.isfinite(wanted).all() or wanted.min() < segment.start:
            raise InputError(f"{segment.path}: times must be one or more numbers of seconds, 0 or later.")
        if wanted.max() > last + step:
            raise InputError(
                f"{segment.path}: a frame at {float(wanted.max()):g} s was asked for, the last one is at {last:g} s."
            )
        return _shown_at(shown, wanted)
    if count is not None:
        low, high = _shown_at(shown, np.array([segment.start, end]))
        return low + sample_indices(int(high - low) + 1, count, sampling)
    if not fps > 0:
        raise InputError(f"fps={fps:g}: expected a positive number of frames a second.")
    # The small surplus keeps a frame that starts at the very time, whatever its division left over.
    number = max(int((end - segment.start) * fps + 1e-6), 0) + 1
    at = _shown_at(shown, segment.start + np.arange(number) / fps)
    return at if max_frames is None else at[sample_indices(number, max_frames, sampling)]


def _shown_at(shown: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.int64]:
    found = np.searchsorted(shown, wanted + 1e-6, side="right") - 1
    return np.clip(found, 0, len(shown) - 1).astype(np.int64)
