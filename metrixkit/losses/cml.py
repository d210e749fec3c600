"""Losses of recommenders on (user, liked item, other items): collaborative metric learning and BPR.

N users of a batch (one may appear often), K sampled negatives, d dimensions. Rows are taken as they are, not
normalised; models of this kind keep them in the unit ball.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metrixkit.errors import InputError
from metrixkit.losses.matched import Takes, check_margin, check_sides, common_precision, margin_of
from metrixkit.losses.unit import no_autocast
from metrixkit.losses.zero_or_nan import zero_or_nan


def _triples(user: Tensor, positive: Tensor, negatives: Tensor) -> list[Tensor]:
    check_sides(user, positive, ("user", "positive"))
    if negatives.ndim != 3 or not negatives.is_floating_point() or not negatives.shape[1]:
        raise InputError(
            f"negatives: got {negatives.dtype} {tuple(negatives.shape)}, expected a floating tensor of shape "
            f"({len(user)}, negatives of each user >= 1, {user.shape[1]})."
        )
    if negatives.shape[0] != len(user) or negatives.shape[2] != user.shape[1]:
        raise InputError(
            f"negatives have shape {tuple(negatives.shape)}, user and positive {tuple(user.shape)}; expected "
            f"({len(user)}, K, {user.shape[1]})."
        )
    return common_precision(user, positive, negatives)


def _margins(margin: float | Tensor, like: Tensor) -> float | Tensor:
    m = check_margin(margin, len(like))
    return m.to(like) if isinstance(m, Tensor) else m


def cml_min_triplet(
    user: Tensor, positive: Tensor, negatives: Tensor, margin: float | Tensor = 1.5, official: bool = False
) -> Tensor:
    """Return the mean over users of ``[m + d(u, p) - min_k d(u, n_k)]_+``, d the Euclidean distance, not squared.

    In the unit ball d <= 2, so that from m = 2 on no hinge is ever inactive and m adds only a constant.

    Args:
        user: (N, d), N >= 1.
        positive: (N, d) an item that the user likes.
        negatives: (N, K, d) items that are not known to be liked, K >= 1.
        margin: m >= 0, or (N,) with one for each user. Not differentiated.
        official: As the release computes it: by broadcasting, the mean over all N^2 combinations of one user's
            positive with another's nearest negative.

    Returns:
        A scalar >= 0.

    Raises:
        InputError: Shapes or types do not fit.

    Source: CML (Hsieh et al., WWW 2017), without its rank weights; the DMM release without squares.
    """
    u, p, n = _triples(user, positive, negatives)
    with no_autocast(u):
        near = torch.linalg.vector_norm(u - p, dim=1)
        distance = torch.linalg.vector_norm(u[:, None] - n, dim=2)
        demanded, far = near + _margins(margin, u), distance.amin(1)
        hinge = (demanded[:, None] - far if official else demanded - far).clamp(min=0)
        return hinge.mean() + zero_or_nan(near, distance)


def cml_sum_triplet(user: Tensor, positive: Tensor, negatives: Tensor, margin: float | Tensor = 1.5) -> Tensor:
    """Return the mean over users and negatives of ``[m + d(u, p)^2 - d(u, n)^2]_+``, d the Euclidean distance.

    Args:
        user: (N, d), N >= 1.
        positive: (N, d) an item that the user likes.
        negatives: (N, K, d) items that are not known to be liked, K >= 1.
        margin: m >= 0, or (N,) with one for each user. Not differentiated.

    Returns:
        A scalar >= 0.

    Raises:
        InputError: Shapes or types do not fit.

    Source: CML (Hsieh et al., WWW 2017), Eq. 2, without its rank weights.
    """
    u, p, n = _triples(user, positive, negatives)
    with no_autocast(u):
        near = (u - p).square().sum(1)
        far = (u[:, None] - n).square().sum(2)
        return ((near + _margins(margin, u))[:, None] - far).clamp(min=0).mean() + zero_or_nan(near, far)


def bpr(user: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
    """Return the mean over users and negatives of ``log(1 + e^{u.n - u.p})``; its scores are dot products.

    Args:
        user: (N, d), N >= 1.
        positive: (N, d) an item that the user likes.
        negatives: (N, K, d) items that are not known to be liked, K >= 1 (1 as published).

    Returns:
        A scalar > 0.

    Raises:
        InputError: Shapes or types do not fit.

    Source: BPR (Rendle et al., UAI 2009), without its regulariser.
    """
    u, p, n = _triples(user, positive, negatives)
    with no_autocast(u):
        gain = (u * p).sum(1)[:, None] - (u[:, None] * n).sum(2)
        return -F.logsigmoid(gain).mean() + zero_or_nan(gain)


class CMLMinTriplet(nn.Module):
    """:func:`cml_min_triplet` as a loss with settings, and as a host of DMM.

    Args:
        margin: m >= 0. The release takes 1.5, where it hardly matters; 0.5 to 1 make it bite.

    Raises:
        InputError: The margin is negative.
    """

    takes: ClassVar[Takes] = "triples"
    on_cosines: ClassVar[bool] = False

    def __init__(self, margin: float = 1.5) -> None:
        super().__init__()
        self.margin = margin_of("margin", margin)

    def forward(
        self, user: Tensor, positive: Tensor, negatives: Tensor, margin: float | Tensor | None = None
    ) -> Tensor:
        """Return the loss; `margin` stands in for the loss's own, which it does not change."""
        return cml_min_triplet(user, positive, negatives, self.margin if margin is None else margin)


class CMLSumTriplet(nn.Module):
    """:func:`cml_sum_triplet` as a loss with settings, and as a host of DMM.

    Args:
        margin: m >= 0, of squared distances.

    Raises:
        InputError: The margin is negative.
    """

    takes: ClassVar[Takes] = "triples"
    on_cosines: ClassVar[bool] = False

    def __init__(self, margin: float = 1.5) -> None:
        super().__init__()
        self.margin = margin_of("margin", margin)

    def forward(
        self, user: Tensor, positive: Tensor, negatives: Tensor, margin: float | Tensor | None = None
    ) -> Tensor:
        """Return the loss; `margin` stands in for the loss's own, which it does not change."""
        return cml_sum_triplet(user, positive, negatives, self.margin if margin is None else margin)


class BPR(nn.Module):
    """:func:`bpr` as a loss; it has no margin."""

    takes: ClassVar[Takes] = "triples"
    on_cosines: ClassVar[bool] = False

    def forward(self, user: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        """Return the loss."""
        return bpr(user, positive, negatives)
