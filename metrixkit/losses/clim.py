"""Mixtures of two images contrasted with a target of each, in a softmax each: CLIM and instance mixup.

N mixtures, d dimensions, K rows in the queue. No clean term: add :func:`~metrixkit.losses.info_nce` where one belongs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metrixkit.losses.mixed_contrast import check_same, mixed_info_nce
from metrixkit.losses.two_hot import target_rows


def clim_loss(
    mixed: Tensor,
    key: Tensor,
    partner_key: Tensor,
    queue: Tensor,
    lam: float | Tensor,
    temperature: float = 0.2,
) -> Tensor:
    """Return the mean of ``lambda NCE(mixed, key) + (1 - lambda) NCE(mixed, partner_key)``, against the same queue.

    Args:
        mixed: (N, d) raw embeddings of anchors mixed with their partners.
        key: (N, d) of another view of the anchors; no gradient.
        partner_key: (N, d) of another view of the partners; no gradient.
        queue: (K, d) past keys. Near images of the anchors may be among them; the paper does not mask them.
        lam: The anchors' share of the pixels: a number in [0, 1], or (N,).
        temperature: T, > 0. The paper does not state it; 0.2 is MoCo v2's.

    Returns:
        A scalar >= 0.

    Raises:
        InputError: Shapes, types, lambda or the temperature do not fit.

    Source: CLIM (Li et al., 2020), Eq. 4.
    """
    check_same("key", key, "mixed", mixed)
    check_same("partner_key", partner_key, "mixed", mixed)
    own = torch.arange(len(mixed), device=mixed.device)
    targets = torch.cat([key, partner_key]).detach()
    return mixed_info_nce(mixed, targets, own, own + len(own), lam, temperature, queue, "split")


def instance_mixup_loss(
    mixed: Tensor,
    first: Tensor,
    second: Tensor,
    partner: Tensor,
    queue: Tensor,
    lam: float | Tensor,
    temperature: float = 0.2,
) -> Tensor:
    """Return the mean of ``lambda NCE(mixed_i, first_i) + (1 - lambda) NCE(mixed_i, second_partner(i))``.

    Which view the targets are of is the caller's choice: same-view mixup takes those that were mixed, for both; cross-
    view mixup the other ones; where the partner's pixels come from the other view, the two differ.

    Args:
        mixed: (N, d) raw embeddings of the mixtures.
        first: (N, d) momentum embeddings in one view, for image i; no gradient.
        second: (N, d) in one view, for partners; no gradient.
        partner: (N,) int64, whom image i is mixed with.
        queue: (K, d) past keys.
        lam: Share of image i: a number in [0, 1], or (N,).
        temperature: T, > 0.

    Returns:
        A scalar >= 0.

    Raises:
        InputError: Shapes, types, partners, lambda or the temperature do not fit.

    Source: the mixup pipeline of SAMix (Li et al., 2021).
    """
    partner = target_rows("partner", partner, len(mixed), len(second), mixed.device)
    return clim_loss(mixed, first, second.detach()[partner], queue, lam, temperature)
