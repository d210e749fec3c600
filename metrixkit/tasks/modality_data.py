"""Items of several modalities from a manifest: which are used, what they are judged by, how they are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metrixkit.data.manifest import divisible, split_classes
from metrixkit.data.pair_manifest import PairManifest, pairs_with_validation
from metrixkit.data.pairs import Collate, PairItems
from metrixkit.errors import InputError, did_you_mean
from metrixkit.retrieval import ModalityItems

Fill = Literal["auto", "mean", "renormalized", "zeros", "mean_embedding"]
LONGEST_TEXT = 64


@dataclass
class MissingSettings:
    """How a model of several modalities is judged, with all of them and with every subset.

    Attributes:
        kind: "retrieval" of items of one label; "nearest_mean" or "linear_probe" classification on complete training
            embeddings; "regression" of the number in `target`.
        target: Column of the items that holds labels or numbers; null takes ``label``, for regression ``target``.
        modalities: Which to use; null takes all that the data set has.
        protocol: ``validation`` selects on validation items, those of the data set or held out ones. ``paper`` trains
            on all of the training split and looks at the test split after each evaluated epoch.
        validation: Share held out under ``validation`` where the data set has none; 0 keeps the last epoch.
        hold_out: Whether whole classes are held out (zero-shot) or single items.
        recall_at: The k of recall@k, for retrieval.
        metrics: Further metrics of retrieval.
        fill: What stands for missing modalities. "mean" (published) and "renormalized" average the embeddings of those
            that are there, taken alone; with all of them there the joint branch answers. "zeros" and "mean_embedding"
            ask the joint branch always, with zeros, or mean training features, for what is missing. "auto" is "mean"
            for a model with a branch for each modality, "zeros" for one without.
        select_by: The metric that selects, higher being better; ``subsets/NAME`` is its mean over all subsets.
        every: Epochs between evaluations.
        batch_size: Items a forward call.
        in_memory: Keep the items of an evaluated split in memory; false reads them again for every subset.
    """

    kind: Literal["retrieval", "nearest_mean", "linear_probe", "regression"] = "retrieval"
    target: str | None = None
    modalities: list[str] | None = None
    protocol: Literal["validation", "paper"] = "validation"
    validation: float = 0.2
    hold_out: Literal["classes", "items"] = "classes"
    recall_at: list[int] = field(default_factory=lambda: [1, 2, 4, 8])
    metrics: list[str] = field(default_factory=lambda: ["map@r"])
    fill: Fill = "auto"
    select_by: str = "subsets/recall@1"
    every: int = 1
    batch_size: int = 256
    in_memory: bool = True


def use(manifest: PairManifest, settings: MissingSettings, seed: int) -> PairManifest:
    """Return a manifest with the modalities in use, and validation items where the protocol asks for them.

    Raises:
        InputError: A modality that is not there, or fewer than one; items without any of them.
    """
    names = list(manifest.modalities) if settings.modalities is None else settings.modalities
    for name in names:
        if name not in manifest.modalities:
            raise InputError(
                f"evaluation.modalities: data set {manifest.name!r} has no {name!r}."
                f"{did_you_mean(name, manifest.modalities)}"
            )
    if not names:
        raise InputError(f"evaluation.modalities is empty; {manifest.name!r} has {', '.join(manifest.modalities)}.")
    chosen = replace(manifest, modalities={name: manifest.modalities[name] for name in names})
    empty = np.flatnonzero(~chosen.present.any(axis=1))
    if len(empty):
        raise InputError(
            f"{manifest.name!r}: the item {chosen.ids[empty[0]]!r} has none of {', '.join(names)} ({len(empty):,} such "
            "items); no modality is observed. Leave such rows out."
        )
    share = settings.validation
    if settings.protocol == "paper" or not share or "validation" in chosen.splits:
        return chosen
    # What is fitted to classes or numbers of the training items can be judged on items of these alone.
    if settings.hold_out == "items" or settings.kind != "retrieval":
        return pairs_with_validation(chosen, share, seed)
    train = chosen.items["split"] == "train"
    labels = [str(v) for v in targets_of(chosen.part("train"), settings)]
    if not divisible(labels):
        raise InputError(
            f"validation classes of {chosen.name!r}: two classes with two items would be held out and two left, and of "
            "the training classes fewer than four have two items. Add items, give the split yourself, hold out items "
            "(evaluation.hold_out=items), or set evaluation.validation=0, which keeps the last epoch."
        )
    moved = split_classes(labels, share, seed, where=f"validation classes of {chosen.name!r}")
    items = chosen.items.copy()
    column = _column(settings)
    items.loc[train & items[column].isin(moved), "split"] = "validation"
    split_of = dict(zip(items["id"], items["split"], strict=True))
    texts = chosen.texts.assign(split=[split_of[item] for item in chosen.texts["item"]]).astype("str")
    expected = {split: n for split, n in chosen.expected.items() if split != "train"}
    return replace(chosen, items=items, texts=texts, expected=expected, held_out="classes")


def _column(settings: MissingSettings) -> str:
    return settings.target or ("target" if settings.kind == "regression" else "label")


def targets_of(part: PairManifest, settings: MissingSettings) -> NDArray:
    """Return the (N,) labels, or numbers for regression, of a manifest's items.

    Raises:
        InputError: No such column, or a cell that is empty or no number.
    """
    name = _column(settings)
    if name not in part.items.columns:
        raise InputError(
            f"data set {part.name!r} has no column {name!r} to judge by; name it with evaluation.target. It has "
            f"{', '.join(part.items.columns)}."
        )
    cells = part.items[name].tolist()
    if settings.kind != "regression":
        if "" in cells:
            raise InputError(f"data set {part.name!r}: item {part.ids[cells.index('')]!r} has no {name}.")
        return np.array(cells)
    try:
        found = np.array(cells, dtype=np.float64)
    except ValueError:
        found = np.array([float("nan")])
    if len(found) != len(cells) or not np.isfinite(found).all():
        bad = next((row for row, cell in enumerate(cells) if not _is_finite(cell)), 0)
        raise InputError(f"data set {part.name!r}: item {part.ids[bad]!r} has {name}={cells[bad]!r}, not a number.")
    return found


def _is_finite(cell: str) -> bool:
    try:
        return bool(np.isfinite(float(cell)))
    except ValueError:
        return False


def text_codes(text: str) -> Tensor:
    """Return the (T,) int64 codes 1 to 256 of a text's first bytes in UTF-8."""
    return torch.tensor([byte + 1 for byte in text.encode("utf-8")[:LONGEST_TEXT]], dtype=torch.int64)


