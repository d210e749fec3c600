"""Rows of a manifest as augmented images, each a pure function of its row and a seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset

from metrixkit.data.decode import decode as decode_file
from metrixkit.data.samplers import Draw
from metrixkit.errors import InputError
from metrixkit.seam import Batch

Decode = Callable[[str], Tensor]


class Example(NamedTuple):
    """One item: its id, its class index and its views, each (3, H, W) uint8."""

    id: str
    label: int
    views: list[Tensor]


class ImageItems(Dataset[Example]):
    """Images of a manifest.

    What comes out depends on the row and the seed of the :class:`Draw` alone: not on the number of workers, on what was
    loaded before, or on where a run was resumed.

    Args:
        items: Columns id, path, label; what :class:`Manifest` holds, one or more splits of it.
        transform: From (3, H, W) uint8 to uint8 of one size; draws from torch's global CPU generator, or not at all.
        views: Times that the transform is applied, with different draws.
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
        transform: Callable[[Tensor], Tensor],
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
        index, seed = key if isinstance(key, tuple) else (key, key)
        try:
            image = self.decode(self.paths[index])
        except InputError as error:
            raise InputError(
                f"item {self.ids[index]!r}: {error}. `python -m metrixkit.data check` finds all such images, "
                "data.on_missing=drop leaves them out"
            ) from error
        # Only the CPU generator is touched: torch.manual_seed would also reset those of the accelerator, which nobody
        # restores, and with it the dropout of the training step.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            views = [self.transform(image) for _ in range(self.views)]
        return Example(self.ids[index], int(self.labels[index]), views)


def collate(examples: Sequence[Example]) -> Batch:
    """Return B examples as a batch: one (B, 3, H, W) uint8 tensor a view, (B,) int64 labels, B ids."""
    return Batch(
        ids=[example.id for example in examples],
        labels=torch.tensor([example.label for example in examples], dtype=torch.int64),
        views=[torch.stack(view) for view in zip(*(example.views for example in examples), strict=True)],
    )


def _indices(labels: list[str], classes: list[str]) -> Tensor:
    index = {name: i for i, name in enumerate(classes)}
    unknown = sorted(set(labels) - index.keys())
    if unknown:
        raise InputError(
            f"{len(unknown)} labels are not among the {len(classes)} classes, the first is {unknown[0]!r}; "
            "training and evaluation must share their class list"
        )
    return torch.tensor([index[label] for label in labels], dtype=torch.int64)
