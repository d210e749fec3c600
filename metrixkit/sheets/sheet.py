"""What a sheet holds: for every pair its images, for every mixer its mixtures over lambda, and what the Mixer sees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from metrixkit.errors import InputError, did_you_mean
from metrixkit.mixing.mixer import MaskPair
from metrixkit.report.mix_sheet import Block, Cell, Row, heat
from metrixkit.sheets.mixers import Mixers, full_mask
from metrixkit.sheets.pairs import Pairs

VIEWS = ("content", "attention")
Position = tuple[float, float]  # row and column, as shares of height and width


def blocks(
    mixers: Mixers,
    pairs: Pairs,
    lambdas: Sequence[float],
    seed: int = 0,
    views: Sequence[str] = (),
    position: Position = (0.5, 0.5),
) -> list[Block]:
    """Return what is drawn of every pair.

    Args:
        mixers: A row each.
        pairs: A block each.
        lambdas: A column each.
        seed: Of boxes, noise and coins.
        views: Of the learned Mixer: "content", "attention".
        position: Of the place whose attention is shown.

    Raises:
        InputError: An unknown view, views without a Mixer, or a position outside the image.
    """
    _check_views(mixers, views, position)
    made = [[mixers.mix(name, pairs, lam, seed) for lam in lambdas] for name in mixers.names]
    seen = [mixers.models.masks(pairs.first, pairs.second, lam) for lam in lambdas] if views and mixers.models else []
    out = []
    for pair in range(len(pairs)):
        rows = []
        for name, mixtures in zip(mixers.names, made, strict=True):
            cells = []
            for lam, mixed in zip(lambdas, mixtures, strict=True):
                mask = full_mask(mixed)[pair, 0].float().numpy()
                lines = (f"λ {lam:.2f}", f"label {float(mixed.lam[pair]):.2f}", f"mask {mask.mean():.2f}")
                cells.append(Cell(_shown(mixed.images[pair]), lines, mask))
            rows.append(Row(name, mixers.note(name), cells))
        for view in views:
            assert mixers.models is not None
            assert mixers.models.mixer is not None
            whose = mixers.models.mixer.settings.content
            image = _shown((pairs.second if whose == "partner" else pairs.first)[pair])
            look = _content if view == "content" else _attention
            rows.append(look(image, seen, lambdas, pair, whose, position))
        out.append(Block(_shown(pairs.first[pair]), _shown(pairs.second[pair]), pairs.labels[pair], rows))
    return out


def _content(
    image: np.ndarray, seen: Sequence[MaskPair], lambdas: Sequence[float], pair: int, whose: str, position: Position
) -> Row:
    cells = []
    for lam, masks in zip(lambdas, seen, strict=True):
        values = masks.content[pair, 0].float().cpu().numpy()
        lines = (f"λ {lam:.2f}", f"{values.min():.2g} to", f"{values.max():.2g}")
        cells.append(Cell(heat(image, values), lines))
    note = f"of the {_words(whose)}, before attention spreads it; each picture from its lowest to its highest value"
    return Row("content", note, cells)


def _attention(
    image: np.ndarray, seen: Sequence[MaskPair], lambdas: Sequence[float], pair: int, whose: str, position: Position
) -> Row:
    cells = []
    for lam, masks in zip(lambdas, seen, strict=True):
        height, width = masks.content.shape[-2:]
        place = min(int(position[0] * height), height - 1), min(int(position[1] * width), width - 1)
        weights = masks.attention[pair, place[0] * width + place[1]].float().cpu().numpy().reshape(height, width)
        lines = (f"λ {lam:.2f}", "up to", f"{weights.max() * height * width:.3g} × even")
        mark = ((place[0] + 0.5) / height, (place[1] + 0.5) / width)
        cells.append(Cell(heat(image, weights), lines, mark=mark))
    note = f"of the ringed place, to the content of the {_words(whose)}; even attention would be 1 everywhere"
    return Row("attention", note, cells)


def _words(whose: str) -> str:
    return "partner" if whose == "partner" else "first image"


def _check_views(mixers: Mixers, views: Sequence[str], position: Position) -> None:
    for view in views:
        if view not in VIEWS:
            raise InputError(f"--views: no view is called {view!r}.{did_you_mean(view, VIEWS)}")
    if views and (mixers.models is None or mixers.models.mixer is None):
        where = f"{mixers.models.where} holds none" if mixers.models is not None else "give it with --run"
        raise InputError(f"--views shows what a learned Mixer sees; it needs a run that trained one: {where}.")
    if not all(0 <= share <= 1 for share in position):
        raise InputError(f"--position {position[0]:g},{position[1]:g}: expected row,column as shares in [0, 1].")


def _shown(image: Tensor) -> np.ndarray:
    """Return a (3, H, W) image in [0, 1] as (H, W, 3) uint8."""
    pixels: np.ndarray = (255 * image.clamp(0, 1)).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return pixels
