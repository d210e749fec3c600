"""A limit on what a saved model's settings may allocate: what its weights need, and little more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from metrixkit.errors import InputError

SLACK = 2**27  # elements that may be created beside the weights: 512 MB of float32
PER_TENSOR = 1024  # a tensor counts as that many at least, so that no settings ask for a billion layers


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
    if func.overloadpacket in (torch.ops.aten.arange, torch.ops.aten.linspace, torch.ops.aten.eye):
        return max(int(abs(number)) for number in args if isinstance(number, int | float))
    return 0
