"""Rows of a manifest as augmented images, each a pure function of its row and a seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset

from metrixkit.data.decode import decode as decode_file
from metrixkit.data.samplers import Draw, partner_seed
from metrixkit.data.views import TrainViews
from metrixkit.errors import InputError
from metrixkit.seam import Batch

Decode = Callable[[str], Tensor]


class Example(NamedTuple):
    """One item: its id, class index, views, each (3, H, W) uint8, and row; its partner's row (-1: none) and views."""

    id: str
    label: int
    views: list[Tensor]
    row: int
    partner: int = -1
    partner_views: Sequence[Tensor] = ()


class ImageItems(Dataset[Example]):
    """Images of a manifest.

    What comes out depends on the row and the seed of the :class:`Draw` alone: not on the number of workers, on what was
    loaded before, or on where a run was resumed.

    Args:
        items: Columns id, path, label; what :class:`Manifest` holds, one or more splits of it.
        transform: From (3, H, W) uint8 to uint8 of one size; draws from torch's global CPU generator, or not at all. Or
            all views at once: :class:`TrainViews`.
        views: Times that the transform is applied, with different draws; 1 for :class:`TrainViews`, which has its own.
        classes: The class names in order of their index; None takes the sorted labels of `items`.
        decode: From the path column to (3, H, W) uint8.

    Attributes:
        ids: N ids.
        labels: (N,) int64 class indices.
        classes: Name of each index.

    Raises:
        InputError: No items, a column that is missing, or a label that is not in `classes`.
    """

    def __init__(
        self,
        items: pd.DataFrame,
        transform: Callable[[Tensor], Tensor] | TrainViews,
        views: int = 1,
        classes: Sequence[str] | None = None,
        decode: Decode = decode_file,
    ) -> None:
        for column in ("id", "path", "label"):
            if column not in items.columns:
                raise InputError(
                    f"items have no column {column!r}; their columns are {', '.join(map(str, items.columns))}"
                )
        if len(items) == 0:
            raise InputError("no images to load: the split is empty")
        if views < 1:
            raise InputError(f"views: expected 1 or more, got {views}")
        if isinstance(transform, TrainViews) and views != 1:
            raise InputError(f"views: {views} of a transform that makes {transform.views} itself; give one number only")
        self.ids: list[str] = items["id"].tolist()
        self.paths: list[str] = items["path"].tolist()
        self.classes: list[str] = sorted(items["label"].unique()) if classes is None else list(classes)
        self.labels = _indices(items["label"].tolist(), self.classes)
        self.transform = transform
        self.views = views
        self.decode = decode

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.ids)

    def __getitem__(self, key: Draw | int) -> Example:
        """Return one example; a plain index draws with the index as seed.

        Raises:
            InputError: The image cannot be decoded; names its id and path.
        """
        draw = Draw(*key) if isinstance(key, tuple) else Draw(key, key)
        index, partner = draw.index, draw.partner
        image = self._image(index)
        own = self.transform
        views, large = (own, own.large) if isinstance(own, TrainViews) else (self._repeated, self._repeated)
        found = _seeded(draw.seed, views, image)
        label = int(self.labels[index])
        if partner < 0:
            return Example(self.ids[index], label, found, index)
        other = image if partner == index else self._image(partner)
        return Example(self.ids[index], label, found, index, partner, _seeded(partner_seed(draw), large, other))

    def _image(self, index: int) -> Tensor:
        try:
            return self.decode(self.paths[index])
        except InputError as error:
            raise InputError(
                f"item {self.ids[index]!r}: {error}. `python -m metrixkit.data check` finds all such images, "
                "data.on_missing=drop leaves them out"
            ) from error

    def _repeated(self, image: Tensor) -> list[Tensor]:
        return [self.transform(image) for _ in range(self.views)]  # type: ignore[misc]


def _seeded(seed: int, transform: Callable[[Tensor], list[Tensor]], image: Tensor) -> list[Tensor]:
    # Only the CPU generator is touched: torch.manual_seed would also reset those of the accelerator, which nobody
    # restores, and with it the dropout of the training step.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return transform(image)


def collate(examples: Sequence[Example]) -> Batch:
    """Return B examples as a batch.

    One (B, 3, H, W) uint8 tensor a view, (B,) int64 labels and rows, B ids; the partners' rows and views if the
    examples have partners.
    """
    paired = all(example.partner >= 0 for example in examples)
    return Batch(
        ids=[example.id for example in examples],
        labels=torch.tensor([example.label for example in examples], dtype=torch.int64),
        index=torch.tensor([example.row for example in examples], dtype=torch.int64),
        views=_stacked([example.views for example in examples]),
        partner=torch.tensor([example.partner for example in examples], dtype=torch.int64) if paired else None,
        partner_views=_stacked([example.partner_views for example in examples]) if paired else [],
    )


def _stacked(views: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return [torch.stack(view) for view in zip(*views, strict=True)]


def _indices(labels: list[str], classes: list[str]) -> Tensor:
    index = {name: i for i, name in enumerate(classes)}
    unknown = sorted(set(labels) - index.keys())
    if unknown:
        raise InputError(
            f"{len(unknown)} labels are not among the {len(classes)} classes, the first is {unknown[0]!r}; "
            "training and evaluation must share their class list"
        )
    return torch.tensor([index[label] for label in labels], dtype=torch.int64)
