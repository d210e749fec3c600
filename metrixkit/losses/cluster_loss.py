"""SAMix-C: mixtures classified by cluster, on the momentum encoder's features. N images, d dimensions, C clusters."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from metrixkit.errors import InputError
from metrixkit.losses.eta_class import check_eta, check_labels, split_cross_entropy
from metrixkit.losses.two_hot import share_rows
from metrixkit.losses.unit import full_precision, no_autocast


class ClusterLosses(NamedTuple):
    """Two scalars with disjoint gradients.

    Attributes:
        head: What the cluster classifier learns from; nothing else receives its gradient.
        mixer: What reaches the Mixer through the mixtures' features; the classifier receives none of it.
    """

    head: Tensor
    mixer: Tensor


def cluster_losses(
    mixed: Tensor,
    clean: Tensor,
    head: nn.Module,
    first: Tensor,
    second: Tensor,
    clusters: Tensor,
    lam: float | Tensor,
    eta: float = 0.5,
    weight: Tensor | None = None,
    official: bool = False,
) -> ClusterLosses:
    """Return the losses of the cluster classifier and of the Mixer.

    The head learns mixtures by their two clusters and clean images by their own, from features without gradient. The
    Mixer is judged by the same head, frozen, with the eta-balanced loss.

    Args:
        mixed: (N, d) features of the mixtures, with gradient to the Mixer through the frozen encoder.
        clean: (M, d) features of clean images.
        head: (., d) to (., C) logits.
        first: (N,) int64 clusters of the mixtures' first images.
        second: (N,), of their partners.
        clusters: (M,), of the clean images.
        lam: Share of the first: a number in [0, 1], or (N,) of such.
        eta: Weight of the global part of the Mixer's loss, >= 0.
        weight: (C,) factor on the terms of each cluster, such as :func:`cluster_weights`; None for 1.
        official: As released: the head's loss of the mixtures reaches the Mixer too, which doubles its gradient, and
            eta has no effect.

    Raises:
        InputError: Shapes, types, clusters or numbers do not fit.

    Source: Li et al. (SAMix, 2021), the cluster classifier of SAMix-C, with its leak closed.
    """
    eta = check_eta(eta)
    with no_autocast(mixed):
        mixed, clean = full_precision(mixed), full_precision(clean)
        frozen = {name: value.detach() for name, value in head.named_parameters()}
        judged = functional_call(head, frozen, (mixed,))
        learned, own = head(mixed if official else mixed.detach()), head(clean.detach())
        a, b = check_labels(judged, first, second)
        c, _ = check_labels(own, clusters, clusters)
        if weight is not None and weight.shape != judged.shape[1:]:
            raise InputError(f"weight has shape {tuple(weight.shape)}, expected ({judged.shape[1]},): one a cluster.")
        of = judged.new_ones(judged.shape[1]) if weight is None else weight.to(judged)
        share = share_rows(lam, len(mixed), judged)
        of_a, of_b = share * of[a], (1 - share) * of[b]
        local, beyond = split_cross_entropy(learned, a, b, of_a, of_b)
        head_loss = (local + beyond).mean() + (of[c] * F.cross_entropy(own, c, reduction="none")).mean()
        local, beyond = split_cross_entropy(judged, a, b, of_a, of_b)
        return ClusterLosses(head_loss, (local + (1 if official else eta) * beyond).mean())


def cluster_weights(counts: Tensor, official: bool = False) -> Tensor:
    """Return factors that let small clusters count more: ``n_c ** -0.5``, with mean 1 over clusters that are not empty.

    Args:
        counts: (C,) members of each cluster, >= 0.
        official: As released: ``(n_c + 1e-5) ** -0.5`` with sum 1, so that losses divided by the batch shrink by
            about C, and an empty cluster outweighs all others by far.

    Returns:
        (C,) in float32 or, if the counts are, float64; 0 for an empty cluster unless `official`.

    Raises:
        InputError: Not one row of counts, a negative one, or nothing in any cluster.

    Source: Zhan et al., Online Deep Clustering, CVPR 2020, loss re-weighting.
    """
    if counts.ndim != 1 or not len(counts) or bool((counts < 0).any()) or not bool((counts > 0).any()):
        raise InputError(f"counts: got {tuple(counts.shape)}, expected one row of counts >= 0 that are not all 0.")
    counts = full_precision(counts)
    if official:
        inverse = (counts + 1e-5).rsqrt()
        return inverse / inverse.sum()
    filled = counts > 0
    inverse = torch.where(filled, counts.clamp(min=1).rsqrt(), 0)
    return inverse * (filled.sum() / inverse.sum())
