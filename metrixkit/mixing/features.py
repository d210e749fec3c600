"""Features of all items, checked and brought to length 1."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from metrixkit.errors import InputError

_BLOCK = 2**16  # rows in float64 at a time


def unit_features(features: Any) -> Tensor:
    """Return (n, d) features at length 1, divided in float64, as float32 (float64 stays float64).

    Args:
        features: (n, d) floating tensor or array, n >= 2.

    Raises:
        InputError: Another shape or type, or a row that is not finite or has no length; the first is named.
    """
    rows = features.detach() if isinstance(features, Tensor) else torch.from_numpy(np.array(features))
    if rows.ndim != 2 or not rows.is_floating_point():
        raise InputError(f"features: got {rows.dtype} {tuple(rows.shape)}, expected floating (items, dimensions).")
    if len(rows) < 2 or not rows.shape[1]:
        raise InputError(
            f"features has shape {tuple(rows.shape)}: an item's positives are other items, give at least 2."
        )
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True, dtype=torch.float64)
    for wrong, what in (
        (~length.isfinite(), "NaN, infinite or too large a number"),
        (length == 0, "nothing but zeros"),
    ):
        if bool(wrong.any()):
            first = int(wrong[:, 0].nonzero()[0, 0])
            raise InputError(
                f"features: row {first} holds {what} ({int(wrong.sum())} such rows). The encoder diverged or an image "
                "failed; nothing is left out, since rows are images."
            )
    kept = torch.float64 if rows.dtype == torch.float64 else torch.float32
    parts = zip(rows.split(_BLOCK), length.split(_BLOCK), strict=True)
    return torch.cat([(part / divisor).to(kept) for part, divisor in parts])
