"""Pairs of a manifest as batches: an item's modalities, and one of its captions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from metrixkit.data.decode import decode
from metrixkit.data.features import pad_features, read_features
from metrixkit.data.frame_reader import FrameReader
from metrixkit.data.loader import batches_of
from metrixkit.data.pair_manifest import PairManifest
from metrixkit.data.samplers import Draw, EpochSampler
from metrixkit.errors import InputError
from metrixkit.seam import Batch

Read = Callable[[str], Tensor]
# The kinds that run along time and are padded in a batch.
_SEQUENCES = ("video", "features", "text")


class PairExample(NamedTuple):
    """One item with at most one caption.

    Attributes:
        id: Id of the caption, or of the item where items are gone through.
        item: Row of the item in the manifest.
        caption: The caption, "" where items are gone through.
        modalities: Name to what was read; None where the item lacks it.
    """

    id: str
    item: int
    caption: str
    modalities: dict[str, Tensor | None]


class PairItems(Dataset[PairExample]):
    """Examples of a manifest, each a pure function of its row.

    Args:
        manifest: One or more splits of it.
        by: "texts": an example a caption, with its item; "items": an example an item, without caption.
        read: Modality to how a cell of it is read, to a tensor: (T, ...) for the kinds "video", "features" and "text",
            a fixed shape for "image". What is not named is read by :func:`modality_readers`; for the kind "text"
            that is nothing, so name a tokenizer.
        modalities: Which to read, in the order of the mask; None reads all.

    Attributes:
        item_of_example: (N,) int64, the row of each example's item; what a sampler takes for labels.

    Raises:
        InputError: No examples, a modality that the manifest has not, or one that nothing reads.
    """

    def __init__(
        self,
        manifest: PairManifest,
        by: Literal["texts", "items"] = "texts",
        read: Mapping[str, Read] | None = None,
        modalities: Sequence[str] | None = None,
    ) -> None:
        self.names = list(manifest.modalities) if modalities is None else list(modalities)
        for name in (*self.names, *(read or {})):
            if name not in manifest.modalities:
                raise InputError(
                    f"data set {manifest.name!r} has no modality {name!r}; it has {', '.join(manifest.modalities)}."
                )
        usual = modality_readers()
        self.kinds = {name: manifest.modalities[name] for name in self.names}
        self._read = {name: (read or {}).get(name) or usual.get(kind) for name, kind in self.kinds.items()}
        for name, function in self._read.items():
            if function is None:
                raise InputError(f"modality {name!r} is text: name a tokenizer that reads it, or leave it out.")
        self._cells = {name: manifest.items[name].tolist() for name in self.names}
        self._items = manifest.ids
        if by == "texts":
            self.ids, self._captions = manifest.texts["id"].tolist(), list(manifest.captions)
            self.item_of_example = torch.from_numpy(manifest.item_of_text)
        else:
            self.ids, self._captions = manifest.ids, [""] * len(manifest)
            self.item_of_example = torch.arange(len(manifest))
        if not self.ids:
            raise InputError(f"data set {manifest.name!r} has no {by} to load.")

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.ids)

    def __getitem__(self, key: Draw | int) -> PairExample:
        """Return one example.

        Raises:
            InputError: A modality cannot be read; names the item. Nothing stands in for it.
        """
        index = key[0] if isinstance(key, tuple) else key
        item = int(self.item_of_example[index])
        found: dict[str, Tensor | None] = {}
        for name in self.names:
            cell, function = self._cells[name][item], self._read[name]
            assert function is not None
            try:
                found[name] = function(cell) if cell else None
            except InputError as error:
                raise InputError(
                    f"item {self._items[item]!r}, {name}: {error} `python -m metrixkit.data check` finds all such "
                    "items, data.on_missing=drop with data.verify=true leaves them out."
                ) from error
        return PairExample(self.ids[index], item, self._captions[index], found)


def modality_readers(frames: FrameReader | None = None) -> dict[str, Read]:
    """Return how each kind of modality is read, but text.

    Args:
        frames: How videos are; None takes its defaults.
    """
    return {
        "video": FrameReader() if frames is None else frames,
        "image": decode,
        "features": lambda cell: torch.from_numpy(read_features(cell)),
    }


class Collate:
    """From examples to a batch.

    ``modalities[name]`` is (B, T, ...) with zeros behind what is shorter and ``modalities[name + "_mask"]`` (B, T) bool
    for video, features and text; (B, ...) for images. Where an item lacks a modality its row is zero, its row of the
    sequence mask false, and ``Batch.mask`` (B, number of modalities) says so. A modality that every item of the batch
    lacks is left out of ``modalities``. ``labels`` are the items' rows in the manifest; ``texts`` the captions.

    Args:
        kinds: Modality to kind, in the order of the mask.
        max_length: Sequences longer than this are thinned evenly; None keeps them.
    """

    def __init__(self, kinds: Mapping[str, str], max_length: int | None = None) -> None:
        self.kinds, self.max_length = dict(kinds), max_length

    def __call__(self, examples: Sequence[PairExample]) -> Batch:
        """Return the batch of some examples.

        Raises:
            InputError: An item without any modality, or shapes that do not fit one another.
        """
        there = [[example.modalities[name] is not None for name in self.kinds] for example in examples]
        nothing = next((e.id for e, row in zip(examples, there, strict=True) if self.kinds and not any(row)), None)
        if nothing is not None:
            raise InputError(f"{nothing!r} has none of the modalities {', '.join(self.kinds)}; nothing was observed.")
        modalities: dict[str, Tensor] = {}
        for name, kind in self.kinds.items():
            rows = [row for row, example in enumerate(examples) if example.modalities[name] is not None]
            found = [tensor for example in examples if (tensor := example.modalities[name]) is not None]
            if not found:
                continue
            try:
                if kind in _SEQUENCES:
                    batch, mask = pad_features(found, self.max_length)
                    modalities[f"{name}_mask"] = _spread(mask, rows, len(examples))
                else:
                    batch = torch.stack(found)
            except (InputError, RuntimeError) as error:
                ids = ", ".join(repr(examples[row].id) for row in rows[:5])
                raise InputError(f"modality {name!r} of {ids}, ...: {error}") from error
            modalities[name] = _spread(batch, rows, len(examples))
        return Batch(
            ids=[example.id for example in examples],
            labels=torch.tensor([example.item for example in examples], dtype=torch.int64),
            modalities=modalities,
            mask=torch.tensor(there, dtype=torch.bool).reshape(len(examples), len(self.kinds)),
            texts=[example.caption for example in examples if example.caption],
        )


def pair_loader(
    items: PairItems,
    order: EpochSampler | int,
    workers: int,
    max_length: int | None = None,
    pin_memory: bool = False,
) -> DataLoader[Batch]:
    """Return the batches of a sampler, or all examples in their order.

    Args:
        items: The examples.
        order: A sampler made for ``items.item_of_example``, for training; or a batch size, for evaluation.
        workers: Worker processes. No effect on what is loaded.
        max_length: See :class:`Collate`.
        pin_memory: Whether batches come in page-locked memory; ignored without a GPU.

    Raises:
        InputError: A sampler made for another number of examples; while iterating, what cannot be read.
    """
    if isinstance(order, EpochSampler) and order.count != len(items):
        raise InputError(f"the sampler was made for {order.count} examples, the loader has {len(items)}")
    return batches_of(items, Collate(items.kinds, max_length), order, workers, pin_memory)


def _spread(found: Tensor, rows: list[int], size: int) -> Tensor:
    if len(rows) == size:
        return found
    batch = found.new_zeros((size, *found.shape[1:]))
    batch[rows] = found
    return batch
