"""One embedding from those of the modalities that are there.

B items, M modalities, d dimensions.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from metrixkit.errors import InputError, did_you_mean

Fill = Literal["mean", "renormalized", "zeros", "mean_embedding"]
FILLS: tuple[str, ...] = get_args(Fill)


def fuse(parts: Tensor, present: Tensor, how: Fill = "mean", means: Tensor | None = None) -> Tensor:
    """Return the average of an item's embeddings, by one of four ways to treat the missing ones.

    Args:
        parts: (B, M, d) embeddings of each modality; those of missing ones are not looked at.
        present: (B, M) bool.
        how: "mean" averages the observed and leaves the length as it is (GMC, published); "renormalized" brings that
            average to length 1; "zeros" puts zeros for the missing and averages over all M; "mean_embedding" puts
            `means` for them. Under a cosine the first three are the same embedding, up to rounding; they differ for
            whatever looks at the length.
        means: (M, d), for "mean_embedding": the mean of each modality's training embeddings.

    Returns:
        (B, d) in the type of `parts`; a row without any observed modality is 0 (or the mean of `means`).

    Raises:
        InputError: Shapes that do not fit, an unknown way, or `means` missing.

    Source: "mean" as in Geometric Multimodal Contrastive learning (Poklukar et al., ICML 2022), released code.
    """
    if how not in FILLS:
        raise InputError(f"no way to fill is called {how!r}.{did_you_mean(how, FILLS)}")
    if parts.ndim != 3 or present.shape != parts.shape[:2]:
        raise InputError(
            f"parts have shape {tuple(parts.shape)} and present {tuple(present.shape)}; expected (items, modalities, "
            "dimensions) and (items, modalities)."
        )
    there = present.to(device=parts.device, dtype=torch.bool)[:, :, None]
    if how == "mean_embedding":
        if means is None or means.shape != parts.shape[1:]:
            got = None if means is None else tuple(means.shape)
            raise InputError(f"how='mean_embedding' needs means of shape {tuple(parts.shape[1:])}, got {got}.")
        return torch.where(there, parts, means.to(parts)[None]).mean(dim=1)
    total = torch.where(there, parts, torch.zeros_like(parts)).sum(dim=1)
    if how == "zeros":
        return total / parts.shape[1]
    mean = total / there.sum(dim=1).clamp(min=1)
    return torch.nn.functional.normalize(mean, dim=1) if how == "renormalized" else mean
