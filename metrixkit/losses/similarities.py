"""Similarities of anchors to mixtures that the model itself encodes.

A anchors, B rows of the batch, U mixtures, T comparisons, d dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from metrixkit.errors import InputError
from metrixkit.losses.pooled import CPU_BLOCK, GPU_BLOCK, pooled_similarities
from metrixkit.losses.unit import full_precision, no_autocast, unit_rows
from metrixkit.mixing import Block, UniqueMixtures, mix

Head = Callable[[Tensor], Tensor]


def mixture_similarities(
    anchors: Tensor,
    features: Tensor,
    head: Head,
    mixtures: UniqueMixtures,
    weight: float | Tensor,
    chunk: int | None,
) -> Tensor:
    """Return the cosines of anchors to ``head(mix(features))``.

    A head that answers ``parts(features)`` (the image encoder's own does) says how its pooling mixes, and mixtures of
    maps are then not formed at all; see :mod:`metrixkit.losses.pooled`. Any other head is called on the mixtures.

    Args:
        anchors: (A, d) unit rows.
        features: (B, ...) floating.
        head: Encodes (u, ...) mixtures to (u, d) embeddings, at any length.
        mixtures: Which rows are mixed, and who is compared with them.
        weight: Of the first elements: a number, or (U,).
        chunk: At most this many mixtures are held at once, and computed again in the backward pass if there are more;
            None takes all in one pass.

    Returns:
        (T,) in the order of `mixtures`, in the type of `anchors`; differentiable by anchors, features and head.

    Raises:
        InputError: The head does not answer (u, d).
    """
    parts = getattr(head, "parts", None)
    pooled = None if parts is None else parts(features)
    if pooled is not None:
        if pooled[0].shape[1] != anchors.shape[1]:
            raise InputError(_wrong_length(pooled[0].shape[1], anchors.shape[1]))
        own = CPU_BLOCK if anchors.device.type == "cpu" else GPU_BLOCK
        linear, maps, layer = pooled
        return pooled_similarities(anchors, linear, maps, layer, mixtures, weight, min(own, chunk or own))

    def compare(anchors: Tensor, features: Tensor, block: Block) -> Tensor:
        w = weight[block.mixtures] if isinstance(weight, Tensor) else weight
        rows = head(mix(features[block.first], features[block.second], w))
        if rows.ndim != 2 or len(rows) != len(block.first):
            raise InputError(
                f"head answers {tuple(rows.shape)} for {len(block.first)} mixtures, expected (mixtures, d)."
            )
        if rows.shape[1] != anchors.shape[1]:
            raise InputError(_wrong_length(rows.shape[1], anchors.shape[1]))
        with no_autocast(anchors):
            unit = unit_rows(full_precision(rows).to(anchors.dtype))
            return (anchors[block.anchors] @ unit.T)[block.row, block.column]

    blocks = mixtures.blocks(chunk or len(mixtures))
    if len(blocks) == 1 or not torch.is_grad_enabled():
        return torch.cat([compare(anchors, features, block) for block in blocks])

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), steady(head)

    return torch.cat(
        [
            checkpoint(compare, anchors, features, block, use_reentrant=False, context_fn=contexts)  # type: ignore[arg-type]
            for block in blocks
        ]
    )


def _wrong_length(got: int, expected: int) -> str:
    return f"head answers embeddings of {got} dimensions, the anchors have {expected}; give the head that made them."


class steady:
    """Keep the running statistics of the head's batch norms as they are, whatever is computed inside.

    Its modules are found where `head` is a module, a method of one, or answers ``modules()``. May be entered again
    after it was left, as a graph that is kept does in each backward pass.
    """

    def __init__(self, head: Head | None) -> None:
        owner: Any = head if hasattr(head, "modules") else getattr(head, "__self__", None)
        modules: list[nn.Module] = list(owner.modules()) if hasattr(owner, "modules") else []
        self._norms = [module for module in modules if isinstance(module, _BatchNorm) and module.training]
        self._kept: list[tuple[nn.Module, str, Tensor]] = []

    def __enter__(self) -> None:
        self._kept = [(m, name, buffer) for m in self._norms for name, buffer in m.named_buffers(recurse=False)]
        for module, name, buffer in self._kept:
            setattr(module, name, buffer.clone())

    def __exit__(self, *_: object) -> None:
        for module, name, buffer in self._kept:
            setattr(module, name, buffer)
        self._kept = []
