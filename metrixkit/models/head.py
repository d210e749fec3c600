"""What follows the features of an image encoder, as one callable.

B rows, P positions, C channels, d dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metrixkit.models.pooling import Pool
from metrixkit.models.stages import Split

if TYPE_CHECKING:
    from metrixkit.models.encoder import ImageEncoder

Parts = tuple[Tensor, Tensor | None, Tensor | None]


class Head:
    """From features to embeddings: the rest of the backbone (after a stage), pooling, projection, normalisation.

    It holds no parameters of its own; it is a view of its encoder.

    Args:
        encoder: Whose head it is.
        split: Where the backbone was cut; None for its last features.
    """

    def __init__(self, encoder: ImageEncoder, split: Split | None = None) -> None:
        self._encoder, self._split = encoder, split

    def __call__(self, features: Tensor) -> Tensor:
        """Return (B, d) embeddings of features or of mixtures of such, in float32 also under autocast."""
        encoder = self._encoder
        if self._split is not None:
            features = self._split.rest(features)
        pool: Any = encoder.trunk.own_pool if encoder.pool is None else encoder.pool
        pooled: Tensor = pool(features)
        # Two embeddings that bfloat16 rounds alike would tie in a ranking; the head costs nothing beside the backbone.
        with _exact(features):
            rows = pooled.to(torch.float64 if pooled.dtype == torch.float64 else torch.float32)
            if encoder.projection is not None:
                rows = encoder.projection(rows)
            # The small number is inside the root, as in Metrix' released code: a zero row has a finite gradient.
            return rows * (rows.square().sum(1, keepdim=True) + 1e-12).rsqrt() if encoder.normalize else rows

    def parts(self, features: Tensor) -> Parts | None:
        """Return how mixtures of `features` are embedded without being formed, up to their length.

        The embedding of mixed features is the same mix of the first part's rows plus the third part times the maxima
        over positions of the mixed second part: means, class tokens and linear layers commute with mixing.

        Args:
            features: The last features of the backbone.

        Returns:
            (B, d); (P, B, C) or None without a maximum; (d, C) or None without a projection. None in place of all
            three where the pooling (``gem``, ``model``) or a part of the backbone does not mix like this.
        """
        pool, projection = self._encoder.pool, self._encoder.projection
        known = projection is None or type(projection) is nn.Linear
        if self._split is not None or type(pool) is not Pool or pool.name == "gem" or not known:
            return None
        with _exact(features):
            linear = pool.linear(features)
            weight = None
            if projection is not None:
                linear, weight = F.linear(linear, projection.weight, projection.bias), projection.weight
            if "max" not in pool.name:
                return linear, None, None
            maps = pool.positions(features).permute(2, 0, 1).to(linear.dtype)
            return linear, maps.contiguous(), weight

    def modules(self) -> Iterator[nn.Module]:
        """Return the modules of the encoder, whose batch norms may be run on mixtures."""
        return self._encoder.modules()


def _exact(features: Tensor) -> Any:
    device = features.device.type
    return nullcontext() if device == "meta" else torch.autocast(device, enabled=False)  # meta knows no autocast
