"""Files that the evaluation of texts and videos is given: arrays, ids, and which video each text belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from metrixkit.data.tables import SUFFIXES, column, read_names, read_table
from metrixkit.errors import InputError, did_you_mean, near_name

PROTOCOLS: dict[str, tuple[int, int]] = {
    "1k-A": (1_000, 1_000),
    "1k-A-20captions": (20_000, 1_000),
    "msrvtt-full": (59_800, 2_990),
    "msvd": (27_763, 670),
    "activitynet-val1": (4_917, 4_917),
}
"""Published test sets by name: the texts and videos that they have."""


@dataclass(frozen=True)
class PairFiles:
    """What the command line names.

    Attributes:
        text: File of (T, d) embeddings.
        video: File of (V, d) embeddings.
        similarity: File of (T, V) scores instead.
        pairs: Table that says which video each text belongs to.
        text_ids: Ids of the texts, a line or row each; None takes those beside `text`, else row numbers.
        video_ids: Likewise of the videos.
    """

    text: str | None = None
    video: str | None = None
    similarity: str | None = None
    pairs: str | None = None
    text_ids: str | None = None
    video_ids: str | None = None


def check_protocol(name: str, texts: int, videos: int) -> None:
    """Raise InputError unless `name` is a published test set with these counts."""
    if name not in PROTOCOLS:
        raise InputError(
            f"--protocol {name} is not known.{did_you_mean(name, PROTOCOLS)} Known: {', '.join(PROTOCOLS)}."
        )
    if PROTOCOLS[name] != (texts, videos):
        wanted = PROTOCOLS[name]
        raise InputError(
            f"--protocol {name} has {wanted[0]:,} texts and {wanted[1]:,} videos; here are {texts:,} and {videos:,}. "
            "Leave --protocol out for a test set of your own."
        )


def read_pair_table(
    path: Path,
    text_ids: list[str] | None,
    video_ids: list[str] | None,
    shape: tuple[int, int],
    separator: str | None = None,
) -> tuple[list[str], list[str], str]:
    """Return the video of each text, the ids of the videos, and what there is to say.

    Args:
        path: CSV, TSV, parquet or JSON lines (``--pairs``).
        text_ids: Ids of the T texts; None for row numbers.
        video_ids: Ids of the V videos; None for row numbers, or for names in the order of the table. A number with
            leading zeros (``007``) is a name.
        shape: (T, V).
        separator: Between the cells of a text table; None is found out.

    Raises:
        InputError: A column is missing, a text stands there twice or not at all, or a video is unknown.
    """
    table = read_table(path, separator, "--separator")
    videos = column(table, _first(table, ("video", "video_id")), path, "the video of each text", named_by=False)
    named = next((name for name in ("text", "text_id") if name in table.columns), None)
    if named is not None:
        texts = column(table, named, path, "the text of each row", named_by=False)
        videos = _in_order(path, texts, videos, text_ids, shape[0])
    elif len(table) != shape[0]:
        raise InputError(
            f"{path} has {len(table):,} rows for {shape[0]:,} texts: row i must tell of text i, or a column 'text' "
            "must name them."
        )
    if video_ids is not None:
        known = set(video_ids)
        row = next((row for row, video in enumerate(videos) if video not in known), None)
        if row is not None:
            text = row if text_ids is None else text_ids[row]
            raise InputError(
                f"--pairs {path}: text {str(text)!r} belongs to video {videos[row]!r}, which is not among the ids of "
                f"the videos (--video-ids, or the list beside --video).{near_name(videos[row], video_ids)}"
            )
        return videos, video_ids, ""
    rows = {str(i) for i in range(shape[1])}
    if rows.issuperset(videos):
        return videos, [str(i) for i in range(shape[1])], ""
    names = list(dict.fromkeys(videos))
    if len(names) != shape[1]:
        raise InputError(
            f"--pairs {path} names {len(names):,} videos, there are {shape[1]:,}: say by --video-ids which row is "
            "which."
        )
    note = f"rows of the videos are taken in the order of {path.name} ({names[0]}, ...); --video-ids says otherwise"
    return videos, names, note


def _in_order(path: Path, texts: list[str], videos: list[str], ids: list[str] | None, count: int) -> list[str]:
    known = [str(i) for i in range(count)] if ids is None else ids
    video_of: dict[str, str] = {}
    for row, (text, video) in enumerate(zip(texts, videos, strict=True), start=1):
        if text in video_of:
            raise InputError(
                f"--pairs {path}, row {row}: text {text!r} stands there twice; each text belongs to one video."
            )
        video_of[text] = video
    missing = [text for text in known if text not in video_of]
    strange = sorted(video_of.keys() - set(known))
    if missing or strange:
        which = f"text {missing[0]!r} has no row" if missing else f"there is no text {strange[0]!r}"
        mend = " Texts are named by their row numbers here; other names are given by --text-ids." if ids is None else ""
        near = near_name(missing[0], strange) if missing and ids is not None else ""
        raise InputError(
            f"--pairs {path}: {which} ({len(missing):,} without a row, {len(strange):,} rows of no text).{mend}{near}"
        )
    return [video_of[text] for text in known]


def _first(table: pd.DataFrame, names: tuple[str, ...]) -> str:
    return next((name for name in names if name in table.columns), names[0])


def pair_shape(arrays: Mapping[str, np.ndarray | None]) -> tuple[int, int]:
    """Return the number of texts and of videos.

    Raises:
        InputError: Neither embeddings of both sides nor scores, or both.
    """
    text, video, similarity = arrays["text"], arrays["video"], arrays["similarity"]
    if similarity is not None and text is None and video is None:
        return int(similarity.shape[0]), int(similarity.shape[1])
    if similarity is None and text is not None and video is not None:
        return len(text), len(video)
    raise InputError("give --text T.npy and --video V.npy, or --similarity S.npy (texts x videos).")


def read_row_ids(given: str | None, array: str | None, count: int, option: str) -> list[str] | None:
    """Return the ids of an array's rows, None where nobody names them.

    Args:
        given: A text file with an id a line, or a table with a column ``id`` (else its first column).
        array: The array's path; its name with .txt, .csv, ... is looked for where nothing is given.
        count: Rows there are.
        option: For messages.

    Raises:
        InputError: The file is absent, or has another length.
    """
    beside = [] if array is None else [Path(array).with_suffix(end) for end in (".txt", *SUFFIXES)]
    path = Path(given) if given is not None else next((file for file in beside if file.is_file()), None)
    if path is None:
        return None
    found = read_names(path, option)
    if len(found) != count:
        raise InputError(f"{path} has {len(found):,} ids for {count:,} rows ({option}).")
    return found
