"""Un-Mix (Shen et al., AAAI 2022) on MoCo: a batch mixed with itself in reverse, contrasted with both parents' keys.

N images, d dimensions, K rows in the queue. Mixture i holds lambda of image i and the rest of image N - 1 - i, by MixUp
or by CutMix; of an odd batch the middle image is mixed with itself. Each parent has a softmax of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metrixkit.losses.info_nce import info_nce
from metrixkit.losses.mixed_contrast import check_same, mixed_info_nce


def unmix_loss(
    query: Tensor, mixed: Tensor, key: Tensor, queue: Tensor, lam: float | Tensor, temperature: float = 0.2
) -> Tensor:
    """Return MoCo's loss plus that of the mixtures, both against the queue.

    Args:
        query: (N, d) raw embeddings of the clean queries.
        mixed: (N, d) of the mixtures of the queries' views.
        key: (N, d) of the other views; no gradient.
        queue: (K, d) past keys, without these.
        lam: Share of image i in mixture i, corrected by area for CutMix: a number in [0, 1], or (N,).
        temperature: T of both terms, > 0. The authors take 0.2 on ImageNet and 0.1 on CIFAR.

    Returns:
        A scalar >= 0.

    Raises:
        InputError: Shapes, types, lambda or the temperature do not fit.
    """
    check_same("mixed", mixed, "query", query)
    own = torch.arange(len(mixed), device=mixed.device)
    key = key.detach()
    clean = info_nce(query, key, temperature, queue)
    return clean + mixed_info_nce(mixed, key, own, own.flip(0), lam, temperature, queue, "split")


def unmix_symmetric_loss(
    query: tuple[Tensor, Tensor],
    mixed: Tensor,
    key: tuple[Tensor, Tensor],
    queue: Tensor,
    lam: float | Tensor,
    temperature: float = 0.2,
) -> Tensor:
    """Return the sum of :func:`unmix_loss` with both orders of the views, as the authors' CIFAR code has it.

    The mixtures of view 1 serve both orders, so that in the second one they meet keys of the view that they were made
    of.

    Args:
        query: (N, d) raw embeddings of view 1, and of view 2, by the query encoder.
        mixed: (N, d) of the mixtures of view 1.
        key: (N, d) of view 1, and of view 2, by the key encoder; no gradient.
        queue: (K, d) past keys.
        lam: Share of image i in mixture i: a number in [0, 1], or (N,).
        temperature: T of all terms, > 0.

    Returns:
        A scalar >= 0.

    Raises:
        InputError: Shapes, types, lambda or the temperature do not fit.
    """
    first = unmix_loss(query[0], mixed, key[1], queue, lam, temperature)
    return first + unmix_loss(query[1], mixed, key[0], queue, lam, temperature)
