"""Files that the evaluation of texts and videos is given: arrays, ids, and which video each text belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from metrixkit.data.tables import SUFFIXES, column, read_table
from metrixkit.errors import InputError, did_you_mean

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
        text: ``.npy`` of (T, d) embeddings.
        video: ``.npy`` of (V, d) embeddings.
        similarity: ``.npy`` of (T, V) scores instead.
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
    path: Path, text_ids: list[str] | None, video_ids: list[str] | None, shape: tuple[int, int]
) -> tuple[list[str], list[str] | None, str]:
    """Return the video of each text, the ids of the videos (None for rows), and what there is to say.

    Args:
        path: CSV, TSV, parquet or JSON lines.
        text_ids: Ids of the T texts; None for row numbers.
        video_ids: Ids of the V videos; None for row numbers, or for names in the order of the table.
        shape: (T, V).

    Raises:
        InputError: A column is missing, a text stands there twice or not at all, or videos cannot be told apart.
    """
    table = read_table(path)
    videos = column(table, _first(table, ("video", "video_id"), path), path, "the video of each text")
    named = next((name for name in ("text", "text_id") if name in table.columns), None)
    if named is None:
        if len(table) != shape[0]:
            raise InputError(
                f"{path} has {len(table):,} rows for {shape[0]:,} texts: row i must tell of text i, or a column 'text' "
                "must name them."
            )
    else:
        videos = _in_order(path, [str(cell) for cell in table[named]], videos, text_ids, shape[0])
    if video_ids is not None:
        return videos, video_ids, ""
    if all(cell.isdecimal() and int(cell) < shape[1] for cell in videos):
        return videos, [str(i) for i in range(shape[1])], ""
    names = list(dict.fromkeys(videos))
    if len(names) != shape[1]:
        raise InputError(
            f"{path} names {len(names):,} videos, there are {shape[1]:,}: say by --video-ids which row is which."
        )
    note = f"rows of the videos are taken in the order of {path.name} ({names[0]}, ...); --video-ids says otherwise"
    return videos, names, note


def _in_order(path: Path, texts: list[str], videos: list[str], ids: list[str] | None, count: int) -> list[str]:
    known = [str(i) for i in range(count)] if ids is None else ids
    video_of: dict[str, str] = {}
    for text, video in zip(texts, videos, strict=True):
        if text in video_of:
            raise InputError(f"{path}: text {text!r} stands there twice; each text belongs to one video.")
        video_of[text] = video
    missing = [text for text in known if text not in video_of]
    strange = sorted(video_of.keys() - set(known))
    if missing or strange:
        which = f"text {missing[0]!r} has no row" if missing else f"there is no text {strange[0]!r}"
        raise InputError(f"{path}: {which} ({len(missing):,} without a row, {len(strange):,} rows of no text).")
    return [video_of[text] for text in known]


def _first(table: pd.DataFrame, names: tuple[str, ...], path: Path) -> str:
    found = next((name for name in names if name in table.columns), None)
    if found is None:
        raise InputError(f"{path} has no column {names[0]!r}; it has {', '.join(map(repr, table.columns))}.")
    return found


def read_pair_array(path: str | None, name: str) -> np.ndarray | None:
    """Return a ``.npy`` of two dimensions, memory-mapped; None for no path.

    Args:
        path: The file.
        name: Of the option, for messages.

    Raises:
        InputError: It is absent, no such file, or of another shape.
    """
    if path is None:
        return None
    try:
        found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"--{name} {path}: no such file.") from None
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"--{name} {path}: not readable as a .npy array ({error}).") from error
    if getattr(found, "ndim", None) != 2 or found.dtype.kind not in "fiu":
        raise InputError(f"--{name} {path}: expected two dimensions of numbers, got {getattr(found, 'shape', '?')}.")
    return found


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
    if not path.is_file():
        raise InputError(f"{option} {path}: no such file.")
    if path.suffix.lower() == ".txt":
        found = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    else:
        table = read_table(path)
        found = [str(cell) for cell in table["id" if "id" in table.columns else table.columns[0]]]
    if len(found) != count:
        raise InputError(f"{path} has {len(found):,} ids for {count:,} rows ({option}).")
    return found
