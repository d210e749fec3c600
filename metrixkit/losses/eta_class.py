"""SAMix' eta-balanced loss over classes: which of the two labels, against all other classes.

N mixtures, C classes.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.losses.checks import check_known
from metrixkit.losses.two_hot import share_rows, target_rows, two_hot_cross_entropy
from metrixkit.losses.unit import full_precision, no_autocast
from metrixkit.losses.zero_or_nan import zero_or_nan

EtaMode = Literal["softmax_split", "sigmoid_neg", "official", "decoupled"]
_MODES: tuple[str, ...] = get_args(EtaMode)


def eta_loss(
    logits: Tensor,
    first: Tensor,
    second: Tensor,
    lam: float | Tensor,
    eta: float = 0.5,
    mode: EtaMode = "softmax_split",
) -> Tensor:
    """Return the mean over mixtures of a local loss, between the two labels, plus eta times a global one.

    With p the softmax over classes, a and b the labels of a mixture:

    - ``softmax_split``: the chain rule taken apart, exactly. Local ``-lambda log p_a / (p_a + p_b) - (1 - lambda) log
      p_b / (p_a + p_b)``, global ``-log(p_a + p_b)``. With eta = 1 this is the cross-entropy of mixup. Where a = b the
      local part is 0 and the global one ``-log p_a``.
    - ``sigmoid_neg``: binary cross-entropies with targets lambda, 1 - lambda (their sum where a = b) and 0, summed over
      classes; those of classes other than a and b count eta times. This is what the released option says of itself.
    - ``official``: the released configurations: plain cross-entropy of mixup, on which eta has no effect (the factor
      falls on classes whose target is 0).
    - ``decoupled``: not SAMix but the loss it is taken for: cross-entropy of mixup plus eta times the sum, over a and
      b, of the cross-entropy of each without the other among the classes; nothing is added where a = b or lambda = 1/2
      (DecoupledMix, Liu et al., NeurIPS 2023, as released).

    Args:
        logits: (N, C) raw scores of the mixtures, N >= 1.
        first: (N,) integers in [0, C), labels of the first images.
        second: (N,) integers, of their partners.
        lam: Share of the first: a number in [0, 1], or (N,) of such.
        eta: Weight of the global part, >= 0; 0.5 on small data sets, 0.1 on ImageNet (Li et al., 2021).
        mode: Which of the above.

    Returns:
        A scalar in float32 or, if logits are, float64.

    Raises:
        InputError: Shapes, types, labels or numbers do not fit.

    Source: Li et al. (SAMix, 2021), the eta-balanced loss; they give no formula of its global part; here it is
    what the chain rule leaves.
    """
    check_known("mode", mode, _MODES)
    eta = check_eta(eta)
    a, b = check_labels(logits, first, second)
    with no_autocast(logits):
        logits = full_precision(logits)
        share = share_rows(lam, len(logits), logits)
        if mode == "softmax_split":
            local, beyond = split_cross_entropy(logits, a, b, share, 1 - share)
            return (local + eta * beyond).mean() + zero_or_nan(logits)
        if mode == "sigmoid_neg":
            return _sigmoid(logits, a, b, share, eta).sum(1).mean()
        plain = two_hot_cross_entropy(logits, a, b, share)
        return (plain if mode == "official" else plain + eta * _decoupled(logits, a, b, share)).mean() + zero_or_nan(
            logits
        )


def check_eta(eta: float) -> float:
    """Return `eta` as float, or raise InputError unless it is at least 0 and finite."""
    if not 0 <= eta < float("inf"):
        raise InputError(f"eta is {eta}, expected a number >= 0: 1 is the undivided loss, the papers take 0.5 or 0.1.")
    return float(eta)


def check_labels(logits: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return both (N,) labels as int64 on the logits' device; InputError unless they and floating (N, C) logits fit."""
    if not isinstance(logits, Tensor) or logits.ndim != 2 or not logits.is_floating_point() or not logits.numel():
        got = f"{logits.dtype} {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"logits: got {got}, expected floating (mixtures, classes), not empty.")
    count, classes = logits.shape
    return (
        target_rows("first", first, count, classes, logits.device),
        target_rows("second", second, count, classes, logits.device),
    )


def split_cross_entropy(
    logits: Tensor, first: Tensor, second: Tensor, of_first: Tensor, of_second: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the local and the global part of ``-u log p_first - v log p_second``, which add up to it.

    Args:
        logits: (N, C) floating.
        first: (N,) int64.
        second: (N,) int64.
        of_first: (N,) u, weight of the first label: lambda, or lambda times the weight of its class.
        of_second: (N,) v, of the second.

    Returns:
        (N,) local, ``-u log p_first / (p_first + p_second) - v log p_second / (...)``, 0 where both labels are one,
        and (N,) global, ``-(u + v) log(p_first + p_second)``, or of p_first alone where both labels are one.
    """
    z_a, z_b = (logits.gather(1, label[:, None])[:, 0] for label in (first, second))
    same, gap = first == second, z_b - z_a
    both = torch.where(same, z_a, torch.logaddexp(z_a, z_b))
    return two_way(gap, of_first, of_second).masked_fill(same, 0), (of_first + of_second) * (logits.logsumexp(1) - both)


def two_way(gap: Tensor, of_first: Tensor, of_second: Tensor) -> Tensor:
    """Return ``-u log p - v log(1 - p)``, p the first's share in a softmax of two that the second leads by `gap`."""
    # Not softplus, which torch cuts off at 20: that is felt in float64.
    return -(of_first * F.logsigmoid(-gap) + of_second * F.logsigmoid(gap))


def _sigmoid(logits: Tensor, a: Tensor, b: Tensor, share: Tensor, eta: float) -> Tensor:
    target = torch.zeros_like(logits).scatter_add(1, a[:, None], share[:, None])
    target = target.scatter_add(1, b[:, None], 1 - share[:, None])
    weight = torch.full_like(logits, eta).scatter(1, torch.stack([a, b], 1), 1.0)
    return F.binary_cross_entropy_with_logits(logits, target, weight, reduction="none")


def _decoupled(logits: Tensor, a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    applies = (a != b) & (share != 0.5)
    # Where the labels are one, nothing may be left out: a softmax without its own class has no finite value.
    without_b = logits.masked_fill(applies[:, None] & F.one_hot(b, logits.shape[1]).bool(), -torch.inf)
    without_a = logits.masked_fill(applies[:, None] & F.one_hot(a, logits.shape[1]).bool(), -torch.inf)
    each = F.cross_entropy(without_b, a, reduction="none") + F.cross_entropy(without_a, b, reduction="none")
    return torch.where(applies, each, 0)
