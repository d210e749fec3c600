"""What stands on an encoder while it learns without labels, and is thrown away afterwards."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metrixkit.errors import InputError


class Projector(nn.Module):
    """Linear layers with ReLU, and batch norm where asked, between them; the result is raw, losses normalise it.

    ====================== ====== ====== ======= ===================================================
    as in                  inputs hidden dim
    ====================== ====== ====== ======= ===================================================
    MoCo v2, MixCo         2048   2048   128     (Chen et al., 2020)
    SimCLR, i-Mix mlpbn1   2048   2048   128     ``batch_norm=True``
    BYOL                   2048   4096   256     ``batch_norm=True``; its predictor: inputs 256
    SwAV                   2048   2048   128     ``batch_norm=True`` (Caron et al., NeurIPS 2020)
    ====================== ====== ====== ======= ===================================================

    Weights are drawn as torch does by default, from its global generator.

    Args:
        inputs: Length of the features.
        hidden: Width of the inner layers.
        dim: Length of the result.
        layers: Linear layers in all; 1 is a linear map.
        batch_norm: Batch norm after each inner linear layer, before the ReLU.
        last_batch_norm: Batch norm after the last layer.
        bias: Whether the linear layers have biases.

    Raises:
        InputError: A size below 1.
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        dim: int,
        layers: int = 2,
        batch_norm: bool = False,
        last_batch_norm: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        sizes = {"inputs": inputs, "hidden": hidden, "dim": dim, "layers": layers}
        for name, size in sizes.items():
            if size < 1:
                raise InputError(f"projector {name}={size}: expected 1 or more.")
        widths = [inputs, *[hidden] * (layers - 1), dim]
        parts: list[nn.Module] = []
        for i in range(layers):
            last = i == layers - 1
            parts.append(nn.Linear(widths[i], widths[i + 1], bias=bias))
            if last_batch_norm if last else batch_norm:
                parts.append(nn.BatchNorm1d(widths[i + 1]))
            if not last:
                parts.append(nn.ReLU(inplace=True))
        self.layers = nn.Sequential(*parts)

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, dim) of (B, inputs) features."""
        return self.layers(features)  # type: ignore[no-any-return]


class Prototypes(nn.Module):
    """Unit vectors to which SwAV assigns images (Caron et al., NeurIPS 2020, section 3.1). P of them, d dimensions.

    Weights are drawn evenly from the sphere, from torch's global generator.

    Args:
        dim: d.
        count: P.

    Attributes:
        weight: (P, d).

    Raises:
        InputError: A size below 1.
    """

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        if dim < 1 or count < 1:
            raise InputError(f"{count} prototypes with {dim} dimensions: expected 1 or more of each.")
        self.weight = nn.Parameter(torch.randn(count, dim))
        self.normalize_()

    @torch.no_grad()
    def normalize_(self) -> None:
        """Bring every prototype back to length 1; to be called after each update, or before the next pass."""
        self.weight.copy_(F.normalize(self.weight, dim=1))

    def forward(self, rows: Tensor) -> Tensor:
        """Return (B, P) dot products with (B, d) unit rows, in float32 at least also under autocast."""
        with torch.autocast(rows.device.type, enabled=False):
            return F.linear(rows.to(self.weight.dtype), self.weight)
