"""Cross-entropy of mixed images: the two labels by their shares, smoothed where asked."""

from __future__ import annotations

from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.losses.two_hot import two_hot_cross_entropy
from metrixkit.losses.unit import full_precision, no_autocast
from metrixkit.losses.zero_or_nan import zero_or_nan


def mixed_cross_entropy(
    logits: Tensor, first: Tensor, second: Tensor, lam: float | Tensor, smoothing: float = 0.0
) -> Tensor:
    """Return the mean over rows of ``lambda CE(first) + (1 - lambda) CE(second)``.

    With lambda 1 it is the plain cross-entropy, and with both labels one as well. Smoothing takes the share `smoothing`
    from the labels and spreads it evenly over all classes (Szegedy et al., CVPR 2016), as torch does.

    Args:
        logits: (N, C) raw scores, N >= 1.
        first: (N,) int64 in [0, C), labels of the first images.
        second: (N,) int64, of their partners.
        lam: Share of the first: a number in [0, 1], or (N,) of such.
        smoothing: In [0, 1).

    Returns:
        A scalar in float32 or, if logits are, float64.

    Raises:
        InputError: Shapes, types, labels or numbers do not fit.

    Source: Zhang et al. (mixup, ICLR 2018), whose two labels are mixed as their images are.
    """
    smoothing = check_smoothing(smoothing)
    loss = two_hot_cross_entropy(logits, first, second, lam) + zero_or_nan(logits)
    if smoothing == 0:
        return loss.mean()
    with no_autocast(logits):
        wide = full_precision(logits)
        return ((1 - smoothing) * loss + smoothing * (wide.logsumexp(1) - wide.mean(1))).mean()


def check_smoothing(smoothing: float) -> float:
    """Return label smoothing as float, or raise InputError unless it lies in [0, 1)."""
    if not 0 <= smoothing < 1:
        raise InputError(f"label smoothing is {smoothing}: expected a share in [0, 1); 0.1 is usual, 0 is none.")
    return float(smoothing)
