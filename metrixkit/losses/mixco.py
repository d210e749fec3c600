"""MixCo (Kim et al., 2020): mixtures of the two halves of a batch as semi-positives, on MoCo and on SimCLR.

N images, d dimensions, K rows in the queue. Mixture a holds lambda_a of image a and the rest of image a + N / 2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.losses.info_nce import info_nce, nt_xent
from metrixkit.losses.mixed_contrast import mixed_info_nce


def _halves(mixed: Tensor, count: int) -> tuple[Tensor, Tensor]:
    if count % 2 or len(mixed) != count // 2:
        raise InputError(
            f"{len(mixed)} mixtures of {count} images: MixCo mixes image a with image a + N / 2, so N must be even and "
            "there are N / 2 mixtures."
        )
    first = torch.arange(len(mixed), device=mixed.device)
    return first, first + len(mixed)


def mixco_moco_loss(
    query: Tensor,
    mixed: Tensor,
    key: Tensor,
    queue: Tensor,
    lam: float | Tensor,
    temperature: float = 0.2,
    mixed_temperature: float = 0.05,
    weight: float = 1.0,
) -> Tensor:
    """Return MoCo's loss plus `weight` times that of the mixtures, which compete with all N keys and the queue.

    Keys and queue get no gradient. The mixed term's scale follows its temperature: at 0.05 it is several times the
    clean term, so that a weight of 1 does not mean equal weight. The authors took 1.0 for ImageNet.

    Args:
        query: (N, d) raw embeddings of the clean queries, N even.
        mixed: (N / 2, d) of the mixtures, made of the queries' views.
        key: (N, d) of the other views, of this process.
        queue: (K, d) past keys, without these.
        lam: Share of the first half: a number in [0, 1], or (N / 2,).
        temperature: T of the clean term, > 0.
        mixed_temperature: T of the mixed term, > 0.
        weight: Factor on the mixed term (beta).

    Returns:
        A scalar >= 0.

    Raises:
        InputError: An odd batch, or shapes, types, lambda or a temperature that do not fit.
    """
    clean = info_nce(query, key.detach(), temperature, queue)
    first, second = _halves(mixed, len(query))
    return clean + weight * mixed_info_nce(mixed, key.detach(), first, second, lam, mixed_temperature, queue)


def mixco_simclr_loss(
    z_i: Tensor,
    z_j: Tensor,
    mixed_i: Tensor,
    mixed_j: Tensor,
    lam_i: float | Tensor,
    lam_j: float | Tensor,
    temperature: float = 0.5,
    mixed_temperature: float = 0.5,
    weight: float = 1.0,
) -> Tensor:
    """Return NT-Xent plus `weight` times the mean of both mixed directions.

    Mixtures of view i are compared with the N clean embeddings of view j, and the other way round. These targets learn
    too, as in the authors' code.

    Args:
        z_i: (N, d) raw embeddings of one view, N even.
        z_j: (N, d) of the other.
        mixed_i: (N / 2, d) of mixtures of view i.
        mixed_j: (N / 2, d) of mixtures of view j.
        lam_i: Share of the first half in `mixed_i`: a number in [0, 1], or (N / 2,).
        lam_j: The same for `mixed_j`; drawn anew.
        temperature: T of the clean term, > 0.
        mixed_temperature: T of the mixed term, > 0.
        weight: Factor on the mixed term.

    Returns:
        A scalar >= 0.

    Raises:
        InputError: An odd batch, or shapes, types, lambda or a temperature that do not fit.
    """
    clean = nt_xent(z_i, z_j, temperature)
    directions = (
        mixed_info_nce(mixed, other, *_halves(mixed, len(other)), lam, mixed_temperature)
        for mixed, other, lam in ((mixed_i, z_j, lam_i), (mixed_j, z_i, lam_j))
    )
    return clean + weight * sum(directions, torch.zeros_like(clean)) / 2
