"""The retrieval panel: queries and what a model finds for them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from metrixkit.errors import InputError, did_you_mean
from metrixkit.report.drawing import Load, Sheet, new_figure, read_image, save_figure, short
from metrixkit.report.markup import PHOTOGRAPHS
from metrixkit.retrieval import Predictions

# Told apart also by those who do not see red and green alike: a dashed line, and lightness.
RIGHT, WRONG, QUERY = "#1a8f3c", "#d62f2f", "#333333"
CELL, GAP = 1.15, 0.12  # inches
Choice = Literal["random", "right", "wrong"]
TITLES: dict[str, str] = {
    "random": "Queries drawn at random",
    "right": "Most confidently right",
    "wrong": "Most confidently wrong",
}
LEGEND = "Solid green: same class as the query; dashed red: another class. Below each its class and similarity."


def retrieval_panel(
    path: str | os.PathLike[str],
    predictions: Predictions,
    load: Load,
    rows: int = 8,
    k: int = 8,
    seed: int = 0,
    title: str = "",
    choice: Choice = "random",
) -> Path:
    """Draw queries beside their nearest items: solid green borders for the same class, dashed red for another.

    "random": half of the rows are queries whose nearest item is right, half wrong, drawn at random (as far as there are
    enough of each); so the picture shows both, and its share of right rows says nothing. "right" and "wrong": those
    whose nearest item is right, or wrong, with the highest similarity, and of two queries that are each other's nearest
    only one. Wrong ones are where a model is most sure of itself: look-alikes, and often labels that are wrong. The
    caption inside the PNG says this, and what the share is over all queries.

    Args:
        path: A ``.png`` to write; its folder is made.
        predictions: What a model found.
        load: Item id to an (H, W, 3) uint8 image.
        rows: Queries shown at most.
        k: Neighbours shown at most.
        seed: Of the draw.
        title: A line above ("cub-zero-shot, MobileNetV2").
        choice: Which queries.

    Returns:
        The path.

    Raises:
        InputError: No predictions, no such queries, rows or k < 1, an unknown choice, or an image of another form.
    """
    if choice not in get_args(Choice):
        raise InputError(f"choice={choice!r} is no way to choose queries.{did_you_mean(choice, get_args(Choice))}")
    if rows < 1 or k < 1 or not len(predictions) or not predictions.neighbour_ids.shape[1]:
        raise InputError(
            f"a retrieval panel needs queries, neighbours, rows and k; found {len(predictions)} queries with "
            f"{predictions.neighbour_ids.shape[1]} neighbours, rows={rows}, k={k}."
        )
    hit = nearest_is_right(predictions)
    chosen = choose_rows(hit, rows, seed) if choice == "random" else most_confident(predictions, choice, rows)
    if not len(chosen):
        raise InputError(f"choice={choice!r}: no query has a nearest item that is {choice}.")
    k = min(k, predictions.neighbour_ids.shape[1])
    heading = [*([title] if title else []), LEGEND]
    top, step = 0.2 * len(heading) + 0.15, CELL + 0.46
    wide, high = (k + 1) * (CELL + GAP) + 0.35, top + len(chosen) * step + 0.05
    figure = new_figure(figsize=(wide, high), facecolor="white")
    sheet = Sheet(figure)
    for line, text in enumerate(heading):
        sheet.words(GAP, 0.1 + 0.2 * line, text, bold=bool(title) and line == 0)
    for place, query in enumerate(chosen):
        for column in range(k + 1):
            left = GAP + column * (CELL + GAP) + (0.25 if column else 0)
            _draw(sheet, left, top + place * step, predictions, int(query), column - 1, load)
    return save_figure(figure, path, TITLES[choice], _caption(choice, hit, hit[chosen], seed), PHOTOGRAPHS, dpi=110)


def nearest_is_right(predictions: Predictions) -> np.ndarray:
    """Return for each query whether its nearest item is of its class: (Q,) bool."""
    right: np.ndarray = predictions.neighbour_labels[:, 0] == predictions.query_labels
    return right


def choose_rows(hit: np.ndarray, rows: int, seed: int) -> np.ndarray:
    """Return positions of at most `rows` queries, half right and half wrong where there are enough; right ones
    first.
    """
    generator = np.random.default_rng(seed)
    good, bad = (generator.permutation(np.flatnonzero(side)) for side in (hit, ~hit))
    wanted = min(len(good), max(rows - rows // 2, rows - len(bad)))
    return np.concatenate([good[:wanted], bad[: rows - wanted]])


def most_confident(predictions: Predictions, choice: Choice, rows: int) -> np.ndarray:
    """Return positions of at most `rows` queries whose nearest item is right, or wrong, the most similar first.

    Queries without a relevant item cannot be right and are no mistakes; they are left out. Of two queries that are each
    other's nearest the first stands for both.
    """
    right = nearest_is_right(predictions)
    wanted = right if choice == "right" else ~right & (predictions.rank_of_first > 0)
    among = np.flatnonzero(wanted & (predictions.neighbour_ids[:, 0] != ""))
    order = among[np.argsort(-predictions.neighbour_scores[among, 0], kind="stable")]
    chosen: list[int] = []
    shown: set[tuple[str, str]] = set()
    for query in order:
        pair = str(predictions.query_ids[query]), str(predictions.neighbour_ids[query, 0])
        if pair[::-1] not in shown:
            shown.add(pair)
            chosen.append(int(query))
        if len(chosen) == rows:
            break
    return np.array(chosen, dtype=np.int64)


def _caption(choice: Choice, hit: np.ndarray, shown: np.ndarray, seed: int) -> str:
    count = len(shown)
    if choice == "random":
        right = int(shown.sum())
        how = (
            f"{count} of {len(hit):,} queries, drawn with seed {seed}: {right} whose nearest picture is right and "
            f"{count - right} whose nearest is wrong, so that both are seen (of all queries {100 * hit.mean():.1f} % "
            "are right)."
        )
    elif choice == "wrong":
        how = (
            f"The {count} queries with the most similar nearest picture among those whose nearest is of another class: "
            "where the model is surest and mistaken. Look-alikes, and labels worth checking."
        )
    else:
        how = (
            f"The {count} queries with the most similar nearest picture among those whose nearest is of the same "
            "class. Near-duplicates, where there are any, stand here."
        )
    return f"{how} Left the query, then its nearest pictures."


def _draw(sheet: Sheet, left: float, top: float, found: Predictions, query: int, place: int, load: Load) -> None:
    """Draw the query (`place` -1) or its neighbour at `place`."""
    label = str(found.query_labels[query])
    if place < 0:
        image = read_image(load, str(found.query_ids[query]))
        below = f"{short(label, 20)}\n{_rank(found, query)}"
        sheet.picture(left, top, CELL, image, QUERY, width=1.2, below=below)
        return
    name, theirs = str(found.neighbour_ids[query, place]), str(found.neighbour_labels[query, place])
    if not name:  # the gallery was exhausted
        return
    right = theirs == label
    below = f"{short(theirs, 20)}\n{found.neighbour_scores[query, place]:.3f}"
    sheet.picture(left, top, CELL, read_image(load, name), RIGHT if right else WRONG, dashed=not right, below=below)


def _rank(predictions: Predictions, query: int) -> str:
    rank = int(predictions.rank_of_first[query])
    return f"query, first right: {rank}" if rank else "query, none of its class"
