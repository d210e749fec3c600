"""i-Mix (Lee et al., ICLR 2021) where every image is its own class: on N-pair, MoCo and BYOL.

N images, d dimensions, K rows in the queue. Mixture i holds lambda_i of image i and the rest of image partner(i); its
virtual label is mixed alike. There is no clean term. The authors take max(lambda, 1 - lambda), so that image i
dominates; that is the business of who draws it. :class:`~metrixkit.losses.IMix` is the same with class labels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.losses.matched import common_precision
from metrixkit.losses.mixed_contrast import check_same, mixed_info_nce
from metrixkit.losses.two_hot import share_rows, target_rows
from metrixkit.losses.unit import no_autocast, unit_rows


def imix_npair_loss(
    mixed: Tensor, key: Tensor, partner: Tensor, lam: float | Tensor, temperature: float = 0.2
) -> Tensor:
    """Return the loss of mixtures of one view among the N embeddings of the other, in this direction only.

    Args:
        mixed: (N, d) raw embeddings of the mixtures.
        key: (N, d) of the other view, clean; they learn too.
        partner: (N,) int64, whom image i is mixed with; itself is allowed.
        lam: Share of image i: a number in [0, 1], or (N,).
        temperature: T, > 0.

    Returns:
        A scalar >= 0.

    Raises:
        InputError: Shapes, types, partners, lambda or the temperature do not fit.
    """
    check_same("mixed", mixed, "key", key)
    own = torch.arange(len(mixed), device=mixed.device)
    return mixed_info_nce(mixed, key, own, partner, lam, temperature)


def imix_moco_loss(
    mixed: Tensor,
    key: Tensor,
    queue: Tensor,
    partner: Tensor,
    lam: float | Tensor,
    temperature: float = 0.2,
    offset: int = 0,
) -> Tensor:
    """Return the loss of mixed queries among all keys of the batch and the queue, in one softmax.

    Without mixing this is not MoCo's loss, whose candidates are the own key and the queue.

    Args:
        mixed: (N, d) raw embeddings of the mixtures.
        key: (N, d) of the other views, or (processes * N, d): those of all processes; no gradient.
        queue: (K, d) past keys.
        partner: (N,) int64, whom image i of this process is mixed with.
        lam: Share of image i: a number in [0, 1], or (N,).
        temperature: T, > 0.
        offset: Row of `key` at which this process's keys begin: rank * N where they are gathered.

    Returns:
        A scalar >= 0.

    Raises:
        InputError: Shapes, types, partners, lambda, the offset or the temperature do not fit.
    """
    if not 0 <= offset <= len(key) - len(mixed):
        raise InputError(
            f"offset is {offset} with {len(mixed)} mixtures and {len(key)} keys; this process's must be among them."
        )
    own = torch.arange(len(mixed), device=mixed.device)
    partner = target_rows("partner", partner, len(mixed), len(mixed), mixed.device)
    return mixed_info_nce(mixed, key.detach(), own + offset, partner + offset, lam, temperature, queue)


def imix_byol_loss(prediction: Tensor, target: Tensor, partner: Tensor, lam: float | Tensor) -> Tensor:
    """Return the mean of ``2 - 2 (lambda cos(p_i, z_i) + (1 - lambda) cos(p_i, z_partner(i)))``.

    One direction; the symmetric form adds the other, of mixtures of the other view with a lambda of their own.

    Args:
        prediction: (N, d) raw predictions from the mixtures.
        target: (N, d) raw projections of the other, clean view by the momentum network; no gradient.
        partner: (N,) int64, whom image i is mixed with.
        lam: Share of image i: a number in [0, 1], or (N,).

    Returns:
        A scalar in [0, 4].

    Raises:
        InputError: Shapes, types, partners or lambda do not fit.
    """
    check_same("prediction", prediction, "target", target)
    partner = target_rows("partner", partner, len(target), len(target), target.device)
    with no_autocast(prediction):
        p, z = (unit_rows(rows) for rows in common_precision(prediction, target.detach()))
        share = share_rows(lam, len(p), p)[:, None]
        return 2 - 2 * torch.linalg.vecdot(p, share * z + (1 - share) * z[partner]).mean()
