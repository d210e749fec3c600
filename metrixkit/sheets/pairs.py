"""Which images are mixed with which: pairs for a sheet, pairs for a measurement, and their pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from metrixkit.data.decode import decode
from metrixkit.errors import InputError

Rows = list[tuple[int, int]]  # rows of the items: first image, partner


@dataclass(frozen=True)
class Pairs:
    """P pairs of images, ready to be mixed.

    Attributes:
        first: (P, 3, S, S) float32 in [0, 1], RGB.
        second: Their partners.
        labels: Class of the first image and of its partner.
    """

    first: Tensor
    second: Tensor
    labels: list[tuple[str, str]]

    def __len__(self) -> int:
        """Return P."""
        return len(self.labels)

    def parts(self, size: int) -> Iterator[Pairs]:
        """Yield the pairs, at most `size` at a time."""
        for start in range(0, len(self), size):
            rows = slice(start, start + size)
            yield Pairs(self.first[rows], self.second[rows], self.labels[rows])


def choose_pairs(items: pd.DataFrame, count: int, seed: int | None) -> Rows:
    """Return pairs for a sheet, no image in two of them.

    Args:
        items: Rows with ``path`` and ``label``.
        count: How many.
        seed: Of the draw, which pairs images of different labels as far as there are any; None takes the images in
            their order: the first with the second, the third with the fourth.

    Raises:
        InputError: Fewer than two images a pair, or a count below 1.
    """
    if count < 1 or len(items) < 2 * count:
        raise InputError(
            f"{count} {'pair needs' if count == 1 else 'pairs need'} at least {max(2 * count, 2)} images, found "
            f"{len(items)} ({', '.join(items['path'].astype(str)[:3])}); name more images or a folder"
            + (", or ask for fewer --pairs." if count > 1 else ".")
        )
    if seed is None:
        return [(2 * i, 2 * i + 1) for i in range(count)]
    left = np.random.default_rng(seed).permutation(len(items)).tolist()
    labels = items["label"].tolist()
    rows: Rows = []
    while len(rows) < count:
        first = left.pop(0)
        other = next((place for place, row in enumerate(left) if labels[row] != labels[first]), 0)
        rows.append((first, left.pop(other)))
    return rows


def ring_pairs(items: pd.DataFrame, most: int, seed: int, different: bool = False) -> Rows:
    """Return pairs for a measurement: every image with the next one of a drawn order, each once first and once partner.

    Args:
        items: Rows with ``path`` and ``label``.
        most: Pairs at most.
        seed: Of the order.
        different: Leave out pairs of one label.

    Raises:
        InputError: A single image, `most` below 1, or no pair of two labels where they must differ.
    """
    if most < 1 or len(items) < 2:
        raise InputError(f"measuring over {most} pairs of {len(items)} images: expected at least 1 pair and 2 images.")
    order = np.random.default_rng(seed).permutation(len(items)).tolist()
    rows = list(zip(order, [*order[1:], order[0]], strict=True))
    if different:
        labels = items["label"].tolist()
        rows = [(a, b) for a, b in rows if labels[a] != labels[b]]
        if not rows:
            raise InputError(f"all {len(items)} images have the label {labels[0]!r}: pairs of two labels are needed.")
    return rows[:most]


def read_pairs(items: pd.DataFrame, rows: Sequence[tuple[int, int]], transform: Callable[[Tensor], Tensor]) -> Pairs:
    """Return the pixels of pairs; each image is read once.

    Args:
        items: Rows with ``path`` and ``label``.
        rows: Of the pairs.
        transform: (3, H, W) uint8 of any size to (3, S, S) uint8.

    Raises:
        InputError: An image that cannot be read; it is named.
    """
    labels = items["label"].astype(str).tolist()
    used = sorted({row for pair in rows for row in pair})
    place = {row: i for i, row in enumerate(used)}
    pixels = read_images(items, used, transform)
    first, second = ([place[pair[side]] for pair in rows] for side in (0, 1))
    return Pairs(pixels[first], pixels[second], [(labels[a], labels[b]) for a, b in rows])


def read_images(items: pd.DataFrame, rows: Sequence[int], transform: Callable[[Tensor], Tensor]) -> Tensor:
    """Return (n, 3, S, S) pixels in [0, 1] of some rows; arguments and errors as of :func:`read_pairs`."""
    paths = items["path"].tolist()
    return torch.stack([transform(decode(paths[row])) for row in rows]).float() / 255
