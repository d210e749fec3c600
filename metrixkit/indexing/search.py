"""Queries to an index, and its answers as a table, as JSON and as a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from metrixkit.data.decode import decode
from metrixkit.data.frame_times import parse_segment
from metrixkit.data.frames import VIDEO_SUFFIXES, read_frames
from metrixkit.errors import InputError
from metrixkit.files import check_file, write_text
from metrixkit.indexing.inputs import Given, refuse_other_model
from metrixkit.indexing.items import read_items
from metrixkit.report.search_panel import Answer, search_panel
from metrixkit.retrieval.index import NO_MATCH, RetrievalIndex
from metrixkit.retrieval.index.incoming import read_k
from metrixkit.spreadsheet import csv_text
from metrixkit.visible import one_line

ROWS, RESULTS = 12, 8  # drawn at most
COLUMNS = ["query", "rank", "id", "label", "score", "path"]


def search(
    index: RetrievalIndex,
    folder: str | Path,
    given: Given,
    k: int | None,
    threshold: float | None,
    radius: float | None = None,
) -> tuple[list[Answer], list[str]]:
    """Search for queries.

    Args:
        index: What is searched.
        folder: Where it lies, for the paths of its images.
        given: The queries.
        k: Results of each at most; None takes 10, or with a radius all.
        threshold: Results that score less are left out; None keeps all.
        radius: All items within it are wanted; see :meth:`RetrievalIndex.range_search`. None for the nearest.

    Returns:
        An answer for each query, with no ids where nothing scored enough; and what there is to say.

    Raises:
        InputError: Another model, another dimension, bad rows, k < 1, a radius that cannot be.
    """
    note = refuse_other_model(index.model_fingerprint, given.fingerprint, str(folder))
    said = [note] if note else []
    if radius is None:
        nearest = index.search(given.vectors, 10 if k is None else k)
        scores, ids = list(nearest[0]), list(nearest[1])
    else:
        most = None if k is None else read_k(k)
        scores, ids = ([found[:most] for found in column] for column in index.range_search(given.vectors, radius))
    names = index.labels
    labels = {} if names is None else dict(zip(index.ids.tolist(), names.tolist(), strict=True))
    items = read_items(Path(folder))
    paths = dict(zip(items["id"], items["path"], strict=True))
    least = -np.inf if threshold is None else np.float32(threshold)
    answers = []
    for query, path, row, points in zip(given.ids, given.items["path"], ids, scores, strict=True):
        near = np.isfinite(points) & (points >= least)
        found = list(zip(row[near].tolist(), points[near].tolist(), strict=True))
        answers.append(
            Answer(
                path or query,  # images below several folders may bear one id
                path,
                [name for name, _ in found],
                [labels.get(name, "") for name, _ in found],
                [score for _, score in found],
                [paths.get(name, "") for name, _ in found],
            )
        )
    without = sum(not answer.ids for answer in answers)
    if without:
        said.append(f"{without} of {len(answers)} queries have no match")
    return answers, said


def as_table(answers: Sequence[Answer]) -> pd.DataFrame:
    """Return a row for each result, and one with the id "no match" and rank 0 for a query without any."""
    rows: list[tuple[Any, ...]] = []
    for answer in answers:
        found = zip(answer.ids, answer.labels, answer.scores, answer.paths, strict=True)
        rows += [(answer.query, place, *result[:3], result[3]) for place, result in enumerate(found, 1)]
        if not answer.ids:
            rows.append((answer.query, 0, NO_MATCH, "", float("nan"), ""))
    return pd.DataFrame(rows, columns=COLUMNS)


def as_json(answers: Sequence[Answer]) -> str:
    """Return a list with an object for each query: query, path, match (whether there is one), results."""
    told = [
        {
            "query": answer.query,
            "path": answer.path,
            "match": bool(answer.ids),
            "results": [
                {"rank": rank, "id": name, "label": label, "score": score, "path": path}
                for rank, (name, label, score, path) in enumerate(
                    zip(answer.ids, answer.labels, answer.scores, answer.paths, strict=True), 1
                )
            ],
        }
        for answer in answers
    ]
    return json.dumps(told, indent=2, ensure_ascii=False)


def as_text(answers: Sequence[Answer]) -> str:
    """Return a table for the screen."""
    head = ["query", "rank", "id", "label", "score"]
    rows = [
        [one_line(q), str(r) if r else "-", one_line(i), one_line(label), "" if not r else f"{score:.4f}"]
        for q, r, i, label, score, _ in as_table(answers).itertuples(index=False)
    ]
    widths = [max(len(row[c]) for row in [head, *rows]) for c in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(r, widths, strict=True)).rstrip() for r in [head, *rows]
    )


def answers_file(out: str | Path) -> Path:
    """Return where results are written, after a look whether they can be.

    Raises:
        InputError: Another suffix, or a place that cannot be written.
    """
    path = Path(out)
    if path.suffix.lower() not in (".csv", ".json"):
        raise InputError(f"--out {out}: results are written as .csv or .json.")
    return check_file(path, "--out")


def write_answers(answers: Sequence[Answer], out: str | Path) -> Path:
    """Write ``.csv`` or ``.json``, whole or not at all.

    Raises:
        InputError: Another suffix, or a place that cannot be written.
    """
    path = answers_file(out)
    text = as_json(answers) + "\n" if path.suffix.lower() == ".json" else csv_text(as_table(answers))
    return write_text(path, text, "--out")


def _picture(path: str) -> np.ndarray:
    """Return an (H, W, 3) uint8 image, or the first frame of a video or of a row of an array."""
    video = parse_segment(path).path.lower().endswith(VIDEO_SUFFIXES) or ".npy#" in path.lower()
    image = read_frames(path, count=1).frames[0] if video else decode(path)
    found: np.ndarray = image.permute(1, 2, 0).numpy()
    return found


def draw_answers(answers: Sequence[Answer], out: str | Path, threshold: float | None) -> tuple[Path, list[str]]:
    """Draw the first queries and their results; images are read from where they lay when they were indexed.

    Returns:
        The path, and a sentence where images are no longer there; those are drawn as "no image".

    Raises:
        InputError: The picture cannot be written.
    """
    pictures: dict[str, np.ndarray] = {}
    missing: list[str] = []
    shown = []
    for answer in answers[:ROWS]:
        for path in (answer.path, *answer.paths[:RESULTS]):
            if path and path not in pictures and path not in missing:
                try:
                    pictures[path] = _picture(path)
                except InputError:
                    missing.append(path)
        there = [path if path in pictures else "" for path in answer.paths]
        shown.append(replace(answer, path=answer.path if answer.path in pictures else "", paths=there))
    limit = "" if threshold is None else f"Results below {threshold:.3f} are left out."
    told = (
        [f"note: {len(missing)} images are not where they were when they were indexed, the first: {missing[0]}"]
        if missing
        else []
    )
    try:
        drawn = search_panel(out, [*shown, *answers[ROWS:]], pictures.__getitem__, ROWS, RESULTS, limit)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}.") from error
    return drawn, told
