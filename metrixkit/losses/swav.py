"""SwAV (Caron et al., NeurIPS 2020): images are assigned to prototypes evenly, and one view predicts the other's.

N images of this process, P prototypes, d dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from metrixkit.distributed import world_size
from metrixkit.errors import InputError
from metrixkit.losses.matched import check_sides, common_precision
from metrixkit.losses.mixed_contrast import check_rows
from metrixkit.losses.pairs import positive_number
from metrixkit.losses.unit import full_precision, no_autocast, products, unit_rows


def _log_sum_over_images(logs: Tensor) -> Tensor:
    """Return (P,) logarithms of the sums of exponentials over the images of all processes."""
    if world_size() == 1:
        return logs.logsumexp(0)
    highest = logs.amax(0)
    dist.all_reduce(highest, dist.ReduceOp.MAX)
    total = (logs - highest).exp_().sum(0)
    dist.all_reduce(total)
    return highest + total.log()


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Return soft assignments in which every prototype is used about equally and each image's shares add up to 1.

    Each iteration scales the prototypes' sums over the images of all processes to one another, then each image's sum
    to 1. Sums are kept as logarithms, so that no `epsilon` over- or underflows. No gradient. In several processes all
    must call it, with any number of images.

    Args:
        scores: (N, P) cosines of images and prototypes, N >= 1.
        epsilon: Smoothness, > 0; less is sharper.
        iterations: At least 1.

    Returns:
        (N, P) >= 0 in float32 or, if the scores are, float64.

    Raises:
        InputError: Shapes or numbers do not fit.

    Source: Cuturi, NIPS 2013; SwAV, Eq. 5 and Listing A.1.
    """
    check_rows("scores", scores)
    if iterations < 1:
        raise InputError(f"iterations is {iterations}, expected at least 1; the paper takes 3.")
    epsilon = positive_number("epsilon", epsilon)
    with no_autocast(scores):
        logs = full_precision(scores) / epsilon
        for _ in range(iterations):
            # Constant factors (1 / P, 1 / N) are taken back by the images' own sums, which come last.
            logs = logs - _log_sum_over_images(logs)
            logs = logs.log_softmax(1)
        return logs.exp()


def swav_loss(
    z1: Tensor,
    z2: Tensor,
    prototypes: Tensor,
    epsilon: float = 0.05,
    temperature: float = 0.1,
    iterations: int = 3,
    small: Sequence[Tensor] = (),
    queues: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Return the cross-entropy of each view's assignment predicted from every other view, averaged.

    Args:
        z1: (N, d) raw embeddings of one full view.
        z2: (N, d) of the other. Both give assignments.
        prototypes: (P, d) raw rows, compared at length 1; they learn.
        epsilon: Of the assignment, > 0; see :func:`sinkhorn`.
        temperature: T of the prediction, > 0.
        iterations: Of the assignment, >= 1.
        small: (N, d) raw embeddings of each further small view: they predict and give no assignment.
        queues: (Q, d) raw past embeddings of either full view, which take part in the assignment of that view: for
            batches that are small beside the number of prototypes. No gradient.

    Returns:
        A scalar >= 0.

    Raises:
        InputError: Shapes, types or numbers do not fit.

    Source: SwAV, Eq. 2; several crops Eq. 6.
    """
    temperature = positive_number("temperature", temperature)
    check_sides(z1, z2, ("z1", "z2"))
    check_rows("prototypes", prototypes, z1)
    for view in small:
        check_sides(z1, view, ("z1", "a small view"))
    for queue in queues or ():
        check_rows("a queue", queue, z1)
    with no_autocast(z1):
        views = common_precision(z1, z2, *small, prototypes)
        centres = unit_rows(views.pop())
        scores = [products(unit_rows(view), centres) for view in views]
        terms = []
        for given in range(2):
            assigned = scores[given].detach()
            if queues is not None:
                past = unit_rows(queues[given].detach().to(centres.dtype)) @ centres.detach().T
                assigned = torch.cat([assigned, past])
            codes = sinkhorn(assigned, epsilon, iterations)[: len(z1)]
            others = [score for i, score in enumerate(scores) if i != given]
            terms += [-torch.linalg.vecdot(codes, (score / temperature).log_softmax(1)).mean() for score in others]
        return torch.stack(terms).mean()
