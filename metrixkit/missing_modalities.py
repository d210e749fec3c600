"""The task of doing without: items of several modalities, judged with all of them and with every part of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metrixkit.data.manifest import split_classes
from metrixkit.data.pair_manifest import PairManifest, pairs_with_validation
from metrixkit.data.pairs import Collate, PairItems
from metrixkit.errors import InputError, did_you_mean
from metrixkit.inference import evaluating
from metrixkit.models.multimodal import Multimodal
from metrixkit.retrieval import ModalityItems, Robustness, fuse, robustness
from metrixkit.retrieval.masks import Mask
from metrixkit.retrieval.outcomes import CLASSIFICATION, REGRESSION

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
        protocol: ``validation`` selects on validation items, those of the data set or held out ones. ``paper`` trains on
            all of the training split and looks at the test split after each evaluated epoch.
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


@dataclass
class MissingModalities:
    """Evaluation under subsets and masks.

    Attributes:
        manifest: All splits, with the modalities in use.
        settings: See there.
    """

    settings_type: ClassVar[type] = MissingSettings

    manifest: PairManifest
    settings: MissingSettings
    _items: dict[str, ModalityItems] = field(default_factory=dict)

    def __post_init__(self) -> None:
        s = self.settings
        plain = {
            "retrieval": [*(f"recall@{k}" for k in s.recall_at), *s.metrics],
            "regression": [name for name in REGRESSION if name != "mae"],
        }.get(s.kind, list(CLASSIFICATION))
        offered = [*plain, *(f"subsets/{name}" for name in plain)]
        if s.select_by not in offered:
            raise InputError(
                f"evaluation.select_by={s.select_by!r} does not select under kind={s.kind!r}: it is not computed, or "
                f"lower is better.{did_you_mean(s.select_by, offered)}"
            )

    @property
    def selects(self) -> str | None:
        """Name of the watched metric that selects; None where the last epoch is kept."""
        here = self.settings.protocol == "validation" and "validation" in self.manifest.splits
        return f"validation/{self.settings.select_by}" if here else None

    def items(self, split: str) -> ModalityItems:
        """Return the items of a split; "query" and "gallery" where there are such."""
        if split not in self._items:
            self._items[split] = modality_items(self.manifest.part(split), self.targets(split), self.settings.in_memory)
        return self._items[split]

    def targets(self, split: str) -> NDArray:
        """Return the (N,) labels or numbers of a split.

        Raises:
            InputError: No such column, a cell that is empty or no number.
        """
        return targets_of(self.manifest.part(split), self.settings)

    @property
    def test_split(self) -> str:
        """``test``, or ``query`` where the data set has queries and a gallery."""
        return "query" if "query" in self.manifest.splits else "test"

    def evaluate(
        self, model: Multimodal, split: str, masks: Sequence[Mask] | None = None, fill: Fill | None = None
    ) -> Robustness:
        """Evaluate a split under masks; None is every subset.

        Args:
            model: The network; brought to evaluation mode and back.
            split: ``query`` searches ``gallery``, every other split itself.
            masks: See :func:`~metrixkit.retrieval.robustness.robustness`.
            fill: Instead of the settings' own.

        Raises:
            InputError: The model cannot fill so; what `robustness` refuses.
        """
        s = self.settings
        fitted = s.kind in ("nearest_mean", "linear_probe")
        with evaluating(model), torch.no_grad():
            return robustness(
                self.encoder(model, s.fill if fill is None else fill),
                self.items(split),
                masks,
                gallery=self.items("gallery") if split == "query" and s.kind == "retrieval" else None,
                train=self.items("train") if fitted else None,
                task=s.kind,
                predict=model_predicts(model) if s.kind == "regression" else None,
                recall_at=tuple(s.recall_at),
                metrics=tuple(s.metrics),
                batch_size=s.batch_size,
            )

    def watch(self, model: Multimodal) -> dict[str, float]:
        """Return the watched metrics: on validation items, or under ``paper`` on the test split."""
        paper = self.settings.protocol == "paper"
        if not paper and "validation" not in self.manifest.splits:
            return {}
        found = flat(self.evaluate(model, self.test_split if paper else "validation"))
        return {f"{'test' if paper else 'validation'}/{name}": value for name, value in found.items()}

    def encoder(self, model: Multimodal, fill: Fill) -> Callable[[Mapping[str, Tensor], Tensor], Tensor]:
        """Return ``encode(batch, present)``, which answers (B, d) embeddings of whatever is present."""
        how = ("mean" if model.branches else "zeros") if fill == "auto" else fill
        means = self.mean_features(model) if how == "mean_embedding" else None
        return encoder_of(model, how, means)

    def mean_features(self, model: Multimodal) -> Tensor:
        """Return (M, w), the mean of what the joint branch finds in each modality of the training items."""
        items, device = self.items("train"), next(model.parameters()).device
        total = torch.zeros(len(model.names), model.width)
        for start in range(0, len(items), self.settings.batch_size):
            rows = list(range(start, min(start + self.settings.batch_size, len(items))))
            batch = {name: x.to(device) for name, x in items.load(rows).items()}
            there = torch.from_numpy(items.present[rows])[:, :, None]
            total += torch.where(there, model.features(model.prepare(batch), batch, len(rows)).cpu(), 0.0).sum(dim=0)
        return total / torch.from_numpy(items.present.sum(axis=0)).clamp(min=1)[:, None]


def encoder_of(
    model: Multimodal, how: str, means: Tensor | None = None
) -> Callable[[Mapping[str, Tensor], Tensor], Tensor]:
    """Return ``encode(batch, present)`` of a model in evaluation mode, by a way of filling (never "auto").

    Raises:
        InputError: Modalities alone are asked of a model without branches.
    """
    if how in ("mean", "renormalized") and not model.branches:
        raise InputError(
            f"fill={how!r} averages embeddings of single modalities, and this model has no branches for them; take "
            "zeros or mean_embedding."
        )

    def encode(batch: Mapping[str, Tensor], present: Tensor) -> Tensor:
        device = next(model.parameters()).device
        moved = {name: x.to(device) for name, x in batch.items()}
        x, there = model.prepare(moved), present.to(device)
        if how in ("zeros", "mean_embedding"):
            return model.joint(x, moved, there, means)
        complete = there.all(dim=1)
        found = x[next(iter(x))].new_zeros(len(there), model.embedding_dim)
        if bool(complete.any()):
            found[complete] = _joint(model, x, moved, there, complete)
        if not bool(complete.all()):
            parts = found.new_zeros(len(there), len(model.names), model.embedding_dim)
            for column, name in enumerate(model.names):
                rows = (there[:, column] & ~complete).nonzero()[:, 0]
                if len(rows):
                    mask = moved.get(f"{name}_mask")
                    parts[rows, column] = model.part(name, x[name][rows], None if mask is None else mask[rows])
            found[~complete] = fuse(parts, there, "renormalized" if how == "renormalized" else "mean")[~complete]
        return found

    return encode


def _joint(
    model: Multimodal, x: Mapping[str, Tensor], masks: Mapping[str, Tensor], present: Tensor, rows: Tensor
) -> Tensor:
    chosen = {name: values[rows] for name, values in x.items()}
    kept = {name: values[rows] for name, values in masks.items() if name.endswith("_mask")}
    return model.joint(chosen, kept, present[rows])


def model_predicts(model: Multimodal) -> Callable[[Tensor], Tensor]:
    """Return (N, d) embeddings on the CPU to (N,) numbers."""
    return lambda rows: model.predict(rows.to(next(model.parameters()).device)).cpu()


def flat(found: Robustness) -> dict[str, float]:
    """Return a result as metrics by name: NAME with all modalities, SUBSET/NAME, and the mean over subsets."""
    full = found.rows[found.rows["kind"] == "full"].iloc[0]
    values = {name: float(full[name]) for name in found.metrics}
    parts = found.rows[found.rows["kind"] == "subset"]
    for name in found.metrics:
        values[f"subsets/{name}"] = float(parts[name].mean())
    for row in parts.to_dict("records"):
        values |= {f"{row['subset']}/{name}": float(row[name]) for name in found.metrics}
    return values


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
    if settings.hold_out == "items" or settings.kind == "regression":
        return pairs_with_validation(chosen, share, seed)
    train = chosen.items["split"] == "train"
    labels = targets_of(chosen.part("train"), settings)
    moved = split_classes([str(v) for v in labels], share, seed, where=f"validation classes of {chosen.name!r}")
    items = chosen.items.copy()
    column = _column(settings)
    items.loc[train & items[column].isin(moved), "split"] = "validation"
    split_of = dict(zip(items["id"], items["split"], strict=True))
    texts = chosen.texts.assign(split=[split_of[item] for item in chosen.texts["item"]]).astype("str")
    expected = {split: n for split, n in chosen.expected.items() if split != "train"}
    return replace(chosen, items=items, texts=texts, expected=expected)


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
    """Return the items of a manifest for :func:`~metrixkit.retrieval.robustness.robustness`.

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


def describe(part: PairManifest) -> dict[str, Any]:
    """Return how many items of a manifest have each modality."""
    return {name: int(part.present[:, column].sum()) for column, name in enumerate(part.modalities)}
