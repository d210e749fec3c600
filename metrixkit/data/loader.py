"""Data loaders: batches for training in a sampler's order, for evaluation in the order of the items."""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from metrixkit.data.dataset import Decode, ImageItems, collate
from metrixkit.data.decode import decode as decode_file
from metrixkit.data.samplers import Draw, EpochSampler
from metrixkit.data.views import TrainViews
from metrixkit.errors import InputError
from metrixkit.seam import Batch


def default_workers(processes: int = 1) -> int:
    """Return how many workers suit this machine: one core is left to the training process, at most 8.

    On one or two cores the answer is 0: the step itself needs them, and a worker would only add copying.

    Args:
        processes: Training processes on this machine, which share its cores.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = usable // max(processes, 1)
    return 0 if cores <= 2 else min(8, cores - 1)


def train_loader(
    items: pd.DataFrame,
    transform: Callable[[Tensor], Tensor] | TrainViews,
    sampler: EpochSampler,
    workers: int,
    views: int = 1,
    pin_memory: bool = False,
    classes: Sequence[str] | None = None,
    decode: Decode = decode_file,
) -> DataLoader[Batch]:
    """Return the training batches in the order of `sampler`; its `set_epoch` and `load_state_dict` take effect.

    Where the sampler has partners (:meth:`EpochSampler.set_partners`), batches hold the partners' rows and views.

    Args:
        items: The training rows of a manifest.
        transform: From (3, H, W) uint8 to uint8 of one size; or all views at once, several sizes among them.
        sampler: Plans the batches over the rows of `items`.
        workers: Worker processes, kept between epochs; 0 loads in this process. No effect on what is loaded.
        views: Augmented views of each image; left at 1 with :class:`TrainViews`.
        pin_memory: Whether batches come in page-locked memory, for asynchronous copies; ignored without a GPU.
        classes: Class names in order of their index; None takes the sorted labels of `items`.
        decode: From the path column to (3, H, W) uint8.

    Raises:
        InputError: A sampler made for another number of items; while iterating, an image that cannot be decoded.
    """
    dataset = ImageItems(items, transform, views=views, classes=classes, decode=decode)
    if sampler.count != len(dataset):
        raise InputError(f"the sampler was made for {sampler.count} items, the loader has {len(dataset)}")
    return batches_of(dataset, collate, sampler, workers, pin_memory)


def eval_loader(
    items: pd.DataFrame,
    transform: Callable[[Tensor], Tensor],
    batch_size: int,
    workers: int,
    pin_memory: bool = False,
    classes: Sequence[str] | None = None,
    decode: Decode = decode_file,
) -> DataLoader[Batch]:
    """Return all items in their order, the last batch being what is left.

    Args:
        items: Rows of a manifest.
        transform: The evaluation transform.
        batch_size: Images of a batch.
        workers: Worker processes; they end with the iteration.
        pin_memory: Whether batches come in page-locked memory; ignored without a GPU.
        classes: Class names in order of their index; None takes the sorted labels of `items`.
        decode: From the path column to (3, H, W) uint8.

    Raises:
        InputError: No items, or no images in a batch; while iterating, an image that cannot be decoded.
    """
    if batch_size < 1:
        raise InputError(f"batches of {batch_size} images: expected at least 1 (evaluation.batch_size, --batch-size).")
    dataset = ImageItems(items, transform, classes=classes, decode=decode)
    return batches_of(dataset, collate, batch_size, workers, pin_memory)


def batches_of(
    dataset: Dataset[Any],
    collate: Callable[[list[Any]], Batch],
    order: EpochSampler | int,
    workers: int,
    pin_memory: bool = False,
) -> DataLoader[Batch]:
    """Return the batches of any data set of examples; what both loaders share.

    Args:
        dataset: Answers an example for a :class:`~metrixkit.data.samplers.Draw` or an index; its ``InputError`` reaches
            the reader of the batches as it is, from whatever process.
        collate: From examples to a batch.
        order: A sampler, whose `set_epoch` and `load_state_dict` take effect; or a batch size: all examples in order,
            the last batch being what is left.
        workers: Worker processes, kept between epochs where a sampler orders; 0 loads in this process.
        pin_memory: Whether batches come in page-locked memory; ignored without a GPU.
    """
    options = _options(workers, pin_memory, collate)
    if isinstance(order, EpochSampler):
        return _Loader(_Careful(dataset), batch_sampler=order, persistent_workers=workers > 0, **options)
    return _Loader(_Careful(dataset), batch_size=order, shuffle=False, **options)


def _options(workers: int, pin_memory: bool, collate: Callable[[list[Any]], Batch]) -> dict[str, Any]:
    if workers < 0:
        raise InputError(f"loader.workers: expected 0 or more, got {workers}")
    return {
        "num_workers": workers,
        "collate_fn": partial(_collate, collate),
        "pin_memory": pin_memory and torch.cuda.is_available(),
        # Its own generator: from the global one, the loader would take a number at every start, so a resumed run
        # would continue with other random numbers than one that was never interrupted.
        "generator": torch.Generator().manual_seed(0),
    }


class _Careful(Dataset[Any]):
    """Hands an error over as a value, for a worker would wrap it into a page of traceback."""

    def __init__(self, items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: Draw | int) -> Any:
        try:
            return self.items[key]
        except InputError as error:
            return InputError(str(error))


def _collate(collate: Callable[[list[Any]], Batch], examples: list[Any]) -> Batch | InputError:
    broken = next((example for example in examples if isinstance(example, InputError)), None)
    try:
        return collate(examples) if broken is None else broken
    except InputError as error:
        return InputError(str(error))


class _Loader(DataLoader[Any]):
    """A data loader that raises in the reader's process what a worker found, and that ends its workers at once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Collected in a cycle (an experiment's objects often form one), the workers' pipes may close before the workers
        # are told to end, and each then takes five seconds. A reference from outside the cycle keeps the order right.
        self._held: list[Any] = []
        weakref.finalize(self, self._held.clear)

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        with warnings.catch_warnings():
            # Python 3.12 and 3.13 warn of any fork beside threads, and torch always has threads.
            warnings.filterwarnings("ignore", ".*multi-threaded, use of fork.*", DeprecationWarning)
            batches = super().__iter__()
        self._held[:] = [batches] if self.persistent_workers else []
        try:
            for batch in batches:
                if isinstance(batch, InputError):
                    # A new one: raising what a local variable holds makes a cycle of it, its traceback and this frame.
                    raise InputError(str(batch))
                yield batch
        finally:
            del batches  # or a traceback that somebody keeps would keep the workers, too
