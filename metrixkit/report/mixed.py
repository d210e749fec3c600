"""Mixed examples: which two pictures were mixed, and what lies next to the mixture."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metrixkit.errors import InputError
from metrixkit.report.drawing import Load, Sheet, new_figure, read_image, save_figure, short
from metrixkit.report.markup import PHOTOGRAPHS

FIRST, SECOND, OTHER = "#2a6fbb", "#d1662b", "#999999"
CELL, GAP, TEXT = 1.15, 0.12, 0.46  # inches


@dataclass(frozen=True)
class Mixture:
    """Two training items, what they became, and what is near it.

    Attributes:
        first: Id of the item with weight lambda.
        second: Id of the item with weight 1 - lambda.
        ratio: lambda, in [0, 1].
        level: What was mixed: "embed", "feature" or "input".
        neighbours: Ids of the training items nearest to the mixture, nearest first.
        cosines: Their similarity to it.
        image: (H, W, 3) uint8 mixture of the images, at level "input".
    """

    first: str
    second: str
    ratio: float
    level: str
    neighbours: Sequence[str]
    cosines: Sequence[float]
    image: np.ndarray | None = None


def mixed_examples(
    path: str | os.PathLike[str], mixtures: Sequence[Mixture], labels: Mapping[str, str], load: Load, how: str
) -> Path:
    """Draw one row a mixture: its two elements, the mixed image where images are mixed, and its nearest items.

    Borders: blue for the class of the first element, dashed orange for that of the second, grey for any other.

    Args:
        path: A ``.png`` to write; its folder is made.
        mixtures: At least one.
        labels: Item id to class.
        load: Item id to an (H, W, 3) uint8 image.
        how: How pairs, lambdas and the searched items were chosen, for the caption; whole sentences.

    Returns:
        The path.

    Raises:
        InputError: No mixture, or an image of another form.
    """
    if not mixtures:
        raise InputError("no mixture to draw: expected at least one.")
    shown = any(mixture.image is not None for mixture in mixtures)
    columns = 2 + shown + max(len(mixture.neighbours) for mixture in mixtures)
    wide, top = columns * (CELL + GAP) + 0.6, 0.4
    high = top + len(mixtures) * (CELL + TEXT) + 0.05
    figure = new_figure(figsize=(wide, high), facecolor="white")
    sheet = Sheet(figure)
    titles = ["first", "second", *(["mixture"] if shown else []), "nearest to the mixture"]
    lefts = [GAP + column * (CELL + GAP) + (0.35 if column >= 2 + shown else 0) for column in range(columns)]
    for left, title in zip(lefts, titles, strict=False):
        sheet.words(left, 0.15, title)
    for row, mixture in enumerate(mixtures):
        height = top + row * (CELL + TEXT)
        colours = {labels[mixture.second]: SECOND, labels[mixture.first]: FIRST}

        def lay(column: int, image: np.ndarray, colour: str, below: str = "", height: float = height) -> None:
            sheet.picture(lefts[column], height, CELL, image, colour, colour == SECOND, 2.6, below)

        for column, (name, colour, note) in enumerate(
            (
                (mixture.first, FIRST, f"λ = {mixture.ratio:.2f}"),
                (mixture.second, SECOND, f"1 − λ = {1 - mixture.ratio:.2f}"),
            )
        ):
            lay(column, read_image(load, name), colour, f"{short(labels[name], 20)}\n{note}")
        if mixture.image is not None:
            lay(2, mixture.image, OTHER)
        for column, (name, cosine) in enumerate(zip(mixture.neighbours, mixture.cosines, strict=True), 2 + shown):
            below = f"{short(labels[name], 20)}\n{cosine:.3f}"
            lay(column, read_image(load, name), colours.get(labels[name], OTHER), below)
    caption = (
        f"{how} Left the two elements of a mixture with their weights; right the training pictures nearest to it with "
        "their cosine similarity. Blue: class of the first element; dashed orange: of the second; grey: another class."
    )
    return save_figure(figure, path, "Mixed examples", caption, PHOTOGRAPHS, dpi=110)
