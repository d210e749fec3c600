"""Sequences of vectors with a mask: attention among them, and one vector out of them.

B rows, T places, d dimensions. A mask is (B, T) bool, true where a vector stands.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metrixkit.errors import InputError


def unit(rows: Tensor) -> Tensor:
    """Return the rows (..., d) at length 1, in float32 at least; a zero row stays zero with a finite gradient."""
    rows = rows.to(torch.float64 if rows.dtype == torch.float64 else torch.float32)
    return rows * (rows.square().sum(-1, keepdim=True) + 1e-12).rsqrt()


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Return the (B, d) means of (B, T, d) over the places where the mask is true; 0 for a row without any."""
    share = mask.to(x.dtype)
    return (x * share[..., None]).sum(1) / share.sum(1).clamp(min=1)[:, None]


def quick_gelu(x: Tensor) -> Tensor:
    """Return ``x sigmoid(1.702 x)``, CLIP's activation."""
    return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    """Multi-head self-attention, with CLIP's names of parameters so that its weights can be taken over.

    Args:
        width: d, a multiple of `heads`.
        heads: Heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return (B, T, d): each place attends to those where the mask is true."""
        rows, places, width = x.shape

        def split(part: Tensor) -> Tensor:
            return part.view(rows, places, self.heads, width // self.heads).transpose(1, 2)

        found = F.scaled_dot_product_attention(
            split(self.q_proj(x)), split(self.k_proj(x)), split(self.v_proj(x)), attn_mask=mask[:, None, None, :]
        )
        return self.out_proj(found.transpose(1, 2).reshape(rows, places, width))  # type: ignore[no-any-return]


class _MLP(nn.Module):
    def __init__(self, width: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fc1, self.fc2, self.activation = nn.Linear(width, 4 * width), nn.Linear(4 * width, width), activation

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """A pre-norm transformer block: attention, then a network of four times the width, both residual.

    Args:
        width: d.
        heads: Heads.
        activation: Of the network.
        dropout: Share of each branch's outputs set to zero in training.
    """

    def __init__(
        self, width: int, heads: int, activation: Callable[[Tensor], Tensor] = F.gelu, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.self_attn, self.mlp = Attention(width, heads), _MLP(width, activation)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return (B, T, d)."""
        x = x + self.drop(self.self_attn(self.layer_norm1(x), mask))
        return x + self.drop(self.mlp(self.layer_norm2(x)))  # type: ignore[no-any-return]


class Positions(nn.Module):
    """Learned positions and pre-norm blocks over a sequence.

    Args:
        width: d.
        places: The most places of a sequence, T.
        layers: Blocks.
        heads: Heads of each; must divide the width.
        activation: Of the blocks.
        dropout: Of the blocks.

    Raises:
        InputError: A size below 1, or a width that the heads do not divide.
    """

    def __init__(
        self,
        width: int,
        places: int,
        layers: int,
        heads: int,
        activation: Callable[[Tensor], Tensor] = F.gelu,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if min(width, places, layers, heads) < 1 or width % heads:
            raise InputError(
                f"width={width}, places={places}, layers={layers}, heads={heads}: expected 1 or more of each, and "
                "heads that divide the width."
            )
        self.position = nn.Parameter(torch.empty(places, width))
        nn.init.normal_(self.position, std=0.02)
        self.blocks = nn.ModuleList([Block(width, heads, activation, dropout) for _ in range(layers)])

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return (B, T, d) of (B, T, d) and its mask.

        Raises:
            InputError: More places than there are positions.
        """
        if x.shape[1] > len(self.position):
            raise InputError(
                f"a sequence of {x.shape[1]} places, but the model has positions for {len(self.position)}; raise the "
                "model's own limit, or thin the sequences out (frames.max_frames)."
            )
        x = x + self.position[: x.shape[1]].to(x.dtype)
        # A row without any place attends to all of them: softmax over nothing would be NaN. Its mean is 0 anyway.
        mask = mask | ~mask.any(1, keepdim=True)
        for block in self.blocks:
            x = block(x, mask)
        return x
