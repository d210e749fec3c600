"""From maps or tokens to one vector an image."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from metrixkit.errors import InputError, did_you_mean

PoolingName = Literal["avg", "max", "avg+max", "gem", "token", "model"]


class Pool(nn.Module):
    """Global pooling over the positions of maps (B, C, H, W) or the patch tokens of (B, N, C).

    - ``avg``: mean. It commutes with mixing, so that mixtures of maps need not be formed.
    - ``max``: maximum.
    - ``avg+max``: their sum, as Metrix trains (It Takes Two to Tango, ICLR 2022, section 4.1 and released code).
    - ``gem``: generalised mean (mean of x^p)^(1/p) with learnable p, started at 3, of x clamped from below at 1e-6
      (Radenović et al., Fine-tuning CNN Image Retrieval with No Human Annotation, 2018, Eq. 3). Meant for maps after a
      ReLU: negative values are lost.
    - ``token``: the class token.

    Args:
        name: One of the above.
        prefix_tokens: Leading tokens that are no patches; all but ``token`` leave them out.
    """

    def __init__(self, name: PoolingName, prefix_tokens: int = 0) -> None:
        super().__init__()
        self.name = name
        self.prefix_tokens = prefix_tokens
        self.p = nn.Parameter(torch.tensor(3.0)) if name == "gem" else None

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, C) in float32 (float64 stays) of maps (B, C, H, W) or tokens (B, N, C)."""
        positions = self.positions(features)
        if self.p is not None:
            p = self.p
            return _wide(positions).clamp(min=1e-6).pow(p).mean(-1).pow(1 / p)
        if "max" not in self.name:
            return self.linear(features)
        # Maxima are exact in the precision they come in; widened afterwards, which copies a vector and not the maps.
        largest = _wide(positions.amax(-1))
        return self.linear(features) + largest if "avg" in self.name else largest

    def positions(self, features: Tensor) -> Tensor:
        """Return the features of all positions that are pooled, (B, C, P)."""
        return features.flatten(2) if features.ndim == 4 else features[:, self.prefix_tokens :].mT

    def linear(self, features: Tensor) -> Tensor:
        """Return the part of the pooled vector (B, C) that is linear in the features: zeros for ``max``."""
        if self.name == "token":
            return _wide(features[:, 0])
        positions = self.positions(features)
        dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
        if "avg" in self.name:
            return positions.mean(-1, dtype=dtype)
        return positions.new_zeros((), dtype=dtype).expand(positions.shape[:2])

    def extra_repr(self) -> str:
        """Return the name, for ``repr``."""
        return repr(self.name)


def check_pooling(name: str, shape: tuple[int, ...], prefix_tokens: int, backbone: str) -> None:
    """Check that pooling `name` can be had of features of `shape` with `prefix_tokens`.

    Raises:
        InputError: Unknown name, a class token where there is none, or positions where there are none.
    """
    if name not in get_args(PoolingName):
        raise InputError(f"pooling {name!r} is unknown.{did_you_mean(name, get_args(PoolingName))}")
    if name == "model":
        return
    if len(shape) == 2:
        raise InputError(f"pooling {name!r}: backbone {backbone!r} returns vectors already; set pooling: model.")
    if name == "token" and (len(shape) != 3 or prefix_tokens < 1):
        raise InputError(f"pooling 'token': backbone {backbone!r} has no class token; use 'avg', 'avg+max' or 'model'.")


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
