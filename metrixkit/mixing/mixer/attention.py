"""Mixing attention: which places of the pair each place listens to, in float32 at least.

B pairs, d channels, h x w places, P = h w.
"""

from __future__ import annotations

import math

from torch import Tensor

from metrixkit.errors import InputError


def mixing_attention(query: Tensor, key: Tensor) -> Tensor:
    """Return ``softmax(q^T k / sqrt(d))`` over the keys.

    Wide types, finite maps and the shift inside softmax leave nothing that could overflow. Call it outside autocast.

    Args:
        query: (B, d, h, w), float32 or float64.
        key: (B, d, h, w).

    Returns:
        (B, P, P): row p holds the weights of all places for place p, which sum to 1.
    """
    scaled = query.flatten(2).transpose(1, 2) / math.sqrt(query.shape[1])
    return (scaled @ key.flatten(2)).softmax(2)


def check_size(count: int, height: int, width: int, limit: int) -> None:
    """Raise InputError where attention of `count` pairs of maps would hold more than `limit` weights."""
    entries = count * (height * width) ** 2
    if entries > limit:
        raise InputError(
            f"Mixer: {count} pairs of {height} x {width} maps make {entries:,} attention weights, "
            f"{entries * 4 / 2**30:.1f} GiB a copy in float32 and three copies in training, over the limit of "
            f"{limit:,}. Take a deeper stage of the backbone, smaller batches or smaller images, or raise "
            "attention_limit."
        )
