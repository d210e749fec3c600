"""A model built again from settings that somebody else may have written: no code, and no more memory than it needs."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from metrixkit.errors import InputError
from metrixkit.families import allow_code

SLACK = 2**27  # elements that may be created beside the weights: 512 MB of float32
PER_TENSOR = 4096  # a tensor counts as that many at least, so that no settings ask for a billion layers


@contextlib.contextmanager
def rebuilding(folder: Path, size: int, names: Iterable[str] = ()) -> Iterator[None]:
    """Within this context a model is built from the settings in `folder`.

    They may name only the classes `names`, and ask for no more memory than weights of `size` bytes explain. The weights
    drawn meanwhile are overwritten; drawing them does not move the caller's random numbers.

    Raises:
        InputError: Whatever the settings lead to that no good settings would.
    """
    try:
        with torch.random.fork_rng(devices=[]), allow_code(names), Budget(size):
            yield
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error
    except MemoryError:
        raise
    except Exception as error:  # settings of the wrong type, shape or size; weights that do not fit
        raise InputError(
            f"{folder}: the model cannot be built again ({type(error).__name__}: {str(error)[:500]})."
        ) from error


class Budget(TorchDispatchMode):
    """Within this context tensors are created until they hold some times what a file of weights does; then it stops.

    Settings say ``dim: 1000000000000`` at no cost; the file beside them cannot hold such a model. The size is looked
    at before the memory is taken. Tensors on the meta device are free.

    Args:
        weights: Bytes of the file.

    Raises:
        InputError: More is asked for.
    """

    def __init__(self, weights: int) -> None:
        super().__init__()
        self.left = 2 * weights + SLACK

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation of torch that the budget allows."""
        kwargs = kwargs or {}
        if torch.device(kwargs.get("device") or "cpu").type != "meta":
            size = _created(func, args)
            self.left -= max(size, PER_TENSOR) if size else 0
            if self.left < 0:
                raise InputError("its settings ask for a far larger model than its weights are of.")
        return func(*args, **kwargs)


def _created(func: Any, args: Sequence[Any]) -> int:
    """Return how many elements an operation is to create, 0 where it creates none by a size that it is given."""
    if not args:
        return 0
    if isinstance(args[0], list | tuple) and all(isinstance(side, int) for side in args[0]):
        return math.prod(args[0])
    if func.overloadpacket is torch.ops.aten.eye:
        return int(args[0]) * int(args[-1])
    if func.overloadpacket in (torch.ops.aten.arange, torch.ops.aten.linspace):
        return max(int(abs(number)) for number in args if isinstance(number, int | float))
    return 0
