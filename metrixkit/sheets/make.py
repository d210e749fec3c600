"""From what a user asked for to the files: which images, which pictures, which tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from torch import Tensor

from metrixkit.data.transforms import Transform, eval_transform
from metrixkit.errors import InputError
from metrixkit.report.markup import write_text
from metrixkit.report.mask_curve import accuracy_curve, information_curve, mask_curve
from metrixkit.report.mix_sheet import mix_sheet
from metrixkit.sheets.accuracy import mixed_accuracy
from metrixkit.sheets.information import mutual_information
from metrixkit.sheets.masks import mask_statistics, slopes
from metrixkit.sheets.mixers import Mixers, check_lambdas
from metrixkit.sheets.models import RunModels, load_run
from metrixkit.sheets.pairs import Rows, choose_pairs, read_images, read_pairs, ring_pairs
from metrixkit.sheets.sheet import Position, blocks
from metrixkit.source import ALL, read
from metrixkit.spreadsheet import csv_text

SHEET_LAMBDAS = (0.0, 0.25, 0.5, 0.75, 1.0)
CURVE_LAMBDAS = tuple(step / 10 for step in range(11))
INFORMATION_LAMBDAS = tuple(step / 4 for step in range(5))  # a network is trained for each
SIZE, LEAST_SIZE = 128, 16
INFORMATION_SIZE, INFORMATION_IMAGES = 64, 2000


@dataclass(frozen=True)
class Wanted:
    """What a user asked for.

    Attributes:
        sources: Image files, folders, or ``data=NAME`` with its settings; empty takes the test split of the run.
        mixers: Names with commas between, or "all".
        lambdas: Shares of the first image; None takes 0, 0.25 ... 1 for the sheet and 0, 0.1 ... 1 for curves.
        pairs: Blocks of the sheet.
        measured: Pairs at most that curves rest on.
        seed: Of pairs, boxes, noise and coins.
        run: A run folder, model folder or hub name, or None.
        size: Side of the images in pixels; None takes 128, or the model's if that is more.
        views: Of the learned Mixer.
        position: Of the place whose attention is shown, row and column as shares.
        out: The sheet, a ``.png``.
        curve: The curve of mask means, a ``.png``; its numbers go into a ``.csv`` beside it.
        accuracy: The curve of accuracy on mixtures, likewise.
        information: The curve of mutual information with the first image, likewise.
        steps: Of each of its networks.
        repeats: Networks behind each of its points.
    """

    sources: Sequence[str]
    mixers: str = "all"
    lambdas: Sequence[float] | None = None
    pairs: int = 1
    measured: int = 128
    seed: int = 0
    run: str | None = None
    size: int | None = None
    views: Sequence[str] = ()
    position: Position = (0.5, 0.5)
    out: str | None = None
    curve: str | None = None
    accuracy: str | None = None
    information: str | None = None
    steps: int = 300
    repeats: int = 3


def make(wanted: Wanted, say: Callable[[str], None]) -> None:
    """Draw and write all that is wanted; `say` gets a line for each file, and the slopes.

    Raises:
        InputError: Something that was asked for cannot be had.
    """
    for path in (wanted.out, wanted.curve, wanted.accuracy, wanted.information):
        if path is not None and Path(path).suffix.lower() != ".png":
            raise InputError(f"{path}: pictures are written as .png; name the file so.")
    lambdas = check_lambdas(SHEET_LAMBDAS if wanted.lambdas is None else wanted.lambdas)
    over = check_lambdas(CURVE_LAMBDAS if wanted.lambdas is None else wanted.lambdas)
    if wanted.size is not None and wanted.size < LEAST_SIZE:
        raise InputError(f"--size {wanted.size}: expected a side of at least {LEAST_SIZE} pixels.")
    if wanted.curve is not None and len(over) < 2:
        raise InputError("--curve needs two lambdas or more: a slope is drawn through them.")
    models = None if wanted.run is None else load_run(wanted.run)
    if wanted.accuracy is not None and (models is None or models.classifier is None):
        where = "give it with --run" if models is None else f"{models.where} holds none"
        raise InputError(f"--accuracy needs the classifier of a run with method=classification or samix; {where}.")
    mixers = Mixers.named(wanted.mixers, models)
    items, told = _items(wanted)
    size = wanted.size or max(SIZE, 0 if models is None else models.encoder.image_size)
    transform = eval_transform(Transform(resize=size), size)
    try:
        if wanted.out is not None:
            say(f"sheet: {_sheet(wanted, mixers, items, told, lambdas, transform, size)}")
        if wanted.curve is not None:
            rows = ring_pairs(items, wanted.measured, wanted.seed)
            _curve(wanted.curve, mixers, items, rows, told, over, transform, wanted.seed, say)
        if wanted.accuracy is not None:
            _accuracy(wanted.accuracy, mixers, items, wanted, told, over, say)
        if wanted.information is not None:
            _information(wanted.information, mixers, items, wanted, told, say)
    except OSError as error:
        raise InputError(f"cannot write {error.filename}: {error.strerror}.") from error


def _items(wanted: Wanted) -> tuple[pd.DataFrame, str]:
    """Return the images and what they are called in captions."""
    run = wanted.run if wanted.run is not None and (Path(wanted.run) / "config.yaml").is_file() else None
    if not wanted.sources and run is None:
        raise InputError(
            "no images: name files, a folder or data=NAME; only with the folder of a run may they be left out (its "
            "test split is taken)."
        )
    named = bool(wanted.sources) and not wanted.sources[0].startswith(("data=", "data."))
    found = read(wanted.sources, run, ALL)
    items, told = found.items, _called(wanted.sources) if wanted.sources else found.name
    if named:  # what a person points to is taken whole
        return items, told
    if items["split"].nunique() > 1 and (items["split"] == "test").any():
        items, told = items[items["split"] == "test"].reset_index(drop=True), f"{told}, test split"
    return items, told


def _called(sources: Sequence[str]) -> str:
    """Return a few words for the sources: the data set, or how the first two paths end."""
    if sources[0].startswith(("data=", "data.")):
        return next((source.partition("=")[2] for source in sources if source.startswith("data=")), "data")
    paths = [Path(source) for source in sources]
    ends = [path.name if path.is_file() else "/".join(path.parts[-2:]) for path in paths]
    return " and ".join(ends) if len(ends) <= 2 else f"{ends[0]}, {ends[1]} and {len(ends) - 2} more"


def _sheet(
    wanted: Wanted, mixers: Mixers, items: pd.DataFrame, told: str, lambdas: list[float],
    transform: Callable[[Tensor], Tensor], size: int,
) -> Path:  # fmt: skip
    ordered = bool(wanted.sources) and all(Path(source).is_file() for source in wanted.sources)
    rows = choose_pairs(items, wanted.pairs, None if ordered else wanted.seed)
    pairs = read_pairs(items, rows, transform)
    drawn = blocks(mixers, pairs, lambdas, wanted.seed, wanted.views, wanted.position)
    chosen = (
        f"{_pairs(len(rows))} in the order in which the files were given"
        if ordered
        else f"{_pairs(len(rows))} of {len(items)} images drawn with seed {wanted.seed}, of two labels if possible"
    )
    how = (
        f"{chosen}; the short side scaled to {size} pixels and cut to the middle square. Boxes, noise and coins are "
        "those of one seed along a row, so that only λ differs."
    )
    assert wanted.out is not None
    return mix_sheet(wanted.out, drawn, how, f"{told}, {_pairs(len(rows))}, seed {wanted.seed}")


def _curve(
    path: str, mixers: Mixers, items: pd.DataFrame, rows: Rows, told: str, lambdas: list[float],
    transform: Callable[[Tensor], Tensor], seed: int, say: Callable[[str], None],
) -> None:  # fmt: skip
    pairs = read_pairs(items, rows, transform)
    found = mask_statistics(mixers, pairs, lambdas, seed)
    fitted = slopes(found)
    notes = "".join(f" {name}: {mixers.note(name)}." for name in mixers.names if mixers.note(name))
    how = f"{_pairs(len(rows))} of {told}, drawn with seed {seed}.{notes}"
    picture = mask_curve(path, found, fitted, how, f"{told}: {_pairs(len(rows))}")
    table = _beside(path, found.merge(fitted, on="mixer"))
    for row in fitted.to_dict("records"):
        part = found[found["mixer"] == row["mixer"]]
        say(
            f"{row['mixer']:16} slope {row['slope']:.3f}  intercept {row['intercept']:.3f}  mean pixel deviation "
            f"{part['pixel_deviation'].mean():.3f}  nearly binary {100 * part['nearly_binary'].mean():.1f} %"
        )
    say(f"curve: {picture}, {table}")


def _accuracy(
    path: str, mixers: Mixers, items: pd.DataFrame, wanted: Wanted, told: str, lambdas: list[float],
    say: Callable[[str], None],
) -> None:  # fmt: skip
    models = mixers.models
    assert models is not None
    rows = ring_pairs(items, wanted.measured, wanted.seed, different=True)
    pairs = read_pairs(items, rows, models.transform)
    found = mixed_accuracy(_fitted(models), models.classes, mixers, pairs, lambdas, wanted.seed)
    how = f"{_pairs(len(rows))} of two classes each, of {told}, seed {wanted.seed}; classifier: {models.where}."
    picture = accuracy_curve(path, found, how, f"{Path(models.where).name} on {told}: {_pairs(len(rows))}")
    say(f"accuracy: {picture}, {_beside(path, found)}")


def _information(
    path: str, mixers: Mixers, items: pd.DataFrame, wanted: Wanted, told: str, say: Callable[[str], None]
) -> None:
    lambdas = check_lambdas(INFORMATION_LAMBDAS if wanted.lambdas is None else wanted.lambdas)
    size = wanted.size or INFORMATION_SIZE
    some = items.sample(min(len(items), INFORMATION_IMAGES), random_state=wanted.seed).reset_index(drop=True)
    images = read_images(some, range(len(some)), eval_transform(Transform(resize=size), size))
    labels = some["label"].astype(str).tolist()
    found = mutual_information(mixers, images, labels, lambdas, wanted.steps, wanted.repeats, wanted.seed)
    how = (
        f"{len(some)} images of {told} at {size} pixels, a fifth of them held out; {wanted.steps} steps a network, "
        f"{wanted.repeats} from seed {wanted.seed} on."
    )
    picture = information_curve(path, found, how, f"{told}: {len(some)} images")
    say(f"information: {picture}, {_beside(path, found)}")


def _fitted(models: RunModels) -> Callable[[Tensor], Tensor]:
    assert models.classifier is not None
    logits = models.classifier
    return lambda images: logits(models.fitted(images))


def _beside(path: str, found: pd.DataFrame) -> Path:
    return write_text(csv_text(found), Path(path).with_suffix(".csv"))


def _pairs(count: int) -> str:
    return "1 pair" if count == 1 else f"{count} pairs"
