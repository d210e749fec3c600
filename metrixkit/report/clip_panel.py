"""Texts and the clips that a model finds for them, as contact strips."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metrixkit.errors import InputError
from metrixkit.report.drawing import Sheet, new_figure, save_figure, short, squared
from metrixkit.report.markup import PHOTOGRAPHS
from metrixkit.report.panel import RIGHT, WRONG

CELL, GAP, WORDS = 0.62, 0.14, 2.3  # inches


@dataclass(frozen=True)
class ClipAnswer:
    """A text and what was found for it.

    Attributes:
        text: The query.
        item: Id of its own clip.
        rank: Rank of that clip, from 1.
        found: Ids of clips, best first.
        scores: Their similarities.
    """

    text: str
    item: str
    rank: int
    found: Sequence[str]
    scores: Sequence[float]


def clip_panel(
    path: str | os.PathLike[str], answers: Sequence[ClipAnswer], load: Callable[[str], np.ndarray], how: str
) -> Path:
    """Draw texts beside the clips they find, each as a strip of its frames; a text's own clip has a solid border.

    Args:
        path: A ``.png`` to write; its folder is made.
        answers: What to show, each with as many clips.
        load: Item id to (T, H, W, 3) uint8 frames, as many for each.
        how: A sentence on how the texts were chosen; it stands in the PNG.

    Returns:
        The path.

    Raises:
        InputError: Nothing to draw, or frames of another form.
    """
    if not answers or not answers[0].found:
        raise InputError("a panel of clips needs texts and found clips.")
    strips = {name: _frames(load, name) for answer in answers for name in answer.found}
    shown = max(len(frames) for frames in strips.values())
    columns = max(len(answer.found) for answer in answers)
    wide, high = shown * CELL + GAP, CELL + 0.42
    figure = new_figure(figsize=(WORDS + columns * wide + GAP, len(answers) * high + GAP))
    sheet = Sheet(figure)
    for row, answer in enumerate(answers):
        top = GAP + row * high
        sheet.words(GAP, top, f"{textwrap.fill(answer.text, 34)}\n(its clip: rank {answer.rank})", size=7)
        for column, (name, score) in enumerate(zip(answer.found, answer.scores, strict=True)):
            left, right = WORDS + column * wide, name == answer.item
            for i, frame in enumerate(strips[name]):
                colour = RIGHT if right else WRONG
                sheet.picture(left + i * CELL, top, CELL, frame, colour, dashed=not right, width=2.0)
            sheet.words(left, top + CELL + 0.05, f"{short(name, 30)}  {score:.3f}", size=6)
    caption = f"{how} Left the text, then the nearest clips. Solid green: its own clip; dashed red: another."
    return save_figure(figure, path, "Texts and the clips they find", caption, PHOTOGRAPHS)


def _frames(load: Callable[[str], np.ndarray], name: str) -> np.ndarray:
    frames = np.asarray(load(name))
    if frames.ndim != 4 or not len(frames) or frames.shape[3] != 3 or frames.dtype != np.uint8:
        raise InputError(f"load({name!r}) gave shape {frames.shape}, {frames.dtype}; expected (T, H, W, 3) uint8.")
    return np.stack([squared(frame) for frame in frames])
