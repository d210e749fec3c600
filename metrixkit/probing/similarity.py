"""How near items of one class lie to one another, as self-supervised papers measure it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from metrixkit.errors import InputError
from metrixkit.retrieval.exact.rows import BLOCK, Rows


@torch.no_grad()
def intra_class_similarity(embeddings: Any, labels: Sequence[str]) -> float:
    """Return the mean over classes of the mean cosine over pairs of different items of the class.

    No pair is formed: the cosines of a class of n unit rows with sum S add up to |S|^2 - n over ordered pairs. Classes
    weigh alike here; in ``alignment`` pairs do, so that 2 - 2 x the one is the other only for classes of one size.

    Args:
        embeddings: (N, d); rows are normalised in float64.
        labels: N labels. Classes of one item have no pair and do not count.

    Returns:
        A value in [-1, 1]. Higher is tighter, which by itself is no merit: a collapsed model has 1.

    Raises:
        InputError: Bad rows, wrong counts, or no class with two items.

    Source: Li et al., Center-wise Local Image Mixture for Contrastive Representation Learning (2020), table 10.
    """
    rows = Rows(embeddings, "embeddings")
    if len(labels) != rows.count:
        raise InputError(f"{rows.count} embeddings and {len(labels)} labels; each row needs exactly one.")
    codes, sizes = np.unique(np.asarray(labels).astype(str), return_inverse=True, return_counts=True)[1:]
    if sizes.max() < 2:
        raise InputError("intra-class similarity needs a class with at least two items; every label stands once.")
    sums = torch.zeros(len(sizes), rows.dim, dtype=torch.float64, device=rows.device)
    for start in range(0, rows.count, BLOCK):
        part = torch.from_numpy(codes[start : start + BLOCK]).to(rows.device)
        sums.index_add_(0, part, rows.take(slice(start, start + BLOCK)))
    n = torch.from_numpy(sizes).to(rows.device, torch.float64)
    several = n > 1
    means = (sums.square().sum(dim=1) - n)[several] / (n * (n - 1))[several]
    return float(means.mean().clamp(-1.0, 1.0))