def pair_items(part: PairManifest) -> PairItems:
    """Return the items of a manifest as examples, texts as codes of bytes."""
    texts = {name: text_codes for name, kind in part.modalities.items() if kind == "text"}
    return PairItems(part, by="items", read=texts)


def modality_items(part: PairManifest, targets: NDArray, in_memory: bool) -> ModalityItems:
    """Return the items of a manifest for :func:`~metrixkit.retrieval.robustness`.

    Args:
        part: One or more splits.
        targets: (N,) labels or numbers.
        in_memory: Whether to read everything once, sequences padded to the longest.
    """
    examples = pair_items(part)
    collate = Collate(examples.kinds)
    whole: dict[str, Tensor] = {}

    def load(rows: Sequence[int]) -> dict[str, Tensor]:
        if not in_memory:
            return collate([examples[row] for row in rows]).modalities
        if not whole:
            whole.update(collate([examples[row] for row in range(len(examples))]).modalities)
        index = torch.as_tensor(rows, dtype=torch.int64)
        return {name: x[index] for name, x in whole.items()}

    return ModalityItems(tuple(part.ids), targets, tuple(part.modalities), part.present, load)


def describe(part: PairManifest) -> dict[str, int]:
    """Return how many items of a manifest have each modality."""
    return {name: int(part.present[:, column].sum()) for column, name in enumerate(part.modalities)}
