"""The search panel: queries and what an index answers, with scores, and "no match" where nothing was near enough."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from metrixkit.errors import InputError
from metrixkit.report.drawing import Load, new_figure, read_image, save_figure, short
from metrixkit.report.markup import PHOTOGRAPHS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CELL, GAP, BELOW = 1.15, 0.12, 0.46  # inches
QUERY, FOUND, GREY = "#333333", "#2a6fbb", "#8a8a8a"


@dataclass(frozen=True)
class Answer:
    """What one query was answered.

    Attributes:
        query: Its id.
        path: Its image, or "".
        ids: Ids found, nearest first; empty for "no match".
        labels: Their labels, "" where there is none.
        scores: Their scores, higher is nearer.
        paths: Their images, "" where nobody knows.
    """

    query: str
    path: str = ""
    ids: Sequence[str] = field(default_factory=list)
    labels: Sequence[str] = field(default_factory=list)
    scores: Sequence[float] = field(default_factory=list)
    paths: Sequence[str] = field(default_factory=list)


def search_panel(
    path: str | os.PathLike[str], answers: Sequence[Answer], load: Load, rows: int = 12, k: int = 8, threshold: str = ""
) -> Path:
    """Draw each query beside what was found for it.

    Args:
        path: A ``.png`` to write; its folder is made.
        answers: One for each query; the first `rows` are drawn.
        load: Path to an (H, W, 3) uint8 image. Items without a path are drawn as a grey field.
        rows: Queries drawn at most.
        k: Results drawn at most.
        threshold: Says where "no match" begins, for the caption.

    Returns:
        The path.

    Raises:
        InputError: No answer, rows or k < 1, or an image of another form.
    """
    if not answers or rows < 1 or k < 1:
        raise InputError(f"a search panel needs answers, rows and k; found {len(answers)} answers, rows={rows}, k={k}.")
    shown = answers[:rows]
    columns = max(1, min(k, max(len(answer.ids) for answer in shown)))
    top, step = 0.3, CELL + BELOW
    wide, high = (columns + 1) * (CELL + GAP) + 0.35, top + len(shown) * step + 0.05
    figure = new_figure(figsize=(max(wide, 3.4), high), facecolor="white")
    wide = max(wide, 3.4)
    figure.text(GAP / wide, 1 - 0.08 / high, "query", va="top", fontsize=9, weight="bold")
    figure.text((GAP + CELL + GAP + 0.25) / wide, 1 - 0.08 / high, "nearest first", va="top", fontsize=9, weight="bold")
    for place, answer in enumerate(shown):
        bottom = high - top - place * step - CELL
        for column in range(columns + 1):
            left = GAP + column * (CELL + GAP) + (0.25 if column else 0)
            axes = figure.add_axes((left / wide, bottom / high, CELL / wide, CELL / high))
            _draw(axes, answer, column - 1, load)
    rest = f" {len(answers) - len(shown)} further queries are not drawn." if len(answers) > len(shown) else ""
    below = f" {threshold}" if threshold else ""
    caption = (
        f"{len(shown)} queries and what the index answers, below each its label (or id) and similarity.{below}{rest}"
    )
    return save_figure(figure, path, "Search results", caption, PHOTOGRAPHS, dpi=110)


def _draw(axes: Axes, answer: Answer, place: int, load: Load) -> None:
    """Draw the query (`place` -1), its result at `place`, or "no match" at place 0 of a query without one."""
    axes.set(xticks=[], yticks=[])
    if place >= len(answer.ids):
        axes.set_axis_off()
        if place == 0:
            axes.text(0.5, 0.5, "no match", ha="center", va="center", fontsize=10, color=GREY, style="italic")
        return
    if place < 0:
        image, colour, note = answer.path, QUERY, short(answer.query, 20)
    else:
        image, colour = answer.paths[place], FOUND
        note = f"{short(answer.labels[place] or answer.ids[place], 20)}\n{answer.scores[place]:.3f}"
    if image:
        axes.imshow(read_image(load, image), interpolation="antialiased")
    else:
        axes.set_facecolor("#eeeeee")
        axes.text(0.5, 0.5, "no image", ha="center", va="center", fontsize=8, color=GREY, transform=axes.transAxes)
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=1.2)
    axes.set_xlabel(note, fontsize=7, labelpad=2.5, parse_math=False)
