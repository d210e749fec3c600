"""Similarities of anchors to mixtures of maps, where the head is a mean, a maximum, or their sum, and a linear layer.

A anchors, B rows of the batch, P positions, C channels, d dimensions; U mixtures, T comparisons; u mixtures of a block.

With w f_i + (1 - w) f_j mixed, the mean and everything linear after it mix as numbers of length d; only maxima need the
maps, and a mixture's map itself is never stored: its maximum is taken position by position. Length does not matter to
a cosine, so that a normalisation at the end is left out. Value and derivative work block by block; the forward pass
leaves the T cosines behind and nothing of the size of a mixture, the backward pass computes each block again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from metrixkit.losses.unit import no_autocast, through_unit, unit_and_inverse
from metrixkit.mixing import Block, UniqueMixtures, mix

# Mixtures of a block: on a CPU its (u, C) buffers stay in the cache of a core.
CPU_BLOCK = 128
GPU_BLOCK = 2048

Weight = float | Tensor


def pooled_similarities(
    anchors: Tensor,
    linear: Tensor,
    maps: Tensor | None,
    layer: Tensor | None,
    mixtures: UniqueMixtures,
    weight: Weight,
    block: int,
) -> Tensor:
    """Return the (T,) cosines of anchors and mixtures, in the order of `mixtures`.

    Args:
        anchors: (A, d) unit rows.
        linear: (B, d) part of the embedding that is linear in the features.
        maps: (P, B, C) features whose maximum over P is taken after mixing; None without such a part.
        layer: (d, C) applied to the maxima; None leaves them as they are (C = d).
        mixtures: Which rows are mixed, and who is compared with them.
        weight: Of the first elements: a number, or (U,).
        block: Mixtures that are computed at a time.

    Returns:
        Differentiable once by the first four.
    """
    typed = [None if part is None else part.to(anchors.dtype).contiguous() for part in (linear, maps, layer)]
    with no_autocast(anchors):
        return _PooledSimilarities.apply(anchors, *typed, mixtures, weight, block)  # type: ignore[no-any-return]


class _PooledSimilarities(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        anchors: Tensor,
        linear: Tensor,
        maps: Tensor | None,
        layer: Tensor | None,
        mixtures: UniqueMixtures,
        weight: Weight,
        block: int,
    ) -> Tensor:
        blocks = mixtures.blocks(block)
        result = anchors.new_empty(len(mixtures.anchor))
        for part in blocks:
            w = _of(weight, part)
            raw = mix(linear[part.first], linear[part.second], w)
            if maps is not None:
                _add_through(layer, largest(maps, part.first, part.second, w)[0], raw)
            unit, _ = unit_and_inverse(raw)
            result[part.comparisons] = (anchors[part.anchors] @ unit.T)[part.row, part.column]
        ctx.save_for_backward(anchors, linear, maps, layer)
        ctx.blocks, ctx.weight = blocks, weight
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        anchors, linear, maps, layer = ctx.saved_tensors
        # One place for each gradient, whatever the number of blocks.
        into = [
            torch.zeros_like(t) if t is not None and wanted else None
            for t, wanted in zip(ctx.saved_tensors, ctx.needs_input_grad, strict=False)
        ]
        with no_autocast(anchors):
            for part in ctx.blocks:
                _block_backward(part, _of(ctx.weight, part), grad[part.comparisons], anchors, linear, maps, layer, into)
        return *into, None, None, None


def _block_backward(
    part: Block,
    w: Weight,
    grad: Tensor,
    anchors: Tensor,
    linear: Tensor,
    maps: Tensor | None,
    layer: Tensor | None,
    into: list[Tensor | None],
) -> None:
    """Compute a block again and add its part of the gradients to `into` (anchors, linear, maps, layer)."""
    to_anchors, to_linear, to_maps, to_layer = into
    raw = mix(linear[part.first], linear[part.second], w)
    top = at = None
    if maps is not None:
        top, at = largest(maps, part.first, part.second, w, where=to_maps is not None)
        _add_through(layer, top, raw)
    unit, inverse = unit_and_inverse(raw)
    near = anchors[part.anchors]
    dense = near.new_zeros(len(part.anchors), len(part.first))
    dense[part.row, part.column] = grad
    if to_anchors is not None:
        to_anchors.index_add_(0, part.anchors, dense @ unit)
    to_raw = through_unit(dense.T @ near, unit, inverse)
    w_column = w[:, None] if isinstance(w, Tensor) else w
    if to_linear is not None:
        to_linear.index_add_(0, part.first, to_raw * w_column)
        to_linear.index_add_(0, part.second, to_raw * (1 - w_column))
    if top is not None and to_layer is not None:
        to_layer.addmm_(to_raw.T, top)
    if to_maps is not None and at is not None:
        to_top = to_raw if layer is None else to_raw @ layer
        _, rows, channels = to_maps.shape
        flat, channel = to_maps.view(-1), torch.arange(channels, device=at.device)
        at = at.long().mul_(rows)
        for row, factor in ((part.first, w_column), (part.second, 1 - w_column)):
            place = (at + row[:, None]).mul_(channels).add_(channel)
            flat.scatter_add_(0, place.view(-1), (to_top * factor).view(-1))


def largest(
    maps: Tensor, first: Tensor, second: Tensor, weight: Weight, where: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Return the (u, C) maxima over positions of mixed (P, B, C) maps and, if `where`, the (u, C) first such position.

    Position by position, so that a mixture's map is never written: what is read and written stays in the cache.
    """
    w = weight[:, None].to(maps.dtype) if isinstance(weight, Tensor) else weight
    shape = (len(first), maps.shape[2])
    top = maps.new_full(shape, -torch.inf)
    one, other = maps.new_empty(shape), maps.new_empty(shape)
    small = torch.int16 if len(maps) <= 2**15 else torch.int32
    at = torch.zeros(shape, dtype=small, device=maps.device) if where else None
    for position, rows in enumerate(maps):
        torch.index_select(rows, 0, first, out=one)
        torch.index_select(rows, 0, second, out=other)
        other.lerp_(one, w)
        if at is not None:
            at.masked_fill_(other > top, position)
        torch.maximum(top, other, out=top)
    return top, at


def _of(weight: Weight, part: Block) -> Weight:
    return weight[part.mixtures] if isinstance(weight, Tensor) else weight


def _add_through(layer: Tensor | None, top: Tensor, raw: Tensor) -> None:
    if layer is None:
        raw += top
    else:
        raw.addmm_(top, layer.T)
