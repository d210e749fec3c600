"""Data loaders: batches for training in a sampler's order, for evaluation in the order of the items."""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from metrixkit.data.dataset import Decode, Example, ImageItems, collate
from metrixkit.data.decode import decode as decode_file
from metrixkit.data.samplers import Draw, EpochSampler
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
    transform: Callable[[Tensor], Tensor],
    sampler: EpochSampler,
    workers: int,
    views: int = 1,
    pin_memory: bool = False,
    classes: Sequence[str] | None = None,
    decode: Decode = decode_file,
) -> DataLoader[Batch]:
    """Return the training batches in the order of `sampler`; its `set_epoch` and `load_state_dict` take effect.

    Args:
        items: The training rows of a manifest.
        transform: From (3, H, W) uint8 to uint8 of one size.
        sampler: Plans the batches over the rows of `items`.
        workers: Worker processes, kept between epochs; 0 loads in this process. No effect on what is loaded.
        views: Augmented views of each image.
        pin_memory: Whether batches come in page-locked memory, for asynchronous copies; ignored without a GPU.
        classes: Class names in order of their index; None takes the sorted labels of `items`.
        decode: From the path column to (3, H, W) uint8.

    Raises:
        InputError: A sampler made for another number of items; while iterating, an image that cannot be decoded.
    """
    dataset = ImageItems(items, transform, views=views, classes=classes, decode=decode)
    if sampler.count != len(dataset):
        raise InputError(f"the sampler was made for {sampler.count} items, the loader has {len(dataset)}")
    return _Loader(
        _Careful(dataset), batch_sampler=sampler, persistent_workers=workers > 0, **_options(workers, pin_memory)
    )


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
        InputError: No items; while iterating, an image that cannot be decoded.
    """
    dataset = ImageItems(items, transform, classes=classes, decode=decode)
    return _Loader(_Careful(dataset), batch_size=batch_size, shuffle=False, **_options(workers, pin_memory))


def _options(workers: int, pin_memory: bool) -> dict[str, Any]:
    if workers < 0:
        raise InputError(f"loader.workers: expected 0 or more, got {workers}")
    return {
        "num_workers": workers,
        "collate_fn": _collate,
        "pin_memory": pin_memory and torch.cuda.is_available(),
        # Its own generator: from the global one, the loader would take a number at every start, so a resumed run
        # would continue with other random numbers than one that was never interrupted.
        "generator": torch.Generator().manual_seed(0),
    }


class _Careful(Dataset[Example | InputError]):
    """Hands an error over as a value, for a worker would wrap it into a page of traceback."""

    def __init__(self, items: ImageItems) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: Draw | int) -> Example | InputError:
        try:
            return self.items[key]
        except InputError as error:
            return InputError(str(error))


def _collate(examples: list[Example | InputError]) -> Batch | InputError:
    good: list[Example] = []
    for example in examples:
        if isinstance(example, InputError):
            return example
        good.append(example)
    return collate(good)


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
