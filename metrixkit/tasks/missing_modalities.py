"""The task of doing without: items of several modalities, judged with all of them and with every part of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from metrixkit.data.pair_manifest import PairManifest
from metrixkit.errors import InputError, did_you_mean
from metrixkit.inference import evaluating
from metrixkit.models.multimodal import Multimodal
from metrixkit.retrieval import ModalityItems, Robustness, robustness
from metrixkit.retrieval.measures import LOWER_IS_BETTER
from metrixkit.retrieval.missing.masks import Mask
from metrixkit.retrieval.missing.outcomes import CLASSIFICATION, REGRESSION
from metrixkit.tasks.modality_data import Fill, MissingSettings, modality_items, targets_of
from metrixkit.tasks.modality_encoding import encoder_of
from metrixkit.tasks.one_class import refuse_one_class


@dataclass
class MissingModalities:
    """Evaluation under subsets and masks.

    Attributes:
        manifest: All splits, with the modalities in use.
        settings: See there.
    """

    settings_type: ClassVar[type] = MissingSettings
    unread: ClassVar[tuple[str, ...]] = ("transform", "loader.cache", "loader.cache_short_side", "training.compile")

    manifest: PairManifest
    settings: MissingSettings
    _items: dict[str, ModalityItems] = field(default_factory=dict)

    def __post_init__(self) -> None:
        s = self.settings
        plain = {
            "retrieval": [*(f"recall@{k}" for k in s.recall_at), *(m for m in s.metrics if m not in LOWER_IS_BETTER)],
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
            masks: See :func:`~metrixkit.retrieval.robustness`.
            fill: Instead of the settings' own.

        Raises:
            InputError: The model cannot fill so; what `robustness` refuses.
        """
        s = self.settings
        if s.kind != "regression":
            refuse_one_class(self.targets(split).reshape(-1).tolist(), f"items of split {split!r}")
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

    def told(self, found: Robustness) -> dict[str, float]:
        """Return a result as metrics by name, see :func:`flat`.

        Raises:
            InputError: The metric that selects and is the headline cannot be told of these items.
        """
        metrics = flat(found)
        if self.settings.select_by not in metrics:
            raise InputError(
                f"evaluation.select_by={self.settings.select_by!r} cannot be told: the numbers of these items are all "
                f"of one sign or equal; what can be told: {', '.join(found.metrics)}. Select by one of them."
            )
        return metrics

    def watch(self, model: Multimodal) -> dict[str, float]:
        """Return the watched metrics: on validation items, or under ``paper`` on the test split."""
        paper = self.settings.protocol == "paper"
        if (self.test_split if paper else "validation") not in self.manifest.splits:
            return {}
        found = self.told(self.evaluate(model, self.test_split if paper else "validation"))
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
